"""A made-up series with a season, its windows, and a small LSTM that forecasts it."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

SEASON, HISTORY, HORIZON = 12, 36, 6
NETS = """
import torch
from torch import nn


class Lstm(nn.Module):
    '''Reads (rows, 36, 1) and forecasts six steps as changes from the last value.'''

    def __init__(self):
        super().__init__()
        self.lstm, self.head = nn.LSTM(1, 24, batch_first=True), nn.Linear(24, 6)

    def forward(self, x):
        told, _ = self.lstm(x - x[:, -1:])
        return self.head(told[:, -1]) + x[:, -1]


class Flat(nn.Module):
    '''Six linear functions of a history: (rows, 36).'''

    def __init__(self):
        super().__init__()
        self.step = nn.Linear(36, 6)

    def forward(self, x):
        return self.step(x)


class Quantiles(Flat):
    '''Three quantiles of each step.'''

    def forward(self, x):
        return torch.stack([self.step(x) - 0.4, self.step(x), self.step(x) + 0.4], -1)


class Linear(nn.Module):
    '''Each step ahead is a linear function of the history of each of two series: (rows, 36, 2).'''

    def __init__(self):
        super().__init__()
        self.step = nn.Linear(36, 6)

    def forward(self, x):
        return self.step(x.transpose(1, 2)).transpose(1, 2)
"""


def series(length: int, seed: int) -> NDArray[np.float64]:
    """A season of twelve steps, and noise that lasts (an autoregression with 0.7)."""
    random = np.random.default_rng(seed)
    noise = np.zeros(length)
    for at in range(1, length):
        noise[at] = 0.7 * noise[at - 1] + 0.3 * random.normal()
    return np.asarray(2 + np.sin(2 * np.pi * np.arange(length) / SEASON) + noise)


def windows(
    values: NDArray[np.float64], history: int = HISTORY, horizon: int = HORIZON, stride: int = 1
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Histories and what came next, (rows, history, ...) and (rows, horizon, ...)."""
    starts = np.arange(0, len(values) - history - horizon + 1, stride)
    x = np.stack([values[start : start + history] for start in starts])
    y = np.stack([values[start + history : start + history + horizon] for start in starts])
    return x.astype(np.float32), y.astype(np.float32)


def trained(net: torch.nn.Module, x: NDArray[np.float32], y: NDArray[np.float32], epochs: int) -> None:
    """By squared error."""
    inputs, wanted = torch.from_numpy(x), torch.from_numpy(y)
    adam = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(epochs):
        for rows in torch.randperm(len(inputs)).split(64):
            adam.zero_grad()
            loss = torch.nn.functional.mse_loss(net(inputs[rows]), wanted[rows])
            loss.backward()
            adam.step()


def write(folder: Path, name: str = "Lstm", epochs: int = 20) -> None:
    """``series_nets.py``, ``model.pt`` and the windows ``train.npz`` and ``test.npz``."""
    (folder / "series_nets.py").write_text(NETS)
    scope: dict[str, type[torch.nn.Module]] = {}
    exec(compile(NETS, "series_nets.py", "exec"), scope)
    torch.manual_seed(0)
    net = scope[name]()
    for split, seed, length in (("train", 0, 1200), ("test", 1, 600)):
        values = series(length, seed)
        x, y = windows(np.column_stack([values, 3 * np.roll(values, 5)]) if name == "Linear" else values)
        x = x[..., None] if name == "Lstm" else x
        if split == "train":
            trained(net, x, y, epochs)
        np.savez(folder / f"{split}.npz", x=x, y=y)
    torch.save(net.eval().state_dict(), folder / "model.pt")
