"""A BERT of two narrow layers that tells three made-up topics apart, and its rows."""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import nn
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

TOPICS = {
    "farm": ["cow", "barn", "wheat", "tractor", "harvest", "field", "pig", "milk"],
    "sea": ["ship", "wave", "anchor", "sailor", "harbour", "fish", "tide", "storm"],
    "city": ["tram", "street", "office", "crowd", "tower", "market", "taxi", "bridge"],
}
PLAIN = [
    "the",
    "a",
    "of",
    "and",
    "near",
    "with",
    "in",
    "old",
    "new",
    "big",
    "small",
    "was",
    "is",
    "very",
    "seen",
    "today",
]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
PIECES = ["##s", "un", "##known"]
WIDTH, WIDER, LAYERS, POSITIONS = 32, 64, 2, 32


@dataclass(frozen=True)
class Texts:
    model: Path
    data: Path
    train: Path


def rows(count: int, seed: int) -> list[tuple[str, str]]:
    """Texts of 3 to 14 words, of which two or three are of their topic, and one in eight of another."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        topic = str(rng.choice(list(TOPICS)))
        words = [str(word) for word in rng.choice(PLAIN, rng.integers(1, 12))]
        words += [str(word) + "s" * int(rng.random() < 0.2) for word in rng.choice(TOPICS[topic], 2)]
        if rng.random() < 1 / 8:
            words.append(str(rng.choice(TOPICS[str(rng.choice(list(TOPICS)))])))
        if rng.random() < 1 / 8:
            words.append("zzz")
        rng.shuffle(words)
        made.append((" ".join(words), topic))
    return made


def tokenizer() -> PreTrainedTokenizerFast:
    words = [*SPECIAL, *PIECES, *PLAIN, *(word for topic in TOPICS.values() for word in topic)]
    made = Tokenizer(models.WordPiece({word: at for at, word in enumerate(words)}, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_input_names=["input_ids", "attention_mask"],
    )


def fresh(layers: int = LAYERS) -> nn.Module:
    """An untrained net of so many layers; a factory for ``--student``."""
    names = list(TOPICS)
    return BertForSequenceClassification(
        BertConfig(
            vocab_size=len(tokenizer()),
            hidden_size=WIDTH,
            num_hidden_layers=layers,
            num_attention_heads=2,
            intermediate_size=WIDER,
            max_position_embeddings=POSITIONS,
            num_labels=len(names),
            id2label=dict(enumerate(names)),
            label2id={name: at for at, name in enumerate(names)},
        )
    )


def trained(words: PreTrainedTokenizerFast, given: list[tuple[str, str]], epochs: int = 4) -> nn.Module:
    names = list(TOPICS)
    torch.manual_seed(0)
    net = fresh()
    batch = words([text for text, _ in given], padding=True, return_tensors="pt")
    labels = torch.tensor([names.index(topic) for _, topic in given])
    optimizer = torch.optim.AdamW(net.parameters(), 3e-3)
    for _ in range(epochs):
        for chosen in torch.randperm(len(given)).split(32):
            part = {name: array[chosen] for name, array in batch.items()}
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(**part).logits, labels[chosen]).backward()
            optimizer.step()
    return net.eval()


def write(folder: Path) -> Texts:
    """The trained net with its tokenizer, 600 rows to train on and 200 to judge by."""
    files = Texts(folder / "bert", folder / "test.csv", folder / "train.csv")
    folder.mkdir(parents=True, exist_ok=True)
    given = rows(600, 1)
    words = tokenizer()
    with torch.random.fork_rng():
        trained(words, given).save_pretrained(files.model)
    words.save_pretrained(files.model)
    for path, some in ((files.train, given), (files.data, rows(200, 2))):
        with path.open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerows([("text", "label"), *some])
    return files
