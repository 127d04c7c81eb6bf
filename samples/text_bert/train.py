"""Train a small BERT that says which package a docstring is from, and distil it to two layers."""

import argparse
import csv
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from study.offline import offline
from study.storage import written

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from docstrings import Text
    from torch import Tensor, nn

HERE = Path(__file__).resolve().parent
TOKENS = 64
"""The longest text that the model takes: what is longer is cut."""
VOCABULARY, WIDTH, LAYERS, DISTILLED = 3000, 64, 3, 2
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
PAD, _UNKNOWN, BEGIN, _END, MASK = range(5)
HIDDEN_SHARE = 0.15
BATCH = 16
TEMPERATURE = 2.0


def train_tokenizer(texts: Sequence[str], folder: Path) -> Any:
    """A WordPiece vocabulary learnt from the texts, saved into the folder."""
    with offline():
        from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
        from transformers import BertTokenizerFast

    pieces = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    pieces.normalizer = normalizers.BertNormalizer(lowercase=True)
    pieces.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=VOCABULARY, special_tokens=list(SPECIAL), show_progress=False
    )
    pieces.train_from_iterator(texts, trainer)
    tokenizer = BertTokenizerFast(vocab=pieces.get_vocab(), model_max_length=TOKENS)
    tokenizer.save_pretrained(str(folder))
    return tokenizer


def encoded(tokenizer: Any, texts: Sequence[str]) -> list["Tensor"]:
    """The token ids of each text, at most ``TOKENS`` of them."""
    found = tokenizer(list(texts), truncation=True, max_length=TOKENS)["input_ids"]
    return [torch.tensor(ids) for ids in found]


def batches(ids: Sequence["Tensor"], generator: torch.Generator) -> "Iterator[tuple[Tensor, Tensor]]":
    """All texts in a random order, those of like length together: places, and padded ids."""
    order = torch.randperm(len(ids), generator=generator)
    lengths = torch.tensor([len(ids[at]) for at in order.tolist()])
    chunks = list(order[lengths.argsort(stable=True)].split(BATCH))
    for at in torch.randperm(len(chunks), generator=generator).tolist():
        yield chunks[at], padded([ids[place] for place in chunks[at].tolist()])


def padded(ids: "Sequence[Tensor]") -> "Tensor":
    """(texts, tokens), filled up with the padding token."""
    return torch.nn.utils.rnn.pad_sequence(list(ids), batch_first=True, padding_value=PAD)


def fit(
    model: "nn.Module",
    ids: "Sequence[Tensor]",
    loss: "Callable[[Tensor, Tensor], Tensor]",
    *,
    epochs: int,
    rate: float,
) -> None:
    """Minimise ``loss(places, padded ids)`` over the texts; the rate rises at first and falls to zero."""
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01)
    steps = epochs * -(-len(ids) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=max(steps, 1), pct_start=0.1)
    model.train()
    for _ in range(epochs):
        for places, rows in batches(ids, generator):
            optimizer.zero_grad()
            torch.autograd.backward(loss(places, rows))
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    model.eval()


def config(layers: int, classes: Sequence[str]) -> Any:
    """Of a BERT with this many layers."""
    from transformers import BertConfig

    return BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=2 * WIDTH,
        max_position_embeddings=TOKENS,
        initializer_range=0.1,  # 0.02 is meant for a width of 768
        id2label=dict(enumerate(classes)),
        label2id={name: at for at, name in enumerate(classes)},
    )


def two_layers() -> "nn.Module":
    """What ``--student train:two_layers`` builds: a BERT for the same classes, of fewer layers."""
    from docstrings import PACKAGES
    from transformers import BertForSequenceClassification

    return BertForSequenceClassification(config(DISTILLED, PACKAGES))


def read_first(ids: "Sequence[Tensor]", settings: Any, epochs: int) -> "nn.Module":
    """A BERT that has learnt to fill in hidden words (Devlin et al. 2019): its encoder."""
    from transformers import BertForMaskedLM

    model = BertForMaskedLM(settings)
    generator = torch.Generator().manual_seed(0)

    def loss(_: "Tensor", rows: "Tensor") -> "Tensor":
        hidden = (torch.rand(rows.shape, generator=generator) < HIDDEN_SHARE) & (rows >= len(SPECIAL))
        shown = rows.masked_fill(hidden, MASK)
        guesses = model(input_ids=shown, attention_mask=(rows != PAD).long()).logits
        return torch.nn.functional.cross_entropy(guesses[hidden], rows[hidden])

    fit(model, ids, loss, epochs=epochs, rate=2e-3)
    encoder: nn.Module = model.bert
    return encoder


