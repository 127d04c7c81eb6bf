"""The model repository that Triton Inference Server reads: ``config.pbtxt`` in protobuf's text format.

Triton's ONNX Runtime backend compares the dims with the shapes of the file and refuses to load what differs:
of an output each size, and -1 for every axis of any size. With ``max_batch_size`` above 0 the first axis of
every input and output is the batch, and is not listed.
"""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from export.deployment.signature import Signature
from study.record import JSON
from study.runtimes.ort import Tensor

if TYPE_CHECKING:
    from numpy.typing import NDArray

DATATYPES: Final = {
    "float64": "FP64",
    "float32": "FP32",
    "float16": "FP16",
    "bool": "BOOL",
    "str": "STRING",
    **{f"{sign}int{bits}": f"{sign.upper()}INT{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}
"""The names of ``model_config.proto`` and of the V2 protocol, which calls strings BYTES."""
MOST_ROWS: Final = 32
"""Of one batch that the server puts together; a number to be tuned."""
LABELS: Final = "labels.txt"
REQUEST: Final = "request.json"
MOST_NUMBERS: Final = 200_000
"""Of a request as JSON; beyond it a client should send the numbers as bytes."""


def repository_name(folder: str) -> str:
    """The name of a model: that of the bundle's folder, without what a URL would have to quote."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", folder).strip("_.-") or "model"


def config(
    name: str, signature: Signature, *, scored: str = "", labels: bool = False, cpu: bool = True
) -> str:
    """The text of ``config.pbtxt``. ``labels``: the scored output has its class names in ``labels.txt``."""
    batched = signature.joins
    lines = [
        f"name: {_quoted(name)}",
        'platform: "onnxruntime_onnx"',
        f"# {_why(signature)}",
        f"max_batch_size: {MOST_ROWS if batched else 0}",
    ]
    for tensor in signature.inputs:
        lines += ["input [", *_tensor(tensor, batched=batched), "]"]
    for tensor in signature.outputs:
        label = LABELS if labels and tensor.name == scored else ""
        lines += ["output [", *_tensor(tensor, batched=batched, label=label), "]"]
    if batched:
        lines.append("dynamic_batching { }")
    if cpu:
        lines += [
            "# It was made and tried on a CPU. One instance: each takes all cores unless told otherwise.",
            "instance_group [ { count: 1 kind: KIND_CPU } ]",
        ]
    return "\n".join(lines) + "\n"


def _why(signature: Signature) -> str:
    if signature.joins:
        return "Any number of rows, none of which depends on the others: the server may join requests."
    if signature.batch is not None:
        return f"The file fixes the batch at {signature.batch}: so many rows a request, and none are joined."
    if not signature.by_row:
        return "Not every output has one entry a row: requests are not joined, and dims are whole shapes."
    return "What a row gets depends a little on the rows beside it: requests are not joined."


def _tensor(tensor: Tensor, *, batched: bool, label: str = "") -> list[str]:
    shape = [size if isinstance(size, int) else -1 for size in tensor.shape]
    dims = shape[1:] if batched else shape
    lines = [
        "  {",
        f"    name: {_quoted(tensor.name)}",
        f"    data_type: TYPE_{DATATYPES[tensor.dtype]}",
        f"    dims: [ {', '.join(map(str, dims or [1]))} ]",
    ]
    if not dims:  # Triton has no empty dims: a request gives [rows, 1], and the model sees [rows]
        lines.append("    reshape: { shape: [ ] }")
    if label:
        lines.append(f"    label_filename: {_quoted(label)}")
    return [*lines, "  }"]


def _quoted(text: str) -> str:
    """A string of protobuf's text format."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\r", "\\r")
    return f'"{escaped}"'


def request(signature: Signature, example: "Mapping[str, NDArray[Any]]") -> JSON:
    """A request of KServe's Open Inference Protocol (V2): one row, or as many as the file fixes."""
    rows = range(signature.batch or 1)
    inputs: list[JSON] = []
    for tensor in signature.inputs:
        array = np.take(example[tensor.name], rows, axis=0, mode="wrap")
        inputs.append(
            {
                "name": tensor.name,
                "shape": list[JSON](array.shape),
                "datatype": DATATYPES[tensor.dtype].replace("STRING", "BYTES"),
                "data": array.reshape(-1).tolist(),
            }
        )
    return {"inputs": inputs}


def label_lines(classes: tuple[str, ...]) -> str:
    """One class name a line, in the order of the scores."""
    return "".join(" ".join(name.splitlines() or [""]) + "\n" for name in classes)
