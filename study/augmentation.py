"""Rows that are like those of the training data, drawn anew in each epoch: few rows teach more so.

The teacher sees what the student sees, so that its answer is right for what was drawn (Beyer et al. 2022,
Knowledge distillation: a good teacher is patient and consistent, arXiv 2106.05237).
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from study.errors import InputError, did_you_mean, few
from study.task import PARTS, Task

if TYPE_CHECKING:
    import torch

WAYS: Final = ("flip", "shift", "mix")
"""Mirrored left to right; moved by up to an eighth; a mean of two rows, which has no label."""
IMAGE: Final = 4
"""Axes of images: rows, channels, height, width."""
EIGHTH: Final = 8


def must_be_ways(ways: tuple[str, ...]) -> None:
    """Whether all are known.

    Raises:
        InputError: one is not.
    """
    for way in ways:
        if way not in WAYS:
            raise InputError(f"There is no augment={way}.{did_you_mean(way, WAYS)}")


def must_fit(ways: tuple[str, ...], task: Task, tensors: "Mapping[str, torch.Tensor]") -> None:
    """Whether rows of this task and these inputs can be changed so.

    Raises:
        InputError: they cannot; the sentence says what to leave out.
    """
    if ways and task.kind in PARTS:
        raise InputError(
            f"A {task.kind} task has a label a part, which would have to move too: leave augment out."
        )
    images = all(one.ndim == IMAGE and one.is_floating_point() for one in tensors.values())
    if {"flip", "shift"} & {*ways} and not images:
        raise InputError("augment=flip and augment=shift are for images alone: leave them out.")
    if "mix" in ways and not all(one.is_floating_point() for one in tensors.values()):
        raise InputError(
            f"The inputs {few(tensors)} hold integers, which have no mean: leave augment=mix out."
        )


def varied(
    ways: tuple[str, ...], tensors: "dict[str, torch.Tensor]", generator: "torch.Generator"
) -> "dict[str, torch.Tensor]":
    """The images mirrored and moved, each for itself and all inputs of a row alike."""
    import torch

    rows = len(next(iter(tensors.values())))
    if "flip" in ways:
        mirrored = (torch.rand(rows, generator=generator) < 0.5)[:, None, None, None]  # noqa: PLR2004 - half
        tensors = {
            name: torch.where(mirrored.to(one.device), one.flip(3), one) for name, one in tensors.items()
        }
    if "shift" in ways:
        steps = torch.rand(rows, 2, generator=generator)
        tensors = {name: _moved(one, steps) for name, one in tensors.items()}
    return tensors


def _moved(images: "torch.Tensor", steps: "torch.Tensor") -> "torch.Tensor":
    """Each image by up to an eighth of its sides, its rim repeated; ``steps`` (rows, 2) are in 0 to 1."""
    import torch

    height, width = images.shape[2:]
    down, right = height // EIGHTH, width // EIGHTH
    wide = torch.nn.functional.pad(images, (right, right, down, down), mode="replicate")
    tops = (steps[:, 0] * (2 * down + 1)).long().tolist()
    lefts = (steps[:, 1] * (2 * right + 1)).long().tolist()
    return torch.stack(
        [
            wide[row, :, top : top + height, left : left + width]
            for row, (top, left) in enumerate(zip(tops, lefts, strict=True))
        ]
    )


def mixed(tensors: "dict[str, torch.Tensor]", generator: "torch.Generator") -> "dict[str, torch.Tensor]":
    """Each row with another one of the batch, in shares that are drawn (Zhang et al. 2018, mixup)."""
    import torch

    rows = len(next(iter(tensors.values())))
    other = torch.randperm(rows, generator=generator)
    share = torch.rand(rows, generator=generator)
    made = {}
    for name, one in tensors.items():
        own = share.to(one.device, one.dtype).reshape(-1, *[1] * (one.ndim - 1))
        made[name] = own * one + (1 - own) * one[other.to(one.device)]
    return made
