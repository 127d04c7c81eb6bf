"""Boxes over an image, as a picture of its extent."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from PIL import Image, ImageDraw

Colour: TypeAlias = tuple[int, int, int]
THERE: Final[Colour] = (255, 255, 255)
RIGHT: Final[Colour] = (0, 158, 115)
WRONG: Final[Colour] = (213, 94, 0)
MISSED: Final[Colour] = (240, 228, 66)
"""Of Okabe and Ito, which the colour-blind can tell apart."""
DARK: Final = (0, 0, 0, 160)


@dataclass(frozen=True, slots=True)
class Box:
    """``sides`` are shares of the image's width and height: x1, y1, x2, y2."""

    sides: tuple[float, float, float, float]
    colour: Colour
    label: str = ""
    width: int = 2


def boxes_over(size: tuple[int, int], boxes: list[Box]) -> "Image.Image":
    """Boxes on nothing, in order, the last on top; ``size`` is (width, height) of the picture below."""
    from PIL import Image, ImageDraw

    layer = Image.new("RGBA", size, (0, 0, 0, 0))
    pen = ImageDraw.Draw(layer)
    for box in boxes:
        x1, x2 = (round(side * size[0]) for side in box.sides[::2])
        y1, y2 = (round(side * size[1]) for side in box.sides[1::2])
        corners = (
            max(x1, 0),
            max(y1, 0),
            min(max(x2, x1 + 1), size[0]) - 1,
            min(max(y2, y1 + 1), size[1]) - 1,
        )
        if corners[2] > corners[0] and corners[3] > corners[1]:
            pen.rectangle(corners, outline=DARK, width=box.width + 2)
            inner = (corners[0] + 1, corners[1] + 1, corners[2] - 1, corners[3] - 1)
            if inner[2] > inner[0] and inner[3] > inner[1]:
                pen.rectangle(inner, outline=(*box.colour, 255), width=box.width)
    for box in boxes:
        if box.label:
            _label(pen, box, size)
    return layer


def _label(pen: "ImageDraw.ImageDraw", box: Box, size: tuple[int, int]) -> None:
    """Above the box where there is room, else inside it."""
    from PIL import ImageFont

    font = ImageFont.load_default(12)
    left, _, right, bottom = pen.textbbox((0, 0), box.label, font=font)
    wide, high = round(right - left) + 4, round(bottom) + 4
    x = min(max(0, round(box.sides[0] * size[0])), max(0, size[0] - wide))
    y = round(box.sides[1] * size[1]) - high
    y = y if y >= 0 else round(box.sides[1] * size[1])
    pen.rectangle((x, y, x + wide, y + high), fill=(*box.colour, 235))
    pen.text((x + 2, y + 1), box.label, fill=(0, 0, 0, 255), font=font)
