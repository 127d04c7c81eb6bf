"""Calibration rows for onnxruntime's quantizer, a piece at a time; and what stops a calibration, by name."""

import math
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from export.examples import Batch, fitting, named, typed
from export.graphs.files import Graph, hand_to_library
from export.quiet import library
from study.errors import InputError, SkipError
from study.feed import Feed
from study.progress import Progress
from study.record import Finding
from study.subject import InputSpec, Subject

if TYPE_CHECKING:
    from numpy.typing import NDArray

MASKED = 3.4e38
"""From here on a number is the lowest float32, by which masks rule scores out; half precision has its own."""
PIECE = 32
PARTS = 4
FEW = 8
"""Fewer rows than these are not divided."""


class Calibration:
    """Calibration rows as a model takes them, from the start each time; only one piece is in memory."""

    def __init__(
        self, subject: Subject, inputs: tuple[InputSpec, ...], progress: Progress, rows: int = 0
    ) -> None:
        """``rows`` is how many are wanted; 0: all."""
        if subject.calibration is None:
            raise SkipError("int8 needs calibration rows, and there are none")
        feed = Feed.open(subject.calibration, subject.inputs)
        if 0 < rows < len(feed):
            chosen = feed.positions[np.arange(rows) * len(feed) // rows]
            feed = replace(feed, positions=chosen)
        self.feed = feed
        self.inputs = inputs
        self.progress = progress
        self.wanted = rows

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.feed)

    def __iter__(self) -> "Iterator[Batch]":
        """All rows, in batches.

        Raises:
            InputError: a row has NaN or infinity.
        """
        count = math.ceil(len(self.feed) / PIECE)
        for piece in self.progress.over(self.feed.pieces(PIECE), "calibration", count):
            if len(piece):
                _check(piece.batch, piece.rows.ids)
                yield from fitting(typed(named(piece.batch, self.inputs), self.inputs), self.inputs)

    def parts(self) -> "tuple[Calibration, Calibration]":
        """Those that give the ranges, and every fourth, which judges; the same twice where they are few."""
        if len(self) < FEW:
            return self, self
        held = np.arange(1, len(self) + 1) % PARTS == 0
        return self._of(~held), self._of(held)

    def _of(self, chosen: "NDArray[np.bool_]") -> "Calibration":
        made = copy(self)
        made.feed = replace(self.feed, positions=self.feed.positions[chosen])
        return made


def fewer_rows(wanted: int, there: int) -> tuple[Finding, ...]:
    """A finding where there are fewer calibration rows than were asked for."""
    if there >= wanted:
        return ()
    return (
        Finding(
            what=f"{wanted} calibration rows were asked for, and there are {there}: all of them were used.",
            do="Give more rows with --train, or ask for fewer.",
        ),
    )


def _check(batch: Batch, ids: tuple[str, ...]) -> None:
    for name, array in batch.items():
        if array.dtype.kind != "f":
            continue
        bad = ~np.isfinite(array).reshape(len(array), -1).all(axis=1)
        if bad.any():
            row = ids[int(np.argmax(bad))]
            raise InputError(
                f"The calibration row '{row}' has NaN or infinity in the input '{name}' "
                f"({int(bad.sum())} rows of its piece): leave it out, or use --missing mean."
            )


class Batches:
    """A ``CalibrationDataReader`` over batches at hand."""

    def __init__(self, batches: Iterable[Batch]) -> None:
        self._batches = iter(batches)

    def get_next(self) -> "Mapping[str, NDArray[Any]] | None":
        """The next batch, as onnxruntime's calibrator asks for it."""
        return next(self._batches, None)


def magnitudes(graph: Graph, batches: Iterable[Batch]) -> dict[str, float]:
    """The largest absolute value of every activation on these batches, two numbers a tensor in memory.

    The lowest float32, which stands for a score that a mask rules out, is no value.
    """
    from onnxruntime.quantization.calibrate import MinMaxCalibrater

    with tempfile.TemporaryDirectory() as folder, library("onnxruntime's calibrator", streams=False):
        path = Path(folder) / "given.onnx"
        large = hand_to_library(graph, path)
        augmented = str(Path(folder) / "augmented.onnx")
        calibrator = MinMaxCalibrater(path, augmented_model_path=augmented, use_external_data_format=large)
        calibrator.augment_graph()
        calibrator.create_inference_session()
        calibrator.collect_data(Batches(batches))
        ranges = calibrator.compute_data()
    return {name: _largest(np.abs(data.range_value)) for name, data in ranges.items()}


def _largest(sizes: "NDArray[Any]") -> float:
    return float(np.where((sizes >= MASKED) & np.isfinite(sizes), 0, sizes).max())
