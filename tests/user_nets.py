"""A module of the user in the folder where they stand."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

NET = """
import torch
from torch import nn

class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv = nn.Conv2d(1, width, 3)
        self.norm = nn.BatchNorm2d(width)
        self.head = nn.Linear(width, 3)

    def forward(self, x):
        return self.head(torch.relu(self.norm(self.conv(x))).mean((2, 3)))

def build(width=4):
    return Block(width)

def broken():
    return nothing_of_that_name

def text():
    return "no module"

live = Block(2)
"""


def user_net(folder: Path, monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    """The module, its weights trained a little, and the file with its factory."""
    (folder / "user_net.py").write_text(NET)
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    sys.modules.pop("user_net", None)
    import user_net

    torch.manual_seed(1)
    module: nn.Module = user_net.build()
    module(torch.randn(8, 1, 6, 6))
    return module.eval()


ROWS = torch.randn(5, 1, 6, 6, generator=torch.Generator().manual_seed(0))


def same(module: nn.Module, other: nn.Module) -> bool:
    with torch.no_grad():
        return torch.equal(module(ROWS), other(ROWS))
