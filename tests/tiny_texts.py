"""Small text classifiers on made-up sentences; factories for ``--arch tests.tiny_texts:…``."""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

TOPICS = {
    "food": ("bread", "soup", "cheese", "salt", "oven"),
    "money": ("bank", "loan", "stock", "price", "bond"),
    "sport": ("ball", "goal", "match", "team", "coach"),
}
FILLERS = ("the", "a", "of", "and", "is", "was", "very", "this", "one", "some", "in")
WORDS = ("<pad>", "<unk>", *FILLERS, *(word for words in TOPICS.values() for word in words))


class Bag(nn.Module):
    """As in torch's tutorial: the tokens of all texts in one line, and where each text begins."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.EmbeddingBag(len(WORDS), 16)
        self.fc = nn.Linear(16, len(TOPICS))

    def forward(self, text, offsets):
        return self.fc(self.embedding(text, offsets))

    def of(self, texts):
        """The scores of some texts (a list of tensors)."""
        lengths = torch.tensor([len(text) for text in texts])
        return self(torch.cat(texts), lengths.cumsum(0) - lengths)


class Reader(nn.Module):
    """An LSTM over padded texts, with the largest of each of its outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(len(WORDS), 16, padding_idx=0)
        self.lstm = nn.LSTM(16, 24, batch_first=True)
        self.head = nn.Linear(24, len(TOPICS))

    def forward(self, x):
        every, _ = self.lstm(self.embedding(x))
        return self.head(every.masked_fill((x == 0)[..., None], -1.0).max(1).values)

    def of(self, texts):
        """The scores of some texts (a list of tensors)."""
        return self(nn.utils.rnn.pad_sequence(texts, batch_first=True))


class Packed(nn.Module):
    """As in many a tutorial: an LSTM both ways over texts packed by length, the longest of a batch first."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(len(WORDS), 16, padding_idx=0)
        self.lstm = nn.LSTM(16, 12, bidirectional=True, batch_first=True)
        self.head = nn.Linear(24, len(TOPICS))

    def forward(self, text, text_lengths):
        packed = pack_padded_sequence(self.embedding(text), text_lengths.to("cpu"), batch_first=True)
        _, (hidden, _) = self.lstm(packed)
        return self.head(torch.cat((hidden[-2], hidden[-1]), dim=1))

    def of(self, texts):
        """The scores of some texts (a list of tensors)."""
        order = sorted(range(len(texts)), key=lambda at: -len(texts[at]))
        lengths = torch.tensor([len(texts[at]) for at in order])
        scores = self(nn.utils.rnn.pad_sequence([texts[at] for at in order], batch_first=True), lengths)
        return scores[torch.tensor(order).argsort()]


class Listed(Packed):
    """The lengths as a list, which no exporter can follow."""

    def forward(self, text, text_lengths):
        lengths = text_lengths.tolist()
        packed = nn.utils.rnn.pack_padded_sequence(self.embedding(text), lengths, batch_first=True)
        _, (hidden, _) = self.lstm(packed)
        return self.head(torch.cat((hidden[-2], hidden[-1]), dim=1))


@dataclass(frozen=True)
class TextFiles:
    """What a command is given."""

    model: Path
    data: Path
    train: Path
    vocabulary: Path
    arch: str
    accuracy: float
    """On ``data``, of torch itself."""


def sentences(count: int, seed: int) -> list[dict[str, str]]:
    """Rows with ``text``, ``topic`` and ``site``."""
    generator = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        topic = str(generator.choice(list(TOPICS)))
        words = generator.choice(FILLERS, int(generator.integers(3, 20))).tolist()
        for place in generator.choice(len(words), 1 + len(words) // 6, replace=False):
            # One in seven is a word of another topic: nobody can be right always.
            other = str(generator.choice(list(TOPICS))) if generator.random() < 1 / 7 else topic
            words[place] = str(generator.choice(TOPICS[other]))
        text = " ".join(words).capitalize()
        rows.append({"text": text, "topic": topic, "site": str(generator.choice(["A", "B"]))})
    return rows


def write_csv(path: Path, rows: list[dict[str, str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_texts(folder: Path, factory: str) -> TextFiles:
    """A trained net, 300 sentences to train on and 150 to judge by, and its vocabulary."""
    folder.mkdir(parents=True, exist_ok=True)
    train, test = sentences(300, 0), sentences(150, 1)
    ids = {word: at for at, word in enumerate(WORDS)}
    encoded = [
        [torch.tensor([ids[w] for w in row["text"].lower().split()]) for row in rows]
        for rows in (train, test)
    ]
    labels = [torch.tensor([list(TOPICS).index(row["topic"]) for row in rows]) for rows in (train, test)]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = globals()[factory]()
        optimizer = torch.optim.Adam(net.parameters(), lr=2e-2)
        for _ in range(8):
            for rows in torch.randperm(len(train)).split(32):
                optimizer.zero_grad()
                nn.functional.cross_entropy(
                    net.of([encoded[0][row] for row in rows]), labels[0][rows]
                ).backward()
                optimizer.step()
    with torch.no_grad():
        reached = float((net.eval().of(encoded[1]).argmax(1) == labels[1]).float().mean())
    torch.save(net.state_dict(), folder / "model.pt")
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    return TextFiles(
        folder / "model.pt",
        write_csv(folder / "test.csv", test),
        write_csv(folder / "train.csv", train),
        folder / "vocab.txt",
        f"tests.tiny_texts:{factory}",
        reached,
    )


def _config(kind: str, **settings: object):
    import transformers

    sizes = {
        "vocab_size": len(WORDS) + 4, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
        "intermediate_size": 32, "max_position_embeddings": 40, "pad_token_id": 0,
    }  # fmt: skip
    if kind == "DistilBert":
        sizes |= {"dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 32}
    return getattr(transformers, f"{kind}Config")(**sizes | settings)


def write_bert(folder: Path, kind: str = "Bert", **settings: object) -> Path:
    """A folder of random weights (large ones, so that masks and positions tell) with its tokenizer."""
    import transformers

    named = {} if "num_labels" in settings else {"id2label": dict(enumerate(TOPICS))}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = getattr(transformers, f"{kind}ForSequenceClassification")(_config(kind, **named | settings))
        for parameter in made.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
    made.save_pretrained(str(folder))
    vocabulary = {
        word: at for at, word in enumerate(("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS[2:]))
    }
    tokenizer = transformers.BertTokenizerFast(vocab=vocabulary)
    if kind == "DistilBert":
        tokenizer.model_input_names = ["input_ids", "attention_mask"]
    tokenizer.save_pretrained(str(folder))
    return folder
