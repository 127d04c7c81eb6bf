"""Small nets of two inputs, image and table; factories for ``--arch tests.two_inputs:…``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from tests.tiny import Files, digits


class Fused(nn.Module):
    """Logits of ten digits from an image and a row of cells; ``scale`` may be left out."""

    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(128, 16),
            nn.ReLU(),
        )
        self.cells = nn.Sequential(nn.Linear(8, 16), nn.ReLU())
        self.head = nn.Linear(32, 10)

    def hidden(self, image: Tensor, cells: Tensor) -> Tensor:
        return torch.cat([self.image(image), self.cells(cells)], dim=1)

    def forward(self, image: Tensor, cells: Tensor, scale: Tensor | None = None) -> Any:
        logits = self.head(self.hidden(image, cells))
        return logits if scale is None else logits * scale.reshape(-1, 1)


class Pair(Fused):
    def forward(self, image: Tensor, cells: Tensor) -> Any:  # type: ignore[override]  # no scale
        hidden = self.hidden(image, cells)
        return hidden, self.head(hidden)


@dataclass
class Answer:
    hidden: Tensor
    scores: Tensor
    said: str = "no tensor"


class Data(Fused):
    def forward(self, image: Tensor, cells: Tensor) -> Any:  # type: ignore[override]  # no scale
        hidden = self.hidden(image, cells)
        return Answer(hidden, self.head(hidden))


class Names(NamedTuple):
    hidden: Tensor
    scores: Tensor


class Named(Fused):
    def forward(self, image: Tensor, cells: Tensor) -> Any:  # type: ignore[override]  # no scale
        hidden = self.hidden(image, cells)
        return Names(hidden, self.head(hidden))


class Nested(Fused):
    def forward(self, image: Tensor, cells: Tensor) -> Any:  # type: ignore[override]  # no scale
        hidden = self.hidden(image, cells)
        return {"hidden": hidden, "heads": {"scores": self.head(hidden), "loss": None}}


class Review(nn.Module):
    """Two scores of a text, an image and a number."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(6, 4, padding_idx=0)
        self.image = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.Flatten())
        self.head = nn.Linear(4 + 128 + 1, 2)

    def forward(self, note: Tensor, image: Tensor, age: Tensor) -> Tensor:
        logits: Tensor = self.head(torch.cat([self.words(note).sum(dim=1), self.image(image), age], dim=1))
        return logits


def review() -> nn.Module:
    return Review()


def fused() -> nn.Module:
    return Fused()


def pair() -> nn.Module:
    return Pair()


def answer() -> nn.Module:
    return Data()


def named() -> nn.Module:
    return Named()


def nested() -> nn.Module:
    return Nested()


def rows() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Digits, the ink in each of their columns, and their labels."""
    images, labels = digits()
    return images, images.mean(axis=(1, 2)).astype(np.float32), labels


def write(folder: Path) -> Files:
    """A trained net, 300 rows to judge by as two named arrays; nothing else is in the file."""
    images, cells, labels = rows()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = Fused()
        optimizer = torch.optim.Adam(net.parameters(), lr=5e-3)
        for _ in range(6):
            for chosen in torch.randperm(1297).split(64):
                optimizer.zero_grad()
                fed = (torch.from_numpy(images)[chosen], torch.from_numpy(cells)[chosen])
                nn.functional.cross_entropy(net(*fed), torch.from_numpy(labels)[chosen]).backward()
                optimizer.step()
    files = Files(folder / "model.pt", folder / "test.npz", folder / "train.npz", "tests.two_inputs:fused")
    torch.save(net.state_dict(), files.model)
    for path, part in ((files.train, slice(0, 200)), (files.data, slice(1297, 1597))):
        np.savez(path, cells=cells[part], image=images[part], y=labels[part])  # not in the order of forward
    return files
