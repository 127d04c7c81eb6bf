"""The finding that a figure fell since the model as it came."""

from study.record import Finding, Metric
from study.show import show_figures
from study.view import View


def fallen(view: View, what: str, change: Metric, rows: int, *, recovers: bool = True) -> Finding:
    """What fell, by how much and over how many rows; ``recovers``: a short fit knows this kind of task."""
    assert view.origin is not None
    fit = " or recover" if recovers else ""
    return Finding(
        what,
        rows=rows,
        effect=change,
        certainty=change.level,
        cause=f"The steps from {view.origin.artifact.name} to {view.artifact.name}.",
        do=f"Ship an earlier artifact, or give training data (--train) to calibrate{fit} on.",
        show=show_figures(view),
    )


def points_fallen(view: View, figure: str, change: Metric, rows: int, *, recovers: bool = True) -> Finding:
    """The same of a share, named as a sentence begins."""
    what = f"{figure} fell by {-100 * change.value:.2f} points since the model as it came."
    return fallen(view, what, change, rows, recovers=recovers)
