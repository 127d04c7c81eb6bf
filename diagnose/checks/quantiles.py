"""How well the quantiles of a forecast hold: pinball loss, and how many labels lie below or between them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from diagnose.check import Check
from diagnose.forecasts import ALL, Forecasts, by_step, means, named, read_forecasts
from study.bootstrap import Floats
from study.errors import SkipError, counted
from study.record import Cell, Finding, Metric, Picture, Record, Table, Verdict
from study.show import show_figures
from study.statistics import count_units
from study.task import Kind
from study.view import View

NUMBERS_AT_ONCE = 4_000_000
BELOW = "Share of labels below each quantile"


@dataclass(frozen=True, slots=True, eq=False)
class _Held:
    """Of the rows with finite quantiles, one number a row: pinball loss by step, shares below and between.

    ``crossing`` is the share of its steps and targets at which quantiles cross.
    """

    finite: NDArray[np.bool_]
    loss: Floats
    below: Floats
    between: Floats
    crossing: Floats


@final
@dataclass(frozen=True, slots=True)
class Quantiles(Check):
    """How well the quantiles of a forecast hold: pinball loss, and how many labels lie between them."""

    needs: ClassVar[tuple[str, ...]] = ("predictions", "history")
    kinds: ClassVar[frozenset[Kind]] = frozenset({"forecasting"})

    wrong: float = 0.05
    """A share of labels that is so far from what two quantiles promise is told."""

    def check(self, view: View) -> Record:
        levels = np.array(view.task.quantiles)
        if not len(levels):
            raise SkipError("the model gives one value a step, and no quantiles")
        forecasts = read_forecasts(view)
        held, steps = _held(view, forecasts, levels), forecasts.shown()
        groups = None if forecasts.judged.groups is None else forecasts.judged.groups[held.finite]
        if count_units(int(held.finite.sum()), groups) < 2:  # noqa: PLR2004 - no spread can be seen in one
            raise SkipError("an interval needs two rows (or groups) with finite quantiles")
        metrics = named("pinball", means(by_step(held.loss[:, :, None], steps), groups, "lower"), steps)
        coverage = dict(zip(_pairs(levels), means(held.between, groups, "neither"), strict=True))
        metrics |= {f"coverage@{low:g}-{high:g}": metric for (low, high), metric in coverage.items()}
        table = _table(levels, means(held.below, groups, "neither"))
        text = "The share of labels below each quantile, which should be the quantile's level."
        findings = (
            *_uncovered(view, coverage, self.wrong),
            *_crossing(view, means(held.crossing[:, None], groups, "lower")[0], held.crossing),
        )
        return Record(
            by="quantiles",
            verdict=Verdict.NOTED,
            summary=_sentence(metrics[f"pinball@{ALL}"], coverage),
            metrics=metrics,
            findings=findings,
            tables=(table,),
            pictures=(Picture(BELOW, "bars", BELOW, text),),
        )


def _table(levels: Floats, shares: list[Metric]) -> Table:
    rows: list[tuple[Cell, ...]] = [
        (f"quantile {level:g}", share.value, share.low, share.high)
        for level, share in zip(levels, shares, strict=True)
    ]
    return Table(BELOW, ("quantile", "share of labels below", "low", "high"), tuple(rows))


def _sentence(loss: Metric, coverage: dict[tuple[float, float], Metric]) -> str:
    said = (
        f"The pinball loss is {loss.value:.4g} [{loss.low:.4g}, {loss.high:.4g}] on {counted(loss.n, 'row')}"
    )
    for (low, high), one in list(coverage.items())[:1]:
        said += f"; {100 * one.value:.1f} % [{100 * one.low:.1f}, {100 * one.high:.1f}] of the labels lie"
        said += f" between the quantiles {low:g} and {high:g}"
    return f"{said}."


def _pairs(levels: Floats) -> list[tuple[float, float]]:
    """Quantiles that leave as much out above as below, the widest pair first."""
    return [
        (float(low), float(high))
        for low, high in zip(levels, levels[::-1], strict=True)
        if low < high and abs(low + high - 1) < 1e-6  # noqa: PLR2004 - levels are typed
    ]


def _held(view: View, forecasts: Forecasts, levels: Floats) -> _Held:
    table = view.table("predictions")
    if "output" not in table.collect_schema().names():
        raise SkipError("the quantiles of a row are too many to be kept")
    shape = (*forecasts.label.shape[1:], len(levels))
    size = max(1, NUMBERS_AT_ONCE // int(np.prod(shape)))
    parts, known = [], []
    for start in range(0, len(forecasts.judged), size):
        chosen = pl.Series(forecasts.judged.position[start : start + size])
        # The table is in the order of its positions, as ``judged`` is.
        rows = table.filter(pl.col("position").is_in(chosen.implode())).select("output").collect()["output"]
        told = rows.list.to_array(int(np.prod(shape))).to_numpy().astype(np.float64)
        finite = np.isfinite(told).all(axis=1)
        known.append(finite)
        label = forecasts.label[start : start + size][finite]
        parts.append(_of_rows(label, told[finite].reshape(-1, *shape), levels))
    return _Held(np.concatenate(known), *(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def _of_rows(label: Floats, told: Floats, levels: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    """Of (rows, steps, targets, quantiles), what ``_Held`` keeps."""
    gap = label[..., None] - told
    loss = np.maximum(levels * gap, (levels - 1) * gap).mean(axis=(2, 3))
    below = (gap <= 0).mean(axis=(1, 2))
    places = {level: place for place, level in enumerate(levels.tolist())}
    between = [
        ((gap[..., places[low]] >= 0) & (gap[..., places[high]] <= 0)).mean(axis=(1, 2))
        for low, high in _pairs(levels)
    ]
    crossing = (np.diff(told, axis=3) < 0).any(axis=3).mean(axis=(1, 2))
    return loss, below, np.column_stack([*between, np.zeros((len(label), 0))]), crossing


def _uncovered(view: View, coverage: dict[tuple[float, float], Metric], wrong: float) -> Iterator[Finding]:
    for (low, high), found in coverage.items():
        promised = high - low
        if found.low <= promised <= found.high or abs(found.value - promised) < wrong:
            continue
        narrow = found.value < promised
        yield Finding(
            f"{100 * found.value:.1f} % of the labels lie between the quantiles {low:g} and {high:g}, "
            f"which promise {100 * promised:.3g} %.",
            rows=found.n,
            effect=found,
            certainty=found.level,
            cause=f"The model is {'surer' if narrow else 'less sure'} than it should be.",
            do="Widen the quantiles on held-out rows (conformal prediction), or train longer on recent data."
            if narrow
            else "Narrow the quantiles on held-out rows.",
            show=show_figures(view),
        )


def _crossing(view: View, share: Metric, crossing: Floats) -> Iterator[Finding]:
    if crossing.any():
        yield Finding(
            f"At {100 * share.value:.2g} % of the steps a quantile is below one of a lower level.",
            rows=int((crossing > 0).sum()),
            effect=share,
            cause="Each quantile is forecast by itself.",
            do="Sort the quantiles of a step, or let the model give their differences.",
            show=show_figures(view),
        )
