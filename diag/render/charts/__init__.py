"""Charts as SVG, drawn in Python from the tables of a record: nothing to load or run, and they print."""

from collections.abc import Callable, Mapping

from diag.render.charts import bars, curves, heatmap, reliability, scatter
from diag.render.charts.svg import frame
from study.record import Chart, Picture, Table

_KINDS: Mapping[Chart, tuple[Callable[[Table], tuple[str, float]], int]] = {
    "bars": (bars.draw, 2),
    "lines": (curves.lines, 2),
    "scatter": (scatter.draw, 3),
    "ecdf": (curves.ecdf, 1),
    "heatmap": (heatmap.draw, 2),
    "reliability": (reliability.draw, 5),
}
"""What draws a kind, and how many columns it reads."""


def draw(picture: Picture, table: Table, identity: str) -> str:
    """The picture as one ``<svg>``; empty where the table has nothing to draw.

    ``identity`` is unique in the page: the drawing's title and sentence hang on it.
    """
    if picture.kind not in _KINDS:
        return ""
    drawn, columns = _KINDS[picture.kind]
    if len(table.columns) < columns or not table.rows:
        return ""
    inner, height = drawn(table)
    return frame(identity, picture.title, picture.text, round(height), inner)
