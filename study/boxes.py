"""Boxes: what an image holds, and how much two boxes share. numpy only.

A box is (x1, y1, x2, y2) in pixels of the image as its source gives it.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, Self, TypeAlias, TypeGuard

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]
Form: TypeAlias = Literal["lists", "lines", "raw", "queries"]
SIDES = 4


@dataclass(frozen=True, slots=True)
class BoxLayout:
    """How the outputs of a detector hold boxes.

    ``lists`` are padded arrays of boxes, labels and scores; ``lines`` one array (rows, detections, 6) of
    x1, y1, x2, y2, score and class; ``raw`` one of centre, size and a score a class for every anchor, before
    suppression; ``queries`` centre and size of each query beside its scores. ``model_numbers`` and
    ``data_numbers`` are what the two call each of the task's classes.
    """

    form: Form
    boxes: str
    labels: str = ""
    scores: str = ""
    count: str = ""
    """The output with the number of detections a row; empty where there is none."""
    shares: bool = False
    """Boxes are shares of the image's width and height, not pixels."""
    anchors_last: bool = False
    objectness: bool = False
    """A score of there being an object stands before those of the classes."""
    absent: bool = False
    """The last score of a query is that of no object."""
    model_numbers: tuple[int, ...] = ()
    data_numbers: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Truth:
    """The objects of one image: its label, where the task is detection.

    ``numbers`` (objects,) are what the data calls the classes, ``known`` those of all its classes in the
    order of their names (empty: it does not say). What overlaps a ``crowd`` counts neither way. ``area`` is
    what tells small from large. ``size`` is (height, width) of the image that the boxes are measured in, None
    where it is the model's input. ``fault`` says why the boxes cannot be used.
    """

    boxes: Floats
    numbers: NDArray[np.int64]
    crowd: NDArray[np.bool_]
    area: Floats
    size: tuple[int, int] | None = None
    known: tuple[int, ...] = ()
    fault: str = ""

    @classmethod
    def of(
        cls,
        boxes: Any,
        numbers: Any,
        *,
        crowd: Any = None,
        area: Any = None,
        size: tuple[int, int] | None = None,
        known: tuple[int, ...] = (),
    ) -> Self:
        """From arrays as given; what is wrong with them becomes the ``fault``."""
        corners = np.asarray(boxes, dtype=np.float64)
        corners = corners.reshape(0, SIDES) if not corners.size else corners
        called = np.asarray(numbers).reshape(-1)
        fault = _misfit(corners, called)
        if fault:
            corners, called = np.zeros((0, SIDES)), np.zeros(0)
        count = len(corners)
        flags = np.zeros(count) if crowd is None or fault else np.asarray(crowd).reshape(-1)
        areas = areas_of(corners) if area is None or fault else np.asarray(area, np.float64).reshape(-1)
        if not fault and (len(flags) != count or len(areas) != count):
            fault = f"has {count} boxes, {len(flags)} crowd flags and {len(areas)} areas"
            flags, areas = np.zeros(count), areas_of(corners)
        classes = called.astype(np.int64)
        fault = fault or _wrong(corners, classes, size, known)
        return cls(corners, classes, flags.astype(bool), areas, size, known, fault)

    def __len__(self) -> int:
        return len(self.boxes)

    def __str__(self) -> str:
        """Its classes: images are stratified by what they hold."""
        return ",".join(map(str, np.unique(self.numbers).tolist()))


def is_truths(labels: NDArray[Any] | None) -> TypeGuard[NDArray[np.object_]]:
    """Whether labels are the boxes of images."""
    if labels is None or labels.dtype.kind != "O" or labels.ndim != 1:
        return False
    return any(isinstance(label, Truth) for label in labels)


def truths_of(labels: Iterable[Truth | None]) -> NDArray[np.object_]:
    """Labels as an array of objects."""
    every = list(labels)
    array = np.empty(len(every), dtype=object)
    array[:] = every
    return array


def areas_of(boxes: Floats) -> Floats:
    """Width times height."""
    areas: Floats = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return areas


def shared(first: Floats, second: Floats, crowd: NDArray[np.bool_] | None = None) -> Floats:
    """Intersection over union of pairs of boxes; over the first's area for a crowd."""
    sides = np.minimum(first[:, 2:], second[:, 2:]) - np.maximum(first[:, :2], second[:, :2])
    inside = np.prod(np.maximum(sides, 0.0), axis=1)
    own = areas_of(first)
    union = own + areas_of(second) - inside
    if crowd is not None:
        union = np.where(crowd, own, union)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(inside > 0, inside / union, 0.0)


def _misfit(boxes: Floats, numbers: NDArray[Any]) -> str:
    if boxes.ndim != 2 or boxes.shape[1] != SIDES:  # noqa: PLR2004 - boxes and sides
        return f"has boxes of shape {boxes.shape} instead of (boxes, 4)"
    if len(numbers) != len(boxes):
        return f"has {len(boxes)} boxes and {len(numbers)} labels"
    if numbers.size and (numbers.dtype.kind not in "iufb" or not (numbers == np.round(numbers)).all()):
        return "has labels that are no class numbers"
    return ""


def _wrong(
    boxes: Floats, numbers: NDArray[np.int64], size: tuple[int, int] | None, known: tuple[int, ...]
) -> str:
    if not np.isfinite(boxes).all():
        return "has a box that is not finite"
    if (boxes[:, 2:] < boxes[:, :2]).any():
        return "has a box that ends before it begins (x2 < x1 or y2 < y1)"
    if size is not None and len(boxes):
        height, width = size
        outside = (boxes[:, 0] >= width) | (boxes[:, 1] >= height) | (boxes[:, 2:] <= 0).any(axis=1)
        if outside.any():
            return f"has a box outside its image of {width}x{height}"
    unknown = np.setdiff1d(numbers, known) if known else np.zeros(0)
    return f"has a box of the unknown category {int(unknown[0])}" if len(unknown) else ""
