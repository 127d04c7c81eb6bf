"""A heat map: colour by the square root of the number, so that few errors beside many hits show."""

import math

from diag.render.charts.svg import COLORS, MANY, NEGATIVE, SIZE, WIDTH, label, tag, text_width
from diag.render.figures import cell, decimal, number
from study.record import Cell, Table

SHOWN = 60
"""Rows and columns that are drawn."""
_TEXT_FROM = 20.0
"""Cells at least so wide have their number in them."""


def draw(table: Table) -> tuple[str, float]:
    """Row label, then one column a cell; blue is positive, orange negative, nothing is nought."""
    columns = table.columns[1 : SHOWN + 1]
    rows = table.rows[:SHOWN]
    names = ["" if row[0] is None else str(row[0]) for row in rows]
    left = min(max((text_width(name) for name in names), default=0) + 8, WIDTH * 0.34)
    wide = (WIDTH - left) / max(len(columns), 1)
    high = min(wide, 26.0) if wide >= SIZE + 3 else max(wide, 4.0)
    head, top = _heads(columns, left, wide)
    most = max((abs(_number(value)) for row in rows for value in row[1 : SHOWN + 1]), default=0.0) or 1.0
    parts = [head]
    for at, row in enumerate(rows):
        y = top + at * high
        if high >= SIZE:
            parts.append(label(0, y + high / 2 + 4, names[at], left - 8))
        for across, value in enumerate(row[1 : SHOWN + 1]):
            parts.append(_square(value, most, (left + across * wide, y, wide, high)))
    bottom = top + len(rows) * high
    box = {"x": left, "y": top, "width": WIDTH - left, "height": bottom - top}
    parts.append(tag("rect", box, {"fill": "none", "stroke": "currentColor", "stroke-opacity": 0.35}))
    parts.append(label(left, bottom + 16, _key(table, most), WIDTH - left))
    return "".join(parts), bottom + 24


def _key(table: Table, most: float) -> str:
    hidden = len(table.rows) > SHOWN or len(table.columns) > SHOWN + 1
    cut = f"; the first {SHOWN} of {max(len(table.rows), len(table.columns) - 1)}" if hidden else ""
    return f"down: {table.columns[0]}; full colour: {number(most)}{cut}"


def _heads(columns: tuple[str, ...], left: float, wide: float) -> tuple[str, float]:
    """Column names: level where they fit, else standing, else (many narrow columns) left to the table."""
    if wide < SIZE + 1:
        return "", 4.0
    if all(text_width(name) <= wide - 4 for name in columns):
        middles = (left + (at + 0.5) * wide for at in range(len(columns)))
        return "".join(
            label(x, 12, n, wide - 2, "middle") for x, n in zip(middles, columns, strict=True)
        ), 18.0
    room = min(max(text_width(name) for name in columns), 110.0)
    parts = []
    for at, name in enumerate(columns):
        x = left + (at + 0.5) * wide + 4
        turned = {"transform": f"rotate(-90 {x:.1f} {room + 2:.1f})"}
        parts.append(label(x, room + 2, name, room, extra=turned))
    return "".join(parts), room + 8


def _square(value: Cell, most: float, box: tuple[float, float, float, float]) -> str:
    amount = _number(value)
    if not amount:
        return ""
    x, y, wide, high = box
    strength = math.sqrt(abs(amount) / most)
    place = {"x": x + 0.5, "y": y + 0.5, "width": wide - 1, "height": high - 1}
    shade = {"fill": COLORS[0] if amount > 0 else NEGATIVE, "fill-opacity": f"{max(strength, 0.06):.2f}"}
    square = tag("rect", place, shade)
    text = _short(value)
    if wide < _TEXT_FROM or text_width(text) > wide - 2:
        return square
    # White reads on full colour in either theme; on any paler one the text's own colour does.
    ink = {"fill": "#fff"} if strength > MANY else {"fill": "currentColor"}
    return square + label(x + wide / 2, y + high / 2 + 4, text, anchor="middle", extra=ink)


def _short(value: Cell) -> str:
    if isinstance(value, float) and value != int(value):
        return decimal(value, 2 if abs(value) < 1 else 1)
    return cell(value, "")


def _number(value: Cell) -> float:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else 0.0
