"""Digits from two inputs: half of an image, and a table of what is written in the other half.

The image shows the upper half alone, with noise; the table has the ink of each row and column of the lower.
Neither is enough: the same net is trained on each of them alone, to see what the other one is worth.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from diag.demo import DemoFiles, Digits, enlarged_digits, fit, outputs, seeded
from study.storage import written

if TYPE_CHECKING:
    from numpy.typing import NDArray

HERE = Path(__file__).resolve().parent
SIDE = 8
NOISE = 0.1
"""The spread of what is added to each pixel, which goes from 0 to 1."""
CELLS = SIDE // 2 + SIDE


class Rows(NamedTuple):
    """What both inputs show of some digits, and their labels; rows first."""

    image: "NDArray[np.float32]"
    cells: "NDArray[np.float32]"
    labels: "NDArray[np.int64]"

    def save(self, path: Path) -> None:
        """Write an ``.npz`` with an array for each input of the model, under its name."""
        with written(path) as beside, beside.open("wb") as stream:
            np.savez_compressed(stream, image=self.image, cells=self.cells, y=self.labels)


class Fusion(nn.Module):
    """What a small CNN makes of the image, beside what two layers make of the table."""

    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(32 * (SIDE // 2) ** 2, 64),
            nn.ReLU(),
        )
        self.cells = nn.Sequential(nn.Linear(CELLS, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU())
        self.head = nn.Linear(128, 10)

    def forward(self, image: Tensor, cells: Tensor) -> Tensor:
        logits: Tensor = self.head(torch.cat([self.image(image), self.cells(cells)], dim=1))
        return logits


def fusion() -> Fusion:
    """What ``--arch train:fusion`` builds."""
    return Fusion()


def two_inputs(digits: Digits, seed: int) -> Rows:
    """The noisy upper half as an image, and the ink of the lower half by row and by column."""
    noise = np.random.default_rng(seed).normal(0, NOISE, digits.images.shape)
    image = np.clip(digits.images + noise, 0, 1)
    image[:, :, SIDE // 2 :] = 0
    lower = digits.images[:, 0, SIDE // 2 :]
    cells = np.concatenate([lower.mean(axis=2), lower.mean(axis=1)], axis=1)
    return Rows(image.astype(np.float32), cells.astype(np.float32), digits.labels)


def trained(train: Rows, test: Rows, epochs: int, hidden: str = "") -> tuple[nn.Module, float]:
    """The net and its accuracy on the rows that judge it; the input that is ``hidden`` is all zeros."""

    def fed(rows: Rows) -> "tuple[NDArray[Any], ...]":
        shown = {"image": rows.image, "cells": rows.cells}
        return tuple(np.zeros_like(each) if name == hidden else each for name, each in shown.items())

    model = seeded(fusion, 0)
    fit(model, fed(train), train.labels, epochs=epochs, learning_rate=3e-3)
    return model, float((outputs(model, fed(test)).argmax(axis=1) == test.labels).mean())


def write(folder: Path, model: nn.Module, test: Rows, train: Rows) -> DemoFiles:
    """The model and both data files in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    files = DemoFiles(folder / "model.pt", folder / "test.npz", folder / "train.npz", "train:fusion")
    with written(files.model) as beside, beside.open("wb") as stream:
        torch.save(model.state_dict(), stream)
    test.save(files.data)
    train.save(files.train)
    return files


def main(out: Path = HERE, *, epochs: int = 20) -> tuple[float, float, float]:
    """Train, write the files, say what to type next; gives the accuracies of both, image and table alone."""
    train, test = (two_inputs(part, seed) for seed, part in enumerate(enlarged_digits(SIDE, SIDE)))
    model, both = trained(train, test, epochs)
    image, cells = (trained(train, test, epochs, hidden)[1] for hidden in ("cells", "image"))
    files = write(out, model, test, train)
    print(f"Accuracy on {len(test.labels)} rows: both {both:.3f}, image {image:.3f}, table {cells:.3f}")
    print(f"Next: {files.command(HERE)}")
    return both, image, cells


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=HERE, help="where model.pt and the data go")
    parser.add_argument("--epochs", type=int, default=20, help="passes over the rows, in each training")
    arguments = parser.parse_args()
    main(arguments.out, epochs=arguments.epochs)
