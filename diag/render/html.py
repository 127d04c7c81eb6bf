"""``report.html``: one file that fetches nothing, whole without scripts and where styles are forbidden."""

import base64
import hashlib
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from diag.render.figures import plain
from diag.render.json import embed
from diag.render.page import build
from diag.render.report import Report
from diag.render.summary import GLYPHS, WORDS

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).parent / "templates"
_MOST_EMBEDDED = 2_000_000


def render(report: Report, folder: Path | None = None) -> str:
    """The page; pictures are read from the run folder, and left out with a word where there is none."""
    script = _text("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    data = embed(report)
    return environment().get_template("page.html").render(
        page=build(report, folder),
        glyphs=GLYPHS,
        words=WORDS,
        level=figures_level(report),
        style=_text("page.css"),
        script=script,
        script_hash=f"sha256-{digest}",
        json=data if len(data) <= _MOST_EMBEDDED else "",
    )  # fmt: skip


def figures_level(report: Report) -> str:
    """The level of the intervals, as ``95 %``."""
    metrics = (one for step in report.steps for record in step.records for one in record.metrics.values())
    level = next((metric.level for metric in metrics), 0.95)
    return f"{level * 100:g}\N{NO-BREAK SPACE}%"


@cache
def environment() -> "Environment":
    """Templates that escape everything, and in which no invisible character acts."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_visible,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _visible(value: object) -> object:
    # Markup (a string too) is ours and stays; what came with the model or the data is made plain.
    return plain(value) if type(value) is str else value


@cache
def _text(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")
