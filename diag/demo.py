"""What ``diag demo`` and the samples are made of: scikit-learn's digits, a small CNN, and a short fit."""

import os
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from study.storage import written

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    Inputs: TypeAlias = NDArray[np.float32] | tuple[NDArray[np.float32], ...]
    """One array, or one for each input of the model."""
    Loss: TypeAlias = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

SIDE = 64
"""The height and width that the CNN takes."""


@dataclass(frozen=True, slots=True)
class Digits:
    """Handwritten digits: float32 images from 0 to 1, rows first, and their int64 labels."""

    images: "NDArray[np.float32]"
    labels: "NDArray[np.int64]"

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def ink(self) -> "NDArray[np.float32]":
        """The mean brightness of each image: how thickly a digit was written."""
        return np.asarray(self.images.reshape(len(self), -1).mean(axis=1).round(3), dtype=np.float32)

    def where(self, chosen: "NDArray[Any]") -> "Digits":
        """The rows of a mask or of an array of positions."""
        return Digits(self.images[chosen], self.labels[chosen])

    def save(self, path: Path) -> None:
        """Write an ``.npz`` with ``x``, ``y`` and the metadata column ``ink``, whole or not at all."""
        with written(path) as beside, beside.open("wb") as stream:
            np.savez_compressed(stream, x=self.images, y=self.labels, ink=self.ink)


@dataclass(frozen=True, slots=True)
class DemoFiles:
    """A trained model, the rows that judge it, those it was trained on, and its ``--arch``."""

    model: Path
    data: Path
    train: Path
    arch: str

    def command(self, home: Path, *options: str) -> str:
        """The ``diag run`` to type next; ``home`` is the folder that the architecture is imported from."""
        place = [f"cd {shlex.quote(os.path.relpath(home))} &&"] if home.resolve() != Path.cwd() else []
        model, data, train = (
            shlex.quote(_seen_from(home, path)) for path in (self.model, self.data, self.train)
        )
        words = [*place, "diag run", model, "--arch", self.arch, "--data", data, "--train", train, *options]
        return " ".join(words)


def _seen_from(home: Path, path: Path) -> str:
    """The file's name where it lies in ``home``, else its absolute path."""
    path = path.resolve()
    return path.name if path.parent == home.resolve() else str(path)


def enlarged_digits(height: int, width: int, *, seed: int = 0) -> tuple[Digits, Digits]:
    """The 1797 digits of scikit-learn, enlarged from 8x8: four fifths to train on, one fifth to judge by.

    Both parts hold every digit in the same proportion; they share no row.
    """
    import torch
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    small, labels = load_digits(return_X_y=True)
    pixels = torch.from_numpy(small.astype(np.float32)).reshape(-1, 1, 8, 8) / 16
    enlarged = torch.nn.functional.interpolate(pixels, (height, width), mode="bilinear", align_corners=False)
    every = Digits(enlarged.numpy(), labels.astype(np.int64))
    train, test = train_test_split(np.arange(len(every)), test_size=0.2, stratify=labels, random_state=seed)
    return every.where(np.sort(train)), every.where(np.sort(test))


def digits_cnn() -> "torch.nn.Sequential":
    """A CNN for 1x64x64 digits: convolutions of 32 and 64 channels, pooling, 128 hidden units, 10 classes."""
    from collections import OrderedDict

    from torch import nn

    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv1=nn.Conv2d(1, 32, kernel_size=3, padding=1),
        relu1=nn.ReLU(),
        pool1=nn.MaxPool2d(2),
        conv2=nn.Conv2d(32, 64, kernel_size=3, padding=1),
        relu2=nn.ReLU(),
        pool2=nn.MaxPool2d(2),
        flatten=nn.Flatten(),
        hidden=nn.Linear(64 * (SIDE // 4) ** 2, 128),
        relu3=nn.ReLU(),
        head=nn.Linear(128, 10),
    )
    return nn.Sequential(layers)


def seeded(factory: "Callable[[], torch.nn.Module]", seed: int) -> "torch.nn.Module":
    """A model with the weights that this seed gives; the global generator is left as it was."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return factory()


def fit(
    model: "torch.nn.Module",
    inputs: "Inputs",
    targets: "NDArray[Any]",
    *,
    loss: "Loss | None" = None,
    epochs: int,
    learning_rate: float = 1e-3,
    batch_size: int = 64,
    seed: int = 0,
) -> None:
    """Train what is trainable of the model with Adam, and leave it in eval mode.

    Several inputs come in the order of ``forward``. The learning rate falls to zero along a half cosine.
    ``loss`` is cross-entropy unless given.
    """
    import torch

    loss = loss or torch.nn.functional.cross_entropy
    x, y = _tensors(inputs), torch.from_numpy(targets)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], learning_rate)
    steps = epochs * -(-len(y) // batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(steps, 1))
    order = torch.Generator().manual_seed(seed)
    model.train()
    for _ in range(epochs):
        for rows in torch.split(torch.randperm(len(y), generator=order), batch_size):
            optimizer.zero_grad()
            torch.autograd.backward(loss(model(*(each[rows] for each in x)), y[rows]))
            optimizer.step()
            schedule.step()
    model.eval()


def outputs(model: "torch.nn.Module", inputs: "Inputs") -> "NDArray[np.float32]":
    """The outputs of a model on all rows, computed in pieces."""
    import torch

    with torch.inference_mode():
        split = (torch.split(each, 256) for each in _tensors(inputs))
        pieces = [model(*piece) for piece in zip(*split, strict=True)]
    return np.asarray(torch.cat(pieces).numpy())


def _tensors(inputs: "Inputs") -> "tuple[torch.Tensor, ...]":
    import torch

    return tuple(torch.from_numpy(each) for each in (inputs if isinstance(inputs, tuple) else (inputs,)))


def accuracy(model: "torch.nn.Module", digits: Digits) -> float:
    """The share of rows whose largest output is the label's."""
    return float((outputs(model, digits.images).argmax(axis=1) == digits.labels).mean())


def write(folder: Path, model: "torch.nn.Module", arch: str, *, test: Digits, train: Digits) -> DemoFiles:
    """Write ``model.pt`` (a state dict), ``test.npz`` and ``train.npz`` into the folder."""
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    files = DemoFiles(folder / "model.pt", folder / "test.npz", folder / "train.npz", arch)
    with written(files.model) as beside, beside.open("wb") as stream:
        torch.save(model.state_dict(), stream)
    test.save(files.data)
    train.save(files.train)
    return files


def train_digits_cnn(*, epochs: int = 3, seed: int = 0) -> "tuple[torch.nn.Module, Digits, Digits]":
    """The trained CNN with its training rows and the rows that judge it: ten seconds on two cores."""
    train, test = enlarged_digits(SIDE, SIDE, seed=seed)
    model = seeded(digits_cnn, seed)
    fit(model, train.images, train.labels, epochs=epochs, batch_size=16, seed=seed)
    return model, train, test


def make_demo(folder: Path, *, seed: int = 0, epochs: int = 3) -> DemoFiles:
    """Train the digits CNN and write it with its data into the folder.

    The data have ``x`` (images), ``y`` (labels) and ``ink`` (a metadata column, for slices).
    """
    model, train, test = train_digits_cnn(epochs=epochs, seed=seed)
    return write(folder, model, "diag.demo:digits_cnn", test=test, train=train)
