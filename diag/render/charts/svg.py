"""The ground of every chart: escaped SVG elements, text that is measured before it is set, and the frame.

Colours are presentation attributes, so that they hold where styles are forbidden; the page's CSS variables
override them by class. Text and axes take the colour of the text around them, so a chart is readable on a
dark ground without any style at all.
"""

import unicodedata
from collections.abc import Mapping, Sequence
from functools import cache
from html import escape

from diag.render.figures import plain

WIDTH = 376
"""Drawn for a narrow screen (400 pixels and margins); the page lets it grow."""
SIZE = 11
ROW = 20
COLORS = ("#0072b2", "#d55e00", "#00835f", "#a8528a", "#8a6d00", "#6b7280")
"""After Okabe and Ito, darkened to 3:1 on white; the page's dark theme has lighter ones."""
DASHES = ("", "6 3", "2 3", "8 3 2 3", "4 4", "1 4")
NEGATIVE = "#b84a00"
MANY = 0.9

Attributes = Mapping[str, str | float]


def tag(name: str, *attributes: Attributes, inner: str = "") -> str:
    """One element; attributes are escaped, ``inner`` is SVG already."""
    said = "".join(f' {key}="{_attribute(value)}"' for some in attributes for key, value in some.items())
    return f"<{name}{said}>{inner}</{name}>" if inner else f"<{name}{said}/>"


def _attribute(value: str | float) -> str:
    if isinstance(value, str):
        return escape(plain(value), quote=True)
    # A tenth of a pixel is all that can be seen; "-0" and "3.0" are bytes for nothing.
    return f"{round(value, 1):g}" if abs(value) < 1e5 else f"{round(value)}"  # noqa: PLR2004


def color(index: int) -> dict[str, str]:
    """Fill of the series of that number: an attribute, and a class that the theme may colour."""
    at = index % len(COLORS)
    return {"fill": COLORS[at], "class": f"c{at}"}


def stroke(index: int, width: float = 2) -> dict[str, str | float]:
    """Stroke of the series of that number; its dashes tell it apart without colour."""
    at = index % len(COLORS)
    line: dict[str, str | float] = {
        "fill": "none", "stroke": COLORS[at], "stroke-width": width, "class": f"s{at}",
        "stroke-linejoin": "round",
    }  # fmt: skip
    return line | ({"stroke-dasharray": DASHES[at]} if DASHES[at] else {})


def grid(x1: float, y1: float, x2: float, y2: float, opacity: float = 0.15) -> str:
    """A thin line of the text's colour."""
    ends: dict[str, str | float] = {"x1": x1, "y1": y1, "x2": x2, "y2": y2}
    return tag("line", ends, {"stroke": "currentColor", "stroke-opacity": opacity})


def text_width(text: str, size: float = SIZE) -> float:
    """An upper estimate of how wide the text will be: there is no font here to ask."""
    return size * sum(_letter(letter) for letter in text)


@cache
def _letter(letter: str) -> float:
    if letter in "iljtfrI.,:;|!'()[] ":
        return 0.4
    if unicodedata.combining(letter):
        return 0.0
    if unicodedata.east_asian_width(letter) in "WF" or unicodedata.category(letter) == "So":
        return 1.3
    return 0.85 if letter in "mwMW@%" or letter.isupper() else 0.62


def elided(text: str, room: float, size: float = SIZE) -> str:
    """The text, its middle left out where it is too long: both ends of a name tell it apart."""
    text = plain(text)
    if text_width(text, size) <= room:
        return text
    letters = list(text)
    wide = text_width(text + "…", size)
    while letters and wide > room:
        wide -= text_width(letters.pop(len(letters) // 2), size)
    middle = (len(letters) + 1) // 2
    return "".join(letters[:middle]).rstrip() + "…" + "".join(letters[middle:]).lstrip()


def label(
    x: float,
    y: float,
    text: str,
    room: float = 1e9,
    anchor: str = "start",
    extra: Mapping[str, str] | None = None,
) -> str:
    """Text that fits its room; what was left out is in its title."""
    shown = elided(text, room)
    if not shown:
        return ""
    inner = escape(shown, quote=False)
    if shown != plain(text):
        inner += tag("title", inner=escape(plain(text), quote=False))
    place = {"x": x, "y": y}
    ink = {"fill": "currentColor"} | ({} if anchor == "start" else {"text-anchor": anchor})
    return tag("text", place, ink | dict(extra or {}), inner=inner)


def legend(names: Sequence[str], y: float, *, lines: bool) -> tuple[str, float]:
    """The names of several series, wrapped; and how high it is."""
    parts, x, top = [], 2.0, y
    for index, name in enumerate(names):
        shown = elided(name, WIDTH - 40)
        room = 30 + text_width(shown)
        if x > 2 and x + room > WIDTH:  # noqa: PLR2004  the left margin
            x, top = 2.0, top + ROW - 4
        if lines:
            parts.append(tag("path", {"d": f"M{x:g} {top - 4:g}h18"}, stroke(index)))
        else:
            parts.append(tag("rect", {"x": x + 4, "y": top - 9, "width": 10, "height": 10}, color(index)))
        parts.append(label(x + 23, top, name, WIDTH - 40))
        x += room + 6
    return "".join(parts), top - y + ROW


def frame(identity: str, title: str, text: str, height: float, inner: str) -> str:
    """The whole drawing, with a name and a sentence for those who cannot see it."""
    head = tag("title", {"id": f"{identity}-t"}, inner=escape(plain(title), quote=False) or " ")
    named = f"{identity}-t"
    if text:
        head += tag("desc", {"id": f"{identity}-d"}, inner=escape(plain(text), quote=False))
        named += f" {identity}-d"
    return tag(
        "svg",
        {
            "viewBox": f"0 0 {WIDTH} {height:g}", "width": WIDTH, "height": height, "role": "img",
            "aria-labelledby": named, "font-size": SIZE, "font-family": "system-ui, sans-serif",
        },
        inner=head + inner,
    )  # fmt: skip
