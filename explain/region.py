"""What is explained of a segmentation: the score of one class, averaged over one region of each image."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from study.readings.segmentation import by_pixel
from study.regions import background, counted_pixels
from study.task import Task

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Region:
    """Of each row, the pixels whose scores are averaged: ``mask`` is (rows, height, width)."""

    task: Task
    mask: "NDArray[np.bool_]"

    def first(self, count: int) -> "Region":
        """Those of the first so many rows."""
        return replace(self, mask=self.mask[:count])

    def shares(self, which: "NDArray[Any]") -> "Tensor":
        """What each pixel counts, (n, height, width) for these rows: they sum to one in each."""
        import torch

        chosen = self.mask[which].astype(np.float32)
        return torch.from_numpy(chosen / chosen.sum(axis=(1, 2), keepdims=True))

    def means(self, output: Any, shares: "Tensor") -> "Tensor":
        """The mean scores, (n, classes), of a scored output of so many rows."""
        import torch

        scores = by_pixel(self.task, output)
        return torch.einsum("nhwc,nhw->nc", scores.float(), shares.to(scores.device))


@dataclass(frozen=True, slots=True, eq=False)
class Regions:
    """The region of each row: its class, which of the row's parts it is, and what the row is called."""

    region: Region
    classes: "NDArray[np.int64]"
    parts: tuple["NDArray[np.int64]", ...]
    titles: tuple[str, ...]


def regions_asked(table: pl.DataFrame, task: Task, target: int | None = None) -> Regions:
    """Of each image what is wrongly taken for one class, most of it; else what is taken for the largest one.

    ``table`` has the predictions of the model as it came of the explained rows, in this order; each has some
    part. With ``target``: what is taken for that class; where nothing is, the whole image.
    """
    masks, classes, parts, titles = [], [], [], []
    for line in table.iter_rows(named=True):
        class_, own, title = _region(line, task, target)
        height, width = line["size"]
        mask = np.zeros(height * width, dtype=bool)
        mask[counted_pixels(line["skipped"], line["size"])[own]] = True
        masks.append(mask.reshape(height, width))
        classes.append(class_)
        parts.append(own)
        titles.append(f"row {line['id']}, {title}")
    index = np.array(classes, dtype=np.int64)
    return Regions(Region(task, np.stack(masks)), index, tuple(parts), tuple(titles))


def _region(line: Mapping[str, Any], task: Task, target: int | None) -> "tuple[int, NDArray[np.int64], str]":
    """The class, the places among the parts, and both in words."""
    label, said = np.array(line["label"]), np.array(line["prediction"])
    if target is not None:
        own = np.flatnonzero(said == target)
        name = task.classes[target]
        if len(own):
            return target, own, f"{len(own)} pixels predicted {name}"
        return target, np.arange(len(said)), f"no pixel predicted {name}"
    wrong = (label != said) & (label >= 0)
    if wrong.any():
        class_ = _most(said[wrong])
        own = np.flatnonzero(wrong & (said == class_))
        true = task.classes[_most(label[own])]
        return class_, own, f"{len(own)} pixels predicted {task.classes[class_]}, labelled {true}"
    objects = said[said != background(task)]
    class_ = _most(objects if len(objects) else said)
    own = np.flatnonzero(said == class_)
    return class_, own, f"{len(own)} pixels predicted {task.classes[class_]}"


def _most(classes: "NDArray[Any]") -> int:
    return int(np.bincount(classes).argmax())
