"""Pictures of rows and of what was attributed to them: PNG, a cell a pixel, scaled by whoever shows them."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from explain.layout import NARROW, channel_axis, surface
from study.storage import written

if TYPE_CHECKING:
    from numpy.typing import NDArray

FOR = (178, 24, 43)
AGAINST = (33, 102, 172)
"""Red and blue of ColorBrewer's RdBu, which the colour-blind can tell apart."""
BRIGHTEST = 99.0
"""The percentile of |attribution| that is drawn in full colour: single spikes must not pale the rest."""
OPAQUE = 217
"""At most so opaque, so that the row can be seen through its map."""
IMAGE_AXES = 2


def drawable(shape: tuple[int, ...]) -> bool:
    """Whether a row of this shape can be drawn: an image, or a sequence of several features."""
    axis = channel_axis(shape)
    flat = tuple(size for at, size in enumerate(shape) if at != axis)
    return len(flat) == IMAGE_AXES and min(flat) > 1


def row_picture(row: "NDArray[Any]") -> "NDArray[Any]":
    """The row as grey or colour, 0 to 255 over its own range: (H, W) or (H, W, 3), uint8."""
    axis = channel_axis(row.shape)
    shown = row if axis is None else np.moveaxis(row, axis, -1)
    if axis is not None:
        shown = shown[..., :3] if shown.shape[-1] in (3, 4) else shown.mean(axis=-1)
    low, high = float(shown.min()), float(shown.max())
    if row.dtype == np.uint8:
        return _upright(np.asarray(shown, np.uint8), row)
    scaled = (shown.astype(np.float64) - low) / (high - low) if high > low else np.zeros(shown.shape)
    return _upright(np.round(255 * scaled).astype(np.uint8), row)


def overlay(values: "NDArray[Any]", scale: float) -> "NDArray[Any]":
    """What speaks for the target in red and against it in blue, as strong as it is opaque: (H, W, 4), uint8.

    ``scale`` is the size that is drawn in full colour; take the same one for maps that are compared.
    """
    flat = _upright(surface(values), values).astype(np.float64)
    strength = np.clip(np.abs(flat) / scale, 0.0, 1.0) if scale > 0 else np.zeros(flat.shape)
    colours = np.where(flat[..., None] > 0, np.array(FOR), np.array(AGAINST))
    return np.concatenate([colours, np.round(OPAQUE * strength)[..., None]], axis=-1).astype(np.uint8)


def scale_of(values: "NDArray[Any]") -> float:
    """The size that is drawn in full colour: a high percentile, or the largest where most is silent."""
    size = np.abs(surface(values))
    spread = float(np.percentile(size, BRIGHTEST))
    return spread if spread > 0 else float(size.max(initial=0.0))


def write_png(path: Path, pixels: "NDArray[Any]") -> None:
    """Write it, whole or not at all."""
    from PIL import Image

    with written(path) as beside:
        Image.fromarray(pixels).save(beside, format="PNG", optimize=True)


def _upright(pixels: "NDArray[Any]", row: "NDArray[Any]") -> "NDArray[Any]":
    """A narrow sequence lies on its side, time from left to right."""
    narrow = channel_axis(row.shape) is None and row.shape[-1] <= NARROW < row.shape[0]
    return pixels.swapaxes(0, 1) if narrow else pixels
