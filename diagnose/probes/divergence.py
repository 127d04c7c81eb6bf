"""Runs the model beside the one that came, and keeps how far apart they are at each token."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from diagnose.probe import Probe
from study.errors import InputError, SkipError
from study.feed import Piece
from study.parts import AT_ONCE, log_probabilities
from study.progress import Progress
from study.readings.language import by_step, tokens_of
from study.runtime import Runtime
from study.storage import written
from study.task import Task, scored_output
from study.view import View

if TYPE_CHECKING:
    from torch import Tensor

ROWS = 64
SCORES = 2**24
"""Of a batch, of each of the two: 64 MB."""


@final
@dataclass(frozen=True, slots=True)
class Divergence(Probe):
    """One line a text: the Kullback-Leibler divergence of its tokens from what the model as it came said."""

    gives: ClassVar[str] = "divergence"

    def run(self, view: View, progress: Progress) -> None:
        """Write ``divergence.parquet``: ``parts``, ``kl`` (nats, one a token), ``flips`` of the likeliest."""
        origin, feed = view.origin, view.judged()
        if origin is None:
            raise SkipError("this is the model as it came: there is nothing to compare it with")
        first, second = origin.runtime, view.runtime
        size = view.machine.batch_size or ROWS
        frames, done = [], 0
        for piece in feed.batches(feed.positions, size, SCORES // view.task.width):
            if len(piece):
                frames.append(_lines(view.task, piece, first, second))
            done += len(piece) + len(piece.broken)
            progress.tell("divergence", done, len(feed))
        if not frames:
            raise SkipError("no text could be read")
        with written(view.artifact.folder / f"{self.gives}.parquet") as beside:
            pl.concat(frames).sort("position").write_parquet(beside)


def _lines(task: Task, piece: Piece, first: Runtime, second: Runtime) -> pl.DataFrame:
    ids, there = tokens_of(piece)
    came, now = (by_step(scored_output(task, run(piece.batch)), ids.shape) for run in (first, second))
    if came.shape != now.shape:
        raise InputError(
            f"The models know {came.shape[-1]} and {now.shape[-1]} tokens: compare like with like."
        )
    lists, flips = [], []
    for row in range(len(piece)):
        counted = np.flatnonzero(there[row, 1:] & there[row, :-1])
        found = [*_apart(task, came[row], now[row], counted)]
        lists.append(np.concatenate([np.zeros(0), *(kl for kl, _ in found)]))
        flips.append(sum(flipped for _, flipped in found))
    return pl.DataFrame(
        {
            "position": pl.Series(np.asarray(piece.rows.positions), dtype=pl.Int64),
            "parts": pl.Series([len(one) for one in lists], dtype=pl.Int64),
            "kl": pl.Series([one.tolist() for one in lists], dtype=pl.List(pl.Float32)),
            "flips": pl.Series(flips, dtype=pl.Int64),
        }
    )


def _apart(
    task: Task, came: "Tensor", now: "Tensor", places: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.float64], int]]:
    """KL(as it came ‖ this) in nats at these steps, and how many likeliest tokens differ; a piece at a time.

    In double precision: a step to ONNX moves probabilities by less than single precision can tell.
    """
    import torch

    at_once = max(1, AT_ONCE // 4 // came.shape[-1])
    for start in range(0, len(places), at_once):
        where = torch.from_numpy(places[start : start + at_once])
        before, after = (one[where.to(one.device)].double().cpu() for one in (came, now))
        p, q = log_probabilities(task, before), log_probabilities(task, after)
        chances = p.exp()
        kl = torch.where(chances > 0, chances * (p - q), 0.0).sum(dim=-1).clamp_min(0.0)
        yield kl.numpy(), int((before.argmax(dim=-1) != after.argmax(dim=-1)).sum())
