"""A reliability diagram: how often the model is right, by how sure it says it is, against the diagonal."""

import math

from diag.render.charts.axes import finite, plot
from diag.render.charts.svg import color, stroke, tag
from study.record import Table

_COLUMNS = 5


def draw(table: Table) -> tuple[str, float]:
    """``confidence, accuracy, low, high, rows``, one line a bin; a dot's area grows with its rows."""
    cells = [[float(cell) for cell in row[:5] if finite(cell)] for row in table.rows]
    bins = [one for one in cells if len(one) == _COLUMNS and one[4] > 0]
    ground = plot([0.0, 1.0], [0.0, 1.0], ("confidence", "accuracy"), 4, log=False)
    straight = f"M{ground.x(0):.1f} {ground.y(0):.1f}L{ground.x(1):.1f} {ground.y(1):.1f}"
    faint = {"stroke": "currentColor", "stroke-opacity": "0.5", "stroke-dasharray": "4 3"}
    parts = [ground.svg, tag("path", {"d": straight}, faint)]
    if bins:
        path = "M" + "L".join(f"{ground.x(one[0]):.1f} {ground.y(one[1]):.1f}" for one in bins)
        parts.append(tag("path", {"d": path, "stroke-opacity": 0.5}, stroke(0, 1.5)))
    most = max((one[4] for one in bins), default=1.0)
    for confidence, accuracy, low, high, rows in bins:
        x = ground.x(confidence)
        span = f"M{x:.1f} {ground.y(low):.1f}V{ground.y(high):.1f}"
        parts.append(tag("path", {"d": span}, stroke(0, 1.5)))
        place = {"cx": x, "cy": ground.y(accuracy), "r": 2 + 4 * math.sqrt(rows / most)}
        parts.append(tag("circle", place, color(0)))
    return "".join(parts), ground.bottom
