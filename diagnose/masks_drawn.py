"""Class maps and marked pixels over an image, one colour a class, that the colour-blind can tell apart."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL import Image

Colour: TypeAlias = tuple[int, int, int]
WRONG: Final[Colour] = (213, 94, 0)
"""Vermilion of Okabe and Ito: what is wrong, and no class."""
BASE: Final[tuple[tuple[str, Colour], ...]] = (
    ("sky blue", (86, 180, 233)),
    ("yellow", (240, 228, 66)),
    ("green", (0, 158, 115)),
    ("pink", (204, 121, 167)),
    ("blue", (0, 114, 178)),
    ("orange", (230, 159, 0)),
)
"""The others of them, told apart by their lightness too where they stand side by side."""
REST: Final[tuple[str, Colour]] = ("grey", (128, 128, 128))
"""Of every further class."""
SOLID: Final = 190
"""How opaque a class is, so that the image can be seen through it; what is marked is opaque."""


@dataclass(frozen=True, slots=True)
class Palette:
    """The colours of the classes; the background has none, so that the image is seen there."""

    names: dict[int, str]
    colours: dict[int, Colour]

    @classmethod
    def of(cls, classes: Sequence[int]) -> "Palette":
        """Of these classes, the first six in plain colours, the next in dark and in pale ones."""
        shades = [
            *BASE,
            *((f"dark {name}", _mixed(colour, (0, 0, 0))) for name, colour in BASE),
            *((f"pale {name}", _mixed(colour, (255, 255, 255))) for name, colour in BASE),
        ]
        shades += [REST] * max(0, len(classes) - len(shades))
        pairs = list(zip(classes, shades, strict=False))
        return cls({at: name for at, (name, _) in pairs}, {at: colour for at, (_, colour) in pairs})


def class_map(classes: NDArray[Any], palette: Palette, size: tuple[int, int]) -> "Image.Image":
    """A map of classes (height, width) as a layer of this (width, height); clear where it has no colour."""
    marks = [(classes == at, colour) for at, colour in palette.colours.items()]
    return marked(marks, classes.shape, size, SOLID)


def marked(
    marks: Sequence[tuple[NDArray[np.bool_], Colour]],
    shape: tuple[int, ...],
    size: tuple[int, int],
    opacity: int = 255,
) -> "Image.Image":
    """Pixels of a map of this (height, width) in colours, as a layer of this (width, height)."""
    from PIL import Image

    layer = np.zeros((*shape, 4), dtype=np.uint8)
    for where, colour in marks:
        layer[where] = (*colour, opacity)
    drawn = Image.fromarray(layer)
    return drawn if drawn.size == size else drawn.resize(size, Image.Resampling.NEAREST)


def _mixed(colour: Colour, other: Colour) -> Colour:
    red, green, blue = ((one + two) // 2 for one, two in zip(colour, other, strict=True))
    return red, green, blue
