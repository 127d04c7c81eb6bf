"""Draws what a detector found on the images where it errs most."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from diagnose.boxes_drawn import MISSED, RIGHT, THERE, WRONG, Box, boxes_over, picture_of
from diagnose.judged import class_name
from diagnose.probe import Probe
from diagnose.worst_images import SHOWN, Erring, erring, ids_of
from study.channels import channels_last
from study.data.rows.pixels import is_images
from study.errors import SkipError
from study.progress import Progress
from study.storage import written
from study.view import View

if TYPE_CHECKING:
    from PIL import Image

    from study.feed import Piece

FOLDER = "pictures"
DRAWN = {"title": pl.String, "source": pl.String, "text": pl.String}
MOST = 60
"""Boxes of a kind that are drawn on one image."""
IMAGE_AXES = 4


@final
@dataclass(frozen=True, slots=True)
class Drawn(Probe):
    """Pictures of the worst images, and their list: title, path below the run folder, what is to be seen."""

    gives: ClassVar[str] = "drawn"

    def run(self, view: View, progress: Progress) -> None:
        """Write ``drawn.parquet`` and the pictures, two an image of one extent."""
        seen = erring(view)
        places = seen.order[:SHOWN]
        lines: list[tuple[str, str, str]] = []
        names = ids_of(view, seen.found.position[places])
        feed = view.judged()
        for place in progress.over(places.tolist(), "drawing", len(places)):
            position = int(seen.found.position[place])
            piece = feed.at(np.array([position]))
            if not len(piece):
                continue
            image, size = _image(piece)
            below = picture_of(image)
            over = boxes_over(below.size, _boxes(seen, place, size))
            name, stem = names[position], f"row-{position}"
            told = seen.caption(place)
            lines.append((f"{name} · input", _write(view, stem, below), f"The image {name}"))
            lines.append(
                (f"{name} · {told}", _write(view, f"{stem}-boxes", over), f"Boxes in {name}: {told}")
            )
        with written(view.artifact.folder / f"{self.gives}.parquet") as beside:
            pl.DataFrame(lines, schema=DRAWN, orient="row").write_parquet(beside)


def _image(piece: "Piece") -> tuple[NDArray[Any], tuple[int, int]]:
    """The image of the only row, as it came where it can be seen, and (height, width) that boxes are in.

    Raises:
        SkipError: no input is an image.
    """
    labels = piece.rows.labels
    stated = None if labels is None or labels[0] is None else labels[0].size
    raw = next((column for column in piece.rows.inputs.values() if is_images(column)), None)
    if raw is not None:
        return raw[0], stated or raw[0].shape[:2]
    fed = next((array for array in piece.batch.values() if array.ndim == IMAGE_AXES), None)
    if fed is None:
        raise SkipError("no input is an image")
    image = fed[0] if channels_last(fed.shape) else np.moveaxis(fed[0], 0, -1)
    image = image[..., :3] if image.shape[-1] > 2 else image[..., 0]  # noqa: PLR2004 - colours
    return image, stated or image.shape[:2]


def _boxes(seen: Erring, image: int, size: tuple[int, int]) -> list[Box]:
    """What is there, then what was found right, then errors, which must be seen."""
    found, errors = seen.found, seen.errors
    scale = np.array([size[1], size[0], size[1], size[0]], dtype=np.float64)

    def sides(box: NDArray[Any]) -> tuple[float, float, float, float]:
        x1, y1, x2, y2 = (box / scale).tolist()
        return x1, y1, x2, y2

    finds = np.flatnonzero(found.image == image)
    finds = finds[np.argsort(-found.score[finds], kind="stable")]
    objects = np.flatnonzero((found.truth_image == image) & errors.matching.counts)
    missed = objects[errors.missed[objects]]
    right = finds[seen.right[finds]]
    wrong = finds[errors.type_[finds] != ""]
    boxes = [Box(sides(found.truth_box[at]), THERE, width=1) for at in objects[:MOST]]
    boxes += [Box(sides(found.box[at]), RIGHT) for at in right[:MOST]]
    for at in wrong[:MOST]:
        name = class_name(found.task, int(found.class_[at]))
        label = f"{errors.type_[at]}: {name} {found.score[at]:.2f}"
        boxes.append(Box(sides(found.box[at]), WRONG, label))
    for at in missed[:MOST]:
        name = class_name(found.task, int(found.truth_class[at]))
        boxes.append(Box(sides(found.truth_box[at]), MISSED, f"missed: {name}"))
    return boxes


def _write(view: View, stem: str, picture: "Image.Image") -> str:
    """The path below the run folder."""
    with written(view.artifact.folder / FOLDER / f"{stem}.png") as beside:
        picture.save(beside, format="PNG", optimize=True)
    return f"{view.artifact.folder.name}/{FOLDER}/{stem}.png"
