"""Boxes as arrays and dictionaries hold them: the objects of each image as its label."""

from collections.abc import Mapping
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from study.boxes import SIDES, Truth, truths_of
from study.host import to_numpy

BOXES = 3
"""Axes: images, boxes, sides."""


def is_target(label: object) -> TypeGuard[Mapping[str, Any]]:
    """A dictionary of boxes and labels, as torchvision's detectors are trained on."""
    return isinstance(label, Mapping) and {"boxes", "labels"} <= {*label}


def truth_of(target: Mapping[str, Any]) -> Truth:
    """The objects of one image; ``iscrowd`` and ``area`` are optional."""
    given = {name: to_numpy(target[name]) for name in ("iscrowd", "area") if name in target}
    return Truth.of(
        to_numpy(target["boxes"]),
        to_numpy(target["labels"]),
        crowd=given.get("iscrowd"),
        area=given.get("area"),
    )


def boxes_apart(
    arrays: Mapping[str, NDArray[Any]],
) -> tuple[Mapping[str, NDArray[Any]], NDArray[Any] | None]:
    """The other arrays, and one label of boxes an image.

    ``boxes`` is (images, most, 4) and ``labels`` (images, most), filled up with labels of -1; ``iscrowd`` and
    ``area`` are as ``labels`` is. Where there are none the arrays come back as they are.
    """
    boxes, numbers = arrays.get("boxes"), arrays.get("labels")
    if boxes is None or numbers is None or boxes.ndim != BOXES or boxes.shape[2] != SIDES:
        return arrays, None
    if numbers.shape != boxes.shape[:2]:
        return arrays, None
    more = {name: arrays[name] for name in ("iscrowd", "area") if name in arrays}
    truths = []
    for image in range(len(boxes)):
        there = np.asarray(numbers[image] >= 0)
        target = {"boxes": boxes[image][there], "labels": numbers[image][there]}
        truths.append(truth_of(target | {name: array[image][there] for name, array in more.items()}))
    rest = {name: array for name, array in arrays.items() if name not in ("boxes", "labels", *more)}
    return rest, truths_of(truths)
