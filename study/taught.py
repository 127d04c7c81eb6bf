"""A module called on prepared rows, and the teacher among them, whose answers are kept where they are few."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from study.batches import matched
from study.features import Hints, recorded
from study.feed import Piece
from study.loading.calling import of_module
from study.losses import answers
from study.task import PARTS, Task

if TYPE_CHECKING:
    import torch
    from torch import nn

MOST_KEPT: Final = 2**26
"""Numbers: a quarter of a gigabyte."""
IMAGES: Final = 4
"""The axes of a batch of images."""


class Caller:
    """A torch module that takes tensors by the names of its inputs."""

    def __init__(self, module: "nn.Module") -> None:
        import torch

        self.module, self._how = module, of_module(module)
        self._names = [spec.name for spec in self._how.inputs]
        first = next((one for one in module.parameters() if one.is_floating_point()), torch.zeros(()))
        self.like = first.detach()
        self._layout = torch.contiguous_format

    def lay_out(self, layout: "torch.memory_format") -> None:
        """Weights and inputs of four axes in this layout from now on; their numbers stay the same."""
        self.module.to(memory_format=layout)  # type: ignore[call-overload]  # torch's stubs lack it
        self._layout = layout

    def tensors(self, piece: Piece) -> "dict[str, torch.Tensor]":
        """The inputs of a piece on the module's device, floats in its dtype.

        Raises:
            InputError: the module has no input of a name, or lacks one.
        """
        import torch

        device, dtype = self.like.device, self.like.dtype
        batch = matched(piece.batch, self._names, self._how.optional)
        made = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in batch.items()}
        placed = {
            name: one.to(device, dtype if one.is_floating_point() else None) for name, one in made.items()
        }
        return {
            name: one.contiguous(memory_format=self._layout) if one.ndim == IMAGES else one
            for name, one in placed.items()
        }

    def __call__(self, tensors: "Mapping[str, torch.Tensor]") -> Any:
        """What ``forward`` gives."""
        return self._how.call(matched(tensors, self._names, self._how.optional))


class Teacher:
    """The model to learn from: in eval mode, without gradients."""

    def __init__(self, module: "nn.Module", task: Task, rows: int, *, keeps: bool) -> None:
        """``keeps``: of the rows as they are, each is answered once (where it is one answer a row)."""
        self._call, self._task, self._rows = Caller(module.eval()), task, rows
        self._keeps = keeps and task.kind not in PARTS
        self._kept: dict[int, torch.Tensor] = {}

    @property
    def module(self) -> "nn.Module":
        """The module itself."""
        return self._call.module

    def lay_out(self, layout: "torch.memory_format") -> None:
        """As ``Caller.lay_out``."""
        self._call.lay_out(layout)

    def logits(self, piece: Piece, tensors: "Mapping[str, torch.Tensor]") -> "torch.Tensor":
        """The answers to some rows."""
        import torch

        places = np.asarray(piece.rows.positions).tolist()
        if self._keeps and all(place in self._kept for place in places):
            return torch.stack([self._kept[place] for place in places])
        with torch.no_grad():
            found = answers(self._task, self._call(tensors), piece).logits
        if self._keeps and found.shape[-1] * self._rows <= MOST_KEPT:
            self._kept.update(zip(places, found, strict=True))
        return found

    def shown(
        self, piece: Piece, tensors: "Mapping[str, torch.Tensor]", hints: Hints
    ) -> "tuple[torch.Tensor, dict[str, torch.Tensor]]":
        """The answers, and what the hidden layers give."""
        import torch

        with torch.no_grad(), recorded(self.module, hints.names) as kept:
            found = answers(self._task, self._call(tensors), piece).logits
        return found, kept
