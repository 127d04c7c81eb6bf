"""Draws what a model said of the images where it errs most: boxes, or the classes of pixels."""

from dataclasses import dataclass
from typing import Any, ClassVar, final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from diagnose.boxes_drawn import MISSED, RIGHT, THERE, WRONG, Box, boxes_over
from diagnose.images_drawn import image_of, picture_of, save
from diagnose.judged import class_name
from diagnose.probe import Probe
from diagnose.worst_images import SHOWN, Erring, erring, ids_of
from diagnose.worst_masks import draw_masks
from study.progress import Progress
from study.storage import written
from study.view import View

DRAWN = {"title": pl.String, "source": pl.String, "text": pl.String}
MOST = 60
"""Boxes of a kind that are drawn on one image."""


@final
@dataclass(frozen=True, slots=True)
class Drawn(Probe):
    """Pictures of the worst images, and their list: title, path below the run folder, what is to be seen."""

    gives: ClassVar[str] = "drawn"

    def run(self, view: View, progress: Progress) -> None:
        """Write ``drawn.parquet`` and the pictures: of one extent, those of one image."""
        lines = draw_masks(view, progress) if view.task.kind == "segmentation" else _drawn(view, progress)
        with written(view.artifact.folder / f"{self.gives}.parquet") as beside:
            pl.DataFrame(lines, schema=DRAWN, orient="row").write_parquet(beside)


def _drawn(view: View, progress: Progress) -> list[tuple[str, str, str]]:
    """Two pictures an image: itself, and the boxes over it."""
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
        image = image_of(piece)
        label = None if piece.rows.labels is None else piece.rows.labels[0]
        stated = None if label is None else label.size
        below = picture_of(image)
        over = boxes_over(below.size, _boxes(seen, place, stated or image.shape[:2]))
        name, stem = names[position], f"row-{position}"
        told = seen.caption(place)
        lines.append((f"{name} · input", save(view, stem, below), f"The image {name}"))
        lines.append((f"{name} · {told}", save(view, f"{stem}-boxes", over), f"Boxes in {name}: {told}"))
    return lines


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
