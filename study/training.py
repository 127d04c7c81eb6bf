"""The short fit that recovery after pruning, and distillation, use.

Bounded in epochs and seconds, seeded, judged on a held-out part of the training rows; the module ends with
the weights that were best there, its own first ones included, so that a fit never makes it worse there.
"""

import math
import time
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from study.augmentation import mixed, must_fit, varied
from study.errors import SkipError
from study.features import Hints, pairs_of, recorded
from study.feed import Feed, Piece
from study.fits import Fit, Fitted, Judged
from study.losses import agreeing, answers, must_be_fitted, task_loss, teacher_loss
from study.optimising import Learner, weights_of
from study.progress import Progress
from study.renormalised import normalised_layers, renormalise
from study.task import PARTS, Task
from study.taught import Caller, Teacher

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from torch import nn

SMALL_BATCH: Final = 8
"""Batches below it make poor statistics: batch normalisation keeps those that it has."""
MOST_HELD_OUT: Final = 1024
FEWEST: Final = 4
RATES: Final = (3e-3, 5e-4, 5e-5)
"""Of a small network from scratch, of one that is mended, and of a transformer that is tuned."""
TRIAL_STEPS: Final = 40
TRIAL_SHARE: Final = 0.2
"""Of the time, for all trials of rates together."""
SCORES_A_BATCH: Final = 2**24
"""Where rows have parts: 64 MB of scores, of which a step holds several copies."""


def fit(
    module: "nn.Module",
    feed: Feed,
    task: Task,
    settings: Fit,
    progress: Progress,
    teacher: "nn.Module | None" = None,
) -> Fitted:
    """Train the module in place on the rows of a feed; it comes back in eval mode.

    With a teacher, part of the loss is the Kullback-Leibler divergence from its softened outputs (Hinton et
    al. 2015, arXiv 1503.02531); rows without labels teach by that alone.

    Raises:
        SkipError: there are no labels and no teacher, too few rows, or the loss is not finite.
        InputError: the settings do not fit the data.
    """
    import torch

    must_be_fitted(task)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        try:
            return _Trainer(module, feed, task, settings, teacher).run(progress)
        finally:
            module.eval()
            for part in filter(None, (module, teacher)):
                part.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # not in stubs


