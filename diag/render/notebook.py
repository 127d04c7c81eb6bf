"""What a notebook shows: the page's own fragments, without its style and without scripts."""

from pathlib import Path

from diag.render.html import environment, figures_level
from diag.render.page import build
from diag.render.report import Report
from diag.render.summary import GLYPHS, WORDS


def repr_html(report: Report, folder: Path | None = None) -> str:
    """For ``_repr_html_``: readable on a light and a dark ground, and where notebooks are not trusted."""
    template = environment().get_template("notebook.html")
    return template.render(
        page=build(report, folder), glyphs=GLYPHS, words=WORDS, level=figures_level(report)
    )
