"""ONNX files: read, and written whole, with their tensors in a second file where one cannot hold them."""

import os
from pathlib import Path
from typing import IO, Any, Final, TypeAlias

from study.errors import SkipError
from study.loading.protobuf import read_onnx
from study.storage import hash_of_all
from study.subject import Model, Precision

Graph: TypeAlias = Any
"""``onnx.ModelProto``; onnx is imported where it is used."""
Tensor: TypeAlias = Any
"""``onnx.TensorProto``."""

ONE_FILE = 1_900_000_000
"""Bytes; a protobuf message ends at 2 GiB, and beyond it the tensors lie in a file of their own."""
DATA: Final = "model.onnx.data"
SMALL = 1024
"""Bytes; smaller tensors stay in the model's file, where shape inference can read them."""
OWN = ("SimplifiedLayerNormalization",)
"""Operators that onnxruntime has in ONNX's own domain, and onnx's checker does not know there."""
LIGHT = 1 << 28
"""Bytes; of larger models onnx's checker is not shown the numbers."""
ALIGNED: Final = 4096
"""Each tensor begins at a multiple of it, so that it can be mapped."""
_GRAPH, _INITIALIZER = b"\x3a", b"\x2a"
"""Field 7 of a ModelProto and field 5 of a GraphProto, each with its length before it."""
_SEVEN, _MORE = 0x7F, 0x80


def read_graph(path: Path) -> Graph:
    """The model in that file, with its external data."""
    import onnx

    return onnx.load(path)


def write_model(graph: Graph, out: Path, precision: Precision) -> Model:
    """Write ``out/model.onnx``, whole or not at all, and say what it is.

    A graph that is too large for one file is used up: its tensors are in ``out/model.onnx.data`` afterwards.

    Raises:
        SkipError: onnx's own checker refuses it.
    """
    import onnx

    path, beside = out / "model.onnx", out / f".model.onnx.{os.getpid()}"
    data = out / DATA
    out.mkdir(parents=True, exist_ok=True)
    try:
        if is_large(graph):
            _move_out(graph, data)
        with beside.open("wb") as file:
            _write(graph, file)
        try:
            _check(graph, beside)
        except onnx.checker.ValidationError as error:
            raise SkipError(f"the result is no valid ONNX model: {str(error).splitlines()[0]}") from error
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
        if not path.exists():
            data.unlink(missing_ok=True)
    digest, size = hash_of_all(files_of(path))
    return Model(path, "onnx", precision, digest, size)


def _check(graph: Graph, written: Path) -> None:
    """Let onnx check what was written; of a large model all but the numbers, which it would copy twice."""
    import onnx

    tensors = graph.graph.initializer
    own = any(node.op_type in OWN and not node.domain for node in graph.graph.node)
    if sum(_bytes(tensor) for tensor in tensors) < LIGHT and not own:
        onnx.checker.check_model(written)
        return
    light = _without(graph, "graph")
    light.graph.CopyFrom(_without(graph.graph, "initializer"))
    for node in light.graph.node:
        if own and node.op_type in OWN and not node.domain:
            node.domain = "com.microsoft"
    if own and not any(used.domain == "com.microsoft" for used in light.opset_import):
        light.opset_import.add(domain="com.microsoft", version=1)
    for tensor in tensors:
        if tensor.HasField("raw_data") and len(tensor.raw_data) >= SMALL:
            stands = light.graph.initializer.add(
                name=tensor.name, dims=tensor.dims, data_type=tensor.data_type, data_location=tensor.EXTERNAL
            )
            stands.external_data.add(key="location", value=written.name)
        else:
            light.graph.initializer.add().CopyFrom(tensor)
    file = written.with_name(f"{written.name}.light")
    try:
        file.write_bytes(light.SerializeToString())
        onnx.checker.check_model(file)
    finally:
        file.unlink(missing_ok=True)


def is_large(graph: Graph) -> bool:
    """Whether its tensors need a file of their own."""
    return sum(_bytes(tensor) for tensor in graph.graph.initializer) >= ONE_FILE


def copied(graph: Graph) -> Graph:
    """A graph of its own, to be changed."""
    import onnx

    made = onnx.ModelProto()
    made.CopyFrom(graph)
    return made


def hand_to_library(graph: Graph, path: Path) -> bool:
    """Write a graph for a library to read, and say whether it lies in two files; the graph stays as it is."""
    import onnx

    large = is_large(graph)
    if large:  # onnx moves the tensors out of the very graph that it writes
        copied = onnx.ModelProto()
        copied.CopyFrom(graph)
        graph = copied
    onnx.save_model(graph, path, save_as_external_data=large, location=f"{path.name}.data" if large else None)
    return large


def files_of(path: Path) -> list[Path]:
    """An ONNX file, and those beside it that its tensors lie in."""
    return [path, *(path.parent / name for name in sorted(read_onnx(path).external))]


def bytes_of(path: Path) -> int:
    """The size of an ONNX file with every external file that its tensors lie in."""
    return sum(file.stat().st_size for file in files_of(path))


def _bytes(tensor: Tensor) -> int:
    return len(tensor.raw_data) if tensor.HasField("raw_data") else int(tensor.ByteSize())


def _move_out(graph: Graph, data: Path) -> None:
    """The raw tensors from the graph into a file, one at a time."""
    from onnx import TensorProto, external_data_helper, numpy_helper

    with data.open("wb") as file:
        for tensor in graph.graph.initializer:
            if tensor.data_type == TensorProto.STRING or _bytes(tensor) < SMALL:
                continue
            if not tensor.HasField("raw_data"):
                tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor), tensor.name))
            file.write(bytes(-file.tell() % ALIGNED))
            place, length = file.tell(), file.write(tensor.raw_data)
            external_data_helper.set_external_data(tensor, data.name, place, length)
            tensor.data_location = TensorProto.EXTERNAL
            tensor.ClearField("raw_data")


def _write(graph: Graph, file: IO[bytes]) -> None:
    """The message, a tensor at a time: serialized at once it would lie in memory a second time.

    The fields are those that ``SerializeToString`` writes; the graph is the last of the model's, and the
    tensors are the last of the graph's, which the format allows.
    """
    inner, whole = _without(graph.graph, "initializer"), _without(graph, "graph")
    tensors = graph.graph.initializer
    head = inner.SerializeToString()
    sizes = [tensor.ByteSize() for tensor in tensors]
    length = len(head) + sum(len(_INITIALIZER) + len(_varint(size)) + size for size in sizes)
    file.write(whole.SerializeToString())
    file.write(_GRAPH + _varint(length) + head)
    for tensor, size in zip(tensors, sizes, strict=True):
        file.write(_INITIALIZER + _varint(size))
        file.write(tensor.SerializeToString())


def _without(message: Any, left_out: str) -> Any:
    """A message with the fields of another one but for one of them."""
    shell = type(message)()
    for field, value in message.ListFields():
        if field.name == left_out:
            continue
        if hasattr(value, "extend"):
            getattr(shell, field.name).extend(value)
        elif hasattr(value, "CopyFrom"):
            getattr(shell, field.name).CopyFrom(value)
        else:
            setattr(shell, field.name, value)
    return shell


def _varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first; all but the last have the eighth set."""
    written = bytearray()
    while number > _SEVEN:
        written.append(number & _SEVEN | _MORE)
        number >>= 7
    return bytes([*written, number])
