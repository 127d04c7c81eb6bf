"""How far forecasts are off, step by step, beside forecasts that need no model."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from diagnose.judged import Judged, read_judged
from study.bootstrap import Floats, Statistic, bootstrap_sums
from study.errors import SkipError
from study.record import Better, Metric
from study.statistics import benjamini_hochberg, count_units
from study.view import View

LEVEL = 0.95
NUMBERS_AT_ONCE = 1_000_000
SHOWN = 24
"""Steps that have figures of their own: evenly spaced ones, the first and the last among them."""
ALL = "all"
NAIVE = {"naive": "the last value", "seasonal": "the same step of the last season"}
"""Forecasts that need no model."""


@dataclass(frozen=True, slots=True, eq=False)
class Forecasts:
    """Rows with finite forecasts and labels, as (rows, steps, targets).

    ``moved`` is (rows, targets), by how much a target moved from step to step in its history (NaN: unknown);
    ``naive`` has the forecasts of ``NAIVE`` that could be made.
    """

    judged: Judged
    label: Floats
    said: Floats
    moved: Floats | None
    naive: dict[str, Floats]
    notes: tuple[str, ...]

    @property
    def steps(self) -> int:
        """How many steps ahead."""
        return int(self.label.shape[1])

    def only(self, rows: NDArray[np.int64]) -> "Forecasts":
        """Some of the rows, by their places."""
        return Forecasts(
            self.judged.only(rows),
            self.label[rows],
            self.said[rows],
            None if self.moved is None else self.moved[rows],
            {name: said[rows] for name, said in self.naive.items()},
            self.notes,
        )

    def each(self, of: Callable[["Forecasts"], Floats]) -> Floats:
        """What ``of`` gives, one line a row, of some rows at a time: all errors at once may be too many."""
        size = max(1, NUMBERS_AT_ONCE // max(1, self.label[0].size))
        places = np.arange(len(self.judged))
        return np.concatenate([of(self.only(places[at : at + size])) for at in range(0, len(places), size)])

    def shown(self) -> list[int]:
        """The steps that are shown, counted from 0."""
        spaced = np.linspace(0, self.steps - 1, min(SHOWN, self.steps))
        return [int(step) for step in np.unique(spaced.round())]


def read_forecasts(view: View) -> Forecasts:
    """The judged rows with what the history of their targets says.

    Raises:
        SkipError: there are no labels, or not two rows (or groups) with finite forecasts.
    """
    every = read_judged(view)
    judged = every.only(every.finite)
    if judged.units < 2:  # noqa: PLR2004 - no spread can be seen in one
        raise SkipError("an interval needs two rows (or groups) with finite outputs and labels")
    shape = (len(judged), *(*view.task.target_shape, 1)[:2])
    rows = pl.LazyFrame({"position": judged.position})
    past = rows.join(view.table("history"), on="position", how="left", maintain_order="left").collect()
    naive: dict[str, Floats] = {}
    if "last" in past.columns:
        last = _numbers(past["last"]).reshape(len(judged), 1, shape[2])
        naive["naive"] = np.broadcast_to(last, shape)
    if "seasonal" in past.columns:
        naive["seasonal"] = _numbers(past["seasonal"]).reshape(shape)
    grouped = "group" in view.table("predictions").collect_schema().names()
    told = ("said",) if grouped else ("said", "dependent")
    notes = tuple(str(past[name][0]) for name in told if past[name][0])
    return Forecasts(
        judged,
        judged.label.astype(np.float64).reshape(shape),
        judged.prediction.astype(np.float64).reshape(shape),
        _numbers(past["moved"]) if "moved" in past.columns else None,
        naive,
        notes,
    )


def _numbers(lists: pl.Series) -> Floats:
    return lists.list.to_array(len(lists[0])).to_numpy().astype(np.float64)


def absolute(forecasts: Forecasts, steps: list[int]) -> Floats:
    """Absolute errors, as ``by_step`` gives them."""
    return forecasts.each(lambda some: by_step(np.abs(some.said - some.label), steps))


def by_step(values: Floats, steps: list[int]) -> Floats:
    """(rows, steps, targets) -> (rows, 1 + shown): the mean over targets, of all steps and of each shown."""
    mean = values.mean(axis=2)
    return np.column_stack([mean.mean(axis=1), mean[:, steps]])


def _relative(forecasts: Forecasts) -> Floats:
    """The error over the mean of both sizes, between 0 and 2; 0 where both are zero."""
    error = np.abs(forecasts.said - forecasts.label)
    size = np.abs(forecasts.said) + np.abs(forecasts.label)
    return np.asarray(np.divide(2 * error, size, out=np.zeros_like(error), where=size > 0))


def scaled_errors(forecasts: Forecasts) -> Floats:
    """Absolute errors over how much the history moved (Hyndman and Koehler 2006), of the rows with any.

    A target whose history is constant has no scale; a row counts by its other targets, or not at all.
    """
    assert forecasts.moved is not None
    known = forecasts.moved > 0
    rows = known.any(axis=1)
    error = np.abs(forecasts.said - forecasts.label)[rows]
    scale = np.where(known, forecasts.moved, 1.0)[rows, None, :]
    part = known[rows, None, :] / known[rows].sum(axis=1)[:, None, None]
    # ``by_step`` takes the mean over targets: those without a scale weigh nothing.
    return np.asarray(error / scale * part * known.shape[1])


def step_metrics(forecasts: Forecasts) -> dict[str, Metric]:
    """``mae@h=1`` and so on; ``@all`` is the mean over all steps (without MAE and RMSE, which are bare)."""
    steps = forecasts.shown()
    groups = forecasts.judged.groups
    error = forecasts.each(lambda some: by_step(some.said - some.label, steps))
    square = forecasts.each(lambda some: by_step((some.said - some.label) ** 2, steps))
    relative = forecasts.each(lambda some: 100 * by_step(_relative(some), steps))
    metrics = named("mae", means(absolute(forecasts, steps), groups, "lower"), steps)
    metrics |= named("rmse", means(square, groups, "lower", root=True), steps)
    del metrics["mae@all"], metrics["rmse@all"]
    metrics |= named("smape", means(relative, groups, "lower", unit="%"), steps)
    metrics |= named("bias", means(error, groups, "neither"), steps)
    if forecasts.moved is not None:
        rows = (forecasts.moved > 0).any(axis=1)
        own = None if groups is None else groups[rows]
        if count_units(int(rows.sum()), own) > 1:
            scaled = forecasts.each(lambda some: by_step(scaled_errors(some), steps))
            metrics |= named("mase", means(scaled, own, "lower"), steps)
    for name, skill in skills(forecasts, steps).items():
        known = {step: one.metric for step, one in skill.items()}
        metrics |= {f"skill_{name}@{step}": metric for step, metric in known.items()}
    return metrics


def named(name: str, found: list[Metric], steps: list[int]) -> dict[str, Metric]:
    """Metrics of ``by_step`` by their names."""
    return dict(zip((f"{name}@{place}" for place in places(steps)), found, strict=True))


def places(steps: list[int]) -> list[str]:
    """``all``, then each step as people count them."""
    return [ALL, *(f"h={step + 1}" for step in steps)]


def means(
    values: Floats, groups: NDArray[np.int64] | None, better: Better, *, unit: str = "", root: bool = False
) -> list[Metric]:
    """The mean of each column (or its square root) with its bootstrap interval over rows or groups."""
    sums = np.column_stack([values, np.ones(len(values))])

    def statistic(totals: Floats) -> Floats:
        average = totals[:, :-1] / totals[:, -1:]
        return np.sqrt(average) if root else average

    value = statistic(sums.sum(axis=0, keepdims=True))[0]
    low, high = np.quantile(bootstrap_sums(sums, statistic, groups=groups), _ends(), axis=0)
    return [
        Metric(float(one), float(min(one, least)), float(max(one, most)), len(values), unit, better, LEVEL)
        for one, least, most in zip(value, low, high, strict=True)
    ]


def _ends() -> list[float]:
    return [(1 - LEVEL) / 2, (1 + LEVEL) / 2]


@dataclass(frozen=True, slots=True)
class Shift:
    """A figure that is 0 where nothing differs, and its p-value corrected for the number of steps."""

    metric: Metric
    q: float


def naive_errors(forecasts: Forecasts, name: str, steps: list[int]) -> Floats:
    """Absolute errors of a forecast without a model, as ``by_step`` gives them."""
    return forecasts.each(lambda some: by_step(np.abs(some.naive[name] - some.label), steps))


def skills(forecasts: Forecasts, steps: list[int]) -> dict[str, dict[str, Shift]]:
    """1 - MAE / MAE of each naive forecast; a step at which that one is never wrong is left out."""
    error = absolute(forecasts, steps)
    found = {}
    for name in forecasts.naive:
        naive = naive_errors(forecasts, name, steps)
        count = naive.shape[1]

        def statistic(totals: Floats, count: int = count) -> Floats:
            with np.errstate(divide="ignore", invalid="ignore"):
                return 1 - totals[:, :count] / totals[:, count:]

        found[name] = _shifts(np.column_stack([error, naive]), statistic, forecasts.judged.groups, steps)
    return found


def changes(before: Forecasts, after: Forecasts, steps: list[int]) -> dict[str, Shift]:
    """The paired change of the mean absolute error, of the same rows."""
    old, new = (absolute(one, steps) for one in (before, after))
    values = np.column_stack([new - old, np.ones(len(new))])

    def statistic(totals: Floats) -> Floats:
        return np.asarray(totals[:, :-1] / totals[:, -1:])

    found = _shifts(values, statistic, after.judged.groups, steps)
    return {place: Shift(_lower(one.metric), one.q) for place, one in found.items()}


def _lower(metric: Metric) -> Metric:
    return Metric(metric.value, metric.low, metric.high, metric.n, metric.unit, "lower", metric.level)


def _shifts(
    sums: Floats, statistic: Statistic, groups: NDArray[np.int64] | None, steps: list[int]
) -> dict[str, Shift]:
    value = statistic(sums.sum(axis=0, keepdims=True))[0]
    drawn = bootstrap_sums(sums, statistic, groups=groups)
    found: dict[str, Metric] = {}
    p_values = []
    for place, one, replicates in zip(places(steps), value, drawn.T, strict=True):
        known = replicates[np.isfinite(replicates)]
        if not np.isfinite(one) or not len(known):
            continue
        low, high = np.quantile(known, _ends())
        found[place] = Metric(
            float(one), float(min(one, low)), float(max(one, high)), len(sums), "", "higher", LEVEL
        )
        spread = float(known.std())
        # By the normal law: a thousand replicates say nothing of so small tails.
        p_values.append(math.erfc(abs(one) / spread / math.sqrt(2)) if spread > 0 else float(one == 0))
    q = benjamini_hochberg(np.array(p_values))
    return {place: Shift(metric, float(one)) for (place, metric), one in zip(found.items(), q, strict=True)}
