"""Bars with intervals: one a row, its name left, its number right."""

from dataclasses import dataclass

from diag.render.charts.axes import finite, scale
from diag.render.charts.svg import ROW, WIDTH, color, grid, label, tag, text_width
from diag.render.figures import cell
from study.record import Cell, Table

SHOWN = 30
_COLUMNS = 4


@dataclass(frozen=True, slots=True)
class _Bar:
    name: str
    value: float
    span: tuple[float, ...]


def _bar(row: tuple[Cell, ...]) -> _Bar | None:
    value, ends = row[1], row[2:_COLUMNS]
    if not finite(value):
        return None
    span = tuple(float(end) for end in ends if finite(end)) if len(ends) == _COLUMNS - 2 else ()
    return _Bar(
        "" if row[0] is None else str(row[0]), float(value), span if len(span) == _COLUMNS - 2 else ()
    )


def draw(table: Table) -> tuple[str, float]:
    """``label, value[, low, high]``: the bars, and how high they are. Bars begin at nought."""
    bars = [bar for row in table.rows if (bar := _bar(row))][:SHOWN]
    texts = [cell(bar.value, table.columns[1]) for bar in bars]
    left = min(max((text_width(bar.name) for bar in bars), default=0) + 8, WIDTH * 0.42)
    right = max((text_width(text) for text in texts), default=0) + 8
    x = scale([end for bar in bars for end in (bar.value, *bar.span)], left, WIDTH - right, zero=True)
    parts = []
    for at, (bar, text) in enumerate(zip(bars, texts, strict=True)):
        middle = at * ROW + ROW / 2 + 2
        begin, end = sorted((x(0), x(bar.value)))
        parts.append(label(0, middle + 4, bar.name, left - 8))
        box: dict[str, str | float] = {
            "x": begin,
            "y": middle - 6,
            "width": max(end - begin, 1),
            "height": 12,
        }
        parts.append(tag("rect", box, {"fill-opacity": 0.75}, color(0)))
        if bar.span:
            parts.append(_whisker(x(bar.span[0]), x(bar.span[1]), middle))
        parts.append(label(WIDTH - right + 6, middle + 4, text))
    height = len(bars) * ROW + 6
    parts.append(grid(x(0), 0, x(0), height, 0.6))
    return "".join(parts), height


def _whisker(low: float, high: float, y: float) -> str:
    path = f"M{low:.1f} {y - 4:g}v8M{low:.1f} {y:g}H{high:.1f}M{high:.1f} {y - 4:g}v8"
    return tag("path", {"d": path, "stroke": "currentColor", "stroke-width": 1.2, "fill": "none"})
