"""Channels that depend on each other in other ways than in a chain: the blocks of people's nets."""

import numpy as np
import pytest
import torch
from torch import nn

from export.passes.onnx import Onnx
from export.passes.prune import Prune
from study.loading import load_module
from study.loading.live import live_model
from study.progress import Progress
from study.record import Verdict
from tests.export_subjects import MACHINE, digits, outputs_of, subject_of

pytestmark = pytest.mark.usefixtures("untimed")


class Headed(nn.Module):
    """A body of 64 channels with a head on its mean."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU())
        self.body = body
        self.head = nn.Linear(64, 10)

    def forward(self, x):
        return self.head(self.body(self.stem(x)).mean((2, 3)))


class Inverted(nn.Module):
    """MobileNet's block: widened, one filter a channel, narrowed again, and added."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.depth = nn.Conv2d(64, 128, 1), nn.Conv2d(128, 128, 3, padding=1, groups=128)
        self.norm, self.narrow = nn.BatchNorm2d(128), nn.Conv2d(128, 64, 1)

    def forward(self, x):
        return x + self.narrow(torch.relu(self.norm(self.depth(torch.relu(self.wide(x))))))


class Squeezed(nn.Module):
    """Channels weighed by what a small net makes of their means."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(64, 64, 3, padding=1)
        self.less, self.more = nn.Linear(64, 16), nn.Linear(16, 64)

    def forward(self, x):
        x = torch.relu(self.conv(x))
        weight = torch.sigmoid(self.more(torch.relu(self.less(x.mean((2, 3))))))
        return x * weight[:, :, None, None]


class Dense(nn.Module):
    """DenseNet's block: each layer reads all before it, side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(64, 32, 3, padding=1), nn.Conv2d(96, 32, 3, padding=1)
        self.join = nn.Conv2d(128, 64, 1)

    def forward(self, x):
        x = torch.cat([x, torch.relu(self.one(x))], 1)
        return self.join(torch.cat([x, torch.relu(self.two(x))], 1))


class Grouped(nn.Module):
    """ResNeXt's convolution in groups."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.groups = nn.Conv2d(64, 64, 1), nn.Conv2d(64, 64, 3, padding=1, groups=4)
        self.last = nn.Conv2d(64, 64, 1)

    def forward(self, x):
        return x + self.last(torch.relu(self.groups(torch.relu(self.first(x)))))


class Shuffled(nn.Module):
    """Channels that become pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.shuffle = nn.Conv2d(64, 256, 3, padding=1), nn.PixelShuffle(2)
        self.last = nn.Conv2d(64, 64, 3, stride=2, padding=1)

    def forward(self, x):
        return self.last(torch.relu(self.shuffle(self.conv(x))))


class UNet(nn.Module):
    """Down and up again, with a bridge."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.inner = nn.Conv2d(64, 96, 2, stride=2), nn.Conv2d(96, 96, 3, padding=1)
        self.up, self.last = nn.ConvTranspose2d(96, 64, 2, stride=2), nn.Conv2d(128, 64, 3, padding=1)

    def forward(self, x):
        below = torch.relu(self.inner(torch.relu(self.down(x))))
        return self.last(torch.cat([x, torch.relu(self.up(below))], 1))


class Halved(nn.Module):
    """A gate: one half of the channels weighs the other."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.last = nn.Conv2d(64, 128, 3, padding=1), nn.Conv2d(64, 64, 1)

    def forward(self, x):
        value, gate = self.conv(x).chunk(2, 1)
        return self.last(value * torch.sigmoid(gate))


BLOCKS = (Inverted, Squeezed, Dense, Grouped, Shuffled, UNet, Halved)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.__name__)
def test_blocks_of_all_kinds_get_narrower_and_export(block, tmp_path):
    torch.manual_seed(0)
    module = Headed(block()).eval()
    change = Prune(0.5).apply(subject_of(live_model(module)), tmp_path / "prune", MACHINE, Progress())
    (record,) = change.records
    before, after = (record.metrics[f"parameters@{when}_pruning"].value for when in ("before", "after"))
    assert after < 0.6 * before, "half of the channels, and not only those of the stem"
    pruned = load_module(change.model)
    assert pruned.stem[0].out_channels < 64
    for name, part in pruned.body.named_modules():
        if isinstance(part, nn.Conv2d) and part.groups > 1:
            assert part.in_channels % part.groups == 0, name
    with torch.inference_mode():
        assert pruned(torch.from_numpy(digits()[0][:5])).shape == (5, 10)
    exported = Onnx().apply(subject_of(change.model), tmp_path / "onnx", MACHINE, Progress())
    assert exported.records[0].verdict is Verdict.GOOD
    np.testing.assert_allclose(outputs_of(exported.model), outputs_of(change.model), atol=1e-4)
