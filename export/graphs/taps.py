"""Values within a graph, read while it runs: whole tensors, or what a few more nodes make of them."""

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from export.examples import Batch
from export.graphs.files import Graph, hand_to_library
from export.graphs.nodes import Node
from export.quiet import library
from study.batches import rows_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

Call: TypeAlias = "Callable[[Batch], dict[str, NDArray[Any]]]"

HELD: Final = 1 << 26
"""Bytes of tensors that lie in memory at once."""


@contextmanager
def tapped(graph: Graph, names: Sequence[str], nodes: Sequence[Node] = ()) -> Iterator[Call]:
    """A call that runs the graph on a batch and gives these of its tensors; the graph stays as it is.

    ``nodes`` are put behind those of the graph, and ``names`` may be theirs.

    Raises:
        SkipError: onnxruntime refuses the graph.
    """
    import onnx
    import onnxruntime

    told = onnx.ModelProto()
    told.CopyFrom(graph)
    told.graph.node.extend(nodes)
    del told.graph.output[:]
    told.graph.output.extend(onnx.ValueInfoProto(name=name) for name in dict.fromkeys(names))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tapped.onnx"
        hand_to_library(told, path)
        del told
        with library("onnxruntime"):
            session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        order = [output.name for output in session.get_outputs()]

        def call(batch: Batch) -> "dict[str, NDArray[Any]]":
            with library("onnxruntime", streams=False):
                return dict(zip(order, session.run(order, dict(batch)), strict=True))

        yield call


def streamed(
    graph: Graph, names: Sequence[str], rows: Iterable[Batch], size: int | None = None
) -> "Iterator[dict[str, NDArray[Any]]]":
    """These tensors, a few rows at a time: no more than ``HELD`` bytes of them, whatever the batches are.

    Where the model takes batches of one ``size`` alone, they are as large as those.
    """
    step = size or 1
    with tapped(graph, names) as run:
        for batch in rows:
            count, start = rows_of(batch), 0
            while start < count:
                piece = {
                    name: array[start : start + step] if array.ndim else array
                    for name, array in batch.items()
                }
                found = run(piece)
                yield found
                start += step
                each = sum(array.nbytes for array in found.values()) // min(step, count) or 1
                step = size or max(1, HELD // each)
