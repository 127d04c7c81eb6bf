"""The short fit that recovery after pruning, and distillation, use.

Bounded in epochs and seconds, seeded, judged on a held-out part of the training rows; the module ends with
the weights that were best there, its own first ones included, so that a fit never makes it worse.
"""

import copy
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from study.errors import SkipError
from study.feed import Feed, Piece
from study.progress import Progress
from study.task import VALUES, Task, encode

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from torch import nn

SMALL_BATCH = 8
"""Batches below it make poor statistics: batch normalisation keeps those that it has."""
MOST_HELD_OUT = 1024
FEWEST = 4
TINY = 1e-7


@dataclass(frozen=True, slots=True)
class Fit:
    """How long and how hard to fit. ``distillation`` is the share of the teacher in the loss."""

    epochs: int = 10
    seconds: float = 120.0
    learning_rate: float = 1e-3
    batch_size: int = 64
    held_out: float = 0.2
    patience: int = 3
    distillation: float = 0.5
    temperature: float = 2.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Fitted:
    """What the fit did: losses are those of the held-out rows."""

    epochs: int
    rows: int
    held_out: int
    loss_before: float
    loss_after: float
    ended: str


def fit(
    module: "nn.Module",
    feed: Feed,
    order: tuple[str, ...],
    task: Task,
    settings: Fit,
    progress: Progress,
    teacher: "nn.Module | None" = None,
) -> Fitted:
    """Train the module in place on the rows of a feed; it comes back in eval mode.

    ``order`` are the names of its inputs: the first goes by position, the others by name. With a teacher,
    part of the loss is the Kullback-Leibler divergence from its softened outputs (Hinton et al. 2015,
    arXiv 1503.02531).

    Raises:
        SkipError: there are no labels, too few rows, or the loss is not finite.
    """
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        try:
            return _Trainer(module, feed, order, task, settings, teacher).run(progress)
        finally:
            module.eval()


class _Trainer:
    """One fit: the rows by position, the loss, and the best weights so far."""

    def __init__(
        self,
        module: "nn.Module",
        feed: Feed,
        order: tuple[str, ...],
        task: Task,
        settings: Fit,
        teacher: "nn.Module | None",
    ) -> None:
        import torch

        self.module, self.feed, self.task, self.settings, self.teacher = module, feed, task, settings, teacher
        self.order = order
        first = next((p for p in module.parameters() if p.is_floating_point()), torch.zeros(()))
        self.device, self.dtype = first.device, first.dtype
        if len(feed) < FEWEST:
            raise SkipError(f"{len(feed)} training rows are too few for a fit")
        shuffled = np.random.default_rng(settings.seed).permutation(feed.positions)
        count = min(MOST_HELD_OUT, max(1, round(len(feed) * settings.held_out)))
        self.held_out, self.train = np.sort(shuffled[:count]), shuffled[count:]

    def run(self, progress: Progress) -> Fitted:
        import torch

        settings = self.settings
        optimizer = torch.optim.AdamW(self.module.parameters(), lr=settings.learning_rate, weight_decay=1e-4)
        steps = max(1, settings.epochs * math.ceil(len(self.train) / settings.batch_size))
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        began, first = time.perf_counter(), self.judge()
        best, kept, stale, done, ended = first, _weights(self.module), 0, 0, "all epochs done"
        for epoch in progress.over(range(settings.epochs), "fit", settings.epochs):
            in_time = self.epoch(epoch, optimizer, schedule, began)
            done, loss = epoch + 1, self.judge()
            if loss < best:
                best, kept, stale = loss, _weights(self.module), 0
            else:
                stale += 1
            if not in_time or stale >= settings.patience:
                ended = "no longer better on the held-out rows" if in_time else "the time was over"
                break
        self.module.load_state_dict(kept)
        return Fitted(done, len(self.train), len(self.held_out), first, best, ended)

    def epoch(self, epoch: int, optimizer: Any, schedule: Any, began: float) -> bool:
        """One pass over the training rows in a seeded order; False when the time is over."""
        settings = self.settings
        order = np.random.default_rng((settings.seed, epoch)).permutation(self.train)
        self.module.train()
        if min(settings.batch_size, len(order)) < SMALL_BATCH:
            _freeze_statistics(self.module)
        for start in range(0, len(order), settings.batch_size):
            rows = order[start : start + settings.batch_size]
            if time.perf_counter() - began > settings.seconds:
                return False
            if start and len(rows) < 2:  # noqa: PLR2004 -- batch normalisation has no variance over one row
                continue
            loss = self.loss(self.feed.at(np.sort(rows)))
            if loss is not None:
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
                optimizer.step()
            schedule.step()
        return True

    def judge(self) -> float:
        """The mean loss over the held-out rows, in eval mode.

        Raises:
            SkipError: it is not finite.
        """
        import torch

        self.module.eval()
        total, rows = 0.0, 0
        with torch.no_grad():
            for start in range(0, len(self.held_out), self.settings.batch_size):
                piece = self.feed.at(self.held_out[start : start + self.settings.batch_size])
                loss = self.loss(piece)
                if loss is not None:
                    total, rows = total + float(loss) * len(piece), rows + len(piece)
        if not rows or not math.isfinite(total):
            raise SkipError("the loss on the held-out training rows is not finite")
        return total / rows

    def loss(self, piece: Piece) -> "torch.Tensor | None":
        """The mean loss of some rows; None where none of them is whole."""
        import torch

        if not len(piece):
            return None
        if piece.rows.labels is None:
            raise SkipError("the training rows have no labels")
        leading, named = self.tensors(piece)
        scores = as_logits(self.task, scored(self.module(leading, **named), self.task.output_name))
        loss = task_loss(self.task, scores, encode(self.task, piece.rows.labels))
        if self.teacher is None:
            return loss
        with torch.no_grad():
            wanted = as_logits(self.task, scored(self.teacher(leading, **named), self.task.output_name))
        share, heat = self.settings.distillation, self.settings.temperature
        return (1 - share) * loss + share * teacher_loss(self.task, scores, wanted, heat)

    def tensors(self, piece: Piece) -> "tuple[torch.Tensor, dict[str, torch.Tensor]]":
        """The first input, and the others by name; floats in the dtype of the module."""
        import torch

        arrays = dict(piece.batch)
        if len(arrays) == len(self.order) == 1:  # a single array goes to a single input whatever its name
            arrays = {self.order[0]: next(iter(arrays.values()))}
        tensors = {name: torch.from_numpy(np.ascontiguousarray(arrays[name])) for name in self.order}
        placed = {
            name: tensor.to(self.device, self.dtype if tensor.is_floating_point() else None)
            for name, tensor in tensors.items()
        }
        return placed.pop(self.order[0]), placed


