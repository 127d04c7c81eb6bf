"""The rows and their maps as pictures of a record."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from explain import saved
from explain.method import Attribution
from explain.picture import overlay, row_picture, scale_of, write_png
from explain.question import Question
from study.record import Picture
from study.view import View

if TYPE_CHECKING:
    from numpy.typing import NDArray

SHOWN = 8
"""Rows that are drawn, the first ones: errors come first."""
FOLDER = "pictures"


def gallery(view: View, question: Question, found: Attribution) -> tuple[Picture, ...]:
    """For each shown row two layers of one extent: the row itself, and its map as a transparent overlay.

    They are ``row-5.png`` and ``row-5-occlusion.png``. Maps are drawn on the scale of the model as it came,
    so that what faded is pale.
    """
    before = saved.load(view.origin.artifact.folder).get(found.by) if view.origin else None
    if before is None or before.ids != found.ids:
        before = found
    return tuple(
        picture
        for row in range(min(SHOWN, len(found.ids)))
        for name in _drawn(question, found, before)
        for picture in (
            _input(view, question, name, row),
            _map(view, question, name, row, found, scale_of(_shaped(before, question, name, row)), found.by),
        )
    )


def changes(
    view: View, question: Question, before: Attribution, after: Attribution, rows: Sequence[int]
) -> tuple[Picture, ...]:
    """For each of these rows three layers: the row, its map as it came, and its map by this artifact."""
    pictures: list[Picture] = []
    for row in rows:
        for name in _drawn(question, after, before):
            scale = scale_of(_shaped(before, question, name, row))
            pictures += [
                _input(view, question, name, row),
                _map(view, question, name, row, before, scale, "as it came"),
                _map(view, question, name, row, after, scale, view.artifact.name),
            ]
    return tuple(pictures)


def _drawn(question: Question, *maps: Attribution) -> list[str]:
    """The inputs that can be drawn and have maps."""
    return [name for name in question.pictured if all(name in found.values for found in maps)]


def _input(view: View, question: Question, name: str, row: int) -> Picture:
    stem, title = _names(question, name, row)
    source = _write(view, stem, row_picture(question.pictured[name][row]))
    return Picture(f"{title} · input", "image", source, f"The input: {title}")


def _map(
    view: View, question: Question, name: str, row: int, found: Attribution, scale: float, part: str
) -> Picture:
    stem, title = _names(question, name, row)
    ending = "" if part == found.by else f"-{re.sub('[^a-z0-9]+', '_', part.lower())}"
    source = _write(view, f"{stem}-{found.by}{ending}", overlay(_shaped(found, question, name, row), scale))
    text = f"What speaks for (red) and against (blue) the explained score by {found.by}: {title}"
    return Picture(f"{title} · {part}", "image", source, text)


def _names(question: Question, name: str, row: int) -> tuple[str, str]:
    """The stem of a row's files, and its title."""
    stem, title = f"row-{question.positions[row]}", question.titles[row]
    if len(question.pictured) == 1:
        return stem, title
    return f"{stem}-{re.sub('[^a-zA-Z0-9]+', '_', name)}", f"{title}, {name}"


def _shaped(found: Attribution, question: Question, name: str, row: int) -> "NDArray[Any]":
    """The map in the shape in which its row is drawn."""
    shape = question.pictured[name].shape[1:]
    values: NDArray[Any] = found.values[name][row]
    return values.reshape(shape) if values.ndim == 1 < len(shape) else values


def _write(view: View, stem: str, pixels: "NDArray[Any]") -> str:
    """The path below the run folder."""
    write_png(view.artifact.folder / FOLDER / f"{stem}.png", pixels)
    return f"{view.artifact.folder.name}/{FOLDER}/{stem}.png"
