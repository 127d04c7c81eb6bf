"""What the contenders of a race are fed: the same rows for all, a seeded sample of those that judge them."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from export.examples import Batch, examples_of, typed
from study.progress import Progress
from study.record import JSON
from study.subject import Split, Subject

if TYPE_CHECKING:
    from study.feed import Feed

MOST_BATCHES: Final = 8
MOST_BYTES: Final = 64 << 20
"""Of all batches of one size; they are sent to every process."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """Some batches of one size, where they are from in words, and which rows they hold."""

    batches: tuple[Batch, ...]
    origin: str
    rows: tuple[str, ...] = ()
    """The ids of the rows, in order; none where they are random numbers."""
    tokens: tuple[int, ...] = ()
    """Of each batch, without what fills shorter texts up; none where rows are no texts."""

    @property
    def shapes(self) -> list[JSON]:
        """The shape of each input of each batch."""
        return [{name: list[JSON](array.shape) for name, array in batch.items()} for batch in self.batches]


def inputs_of(subject: Subject, batch: int, seed: int, _progress: Progress) -> Inputs:
    """As many batches as are sensible, of real rows where there are any.

    Raises:
        SkipError: neither a row nor a shape says what the inputs look like.
    """
    from study.feed import Feed

    rows = f"{batch} row{'s' if batch > 1 else ''}"
    splits = (
        (subject.judged, "judged"),
        (subject.calibration, "calibration"),
        (subject.training, "training"),
    )
    for split, what in splits:
        if split is None:
            continue
        batches, ids = _sampled(Feed.open(split, subject.inputs), split, subject, batch, seed)
        if batches:
            origin = f"{len(batches)} batches of {rows}, a seeded sample of the {what} rows"
            return Inputs(tuple(batches), origin, tuple(ids), _tokens(subject, batches))
    plain = replace(subject, judged=None, calibration=None, training=None)
    size = sum(array.nbytes for array in examples_of(plain, batch).batch.values())
    count = max(1, min(MOST_BATCHES, MOST_BYTES // max(1, size)))
    drawn = [examples_of(plain, batch, seed + number).batch for number in range(count)]
    return Inputs(
        tuple(drawn), f"{count} batches of {rows}, seeded random numbers", (), _tokens(subject, drawn)
    )


def _sampled(
    feed: "Feed", split: Split, subject: Subject, batch: int, seed: int
) -> tuple[list[Batch], list[str]]:
    """Batches of rows drawn without replacement; where there are too few for one, they come again."""
    from study.feed import Feed

    wanted = min(len(feed), batch * MOST_BATCHES)
    drawn = np.random.default_rng(seed).choice(feed.positions, wanted, replace=False)
    chosen = replace(split, positions=tuple(np.sort(drawn).tolist()))
    batches: list[Batch] = []
    ids: list[str] = []
    spent = 0
    for piece in Feed.open(chosen, subject.inputs).pieces(batch):
        if not len(piece) or (batches and len(piece) < batch):
            continue
        arrays = typed(piece.batch, subject.inputs)
        places = np.arange(batch)
        batches.append({name: np.take(array, places, axis=0, mode="wrap") for name, array in arrays.items()})
        ids.extend(map(str, piece.rows.ids))
        spent += sum(array.nbytes for array in batches[-1].values())
        if spent >= MOST_BYTES:
            break
    return batches, ids


def _tokens(subject: Subject, batches: list[Batch]) -> tuple[int, ...]:
    task = subject.task
    return tuple(map(tokens_of, batches)) if task is not None and task.kind == "language" else ()


def tokens_of(batch: Batch) -> int:
    """Those that a mask shows, else every one."""
    mask = next((array for name, array in batch.items() if "mask" in name), None)
    steps = next((array.size for array in batch.values() if array.dtype.kind in "iu"), 0)
    return int(steps if mask is None else mask.sum())
