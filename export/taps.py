"""Values within a graph, read while it runs: whole tensors, or what a few more nodes make of them."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from export.examples import Batch
from export.graph import Node
from export.onnx_file import Graph, hand_to_library
from export.quiet import library

if TYPE_CHECKING:
    from numpy.typing import NDArray

Call: TypeAlias = "Callable[[Batch], dict[str, NDArray[Any]]]"


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
