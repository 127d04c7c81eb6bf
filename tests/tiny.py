"""Small nets on scikit-learn's 8x8 digits, trained in a second; factories for ``--arch tests.tiny:…``."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn


@dataclass(frozen=True)
class Files:
    """What a command is given."""

    model: Path
    data: Path
    train: Path
    arch: str


def mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 16, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * 4 * 4, 10),
    )


def digits() -> tuple[np.ndarray, np.ndarray]:
    images, labels = load_digits(return_X_y=True)
    return (images / 16).astype(np.float32).reshape(-1, 1, 8, 8), labels.astype(np.int64)


def train(net: nn.Module, images: np.ndarray, labels: np.ndarray, epochs: int = 12) -> nn.Module:
    x, y = torch.from_numpy(images), torch.from_numpy(labels)
    optimizer = torch.optim.Adam(net.parameters(), lr=5e-3)
    net.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x[rows]), y[rows]).backward()
            optimizer.step()
    return net.eval()


def write(folder: Path, factory: str) -> Files:
    """A trained net, 1,297 rows to train on and 500 to judge by."""
    folder.mkdir(parents=True, exist_ok=True)
    images, labels = digits()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = train(globals()[factory](), images[:1297], labels[:1297])
    files = Files(folder / "model.pt", folder / "test.npz", folder / "train.npz", f"tests.tiny:{factory}")
    torch.save(net.state_dict(), files.model)
    for path, rows in ((files.train, slice(None, 1297)), (files.data, slice(1297, None))):
        ink = images[rows].mean(axis=(1, 2, 3)).astype(np.float32)
        np.savez(path, x=images[rows], y=labels[rows], ink=ink)
    return files
