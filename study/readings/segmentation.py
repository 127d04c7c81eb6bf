"""Semantic segmentation: every pixel is of a class."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from study.errors import InputError
from study.feed import Piece
from study.guess_parts import VOID, foreground
from study.host import to_numpy
from study.parts import as_lists, counted_labels, lines, pair_counts, reduced
from study.reading import Reading
from study.regions import background, boundary_scores, objects
from study.task import IGNORED, Task, scored_output

if TYPE_CHECKING:
    from torch import Tensor


@final
class Segmentation(Reading):
    """A row is an image; its parts are its pixels, in the order of their rows."""

    @classmethod
    def columns(cls, task: Task, piece: Piece, outputs: Mapping[str, Any]) -> dict[str, pl.Series]:
        """Sums over the pixels, their labels and predictions, and what is told of regions.

        ``skipped`` are the pixels that do not count, as runs (start, length, ...); ``size`` height and width;
        ``boundary`` the boundary F of each class (``study.regions``), ``objects`` the objects of the mask as
        (class, pixels, pixels that are right, ...).
        """
        scores = by_pixel(task, scored_output(task, outputs))
        height, width = (int(size) for size in scores.shape[1:3])
        classes = max(task.width, 2)
        masks = masks_of(task, piece, (height, width), classes)
        rows, boundaries, found, skipped = [], [], [], []
        for row in range(len(piece)):
            flat = np.full(height * width, IGNORED) if masks is None else masks[row].reshape(-1)
            counted = np.ones(len(flat), dtype=bool) if masks is None else counted_labels(task, flat)
            one = reduced(task, scores[row].reshape(len(flat), -1), flat.astype(np.int64), counted)
            rows.append(one)
            skipped.append(runs(~counted))
            if masks is not None:
                label, said = (np.full(len(flat), IGNORED, np.int32) for _ in range(2))
                label[counted], said[counted] = one.label, one.prediction
                mask, answer = label.reshape(height, width), said.reshape(height, width)
                boundaries.append(boundary_scores(mask, answer, classes))
                found.append(objects(mask, answer, background=background(task)))
        columns = lines(rows, each=False, classes=classes)
        columns["label"] = as_lists([one.label for one in rows], pl.Int16)
        columns["prediction"] = as_lists([one.prediction for one in rows], pl.Int16)
        columns["skipped"] = as_lists(skipped, pl.Int32)
        columns["size"] = as_lists([np.array([height, width])] * len(rows), pl.Int32)
        if masks is None:
            columns["hits"] = pl.Series([None] * len(rows), dtype=pl.Int64)
            return columns
        columns |= pair_counts(rows, classes)
        columns["boundary"] = as_lists(boundaries, pl.Float32)
        columns["objects"] = as_lists([one.reshape(-1) for one in found], pl.Int32)
        columns["meta.objects"] = pl.Series([len(one) for one in found], dtype=pl.Int64)
        smallest = [int(one[:, 1].min()) if len(one) else None for one in found]
        columns["meta.pixels of smallest object"] = pl.Series(smallest, dtype=pl.Int64)
        return columns


def by_pixel(task: Task, output: Any) -> "Tensor":
    """The scores as (rows, height, width, classes), where they are."""
    import torch

    scores = output if isinstance(output, torch.Tensor) else torch.from_numpy(to_numpy(output))
    if task.class_axis == 0:
        return scores[..., None]
    return scores.movedim(task.class_axis, -1)


def runs(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Where a flat mask is true: (start, length, start, length, ...)."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(np.int8), [0]])))
    starts, stops = edges[::2], edges[1::2]
    return np.stack([starts, stops - starts], axis=1).reshape(-1)


def masks_of(task: Task, piece: Piece, size: tuple[int, int], classes: int) -> NDArray[Any] | None:
    """The masks of the rows as class indices.

    Raises:
        InputError: they have another size than the output, or hold what is no class.
    """
    if piece.rows.labels is None:
        return None
    masks = foreground(task, np.asarray(piece.rows.labels))
    if masks.shape[1:] != size:
        given = "x".join(str(one) for one in masks.shape[1:])
        raise InputError(
            f"The mask of row '{piece.rows.ids[0]}' is {given} and the output {size[0]}x{size[1]}: they must "
            "have one size."
        )
    wrong = counted_labels(task, masks) & (masks >= classes)
    if wrong.any():
        row = int(np.argmax(wrong.reshape(len(masks), -1).any(axis=1)))
        value = int(masks[row][wrong[row]][0])
        void = " (255 does not count)" if task.ignore == VOID else ""
        raise InputError(
            f"The mask of row '{piece.rows.ids[row]}' holds {value}, which is no output of this model: its "
            f"{classes} classes are counted from 0 to {classes - 1}{void}."
        )
    return masks
