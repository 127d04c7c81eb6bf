"""One number with its interval on a scale that several lines of a table share."""

from collections.abc import Sequence

from diag.render.charts.svg import color, tag
from study.record import Metric

_WIDE, _HIGH = 96, 16


def draw(metric: Metric, shared: Sequence[Metric]) -> str:
    """A dot on its interval; decoration beside a number that is written out, so it has no text."""
    low, high = min(one.low for one in shared), max(one.high for one in shared)
    reach = (high - low) or 1.0
    x, left, right = (
        4 + (value - low) / reach * (_WIDE - 8) for value in (metric.value, metric.low, metric.high)
    )
    middle = _HIGH / 2
    path = f"M{left:.1f} {middle - 3:g}v6M{left:.1f} {middle:g}H{right:.1f}M{right:.1f} {middle - 3:g}v6"
    inner = tag("path", {"d": path, "stroke": "currentColor", "stroke-opacity": "0.6", "fill": "none"})
    inner += tag("circle", {"cx": x, "cy": middle, "r": 3.5}, color(0))
    size = {"width": _WIDE, "height": _HIGH}
    return tag("svg", {"viewBox": f"0 0 {_WIDE} {_HIGH}", "aria-hidden": "true"}, size, inner=inner)