class _Trainer:
    """One fit: the rows by position, the loss, and the best weights so far."""

    def __init__(
        self, module: "nn.Module", feed: Feed, task: Task, settings: Fit, teacher: "nn.Module | None"
    ) -> None:
        import torch

        self.module, self.feed, self.task, self.settings = module, feed, task, settings
        self.call, self.hints = Caller(module), Hints([], Caller(module).like)
        self.teacher = None
        if teacher is not None:
            plain = not (settings.augment or settings.features)
            self.teacher = Teacher(teacher, task, len(feed), keeps=plain)
        self.draws = torch.Generator().manual_seed(settings.seed)
        if len(feed) < FEWEST:
            raise SkipError(f"{len(feed)} training rows are too few for a fit")
        shuffled = np.random.default_rng(settings.seed).permutation(feed.positions)
        count = min(MOST_HELD_OUT, max(1, round(len(feed) * settings.held_out)))
        self.held_out, self.train = np.sort(shuffled[:count]), shuffled[count:]
        self.until = time.perf_counter() + settings.seconds
        self.batch = self._look()
        self._lay_out()

    def _look(self) -> int:
        """Run two rows: do the settings fit, which hidden layers match, how many rows are taken at once?"""
        import torch

        piece = self.feed.at(self.train[:2])
        size = self.settings.batch_size
        if not len(piece):
            return size
        tensors = self.call.tensors(piece)
        must_fit(self.settings.augment, self.task, tensors)
        self.module.eval()
        with torch.no_grad(), recorded(self.module) as own:
            found = answers(self.task, self.call(tensors), piece)
        if self.teacher is not None and self.settings.features:
            with recorded(self.teacher.module) as shown:
                self.teacher.logits(piece, tensors)
            self.hints = Hints(pairs_of(shown, own), self.call.like)
        scores = max(1, found.logits.numel() // len(piece))
        return max(1, min(size, SCORES_A_BATCH // scores)) if self.task.kind in PARTS else size

    def _lay_out(self) -> None:
        """Channels last where nothing in the modules forbids it: convolutions are faster on a processor.

        A ``view`` that takes the usual layout for granted raises, be it in ``forward`` or on the way back.
        """
        import torch

        convolves = any(isinstance(part, torch.nn.Conv2d) for part in self.module.modules())
        piece = self.feed.at(self.train[:2])
        if not convolves or not len(piece) or self.call.like.device.type != "cpu":
            return
        parts = [part for part in (self.call, self.teacher) if part is not None]
        for part in parts:
            part.lay_out(torch.channels_last)
        self.module.eval()
        tensors = self.call.tensors(piece)
        try:
            answers(self.task, self.call(tensors), piece).logits.sum().backward()  # type: ignore[no-untyped-call]
            if self.teacher is not None:
                self.teacher.logits(piece, tensors)
        except RuntimeError:
            for part in parts:
                part.lay_out(torch.contiguous_format)
        self.module.zero_grad()

    def run(self, progress: Progress) -> Fitted:
        settings = self.settings
        first = self._finite(self.judge())
        best, kept = first.loss, weights_of(self.module)
        best, kept = self._renormalised(best, kept)
        rate = settings.learning_rate or self._tried()
        per_epoch = math.ceil(len(self.train) / self.batch)
        learner = Learner(
            self.module, self.hints.fresh(settings.seed), rate, settings.epochs * per_epoch, self.until
        )
        patience = settings.patience or max(3, settings.epochs // 2)
        stale, done, ended = 0, 0, "all epochs done"
        for epoch in progress.over(range(settings.epochs), "fit", settings.epochs):
            in_time = self._epoch(epoch, learner)
            done, loss = epoch + 1, self.judge().loss
            if loss < best:
                best, kept, stale = loss, weights_of(self.module), 0
            else:
                stale += 1
            if not in_time or stale >= patience:
                ended = "no longer better on the held-out rows" if in_time else "the time was over"
                break
        self.module.load_state_dict(kept)
        _, kept = self._renormalised(best, kept)
        self.module.load_state_dict(kept)
        last = self._finite(self.judge())
        names = tuple(self.hints.names)
        return Fitted(done, len(self.train), len(self.held_out), first, last, ended, rate, names)

    def _renormalised(self, best: float, kept: dict[str, Any]) -> tuple[float, dict[str, Any]]:
        """With the statistics of batch normalisation taken anew, where that is better on held-out rows."""
        if not normalised_layers(self.module) or min(self.batch, len(self.train)) < SMALL_BATCH:
            return best, kept
        pieces = (piece for rows in self._batches(0) if len(piece := self.feed.at(rows)))
        renormalise(self.module, (partial(self.call, self.call.tensors(piece)) for piece in pieces))
        loss = self.judge().loss
        if loss < best:
            return loss, weights_of(self.module)
        self.module.load_state_dict(kept)
        return best, kept

    def _tried(self) -> float:
        """The rate that is best after some steps from the weights that the module has, which it keeps.

        The first trial may run out of time; the others then have as many steps as it.
        """
        start, rows = weights_of(self.module), list(self._batches(0))
        steps = min(TRIAL_STEPS, max(5, self.settings.epochs * len(rows) // 5))
        losses: dict[float, float] = {}
        for rate in RATES:
            until = time.perf_counter() + TRIAL_SHARE * self.settings.seconds / len(RATES)
            learner = Learner(self.module, self.hints.fresh(self.settings.seed), rate, steps, math.inf)
            self._training()
            for step in range(steps):
                self._learn(learner, rows[step % len(rows)])
                if not losses and time.perf_counter() > until:
                    steps = step + 1
                    break
            losses[rate] = self.judge().loss
            self.module.load_state_dict(start)
        known = {rate: loss for rate, loss in losses.items() if math.isfinite(loss)}
        return min(known, key=lambda rate: known[rate], default=RATES[-1])

    def _epoch(self, epoch: int, learner: Learner) -> bool:
        """One pass over the training rows in a seeded order; False when the time is over."""
        self._training()
        for rows in self._batches(epoch):
            if learner.is_over():
                return False
            self._learn(learner, rows)
        return True

    def _batches(self, epoch: int) -> "Iterator[NDArray[Any]]":
        """Positions; batch normalisation has no variance over a last batch of one."""
        order = np.random.default_rng((self.settings.seed, epoch)).permutation(self.train)
        for start in range(0, len(order), self.batch):
            rows = order[start : start + self.batch]
            if not start or len(rows) > 1:
                yield rows

    def _training(self) -> None:
        self.module.train()
        if min(self.batch, len(self.train)) < SMALL_BATCH:
            for layer in normalised_layers(self.module):
                layer.eval()

    def _learn(self, learner: Learner, rows: "NDArray[Any]") -> None:
        piece = self.feed.at(rows)
        learner.step(self._loss(piece) if len(piece) else None)

    def judge(self) -> Judged:
        """The mean loss over the answers of the held-out rows, in eval mode; hints have no part in it."""
        import torch

        self.module.eval()
        total = 0.0
        counts: list[NDArray[Any]] = [np.zeros(0, np.int64)]
        hits: list[NDArray[Any]] = [np.zeros(0)]
        with torch.no_grad():
            for start in range(0, len(self.held_out), self.batch):
                piece = self.feed.at(self.held_out[start : start + self.batch])
                if not len(piece):
                    continue
                tensors = self.call.tensors(piece)
                found = answers(self.task, self.call(tensors), piece)
                wanted = None if self.teacher is None else self.teacher.logits(piece, tensors)
                if len(found):
                    total += len(found) * float(self._far(found.logits, found.truth, wanted))
                counts.append(found.counts)
                same = None if wanted is None else agreeing(self.task, found.logits, wanted)
                if same is not None:
                    owner = np.repeat(np.arange(len(found.counts)), found.counts)
                    weights = same.cpu().numpy().astype(np.float64)
                    hits.append(np.bincount(owner, weights, minlength=len(found.counts)))
        number, right = np.concatenate(counts), np.concatenate(hits)
        loss = float(total / number.sum()) if number.sum() else math.nan
        return Judged.of(loss, right, number)

    def _far(
        self, logits: "torch.Tensor", truth: "NDArray[Any] | None", wanted: "torch.Tensor | None"
    ) -> "torch.Tensor":
        """The share of the teacher and that of the labels."""
        settings = self.settings
        if wanted is None:
            if truth is None:
                raise SkipError("the training rows have no labels")
            return task_loss(self.task, logits, truth)
        share = 1.0 if truth is None else settings.distillation
        loss = share * teacher_loss(self.task, logits, wanted, settings.temperature)
        return (
            loss if truth is None or share == 1 else loss + (1 - share) * task_loss(self.task, logits, truth)
        )

    def _loss(self, piece: Piece) -> "torch.Tensor | None":
        """The loss of some training rows, drawn anew; None where nothing in them counts."""
        tensors = varied(self.settings.augment, self.call.tensors(piece), self.draws)
        labelled = True
        if "mix" in self.settings.augment and self.teacher is not None:
            tensors, labelled = mixed(tensors, self.draws), False
        with recorded(self.module, self.hints.names) as own:
            found = answers(self.task, self.call(tensors), piece)
        if not len(found):
            return None
        truth = found.truth if labelled else None
        if self.teacher is None:
            return self._far(found.logits, truth, None)
        if not self.hints.pairs:
            return self._far(found.logits, truth, self.teacher.logits(piece, tensors))
        wanted, shown = self.teacher.shown(piece, tensors, self.hints)
        hint = self.hints.loss(own, shown)
        return self._far(found.logits, truth, wanted) + self.settings.features * hint

    @staticmethod
    def _finite(judged: Judged) -> Judged:
        """The same.

        Raises:
            SkipError: the loss is not finite.
        """
        if not math.isfinite(judged.loss):
            raise SkipError("the loss on the held-out training rows is not finite")
        return judged
