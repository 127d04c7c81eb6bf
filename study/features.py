"""What hidden layers give, of a teacher and a student, and how far the one is from the other.

Hints from the middle of a teacher (Romero et al. 2015, FitNets, arXiv 1412.6550).
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import torch
    from torch import nn

MOST: Final = 4
"""Pairs of layers that are compared, evenly spread from the first to the last."""
FLOOR: Final = 1e-6
ROWS, WIDTHS = 0, 2
"""The axis of rows; the fewest axes of a hidden layer's output."""


@dataclass(frozen=True, slots=True)
class Pair:
    """One layer of both, by its name; ``axis`` is that in which the student has another width (0: none)."""

    name: str
    axis: int = 0
    student: int = 0
    teacher: int = 0


def pairs_of(teacher: "Mapping[str, torch.Tensor]", student: "Mapping[str, torch.Tensor]") -> list[Pair]:
    """Layers of the same name whose outputs have the same shape, or differ in one axis alone; at most four.

    Both mappings are from names to outputs on the same rows, in the order of the calls.
    """
    found = [
        pair for name, one in student.items() if name in teacher and (pair := _pair(name, teacher[name], one))
    ]
    inner = [pair for pair in found if any(name.startswith(f"{pair.name}.") for name in student)]
    chosen = inner or found  # blocks rather than the layers in them
    if len(chosen) <= MOST:
        return chosen
    return [chosen[round(at * (len(chosen) - 1) / (MOST - 1))] for at in range(MOST)]


def _pair(name: str, teacher: "torch.Tensor", student: "torch.Tensor") -> Pair | None:
    if teacher.ndim != student.ndim:
        return None
    differ = [axis for axis in range(teacher.ndim) if teacher.shape[axis] != student.shape[axis]]
    if not differ:
        return Pair(name)
    if len(differ) > 1 or differ == [ROWS]:
        return None
    return Pair(name, differ[0], student.shape[differ[0]], teacher.shape[differ[0]])


class Hints:
    """The pairs of layers of one fit, with a linear map learnt for each whose widths differ."""

    def __init__(self, pairs: list[Pair], like: "torch.Tensor") -> None:
        from torch import nn

        self.pairs, self._like = pairs, like
        self.maps = nn.ModuleList()
        self.fresh(0)

    def fresh(self, seed: int) -> "nn.ModuleList":
        """The maps, drawn anew."""
        import torch
        from torch import nn

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.maps = nn.ModuleList(
                nn.Linear(pair.student, pair.teacher) if pair.axis else nn.Identity() for pair in self.pairs
            ).to(self._like.device, self._like.dtype)
        return self.maps

    @property
    def names(self) -> list[str]:
        """Of the layers."""
        return [pair.name for pair in self.pairs]

    def loss(
        self, student: "Mapping[str, torch.Tensor]", teacher: "Mapping[str, torch.Tensor]"
    ) -> "torch.Tensor":
        """The squared error over the variance of what the teacher has, the mean over the pairs."""
        import torch

        losses = []
        for pair, learnt in zip(self.pairs, self.maps, strict=True):
            own, wanted = student[pair.name], teacher[pair.name]
            if pair.axis:
                own, wanted = learnt(own.movedim(pair.axis, -1)), wanted.movedim(pair.axis, -1)
            spread = wanted.var(correction=0).clamp_min(FLOOR)
            losses.append((own - wanted).square().mean() / spread)
        return torch.stack(losses).mean()


@contextmanager
def recorded(module: "nn.Module", names: "list[str] | None" = None) -> "Iterator[dict[str, torch.Tensor]]":
    """What these layers (None: all that are inside) give in each call, by name; the hooks always come off.

    Of a layer that is called several times in one call of the module, the last.
    """
    import torch

    kept: dict[str, torch.Tensor] = {}

    def keep(name: str) -> "Callable[[nn.Module, Any, Any], None]":
        def hook(_layer: "nn.Module", _given: Any, output: Any) -> None:
            first = _first(output)
            if isinstance(first, torch.Tensor) and first.is_floating_point() and first.ndim >= WIDTHS:
                kept.pop(name, None)
                kept[name] = first

        return hook

    chosen = [(name, layer) for name, layer in module.named_modules() if name]
    handles = [
        layer.register_forward_hook(keep(name)) for name, layer in chosen if names is None or name in names
    ]
    try:
        yield kept
    finally:
        for handle in handles:
            handle.remove()


def _first(output: Any) -> Any:
    """The first tensor of what a layer gave."""
    while isinstance(output, (Mapping, tuple, list)) and len(output):
        output = next(iter(output.values())) if isinstance(output, Mapping) else output[0]
    return output
