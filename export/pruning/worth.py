"""What weights are worth to the loss, on training rows; and what one without some of them loses there."""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Self

import numpy as np

from export.quiet import library
from study.errors import SkipError
from study.feed import Feed, Piece
from study.losses import answers, must_be_fitted, task_loss
from study.record import Metric
from study.taught import Caller

if TYPE_CHECKING:
    import torch
    from torch import nn

    from export.pruning.channels import Cut
    from study.subject import Subject
    from study.task import Task

UNPRUNED: Final = "the unpruned model"
ROWS: Final = 256
"""For the slopes, and as many others to judge by."""
BATCH: Final = 16


NORM: Final = "the group's L2 norm"
TAYLOR: Final = "the first-order Taylor estimate of the loss"
NONE: "Final[Mapping[str, torch.Tensor]]" = {}
"""Nothing is known of what weights are worth but their size."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """By what the weakest were found: what lost less on training rows where there are any."""

    importance: str
    losses: Mapping[str, float] = field(default_factory=dict)
    """On the judging rows, of the unpruned model and after each way, before any recovery."""
    rows: int = 0
    why_not: str = ""

    def __str__(self) -> str:
        """In a sentence."""
        if not self.losses:
            return f"The weakest went by {self.importance}: {self.why_not}."
        told = [f"{loss:.3g} by {what}" for what, loss in self.losses.items() if what != UNPRUNED]
        return (
            f"The weakest went by {self.importance}, which before recovery gave the lower loss on "
            f"{self.rows} training rows: {', '.join(told)}; {self.losses[UNPRUNED]:.3g} unpruned."
        )

    @property
    def metrics(self) -> dict[str, Metric]:
        """The losses."""
        names = {NORM: "l2", TAYLOR: "taylor", UNPRUNED: "unpruned"}
        return {
            f"loss@{names[what]}": Metric.exact(loss, self.rows, better="lower")
            for what, loss in self.losses.items()
            if math.isfinite(loss)
        }


@dataclass(frozen=True, slots=True)
class Scales:
    """Two sets of training rows: those that say what weights are worth, and those that judge."""

    task: "Task"
    weighing: Sequence[Piece]
    judging: Sequence[Piece]

    @classmethod
    def of(cls, subject: "Subject", seed: int) -> Self:
        """Seeded training rows, half of them for either where there are few.

        Raises:
            SkipError: there are none with labels, or the task has no loss.
        """
        if subject.training is None or subject.task is None:
            raise SkipError("no training rows were given")
        must_be_fitted(subject.task)
        feed = Feed.open(subject.training, subject.inputs)
        order = np.random.default_rng(seed).permutation(feed.positions)
        count = min(ROWS, len(order) // 2)
        sets = []
        for rows in (order[:count], order[count : 2 * count]):
            starts = range(0, count, BATCH)
            pieces = [feed.at(np.sort(rows[start : start + BATCH])) for start in starts]
            sets.append([piece for piece in pieces if len(piece)])
        if not all(sets) or any(piece.rows.labels is None for piece in sets[0]):
            raise SkipError("too few training rows have labels")
        return cls(subject.task, *sets)

    def slopes(self, module: "nn.Module") -> "dict[str, torch.Tensor]":
        """Of each weight the squared change of the loss that its loss would be, summed over batches.

        The first-order Taylor estimate of Molchanov et al. 2019 (arXiv 1906.10771), which adds up over the
        weights of a channel, unit or head.
        """
        import torch

        weighed = copy.deepcopy(module)
        parameters = dict(weighed.named_parameters())
        worth = {name: torch.zeros_like(one) for name, one in parameters.items()}
        for one in parameters.values():
            one.requires_grad_(True)
        with library("what weights are worth"):
            for piece in self.weighing:
                weighed.zero_grad()
                self._loss(weighed, piece).backward()  # type: ignore[no-untyped-call]  # torch leaves it so
                for name, one in parameters.items():
                    if one.grad is not None:
                        worth[name] += (one.detach() * one.grad) ** 2
        return worth

    def loss(self, module: "nn.Module") -> float:
        """The mean loss on the judging rows; infinite where it is not finite."""
        import torch

        with library("the pruned module"), torch.no_grad():
            losses = [float(self._loss(module, piece)) for piece in self.judging]
        mean = float(np.average(losses, weights=[len(piece) for piece in self.judging]))
        return mean if math.isfinite(mean) else math.inf

    @property
    def rows(self) -> int:
        """How many judge."""
        return sum(len(piece) for piece in self.judging)

    def _loss(self, module: "nn.Module", piece: Piece) -> "torch.Tensor":
        call = Caller(module)
        found = answers(self.task, call(call.tensors(piece)), piece)
        assert found.truth is not None
        return task_loss(self.task, found.logits, found.truth)


def better(
    module: "nn.Module",
    made: "nn.Module",
    cut: "Cut",
    make: "Callable[[Mapping[str, torch.Tensor]], tuple[nn.Module, Cut]]",
    subject: "Subject",
    seed: int,
) -> "tuple[nn.Module, Cut, Chosen]":
    """What was pruned by the norm of weights, or what ``make`` prunes by their worth: the lower loss."""
    try:
        scales = Scales.of(subject, seed)
        other, other_cut = make(scales.slopes(module))
        losses = {UNPRUNED: scales.loss(module), NORM: scales.loss(made), TAYLOR: scales.loss(other)}
    except SkipError as error:
        return made, cut, Chosen(NORM, why_not=str(error))
    if losses[TAYLOR] < losses[NORM]:
        return other, other_cut, Chosen(TAYLOR, losses, scales.rows)
    return made, cut, Chosen(NORM, losses, scales.rows)
