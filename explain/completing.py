"""How far attributions miss the sum that their method promises."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

FLOOR = 1e-3
"""A change of the score below this part of the score is no scale for an error."""


def missed(total: "Tensor", present: "Tensor", without: "Tensor", target: "Tensor | None") -> "NDArray[Any]":
    """Each row's |sum - (f(x) - f(baseline))|, relative to that change or to a thousandth of the scores."""
    import torch

    given, bare = picked(present, target), picked(without, target)
    change, largest = given - bare, torch.maximum(given.abs(), bare.abs())
    scale = torch.maximum(change.abs(), FLOOR * largest).clamp_min(torch.finfo(torch.float32).tiny)
    error: NDArray[Any] = ((total - change).abs() / scale).cpu().numpy()
    return error


def picked(output: "Tensor", target: "Tensor | None") -> "Tensor":
    """The explained score of each row."""
    column = output if target is None else output.gather(1, target[:, None])[:, 0]
    return column.double()
