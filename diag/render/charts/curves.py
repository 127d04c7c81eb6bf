"""Curves: lines over a common x, and the empirical distribution of one column."""

import math
from collections.abc import Sequence

from diag.render.charts.axes import Plot, finite, plot
from diag.render.charts.svg import color, legend, stroke, tag
from study.record import Table

_FEW = 12
"""So few points are marked one by one."""


def lines(table: Table) -> tuple[str, float]:
    """``x``, then one column a line; a missing value breaks its line."""
    names = table.columns[1:]
    head, top = legend(names, 12, lines=True) if len(names) > 1 else ("", 0.0)
    runs = [_runs(table, at) for at in range(1, len(table.columns))]
    every = [point for line in runs for run in line for point in run]
    columns = (table.columns[0], names[0] if len(names) == 1 else _shared(names))
    ground = plot([x for x, _ in every], [y for _, y in every], columns, top + 4)
    parts = [head, ground.svg]
    for index, line in enumerate(runs):
        path = "".join("M" + "L".join(f"{ground.x(x):.1f} {ground.y(y):.1f}" for x, y in run) for run in line)
        parts.append(tag("path", {"d": path}, stroke(index)))
        if sum(map(len, line)) <= _FEW:
            parts += [_dot(ground, x, y, index) for run in line for x, y in run]
    return "".join(parts), ground.bottom


def ecdf(table: Table) -> tuple[str, float]:
    """``value``: which share of the rows has at most so much; steps, at most one a pixel."""
    values = sorted(float(row[0]) for row in table.rows if finite(row[0]))
    ground = plot(values, [0.0, 1.0], (table.columns[0], "share of rows"), 4)
    path, last = [f"M{ground.x.start:.1f} {ground.y(0):.1f}"], -math.inf
    for at, value in enumerate(values, start=1):
        x, more = ground.x(value), at < len(values)
        if x - last < 1 and more:
            continue
        path.append(f"H{x:.1f}V{ground.y(at / len(values)):.1f}")
        last = x
    path.append(f"H{ground.x.stop:.1f}")
    return ground.svg + tag("path", {"d": "".join(path)}, stroke(0)), ground.bottom


def _shared(names: Sequence[str]) -> str:
    """What several lines measure, where their names end alike (``recall`` of ``int8 recall``)."""
    ends = {name.split()[-1] for name in names if name.split()}
    return ends.pop() if len(ends) == 1 else ""


def _runs(table: Table, at: int) -> list[list[tuple[float, float]]]:
    """One line as its unbroken pieces."""
    runs: list[list[tuple[float, float]]] = [[]]
    for row in table.rows:
        x, y = row[0], row[at]
        if finite(x) and finite(y):
            runs[-1].append((float(x), float(y)))
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


def _dot(ground: Plot, x: float, y: float, index: int) -> str:
    return tag("circle", {"cx": ground.x(x), "cy": ground.y(y), "r": 2.5}, color(index))
