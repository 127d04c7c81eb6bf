"""Parameters that lose rows or columns, and the proof that what went had been silent."""

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from study.errors import SkipError

if TYPE_CHECKING:
    import torch
    from torch import nn

Run: TypeAlias = "Callable[[nn.Module], list[torch.Tensor]]"
"""The tensors that a module gives for the example."""
CLOSE = 1e-4
"""Of the largest output: the order of summation differs."""


def keep(module: "nn.Module", place: str, axis: int, stays: NDArray[np.int64]) -> None:
    """In the place of a parameter, one with these rows (axis 0) or columns (1) alone."""
    import torch
    from torch import nn

    owner, _, last = place.rpartition(".")
    layer = module.get_submodule(owner)
    held = getattr(layer, last)
    chosen = torch.from_numpy(stays).to(held.device)
    setattr(
        layer, last, nn.Parameter(held.detach().index_select(axis, chosen), requires_grad=held.requires_grad)
    )


def must_agree(silent: "nn.Module", made: "nn.Module", run: Run) -> None:
    """Prove that a module without some of its parts is the module in which they are silent.

    Raises:
        SkipError: it does not run, or the outputs for the example differ.
    """
    try:
        given = run(made)
    except SkipError as error:
        raise SkipError("its forward holds their number") from error
    for one, two in zip(run(silent), given, strict=True):
        if one.shape != two.shape:
            raise SkipError("without them the outputs have other shapes")
        if one.is_floating_point() and one.numel():
            far = float((one - two).abs().max())
            if not far <= CLOSE * max(1.0, float(one.abs().max())):
                raise SkipError("the model without them is not the model in which they are silent")