def _weights(module: "nn.Module") -> dict[str, Any]:
    return copy.deepcopy(module.state_dict())


def _freeze_statistics(module: "nn.Module") -> None:
    from torch.nn.modules.batchnorm import _BatchNorm

    for part in module.modules():
        if isinstance(part, _BatchNorm):
            part.eval()


def scored(outputs: Any, name: str) -> "torch.Tensor":
    """The tensor of a module's outputs that is scored: by name (``output_1``, a key), else the first."""
    import torch

    if isinstance(outputs, Mapping):
        outputs = outputs.get(name, next(iter(outputs.values())))
    elif isinstance(outputs, Sequence):
        place = name.removeprefix("output_")
        outputs = outputs[int(place) if place.isdigit() and int(place) < len(outputs) else 0]
    if not isinstance(outputs, torch.Tensor):
        raise SkipError(f"the scored output is no tensor but a {type(outputs).__name__}")
    while outputs.ndim > 2 and outputs.shape[-1] == 1:  # noqa: PLR2004 -- rows and columns, as study.task reads them
        outputs = outputs[..., 0]
    table: torch.Tensor = outputs[:, None] if outputs.ndim == 1 else outputs
    return table


def as_logits(task: Task, scores: "torch.Tensor") -> "torch.Tensor":
    """Scores whose softmax or sigmoid are the model's probabilities; values of a regression as they are."""
    import torch

    if task.output == "log-probabilities":
        scores = scores if task.kind == "multiclass" else torch.logit(scores.exp(), eps=TINY)
    elif task.output == "probabilities":
        several = task.kind == "multiclass"
        scores = scores.clamp_min(TINY).log() if several else torch.logit(scores, eps=TINY)
    return scores


def task_loss(task: Task, logits: "torch.Tensor", encoded: "NDArray[Any]") -> "torch.Tensor":
    """Cross-entropy, binary cross-entropy or squared error, the mean over rows (and labels)."""
    import torch
    from torch.nn import functional

    if task.kind == "multiclass":
        return functional.cross_entropy(logits, torch.as_tensor(encoded, device=logits.device).long())
    truth = torch.as_tensor(encoded, device=logits.device).to(logits.dtype)
    if task.quantiles:
        return pinball(logits, truth, task.quantiles)
    truth = truth.reshape(logits.shape)
    if task.kind in VALUES:
        return functional.mse_loss(logits, truth)
    known = truth >= 0  # of several labels a row some may be missing
    return functional.binary_cross_entropy_with_logits(logits[known], truth[known])


def pinball(logits: "torch.Tensor", truth: "torch.Tensor", levels: tuple[float, ...]) -> "torch.Tensor":
    """The loss whose least values are quantiles, the mean over all of them (Koenker and Bassett 1978)."""
    import torch

    gap = truth.reshape(*logits.shape[:-1], 1) - logits
    level = torch.tensor(levels, device=logits.device, dtype=logits.dtype)
    return torch.maximum(level * gap, (level - 1) * gap).mean()


def teacher_loss(task: Task, logits: "torch.Tensor", wanted: "torch.Tensor", heat: float) -> "torch.Tensor":
    """How far the outputs are from the teacher's, softened by a temperature and scaled back by its square."""
    from torch.nn import functional

    if task.kind in VALUES:
        return functional.mse_loss(logits, wanted)
    if task.kind == "multiclass":
        far = functional.kl_div(
            functional.log_softmax(logits / heat, dim=1),
            functional.log_softmax(wanted / heat, dim=1),
            reduction="batchmean",
            log_target=True,
        )
    else:
        soft = (wanted / heat).sigmoid()
        entropy = functional.binary_cross_entropy_with_logits(wanted / heat, soft)
        far = functional.binary_cross_entropy_with_logits(logits / heat, soft) - entropy
    return far * heat**2