def scores_of(model: "nn.Module", rows: "Tensor") -> "Tensor":
    """The logits of padded ids."""
    found: Tensor = model(input_ids=rows, attention_mask=(rows != PAD).long()).logits
    return found


def fine_tuned(
    encoder: "nn.Module", settings: Any, ids: "Sequence[Tensor]", labels: "Tensor", epochs: int
) -> Any:
    """The encoder with a head for the classes, trained on the labels."""
    from transformers import BertForSequenceClassification

    model = BertForSequenceClassification(settings)
    model.bert.load_state_dict(encoder.state_dict(), strict=False)  # what it lacks is the pooler

    def loss(places: "Tensor", rows: "Tensor") -> "Tensor":
        return torch.nn.functional.cross_entropy(scores_of(model, rows), labels[places])

    fit(model, ids, loss, epochs=epochs, rate=2e-3)
    return model


def distilled(teacher: Any, settings: Any, ids: "Sequence[Tensor]", epochs: int) -> Any:
    """A BERT of fewer layers that learns the teacher's scores (Hinton et al. 2015).

    It begins as the teacher without its last layers (Sanh et al. 2019).
    """
    from transformers import BertForSequenceClassification

    student = BertForSequenceClassification(settings)
    student.load_state_dict(teacher.state_dict(), strict=False)
    taught = (scores(teacher, ids) / TEMPERATURE).log_softmax(1)

    def loss(places: "Tensor", rows: "Tensor") -> "Tensor":
        learnt = (scores_of(student, rows) / TEMPERATURE).log_softmax(1)
        return torch.nn.functional.kl_div(learnt, taught[places], reduction="batchmean", log_target=True)

    fit(student, ids, loss, epochs=epochs, rate=2e-3)
    return student


def scores(model: "nn.Module", ids: "Sequence[Tensor]") -> "Tensor":
    """The logits of all texts."""
    with torch.no_grad():
        return torch.cat([scores_of(model, padded(ids[at : at + 64])) for at in range(0, len(ids), 64)])


def write_table(path: Path, texts: Sequence["Text"]) -> None:
    """A CSV with the text, its package, and its module: the texts of one module are alike."""
    with written(path) as beside, beside.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(("text", "package", "module"))
        rows.writerows((one.text, one.package, one.module) for one in texts)


def command(out: Path) -> str:
    """The ``diag run`` to type next."""
    place = f"cd {shlex.quote(os.path.relpath(out))} && "
    return (
        f"{place}diag run bert --data test.csv --train train.csv --label package --group module "
        f"--max-tokens {TOKENS}"
    )


def main(out: Path = HERE, *, epochs: int = 6) -> tuple[float, float]:
    """Train, write the files, say what to type next; gives the accuracies of both on the rows that judge."""
    from docstrings import PACKAGES, docstrings

    train, test = docstrings()
    out.mkdir(parents=True, exist_ok=True)
    write_table(out / "train.csv", train)
    write_table(out / "test.csv", test)
    tokenizer = train_tokenizer([one.text for one in train], out / "bert")
    tokenizer.save_pretrained(str(out / "distilled"))
    ids, judged = (encoded(tokenizer, [one.text for one in part]) for part in (train, test))
    labels, expected = (torch.tensor([PACKAGES.index(one.package) for one in part]) for part in (train, test))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        settings = config(LAYERS, PACKAGES)
        encoder = read_first(ids, settings, max(1, epochs // 4))
        model = fine_tuned(encoder, settings, ids, labels, epochs)
        small = distilled(model, config(DISTILLED, PACKAGES), ids, epochs - 1)
    model.save_pretrained(str(out / "bert"))
    small.save_pretrained(str(out / "distilled"))
    reached, kept = (
        float((scores(one, judged).argmax(1) == expected).float().mean()) for one in (model, small)
    )
    print(f"Accuracy on {len(test)} judged texts: {reached:.3f}; distilled to {DISTILLED} layers: {kept:.3f}")
    print(f"Next: {command(out)}")
    return reached, kept


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=HERE, help="where the models and the tables go")
    parser.add_argument("--epochs", type=int, default=6)
    arguments = parser.parse_args()
    main(arguments.out, epochs=arguments.epochs)
