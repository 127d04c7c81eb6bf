"""The prediction table of a task whose answers have parts, as arrays: a line a row, sums over its parts."""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from diagnose.judged import codes_of
from diagnose.metrics import MACRO, macro_averages
from study.bootstrap import Floats, bootstrap, bootstrap_sums
from study.errors import SkipError
from study.record import Metric
from study.statistics import count_units, ratio_of, share_of_parts, wilson
from study.task import Kind, Task
from study.view import View

BIN_SUMS: Final = 3
"""Of each confidence bin: parts, sum of their confidences, hits."""
TOP: Final = 5
NOUNS: Final[dict[Kind, str]] = {
    "language": "token",
    "tokens": "word",
    "segmentation": "pixel",
    "detection": "object",
}


@dataclass(frozen=True, slots=True, eq=False)
class Parted:
    """Labelled rows of one artifact; every array has one entry a row.

    ``loss`` and ``confidence`` are means over the parts; ``bins`` is (rows, bins, 3). ``finite`` is false
    where the model gave NaN or an infinity.
    """

    task: Task
    position: NDArray[np.int64]
    parts: NDArray[np.int64]
    hits: NDArray[np.int64]
    top5: NDArray[np.int64]
    loss: Floats
    confidence: Floats
    bins: Floats
    class_sums: Floats | None
    finite: NDArray[np.bool_]
    groups: NDArray[Any] | None
    unlabelled: int

    def __len__(self) -> int:
        return len(self.position)

    @property
    def units(self) -> int:
        """What intervals stand on: rows, or groups."""
        return count_units(len(self), self.groups)

    @property
    def noun(self) -> str:
        """What a part is called."""
        return NOUNS.get(self.task.kind, "part")

    def only(self, rows: NDArray[Any]) -> "Parted":
        """Some of the rows (a mask or places)."""
        arrays = {
            one.name: value[rows]
            for one in fields(self)
            if isinstance(value := getattr(self, one.name), np.ndarray)
        }
        return replace(self, **arrays)


def read_parted(view: View) -> Parted:
    """The rows of the view's ``predictions`` table that have parts with labels.

    Raises:
        SkipError: there is no table, or no part has a label.
    """
    table = view.table("predictions")
    names = table.collect_schema().names()
    wanted = ("position", "parts", "hits", "top5", "loss", "confidence", "bins", "class_sums", "group")
    frame = table.select([name for name in wanted if name in names]).collect()
    labelled = frame.filter((pl.col("parts") > 0) & pl.col("hits").is_not_null())
    if not len(labelled):
        raise SkipError("no part of any row has a label")
    loss = labelled["loss"].cast(pl.Float64).fill_null(float("nan")).to_numpy()
    confidence = labelled["confidence"].cast(pl.Float64).fill_null(float("nan")).to_numpy()
    rows = len(labelled)
    sums = "class_sums" in names
    return Parted(
        task=view.task,
        position=labelled["position"].to_numpy(),
        parts=labelled["parts"].to_numpy(),
        hits=labelled["hits"].to_numpy(),
        top5=labelled["top5"].to_numpy(),
        loss=loss,
        confidence=confidence,
        bins=_table(labelled["bins"]).reshape(rows, -1, BIN_SUMS),
        class_sums=_table(labelled["class_sums"]) if sums else None,
        finite=np.isfinite(loss) & np.isfinite(confidence),
        groups=codes_of(labelled["group"]) if "group" in names else None,
        unlabelled=len(frame) - rows,
    )


def paired_change(
    before: Parted, after: Parted, sums: tuple[Floats, Floats], figure: Callable[[Floats], Floats]
) -> Metric | None:
    """How a figure of summed columns changed, on the rows that both have; None where there are not two.

    ``sums`` are the columns of both, a line a row; ``figure`` gives one number (n, 1) of each of n totals.
    """
    _, first, second = np.intersect1d(before.position, after.position, return_indices=True)
    if len(first) < 2:  # noqa: PLR2004 - an interval needs two
        return None
    both = np.hstack([sums[0][first], sums[1][second]])
    width = sums[0].shape[1]

    def change(totals: Floats) -> Floats:
        return figure(totals[:, width:]) - figure(totals[:, :width])

    groups = None if after.groups is None else after.groups[second]
    value = float(change(both.sum(axis=0, keepdims=True))[0, 0])
    if not np.isfinite(value):
        return None
    low, high = bootstrap(both, change, groups=groups)
    return Metric(value, min(value, float(low[0])), max(value, float(high[0])), len(first), better="higher")


def hit_metrics(parted: Parted) -> dict[str, Metric]:
    """Accuracy over all parts, top-5 of more classes, and averages over classes where they are counted."""
    groups = parted.groups
    metrics = {"accuracy": share_of_parts(parted.hits, parted.parts, groups=groups, better="higher")}
    if parted.task.width > TOP:
        top5 = share_of_parts(parted.top5, parted.parts, groups=groups, better="higher")
        metrics["top5_accuracy"] = top5
    if parted.class_sums is None:
        return metrics

    def macro(totals: Floats) -> Floats:
        return macro_averages(totals, every=False)

    values = macro(parted.class_sums.sum(axis=0, keepdims=True))[0]
    low, high = bootstrap(parted.class_sums, macro, groups=groups)
    for place, name in enumerate(MACRO):
        value, ends = float(values[place]), (float(low[place]), float(high[place]))
        if not ends[0] < ends[1]:
            ends = wilson(value * parted.units, parted.units)
        metrics[name] = Metric(value, min(value, ends[0]), max(value, ends[1]), len(parted), better="higher")
    return metrics


def mean_loss(parted: Parted) -> Metric:
    """The negative log-likelihood a part, in nats, of the rows that are finite."""
    part = parted.only(parted.finite)
    return ratio_of(part.loss * part.parts, part.parts, groups=part.groups, better="lower")


def calibration_error(parted: Parted, level: float = 0.95) -> Metric:
    """The expected calibration error over all parts; its interval is that of ``calibrated.binned_gap``."""
    sums = np.concatenate([parted.bins[:, :, 1] - parted.bins[:, :, 2], parted.bins[:, :, 0]], axis=1)
    count = parted.bins.shape[1]
    totals = sums.sum(axis=0)
    measured = totals[:count] / totals[count:].sum()

    def noise(drawn: Floats) -> Floats:
        gaps, sizes = drawn[:, :count], drawn[:, count:]
        missed: Floats = np.abs(gaps / sizes.sum(axis=1, keepdims=True) - measured).sum(axis=1)
        return missed

    half = float(np.quantile(bootstrap_sums(sums, noise, groups=parted.groups), level))
    value = float(np.abs(measured).sum())
    low, high = max(0.0, value - half), min(1.0, value + half)
    return Metric(value, low, high, len(parted), better="lower", level=level)


def _table(lists: pl.Series) -> Floats:
    """Lists of one length as (rows, numbers)."""
    width = int(lists.list.len().max() or 0)  # type: ignore[arg-type]  # a number, as lengths are
    return np.asarray(lists.list.to_array(width).to_numpy(), dtype=np.float64)
