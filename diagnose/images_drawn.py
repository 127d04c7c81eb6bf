"""The image of a row, as it is drawn: what boxes and class maps lie over."""

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from study.channels import channels_last
from study.data.rows.pixels import is_images
from study.errors import SkipError
from study.storage import written
from study.view import View

if TYPE_CHECKING:
    from PIL import Image

    from study.feed import Piece

FOLDER: Final = "pictures"
IMAGE_AXES: Final = 4
LONGEST: Final = 448
"""The longest side of a picture: a whole multiple of a small image, a large one made smaller."""
COLOURS: Final = 128
"""Of the picture of an image: as many as are needed to see what it shows."""


def image_of(piece: "Piece") -> NDArray[Any]:
    """The image of the only row: (height, width) or (height, width, 3), as it came where it can be seen.

    Raises:
        SkipError: no input is an image.
    """
    raw = next((column for column in piece.rows.inputs.values() if is_images(column)), None)
    if raw is not None:
        pixels: NDArray[Any] = raw[0]
        return pixels
    fed = next((array for array in piece.batch.values() if array.ndim == IMAGE_AXES), None)
    if fed is None:
        raise SkipError("no input is an image")
    image = fed[0] if channels_last(fed.shape) else np.moveaxis(fed[0], 0, -1)
    seen: NDArray[Any] = image[..., :3] if image.shape[-1] > 2 else image[..., 0]  # noqa: PLR2004 - colours
    return seen


def picture_of(image: NDArray[Any], longest: int = LONGEST) -> "Image.Image":
    """An image (height, width) or (height, width, 3), of bytes or over its own range, as it is drawn.

    ``longest`` is the longest side that it may have.
    """
    from PIL import Image

    if image.dtype != np.uint8:
        low, high = float(image.min()), float(image.max())
        image = np.round(255 * (image - low) / max(high - low, 1e-12)).astype(np.uint8)
    drawn = Image.fromarray(image)
    side = max(drawn.size)
    if side > longest:
        size = tuple(max(1, round(one * longest / side)) for one in drawn.size)
        drawn = drawn.resize((size[0], size[1]), Image.Resampling.LANCZOS)
    else:
        times = longest // side
        drawn = drawn.resize((drawn.width * times, drawn.height * times), Image.Resampling.NEAREST)
    return drawn if drawn.mode == "L" else drawn.quantize(COLOURS)


def save(view: View, stem: str, picture: "Image.Image") -> str:
    """The path below the run folder."""
    with written(view.artifact.folder / FOLDER / f"{stem}.png") as beside:
        picture.save(beside, format="PNG", optimize=True)
    return f"{view.artifact.folder.name}/{FOLDER}/{stem}.png"
