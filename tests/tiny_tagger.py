"""Small taggers of made-up sentences with people and places; factories for ``--arch tests.tiny_tagger:…``."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from tests.tiny_bert import SPECIAL, Tokenizer, models, normalizers, pre_tokenizers, processors

TAGS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
PLAIN = ("the", "old", "man", "saw", "met", "in", "near", "today", "and", "went", "to", "with", "quickly")
FIRST = ("anna", "bert", "carla", "dora", "emil")
LAST = ("smith", "jones", "miller", "paris")
TOWNS = ("paris", "london", "york", "new", "dora")
WORDS = ("<pad>", "<unk>", *dict.fromkeys((*PLAIN, *FIRST, *LAST, *TOWNS)))
IGNORED = -100


class Tagger(nn.Module):
    """An LSTM both ways over padded sentences."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(len(WORDS), 16, padding_idx=0)
        self.lstm = nn.LSTM(16, 16, batch_first=True, bidirectional=True)
        self.head = nn.Linear(32, len(TAGS))

    def forward(self, x):
        """(rows, steps) ids -> (rows, steps, tags)."""
        return self.head(self.lstm(self.embedding(x))[0])


class ClassesFirst(Tagger):
    """As the cross entropy takes it: (rows, tags, steps)."""

    def forward(self, x):
        return super().forward(x).transpose(1, 2)


@dataclass(frozen=True)
class TagFiles:
    """What a command is given."""

    model: Path
    data: Path
    train: Path
    vocabulary: Path
    tokens: int
    """Of the data."""
    right: int
    """Of these, what torch itself has right."""


def sentences(count: int, seed: int) -> list[dict[str, object]]:
    """Rows with ``tokens``, ``tags`` and ``site``; one tag in twelve that begins or goes on is wrong."""
    random = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        tokens, tags = [], []
        for _ in range(int(random.integers(1, 4))):
            some = random.choice(PLAIN, int(random.integers(1, 5))).tolist()
            name = [
                str(random.choice(FIRST)),
                *(str(one) for one in random.choice(LAST, random.integers(0, 2))),
            ]
            place = random.choice(TOWNS, int(random.integers(1, 3)), replace=False).tolist()
            entity, kind = (name, "PER") if random.random() < 0.5 else (place, "LOC")
            tokens += [*some, *entity]
            tags += ["O"] * len(some) + [f"B-{kind}"] + [f"I-{kind}"] * (len(entity) - 1)
        tags = [str(random.choice(TAGS)) if tag != "O" and random.random() < 1 / 12 else tag for tag in tags]
        rows.append({"tokens": tokens, "tags": tags, "site": str(random.choice(["A", "B"]))})
    return rows


def write_jsonl(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def padded(rows: list[dict[str, object]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and tags, (rows, steps); behind a sentence 0 and -100."""
    ids = [torch.tensor([WORDS.index(word) for word in row["tokens"]]) for row in rows]
    tags = [torch.tensor([TAGS.index(tag) for tag in row["tags"]]) for row in rows]
    pad = nn.utils.rnn.pad_sequence
    return pad(ids, batch_first=True), pad(tags, batch_first=True, padding_value=IGNORED)


def fitted(net: nn.Module, batch: dict[str, torch.Tensor], tags: torch.Tensor, epochs: int, rate: float):
    """The net after some epochs; ``batch`` are its arguments by name."""
    optimizer = torch.optim.Adam(net.parameters(), lr=rate)
    for _ in range(epochs):
        for rows in torch.randperm(len(tags)).split(32):
            optimizer.zero_grad()
            scores = net(**{name: array[rows] for name, array in batch.items()})
            scores = getattr(scores, "logits", scores)
            scores = scores.transpose(1, 2) if scores.shape[-1] == len(TAGS) else scores
            nn.functional.cross_entropy(scores, tags[rows]).backward()
            optimizer.step()
    return net.eval()


def write_plain(folder: Path, factory: str = "Tagger") -> TagFiles:
    """A trained net, its vocabulary, and 200 sentences to train on and 120 to judge by."""
    folder.mkdir(parents=True, exist_ok=True)
    train, test = sentences(200, 0), sentences(120, 1)
    (ids, tags), (seen, truth) = padded(train), padded(test)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = fitted(globals()[factory](), {"x": ids}, tags, 6, 2e-2)
    with torch.no_grad():
        scores = net(seen)
    said = scores.argmax(1 if factory == "ClassesFirst" else 2)
    torch.save(net.state_dict(), folder / "model.pt")
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    for name, (given, labels) in {"train": (ids, tags), "test": (seen, truth)}.items():
        np.savez(folder / f"{name}.npz", x=given.numpy(), y=labels.numpy())
    return TagFiles(
        folder / "model.pt",
        write_jsonl(folder / "test.jsonl", test),
        write_jsonl(folder / "train.jsonl", train),
        folder / "vocab.txt",
        int((truth >= 0).sum()),
        int((said == truth).sum()),
    )


def pieces():
    """A tokenizer that cuts the longer words in two."""
    import transformers

    words = {word[:4] for word in WORDS[2:]} | {f"##{word[4:]}" for word in WORDS[2:] if len(word) > 4}
    made = Tokenizer(
        models.WordPiece({word: at for at, word in enumerate([*SPECIAL, *sorted(words)])}, unk_token="[UNK]")
    )
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    named = ("unk", "[UNK]"), ("pad", "[PAD]"), ("cls", "[CLS]"), ("sep", "[SEP]"), ("mask", "[MASK]")
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made,
        model_input_names=["input_ids", "attention_mask"],
        **{f"{name}_token": token for name, token in named},
    )


def aligned(tokenizer, rows: list[dict[str, object]]):
    """The batch and the tags, as the tutorial of transformers has them: on the first piece of each word."""
    batch = tokenizer(
        [row["tokens"] for row in rows], is_split_into_words=True, padding=True, return_tensors="pt"
    )
    tags = torch.full(batch["input_ids"].shape, IGNORED)
    for at, row in enumerate(rows):
        before = None
        for step, word in enumerate(batch.word_ids(at)):
            if word is not None and word != before:
                tags[at, step] = TAGS.index(row["tags"][word])
            before = word
    return batch, tags


def write_bert(folder: Path) -> TagFiles:
    """A trained BERT of one narrow layer with its tokenizer, and the same rows."""
    import transformers

    train, test = sentences(200, 0), sentences(120, 1)
    tokenizer = pieces()
    config = transformers.BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        id2label=dict(enumerate(TAGS)),
        label2id={tag: at for at, tag in enumerate(TAGS)},
    )
    batch, tags = aligned(tokenizer, train)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = fitted(transformers.BertForTokenClassification(config), dict(batch), tags, 8, 5e-3)
    given, truth = aligned(tokenizer, test)
    with torch.no_grad():
        said = net(**given).logits.argmax(2)
    net.save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))
    return TagFiles(
        folder,
        write_jsonl(folder.parent / "test.jsonl", test),
        write_jsonl(folder.parent / "train.jsonl", train),
        folder,
        int((truth >= 0).sum()),
        int((said == truth).sum()),
    )
