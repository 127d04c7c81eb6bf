"""Images as arrays of 8-bit pixels: (height, width) where grey, (height, width, 3) where RGB."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES: Final = frozenset(
    {
        ".png",
        ".jpg",
        ".jpeg",
        ".bmp",
        ".gif",
        ".tif",
        ".tiff",
        ".webp",
        ".ppm",
        ".pgm",
        ".pbm",
        ".jp2",
        ".avif",
    }
)
Pixels = NDArray[np.uint8]
DEEP = 256
"""A grey value of 32 bits from here on says that 16 of them are used."""


def read_image(path: Path) -> Pixels:
    """Decode an image file.

    Raises:
        OSError: it is no whole image.
        ValueError: it is one, of a kind that Pillow cannot decode.
    """
    from PIL import Image

    with Image.open(path) as image:
        image.load()
        return pixels(image)


def pixels(image: "Image") -> Pixels:
    """Any Pillow image as grey or RGB, as training loaders (torchvision, Keras) decode it.

    Transparency is dropped, not composited; of an animation the first frame is taken; a rotation that EXIF
    asks for is not done. Only depth differs: 16 bits are scaled to 8, which Pillow would clip.
    """
    if image.mode in ("1", "L"):
        return np.asarray(image.convert("L"))
    if image.mode.startswith("I") or image.mode == "F":
        return _eight_bits(np.asarray(image), sixteen=image.mode.startswith("I;16"))
    if image.mode == "LA":
        return np.asarray(image.convert("L"))
    # Pillow wants the transparent entries of a palette kept on the way, or warns.
    kept = image.convert("RGBA") if "transparency" in image.info else image
    return np.asarray(kept.convert("RGB"))


def _eight_bits(deep: NDArray[Any], *, sixteen: bool) -> Pixels:
    """Grey of 16 or 32 bits, or floats, at 8: Pillow's own conversion would clip at 255.

    An image that says 16 bits is scaled by them, however dark: its neighbours in the folder are too.
    """
    values = deep.astype(np.float64)
    if deep.dtype.kind == "f":
        scale = 255.0 if values.max(initial=0.0) <= 1.0 else 1.0
    else:
        scale = 255.0 / 65535.0 if sixteen or values.max(initial=0.0) >= DEEP else 1.0
    return np.clip(np.round(values * scale), 0, 255).astype(np.uint8)


def is_images(column: object) -> bool:
    """Whether a raw column is decoded images: they alone are lists of 8-bit arrays of two or three axes."""
    if not isinstance(column, list) or not column:
        return False
    first = column[0]
    return isinstance(first, np.ndarray) and first.dtype == np.uint8 and first.ndim in (2, 3)


def as_input(image: Pixels, channels: int, size: tuple[int, int] | None) -> NDArray[np.float32]:
    """One image as (channels, height, width) float32 in 0..1; resized bilinearly where a size is given."""
    from PIL import Image

    shown = Image.fromarray(image).convert("L" if channels == 1 else "RGB")
    if size and (shown.height, shown.width) != size:
        shown = shown.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    scaled = np.asarray(shown, dtype=np.float32) / np.float32(255)
    return scaled[None] if channels == 1 else np.ascontiguousarray(scaled.transpose(2, 0, 1))


def facts_of(images: Sequence[Pixels]) -> pl.DataFrame:
    """Width, height and brightness (0 to 1) of images, for slices."""
    return pl.DataFrame(
        {
            "width": [image.shape[1] for image in images],
            "height": [image.shape[0] for image in images],
            "brightness": [float(image.mean()) / 255 for image in images],
        },
        schema={"width": pl.Int64, "height": pl.Int64, "brightness": pl.Float64},
    )
