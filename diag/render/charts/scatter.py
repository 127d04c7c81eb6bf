"""Points with names, and the front of those that no other beats in both directions."""

from collections.abc import Sequence

from diag.render.charts.axes import Plot, finite, plot
from diag.render.charts.svg import ROW, SIZE, WIDTH, color, label, stroke, tag, text_width
from diag.render.figures import measure
from study.record import Table

_NAMED = 12
"""More names than these would hide the points."""
_DRAWN = 2000

Point = tuple[str, float, float]


def draw(table: Table) -> tuple[str, float]:
    """``label, x, y``. A front is drawn where it is known which way both measures are better."""
    points: list[Point] = [
        ("" if row[0] is None else str(row[0]), float(row[1]), float(row[2]))
        for row in table.rows
        if finite(row[1]) and finite(row[2])
    ]  # fmt: skip
    x_name, y_name = table.columns[1], table.columns[2]
    ground = plot([x for _, x, _ in points], [y for _, _, y in points], (x_name, y_name), 4)
    parts = [ground.svg, _front(points, ground, x_name, y_name)]
    if len(points) > _NAMED:
        parts.append(_cloud(points[:_DRAWN], ground))
        return "".join(parts), ground.bottom
    for _, x, y in points:
        parts.append(tag("circle", {"cx": ground.x(x), "cy": ground.y(y), "r": 4.5}, color(0)))
    parts.append(_names(points, ground))
    return "".join(parts), ground.bottom


def front(points: Sequence[Point], *, lower_x: bool, lower_y: bool) -> list[Point]:
    """The points that no other beats in both directions, by x."""
    along = sorted(points, key=lambda p: (p[1] if lower_x else -p[1], p[2] if lower_y else -p[2]))
    kept: list[Point] = []
    for point in along:
        best = kept[-1][2] if kept else None
        if best is None or (point[2] < best if lower_y else point[2] > best):
            kept.append(point)
    return sorted(kept, key=lambda point: point[1])


def _front(points: Sequence[Point], ground: Plot, x_name: str, y_name: str) -> str:
    ways = measure(x_name).better, measure(y_name).better
    if "neither" in ways or len(points) < 2:  # noqa: PLR2004  a line has two ends
        return ""
    best = front(points, lower_x=ways[0] == "lower", lower_y=ways[1] == "lower")
    path = "M" + "L".join(f"{ground.x(x):.1f} {ground.y(y):.1f}" for _, x, y in best)
    return tag("path", {"d": path, "stroke-opacity": 0.6}, stroke(1, 1.5)) if len(best) > 1 else ""


def _cloud(points: Sequence[Point], ground: Plot) -> str:
    # One path with round caps: twelve bytes a point instead of an element each.
    path = "".join(f"M{ground.x(x):.1f} {ground.y(y):.1f}h0" for _, x, y in points)
    return tag("path", {"d": path, "stroke-linecap": "round", "stroke-opacity": 0.5}, stroke(0, 4))


def _names(points: Sequence[Point], ground: Plot) -> str:
    """A name beside its point, where it touches no other name and no other point; else left to the table."""
    taken = [(ground.x(x) - 5, ground.y(y) - 5, ground.x(x) + 5, ground.y(y) + 5) for _, x, y in points]
    parts = []
    for name, x, y in points:
        wide = min(text_width(name), WIDTH * 0.4)
        for left, base in _places(ground.x(x), ground.y(y), wide):
            box = (left, base - SIZE, left + wide, base + 3)
            high_enough = box[1] >= ground.top - 2 and base < ground.y.start
            inside = high_enough and box[0] >= ground.x.start - 3 and box[2] <= WIDTH
            if inside and not any(_touch(box, other) for other in taken):
                taken.append(box)
                parts.append(label(left, base, name, wide + 0.1))
                break
    return "".join(parts)


def _places(x: float, y: float, wide: float) -> tuple[tuple[float, float], ...]:
    right, left, above, below = x + 7, x - 7 - wide, y + 1 - SIZE, y + 7 + SIZE
    return (
        (right, y + 4), (left, y + 4), (x - wide / 2, y - 8), (x - wide / 2, y + ROW - 2),
        (right, above), (right, below), (left, above), (left, below),
    )  # fmt: skip


def _touch(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
