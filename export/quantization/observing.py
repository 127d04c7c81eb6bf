"""The distribution of every activation that will be quantized, gathered in bounded memory."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from export.examples import Batch
from export.graphs.files import Graph
from export.graphs.nodes import Node
from export.graphs.taps import streamed, tapped
from export.quantization.ranges import BINS, METHODS, Histogram, Ranges
from study.errors import SkipError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray


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

    ``rows`` are iterated twice, once without ``counted``; ``size`` is the only batch that the model takes.

    Raises:
        SkipError: a tensor is NaN or infinite on some row, or there is no row.
    """
    if not names:
        return Observed({})
    extremes = _extremes(graph, names, rows)
    bounds = {name: max(abs(low), abs(high)) for name, (low, high) in extremes.items()}
    counts = {name: np.zeros(BINS if counted else 0, dtype=np.int64) for name in extremes}
    for found in streamed(graph, list(extremes), rows, size) if counted else ():
        for name, array in found.items():
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


def _extremes(graph: Graph, names: Sequence[str], rows: Iterable[Batch]) -> dict[str, tuple[float, float]]:
    """Lowest and highest of each tensor."""
    extremes: dict[str, tuple[float, float]] = {}
    batches = 0
    taps = _taps(names)
    with tapped(graph, [node.output[0] for node in taps if "~part" not in node.output[0]], taps) as run:
        for batch in rows:
            found = run(batch)
            batches += 1
            for place, name in enumerate(names):
                if not int(found[f"size~{place}"]):
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
    if not batches:
        raise SkipError("int8 needs calibration rows, and there are none")
    return extremes


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
