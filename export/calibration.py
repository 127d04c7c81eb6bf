"""Calibration rows for onnxruntime's quantizer, a piece at a time; and what stops a calibration, by name."""

import math
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from export.examples import Batch, named, typed
from export.graph import array_of
from export.onnx_file import Graph, hand_to_library
from export.quiet import library
from study.batches import fixed_batch, pieces
from study.errors import InputError, SkipError
from study.feed import Feed
from study.progress import Progress
from study.subject import InputSpec, Subject

if TYPE_CHECKING:
    from numpy.typing import NDArray

MASKED = 3.4e38
"""From here on a number is the lowest float32, by which masks rule scores out; half precision has its own."""
PIECE = 32


class Calibration:
    """A ``CalibrationDataReader``: never more than one piece of the rows in memory."""

    def __init__(self, subject: Subject, inputs: tuple[InputSpec, ...], progress: Progress) -> None:
        if subject.calibration is None:
            raise SkipError("int8 needs calibration rows, and there are none")
        self.feed = Feed.open(subject.calibration, subject.inputs)
        self.inputs = inputs
        self.progress = progress
        self.rows = 0
        self._pieces = self._read()

    def _read(self) -> "Iterator[Batch]":
        for piece in self.progress.over(self.feed.pieces(PIECE), "calibration", len(self)):
            if not len(piece):
                continue
            self.rows += len(piece)
            _check(piece.batch, piece.rows.ids)
            yield from fitting(typed(named(piece.batch, self.inputs), self.inputs), self.inputs)

    def get_next(self) -> "Mapping[str, NDArray[Any]] | None":
        """The next piece, as the quantizer asks for it."""
        return next(self._pieces, None)

    def __len__(self) -> int:
        return math.ceil(len(self.feed) / PIECE)


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


def fitting(batch: Batch, inputs: tuple[InputSpec, ...]) -> Iterator[Batch]:
    """The batch, in pieces of the only size that the model takes where it takes but one.

    The last piece is filled up with its last row again, which moves no range.
    """
    size = fixed_batch(inputs)
    if size is None:
        yield batch
    else:
        yield from pieces(batch, size)


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


def check_scales(graph: Graph) -> None:
    """The ranges that calibration found must be numbers.

    Raises:
        SkipError: the activations of some tensor are NaN or infinite on the calibration rows.
    """
    for tensor in graph.graph.initializer:
        if tensor.name.endswith("_scale") and not np.isfinite(array_of(tensor)).all():
            name = tensor.name.removesuffix("_scale")
            raise SkipError(f"'{name}' is NaN or infinite on the calibration rows, so it has no int8 range")
