"""Scales and ticks: round numbers, linear or logarithmic, and the plain x-y plot around curves and points."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeGuard

from diag.render.charts.svg import WIDTH, elided, grid, label, text_width
from diag.render.figures import MINUS, TIMES, cell, decimal, measure, powers, with_unit

PLOT_HEIGHT = 210
_DECADES = 3
_SPREAD_OUT = ("ms", "bytes", "rate", "times", "number", "unit")
"""Shares and scores have ends: a logarithm would hide where they lie between them."""
_SPREAD = 1000
_LOG_FROM = 30
"""Positive values that span more than this are spread by their logarithm."""

_AROUND_A_SHARE = 0.05
"""Below and above a share that is the only value of its axis."""


def finite(value: object) -> TypeGuard[float]:
    """Whether a cell can be drawn."""
    return isinstance(value, int | float) and math.isfinite(value)


@dataclass(frozen=True, slots=True)
class Scale:
    """From values to pixels, with the ticks that stand on it."""

    low: float
    high: float
    start: float
    stop: float
    ticks: tuple[float, ...]
    logarithmic: bool = False

    def __call__(self, value: float) -> float:
        """The pixel of a value; what is outside is held at the edge."""
        value = min(max(value, self.low), self.high)
        if self.logarithmic:
            part = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            part = (value - self.low) / (self.high - self.low)
        return self.start + part * (self.stop - self.start)


def scale(
    values: Sequence[float],
    start: float,
    stop: float,
    *,
    zero: bool = False,
    log: bool = False,
    share: bool = False,
    want: int = 5,
) -> Scale:
    """A scale over finite values that ends on round numbers; ``zero`` begins it at nought.

    That of shares (where they are) is never below 0 or above 1: the round steps divide 1, so that only the
    room around a single value could lead there.
    Logarithmic where ``log`` allows it and the values are positive and far apart.
    """
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    if log and low > 0 and high / low >= _LOG_FROM:
        return _logarithmic(low, high, start, stop)
    if zero:
        low, high = min(low, 0.0), max(high, 0.0)
    if low == high:
        share = share and 0 <= low <= 1
        pad = _AROUND_A_SHARE if share else abs(low) / 2 or 0.5
        low, high = (low - pad if low or not zero else 0.0), high + pad
        low, high = (max(low, 0.0), min(high, 1.0)) if share else (low, high)
    gap = _round_gap((high - low) / want)
    first, last = math.floor(low / gap + 1e-9), math.ceil(high / gap - 1e-9)
    ticks = tuple(gap * at for at in range(first, last + 1))
    return Scale(ticks[0], ticks[-1], start, stop, ticks)


def _logarithmic(low: float, high: float, start: float, stop: float) -> Scale:
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    steps = (1, 2, 5) if last - first <= _DECADES else (1,)
    every = [10.0**power * step for power in range(first, last + 1) for step in steps]
    # From the last tick below to the first above: a whole empty decade would squeeze the rest.
    low, high = max(t for t in every if t <= low * 1.0001), min(t for t in every if t >= high * 0.9999)
    return Scale(low, high, start, stop, tuple(t for t in every if low <= t <= high), logarithmic=True)


def _round_gap(gap: float) -> float:
    power = 10.0 ** math.floor(math.log10(gap))
    return next(power * step for step in (1, 2, 2.5, 5, 10) if gap <= power * step * (1 + 1e-9))


def tick_texts(ticks: Sequence[float], column: str = "") -> list[str]:
    """The ticks' numbers, all with the digits that the finest needs, in the unit of their column's name."""
    kind = measure(column).kind if column else "number"
    if kind == "bytes":
        return [cell(tick, column) for tick in ticks]
    factor, unit = {"percent": (100.0, "%"), "points": (100.0, "")}.get(kind, (1.0, ""))
    values = [float(f"{tick * factor:.9g}") for tick in ticks]
    most = max(map(abs, values), default=1.0)
    if values and most > _SPREAD * min((abs(value) for value in values if value), default=most):
        return [with_unit(powers(f"{value:g}").replace("-", MINUS), unit) for value in values]
    digits = next((d for d in range(8) if all(abs(round(v, d) - v) < most * 1e-7 for v in values)), 8)
    return [with_unit(decimal(value, digits), unit) for value in values]


@dataclass(frozen=True, slots=True)
class Plot:
    """Two scales and what is drawn around them: the grid, the numbers and the names of the axes."""

    x: Scale
    y: Scale
    top: float
    bottom: float
    svg: str


def axis_name(column: str, *, log: bool = False) -> str:
    """What an axis is called: the measure's name with its unit."""
    known = measure(column)
    unit = {"ms": "ms", "rate": "1/s", "times": TIMES, "db": "dB", "points": "points"}.get(known.kind, "")
    named = f"{known.label} ({unit})" if unit else known.label
    return f"{named}, log scale" if log else named


def plot(
    xs: Sequence[float], ys: Sequence[float], columns: tuple[str, str], top: float, *, log: bool = True
) -> Plot:
    """The ground of curves and points under ``top``; the columns name the axes."""
    floor = top + 18 + PLOT_HEIGHT
    y = scale(ys, floor, top + 18, share=measure(columns[1]).kind == "percent")
    numbers = tick_texts(y.ticks, columns[1])
    left = max(text_width(text) for text in numbers) + 6
    kind = measure(columns[0]).kind
    x = scale(xs, left, WIDTH - 12, log=log and kind in _SPREAD_OUT, share=kind == "percent")
    parts = [label(2, top + 8, axis_name(columns[1]), WIDTH - 4)]
    for tick, text in zip(y.ticks, numbers, strict=True):
        parts += [grid(left, y(tick), WIDTH - 12, y(tick)), label(left - 5, y(tick) + 4, text, anchor="end")]
    parts.append(_x_ticks(x, columns[0], floor))
    parts.append(
        label((left + WIDTH) / 2, floor + 32, axis_name(columns[0], log=x.logarithmic), WIDTH, "middle")
    )
    return Plot(x, y, top + 18, floor + 40, "".join(parts))


def _x_ticks(x: Scale, column: str, floor: float) -> str:
    """Ticks from the left; one that would touch the one before is left out."""
    parts, free = [grid(x.start, floor, x.stop, floor, 0.6)], -1e9
    for tick, full in zip(x.ticks, tick_texts(x.ticks, column), strict=True):
        text = elided(full, 80)
        half = text_width(text) / 2
        at = min(max(x(tick), half), WIDTH - half)
        if at - half < free:
            continue
        parts += [grid(x(tick), floor, x(tick), floor + 4, 0.6), label(at, floor + 16, text, anchor="middle")]
        free = at + half + 6
    return "".join(parts)
