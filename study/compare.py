"""Agreement and flips between two prediction tables of the same rows, and how far the outputs moved.

A flip is an answer that changed between right and wrong: negative when it was right before (Yan et al.,
Positive-Congruent Training, CVPR 2021). An aggregate accuracy can stay while answers flip (Dutta et al.,
Accuracy is Not All You Need, NeurIPS 2024), hence both directions.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import polars as pl
from numpy.typing import NDArray

from study.record import Metric
from study.slices import Mask, Slice
from study.statistics import benjamini_hochberg, mcnemar_exact, paired_difference, share_of
from study.task import IGNORED, VALUES, Kind, Task, probabilities

Floats: TypeAlias = NDArray[np.float64]

TOLERANCE = 0.05
"""Two values agree within this many standard deviations of the values before."""
LEAST = 20
"""The fewest rows of a slice whose accuracy is compared."""
NUMBERS_AT_ONCE = 4_000_000
LEVEL = 0.95


@dataclass(frozen=True, slots=True, eq=False)
class Both:
    """Rows that are in both tables, in order of position.

    ``frame`` has position, id, label, before, after, confidence_before, confidence_after, and group where
    the later table has one. ``changed`` rows have another answer, or are finite in only
    one table. ``was_right`` and ``is_right`` are of the ``labelled`` rows alone.
    """

    kind: Kind
    frame: pl.DataFrame
    only_before: int
    only_after: int
    finite_before: Mask
    finite_after: Mask
    changed: Mask
    labelled: Mask
    was_right: Mask
    is_right: Mask
    groups: NDArray[Any] | None
    tolerance: float
    """Of a regression, the difference up to which two values agree."""

    def __len__(self) -> int:
        return self.frame.height


def join(before: pl.LazyFrame, after: pl.LazyFrame, kind: Kind) -> Both:
    """The rows of both prediction tables; outputs stay where they are."""
    frame, only_before, only_after = _joined(before, after)
    was, now = _answers(frame["before"]), _answers(frame["after"])
    finite_before = _finite(was, frame["confidence_before"], kind)
    finite_after = _finite(now, frame["confidence_after"], kind)
    tolerance = 0.0
    if kind in VALUES:
        known = was[finite_before]
        tolerance = TOLERANCE * float(known.std(axis=0).mean()) if len(known) else 0.0
        with np.errstate(invalid="ignore"):
            apart = ~(np.abs(was - now) <= tolerance)
    else:
        apart = was != now
    apart = apart if apart.ndim == 1 else apart.any(axis=1)
    # Not finite in both is no answer twice, whatever argmax made of it.
    changed = np.where(finite_before & finite_after, apart, finite_before != finite_after)
    labelled, was_right, is_right = _rights(frame, was, now, finite_before, finite_after, kind)
    return Both(
        kind,
        frame,
        only_before,
        only_after,
        finite_before,
        finite_after,
        changed,
        labelled,
        was_right,
        is_right,
        groups_of(frame),
        tolerance,
    )


def _joined(before: pl.LazyFrame, after: pl.LazyFrame) -> tuple[pl.DataFrame, int, int]:
    names = after.collect_schema().names()
    kept = [name for name in names if name in ("id", "label", "group")]
    first = before.select("position", before="prediction", confidence_before="confidence").collect()
    second = after.select(
        "position", *kept, pl.col("prediction").alias("after"), pl.col("confidence").alias("confidence_after")
    ).collect()
    frame = first.join(second, on="position", how="inner").sort("position")
    return frame, first.height - frame.height, second.height - frame.height


def _answers(column: pl.Series) -> NDArray[Any]:
    """(rows,) or (rows, labels or targets) as floats; NaN where there is none."""
    if not isinstance(column.dtype, pl.List | pl.Array):
        return column.cast(pl.Float64).fill_null(float("nan")).to_numpy()
    width = int(column.list.len().fill_null(0).to_numpy().max(initial=0))
    table = np.full((len(column), width), np.nan)
    there = column.is_not_null().to_numpy()
    flat = column.filter(there).explode(empty_as_null=True).cast(pl.Float64)
    table[there] = flat.fill_null(float("nan")).to_numpy().reshape(int(there.sum()), width)
    return table


def _finite(answers: NDArray[Any], confidence: pl.Series, kind: Kind) -> Mask:
    known = np.isfinite(answers)
    known = known if known.ndim == 1 else known.all(axis=1)
    if kind not in VALUES:
        known = known & np.isfinite(confidence.cast(pl.Float64).fill_null(float("nan")).to_numpy())
    return np.asarray(known)


def _rights(
    frame: pl.DataFrame, was: NDArray[Any], now: NDArray[Any], before: Mask, after: Mask, kind: Kind
) -> tuple[Mask, Mask, Mask]:
    """Which rows are labelled and, of those, which were and are right."""
    if "label" not in frame.columns or kind in VALUES:
        return (
            np.zeros(frame.height, dtype=np.bool_),
            np.zeros(0, dtype=np.bool_),
            np.zeros(0, dtype=np.bool_),
        )
    labelled = frame["label"].is_not_null().to_numpy()
    truth = _answers(frame["label"].filter(frame["label"].is_not_null()))
    rights = []
    for answers, finite in ((was, before), (now, after)):
        same = (answers[labelled] == truth) | (truth == IGNORED if kind == "multilabel" else False)
        rights.append((same if same.ndim == 1 else same.all(axis=1)) & finite[labelled])
    return labelled, rights[0], rights[1]


def groups_of(frame: pl.DataFrame) -> NDArray[Any] | None:
    """A number a group; rows without one are a group each."""
    if "group" not in frame.columns:
        return None
    own = pl.lit("row ") + pl.col("position").cast(pl.String)
    named = pl.lit("group ") + pl.col("group").cast(pl.String)
    return frame.select(named.fill_null(own).rank("dense").cast(pl.Int64).alias("group"))["group"].to_numpy()


@dataclass(frozen=True, slots=True)
class Flips:
    """Shares of the labelled rows that flipped, the change of accuracy, and whether it is chance.

    ``p_value`` is McNemar's exact one; with groups, each group with more flips one way votes once.
    """

    negative: Metric
    positive: Metric
    change: Metric
    p_value: float


def agreement(both: Both) -> Metric:
    """The share of rows whose answer stayed."""
    return share_of(~both.changed, groups=both.groups, better="higher")


def flips(both: Both) -> Flips:
    """Of the labelled rows, of which there must be one."""
    groups = None if both.groups is None else both.groups[both.labelled]
    lost, won = both.was_right & ~both.is_right, both.is_right & ~both.was_right
    return Flips(
        negative=share_of(lost, groups=groups, better="lower"),
        positive=share_of(won, groups=groups),
        change=paired_difference(both.was_right, both.is_right, groups=groups),
        p_value=_by_chance(lost, won, groups),
    )


def _by_chance(lost: Mask, won: Mask, groups: NDArray[Any] | None) -> float:
    if groups is None:
        return mcnemar_exact(int(lost.sum()), int(won.sum()))
    _, code = np.unique(groups, return_inverse=True)
    net = np.bincount(code, weights=lost.astype(np.float64) - won)
    return mcnemar_exact(int((net > 0).sum()), int((net < 0).sum()))


@dataclass(frozen=True, slots=True)
class SliceDrop:
    """How much accuracy a slice lost.

    The interval of ``drop`` holds for all slices at once (Bonferroni), so that the worst of many is not
    worse than it seems; ``q`` is its p-value corrected for their number (Benjamini and Hochberg).
    """

    slice: Slice
    drop: Metric
    before: float
    after: float
    q: float


def slice_drops(both: Both, slices: Sequence[Slice], frame: pl.DataFrame) -> list[SliceDrop]:
    """The drop of each slice with rows enough, the greatest first.

    ``frame`` has one line a labelled row of ``both``, in order.
    """
    masks = [(one, one.rows(frame)) for one in slices]
    masks = [(one, inside) for one, inside in masks if inside.sum() >= LEAST]
    groups = None if both.groups is None else both.groups[both.labelled]
    level = 1 - (1 - LEVEL) / max(1, len(masks))
    drops, p_values = [], []
    for one, inside in masks:
        was, now = both.was_right[inside], both.is_right[inside]
        own = None if groups is None else groups[inside]
        # The change from after to before is the drop, with the interval's ends on the right sides.
        drop = paired_difference(now, was, groups=own, better="lower", level=level)
        drops.append(SliceDrop(one, replace(drop, level=LEVEL), float(was.mean()), float(now.mean()), 1.0))
        p_values.append(_by_chance(was & ~now, now & ~was, own))
    corrected = benjamini_hochberg(np.array(p_values))
    found = [replace(drop, q=float(q)) for drop, q in zip(drops, corrected, strict=True)]
    return sorted(found, key=lambda drop: (-drop.drop.value, drop.q, -drop.drop.n))


@dataclass(frozen=True, slots=True)
class Apart:
    """How far the scored outputs of both tables are apart, over the rows where both are finite.

    ``sqnr_db`` is 10 log10(sum of squares before / sum of squared differences), None where they are
    identical or all zero before. ``divergence`` is the mean Kullback-Leibler divergence of the probabilities
    before from those after, in nats (of a multi-label task, summed over labels), and ``shift`` the mean of
    each row's largest change of a probability; None of a regression.
    """

    rows: int
    identical: bool
    max_abs_error: float
    sqnr_db: float | None
    divergence: float | None
    shift: float | None


def outputs_apart(before: pl.LazyFrame, after: pl.LazyFrame, task: Task) -> Apart | None:
    """Compare the ``output`` columns piece by piece; None where there is nothing to compare."""
    rows, signal, noise, furthest, divergence, shift = 0, 0.0, 0.0, 0.0, 0.0, 0.0
    for was, now in _output_pieces(before, after):
        rows += len(was)
        gap = np.abs(was - now)
        furthest = max(furthest, float(gap.max(initial=0.0)))
        signal += float(np.square(was).sum())
        noise += float(np.square(gap).sum())
        if task.kind not in VALUES:
            first, second = probabilities(task, was), probabilities(task, now)
            divergence += float(_divergence(first, second, one_of=task.kind != "multilabel").sum())
            shift += float(np.abs(first - second).max(axis=1).sum())
    if not rows:
        return None
    classified = task.kind not in VALUES
    return Apart(
        rows=rows,
        identical=furthest == 0.0,
        max_abs_error=furthest,
        sqnr_db=10 * float(np.log10(signal) - np.log10(noise)) if signal > 0 and noise > 0 else None,
        divergence=divergence / rows if classified else None,
        shift=shift / rows if classified else None,
    )


def _output_pieces(before: pl.LazyFrame, after: pl.LazyFrame) -> Iterator[tuple[Floats, Floats]]:
    """Finite outputs of the rows in both, (rows, scores), never more than a piece of them at once."""
    if any("output" not in table.collect_schema().names() for table in (before, after)):
        return
    was, now = (table.select("position", "output") for table in (before, after))
    now = now.rename({"output": "output_after"})
    positions = was.select("position").collect()["position"].sort()
    first = was.select("output").head(1).collect()["output"]
    width = len(first[0]) if len(first) else 1
    step = max(1, NUMBERS_AT_ONCE // max(1, width))
    for start in range(0, len(positions), step):
        inside = pl.col("position").is_between(
            positions[start], positions[min(start + step, len(positions)) - 1]
        )
        both = was.filter(inside).join(now.filter(inside), on="position", maintain_order="left")
        piece = both.collect()
        one, other = (_answers(piece[name]) for name in ("output", "output_after"))
        if one.shape != other.shape:
            return
        finite = np.isfinite(one).all(axis=1) & np.isfinite(other).all(axis=1)
        if finite.any():
            yield one[finite], other[finite]


def _divergence(before: Floats, after: Floats, *, one_of: bool) -> Floats:
    tiny = np.finfo(np.float64).tiny
    total = before * (np.log(np.maximum(before, tiny)) - np.log(np.maximum(after, tiny)))
    if not one_of:
        rest = 1 - before
        total = total + rest * (np.log(np.maximum(rest, tiny)) - np.log(np.maximum(1 - after, tiny)))
    return np.asarray(np.maximum(total.sum(axis=1), 0.0))
