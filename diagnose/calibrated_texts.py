"""Whether long texts are calibrated as short ones are."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from diagnose.calibrated import binned_gap, equal_width_bins
from diagnose.judged import Judged
from diagnose.labels import change_of
from diagnose.worded import TOKENS
from study.record import Cell, Finding, Metric, Record, Table, Verdict
from study.show import show_figures
from study.statistics import count_units, mean_interval
from study.view import View

NAMES: Final = ("shortest", "middle", "longest")
LEAST: Final = 30
"""Texts (or groups) in each third, below which nothing is said of lengths."""


@dataclass(frozen=True, slots=True, eq=False)
class Third:
    """Texts of some lengths: which rows they are, their fewest and most tokens, and how they are calibrated.

    ``gap`` is the mean confidence above the accuracy.
    """

    rows: NDArray[np.bool_]
    fewest: int
    most: int
    error: Metric
    gap: Metric

    @property
    def lengths(self) -> str:
        """In words."""
        return f"{self.fewest} to {self.most} tokens"


def with_lengths(view: View, judged: Judged, record: Record, bins: int, matters: float) -> Record:
    """The record with the calibration of each third of the texts by length; as it is where rows are no texts.

    Judged rows with finite outputs. Worse is told from a difference of ``matters`` on, that is surely there.
    """
    thirds = thirds_of(judged, _tokens(view, judged), bins)
    if not thirds:
        return record
    metrics = {f"ece@{name}_third": third.error for name, third in zip(NAMES, thirds, strict=True)}
    found = _worse(view, judged, thirds[-1], thirds[0], matters)
    return replace(
        record,
        verdict=Verdict.NOTED if found else record.verdict,
        metrics={**record.metrics, **metrics},
        findings=(*record.findings, *found),
        tables=(*record.tables, _table(thirds)),
    )


def thirds_of(judged: Judged, tokens: "NDArray[np.int64] | None", bins: int) -> list[Third]:
    """Three parts of about as many texts, by tokens; none where a part would be small."""
    if tokens is None:
        return []
    first, second = np.quantile(tokens, [1 / 3, 2 / 3])
    part = (tokens > first).astype(np.int64) + (tokens > second)
    found = []
    for number in range(len(NAMES)):
        rows = part == number
        inside = judged.only(rows)
        if count_units(len(inside), inside.groups) < LEAST:
            return []
        right = inside.hits.astype(np.float64)
        error = binned_gap(inside.confidence, right, equal_width_bins(inside.confidence, bins), inside.groups)
        gap = inside.confidence - right
        low, high = mean_interval(gap, inside.groups)
        mean = Metric(float(gap.mean()), low, high, len(inside))
        found.append(Third(rows, int(tokens[rows].min()), int(tokens[rows].max()), error, mean))
    return found


def difference(judged: Judged, one: Third, other: Third) -> Metric:
    """By how much the first is further from calibrated: the difference of the sizes of the gaps."""
    gaps = judged.confidence - judged.hits
    influence = np.zeros(len(judged))
    for third, sign in ((one, 1.0), (other, -1.0)):
        towards = sign * (1.0 if third.gap.value >= 0 else -1.0)
        influence[third.rows] += towards * (gaps[third.rows] - third.gap.value) / third.rows.sum()
    value = abs(one.gap.value) - abs(other.gap.value)
    return change_of(value, influence, groups=judged.groups, level=one.gap.level)


def _tokens(view: View, judged: Judged) -> "NDArray[np.int64] | None":
    table = view.table("predictions")
    if TOKENS not in table.collect_schema().names():
        return None
    chosen = pl.Series(judged.position)
    frame = table.filter(pl.col("position").is_in(chosen.implode())).select("position", TOKENS)
    counts: NDArray[np.int64] = frame.collect().sort("position")[TOKENS].to_numpy().astype(np.int64)
    return counts


def _worse(view: View, judged: Judged, long: Third, short: Third, matters: float) -> tuple[Finding, ...]:
    change = difference(judged, long, short)
    if abs(change.value) < matters or change.low <= 0 <= change.high:
        return ()
    worse, better, name = (long, short, "Long") if change.value > 0 else (short, long, "Short")
    side = "above" if worse.gap.value > 0 else "below"
    size = abs(change.value)
    low, high = sorted((abs(change.low), abs(change.high)))
    return (
        Finding(
            f"{name} texts are worse calibrated: with {worse.lengths} the confidence is "
            f"{100 * abs(worse.gap.value):.1f} points {side} the accuracy, with {better.lengths} "
            f"{100 * abs(better.gap.value):.1f} off.",
            where=f"tokens in [{worse.fewest}, {worse.most + 1})",
            rows=int(worse.rows.sum()),
            effect=Metric(size, low, high, len(judged), better="lower"),
            certainty=change.level,
            cause="Texts of such lengths may be rare in training, or cut off." if name == "Long" else "",
            do="Calibrate lengths for themselves, or set thresholds by length.",
            show=show_figures(view),
        ),
    )


def _table(thirds: Sequence[Third]) -> Table:
    ends = ("", " low", " high")
    columns = (
        "texts",
        "tokens",
        "rows",
        *(f"calibration error{end}" for end in ends),
        *(f"confidence - accuracy{end}" for end in ends),
    )
    rows: list[tuple[Cell, ...]] = [
        (
            name,
            third.lengths,
            third.gap.n,
            *(third.error.value, third.error.low, third.error.high),
            *(third.gap.value, third.gap.low, third.gap.high),
        )
        for name, third in zip(NAMES, thirds, strict=True)
    ]
    return Table("Calibration by length of the text", columns, tuple(rows))
