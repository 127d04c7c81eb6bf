"""The ResNet-18 of ``benchmarks/export.py``: trained from scratch, on small images first."""

from pathlib import Path

import nets
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

BATCH = 64
STAGES = ((96, 10, 2e-3), (nets.SIDE, 1, 5e-4))
"""The side of the images, epochs and the highest learning rate: small images are five times as fast."""


def train_resnet(train: Path, test: Path, out: Path) -> None:
    """Random shifts and flips, a one-cycle rate (Smith 2018, arXiv 1803.09820); seeded."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.from_numpy(np.load(train)[name]) for name in ("x", "y"))
    judged, truth = (torch.from_numpy(np.load(test)[name]) for name in ("x", "y"))
    net = nets.resnet18()
    for side, epochs, rate in STAGES:
        optimizer = torch.optim.AdamW(net.parameters(), lr=rate, weight_decay=5e-2)
        steps = epochs * -(-len(x) // BATCH)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.2)
        for epoch in range(epochs):
            net.train()
            for rows in torch.randperm(len(x), generator=generator).split(BATCH):
                images = nets.enlarge(varied(x[rows], generator), side)
                loss = functional.cross_entropy(net(images), y[rows], label_smoothing=0.1)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
            print(
                f"  {side}x{side}, epoch {epoch + 1}: accuracy {right(net, judged, truth, side):.3f}",
                flush=True,
            )
    torch.save(net.state_dict(), out)


def varied(images: Tensor, generator: torch.Generator) -> Tensor:
    """Shifted by up to four pixels, and half of them turned over."""
    padded = functional.pad(images, (0, 0, 4, 4, 4, 4))
    top, left = torch.randint(0, 9, (2,), generator=generator)
    cut = padded[:, top : top + 32, left : left + 32]
    over = torch.rand(len(images), generator=generator) < 0.5
    return torch.where(over[:, None, None, None], cut.flip(2), cut)


def right(net: nn.Module, images: Tensor, truth: Tensor, side: int) -> float:
    """The share of right answers."""
    net.eval()
    with torch.inference_mode():
        said = torch.cat([net(nets.enlarge(rows, side)).argmax(1) for rows in images.split(50)])
    return float((said == truth).float().mean())
