"""The distribution of every activation that will be quantized, gathered in bounded memory."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from export.examples import Batch
from export.graph import Node
from export.onnx_file import Graph
from export.ranges import BINS, METHODS, Histogram, Ranges
from export.taps import tapped
from study.batches import rows_of
from study.errors import SkipError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

HELD: Final = 1 << 26
"""Bytes of activations that lie in memory at once while they are counted."""


@dataclass(frozen=True, slots=True)
class Observed:
    """What one calibration gathered, from which every method takes its ranges."""

    histograms: "Mapping[str, Histogram]"

    def ranges(self, method: str) -> Ranges:
        """Of every tensor, by one of ``METHODS``."""
        return {name: METHODS[method](histogram) for name, histogram in self.histograms.items()}


def observe(
    graph: Graph,
    names: Sequence[str],
    rows: Iterable[Batch],
    *,
    counted: bool = True,
    size: int | None = None,
) -> Observed:
    """Run the graph over the rows, twice: for the extremes of these tensors, then for their histograms.

    ``rows`` are iterated twice, once without ``counted``. Of the second run no more than ``HELD`` bytes are
    in memory, whatever the rows are: batches are cut where the activations of one are more than that (not
    where the model takes batches of one ``size`` alone).

    Raises:
        SkipError: a tensor is NaN or infinite on some row, or there is no row.
    """
    if not names:
        return Observed({})
    extremes, each = _extremes(graph, names, rows)
    bounds = {name: max(abs(low), abs(high)) for name, (low, high) in extremes.items()}
    counts = {name: np.zeros(BINS if counted else 0, dtype=np.int64) for name in extremes}
    if counted:
        step = size or max(1, HELD // max(1, each))
        with tapped(graph, list(extremes)) as run:
            for batch in rows:
                for piece in _cut(batch, step):
                    for name, array in run(piece).items():
                        counts[name] += histogram_of(array, bounds[name])
    return Observed({name: Histogram(*extremes[name], counts[name]) for name in extremes})


def histogram_of(array: "NDArray[Any]", reach: float) -> "NDArray[np.int64]":
    """How many numbers fall into each of the bins between ``-reach`` and ``reach``."""
    if not reach:
        counts = np.zeros(BINS, dtype=np.int64)
        counts[BINS // 2] = array.size
        return counts
    places = (array.ravel() + np.float32(reach)) * np.float32(BINS / (2 * reach))
    np.clip(places, 0, BINS - 1, out=places)
    return np.bincount(places.astype(np.int32), minlength=BINS)


def _extremes(
    graph: Graph, names: Sequence[str], rows: Iterable[Batch]
) -> "tuple[dict[str, tuple[float, float]], int]":
    """Lowest and highest of each tensor, and the bytes that one row of them all takes."""
    extremes: dict[str, tuple[float, float]] = {}
    each, batches = 0, 0
    taps = _taps(names)
    with tapped(graph, [node.output[0] for node in taps if "~part" not in node.output[0]], taps) as run:
        for batch in rows:
            found, count = run(batch), 0
            batches += 1
            for place, name in enumerate(names):
                size = int(found[f"size~{place}"])
                if not size:
                    continue
                if np.isnan(found[f"nothing~{place}"]):
                    raise SkipError(
                        f"'{name}' is NaN or infinite on the calibration rows, so it has no int8 range"
                    )
                low, high = extremes.get(name, (np.inf, -np.inf))
                extremes[name] = (
                    min(low, float(found[f"low~{place}"])),
                    max(high, float(found[f"high~{place}"])),
                )
                count += size
            each = max(each, count * 4 // max(1, rows_of(batch)))
    if not batches:
        raise SkipError("int8 needs calibration rows, and there are none")
    return extremes, each


def _taps(names: Sequence[str]) -> list[Node]:
    """Of each tensor how many numbers it has, their extremes, and NaN where one is not finite (else 0)."""
    from onnx import helper

    zero = helper.make_tensor("zero~part", 1, [], [0.0])
    nodes = [helper.make_node("Constant", [], ["zero~part"], value=zero)]
    for place, name in enumerate(names):
        nodes += [
            helper.make_node("Size", [name], [f"size~{place}"]),
            helper.make_node("ReduceMin", [name], [f"low~{place}"], keepdims=0),
            helper.make_node("ReduceMax", [name], [f"high~{place}"], keepdims=0),
            helper.make_node("Mul", [name, "zero~part"], [f"none~part{place}"]),
            helper.make_node("ReduceSum", [f"none~part{place}"], [f"nothing~{place}"], keepdims=0),
        ]
    return nodes


def _cut(batch: Batch, step: int) -> Iterator[Batch]:
    """The batch in pieces of so many rows."""
    rows = rows_of(batch)
    for start in range(0, rows, step):
        yield {name: array[start : start + step] if array.ndim else array for name, array in batch.items()}
