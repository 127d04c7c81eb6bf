"""Bundles of small ONNX models, and a Python that has numpy and onnxruntime alone to run them with."""

import subprocess
import sys
from pathlib import Path

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from onnx import TensorProto, helper, numpy_helper, save

from export.deployment.bundle import Shipment, write_bundle
from study.progress import Progress
from study.subject import Data, InputSpec, Machine, Model, Split, Subject
from study.task import Task

MACHINE = Machine(threads=1)
WEIGHT = np.random.default_rng(0).normal(size=(4, 3)).astype("f4")
ROWS = np.random.default_rng(1).normal(size=(7, 4)).astype("f4")
TASK = Task("multiclass", "logits", ("cat", 'dog "big"', "eel"), "y")


def linear(
    folder: Path, *extra: object, rows: object = "batch", out: tuple[object, ...] = ("batch", 3)
) -> Model:
    """``h = x @ w``, then what ``extra`` nodes make of it."""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h" if extra else "y"]), *extra]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [rows, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, out)],
        [numpy_helper.from_array(WEIGHT, "w")],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    save(made, folder / "made.onnx")
    return Model(folder / "made.onnx", "onnx")


def node(kind: str, **settings: object) -> object:
    return helper.make_node(kind, ["h"], ["y"], **settings)


def shipped(folder: Path, model: Model, task: Task | None = TASK, **data: object) -> Path:
    np.savez(folder / "rows.npz", x=ROWS, y=np.arange(7) % 3)
    split = Split(Data(str(folder / "rows.npz"), **data))  # type: ignore[arg-type]
    subject = Subject(model, calibration=split, task=task, inputs=(InputSpec("x", (None, 4), "float32"),))
    shipment = Shipment("onnx", subject, MACHINE, folder / "ship", {"seed": 0})
    write_bundle(shipment, Progress())
    return folder / "ship"


def alone(bare: Path, script: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a script by a Python that sees its own library and those packages, and nothing else."""
    run = (
        "import runpy, sys; sys.path.append(sys.argv[1]); del sys.argv[:2]; "
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    command = [sys.executable, "-I", "-S", "-B", "-c", run, str(bare), str(script), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def config_of(bundle: Path) -> object:
    """Parsed strictly: the fields of Triton's ``ModelConfig`` that are documented, by name and number."""
    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="triton.proto", package="t", syntax="proto3")
    enum = file.enum_type.add(name="DataType")
    words = [
        "INVALID",
        "BOOL",
        "UINT8",
        "UINT16",
        "UINT32",
        "UINT64",
        "INT8",
        "INT16",
        "INT32",
        "INT64",
        "FP16",
        "FP32",
        "FP64",
        "STRING",
        "BF16",
    ]
    for number, word in enumerate(words):
        enum.value.add(name=f"TYPE_{word}", number=number)
    kind = file.enum_type.add(name="Kind")
    for number, word in enumerate(("AUTO", "GPU", "CPU", "MODEL")):
        kind.value.add(name=f"KIND_{word}", number=number)
    messages: dict[str, list[tuple[str, int, int, str, bool]]] = {
        "Reshape": [("shape", 1, kinds.TYPE_INT64, "", True)],
        "Input": [
            ("name", 1, kinds.TYPE_STRING, "", False),
            ("data_type", 2, kinds.TYPE_ENUM, "DataType", False),
            ("dims", 4, kinds.TYPE_INT64, "", True),
            ("reshape", 5, kinds.TYPE_MESSAGE, "Reshape", False),
        ],
        "Output": [
            ("name", 1, kinds.TYPE_STRING, "", False),
            ("data_type", 2, kinds.TYPE_ENUM, "DataType", False),
            ("dims", 3, kinds.TYPE_INT64, "", True),
            ("label_filename", 4, kinds.TYPE_STRING, "", False),
            ("reshape", 5, kinds.TYPE_MESSAGE, "Reshape", False),
        ],
        "Group": [("count", 2, kinds.TYPE_INT32, "", False), ("kind", 4, kinds.TYPE_ENUM, "Kind", False)],
        "Batching": [("preferred_batch_size", 1, kinds.TYPE_INT32, "", True)],
        "Config": [
            ("name", 1, kinds.TYPE_STRING, "", False),
            ("platform", 2, kinds.TYPE_STRING, "", False),
            ("max_batch_size", 4, kinds.TYPE_INT32, "", False),
            ("input", 5, kinds.TYPE_MESSAGE, "Input", True),
            ("output", 6, kinds.TYPE_MESSAGE, "Output", True),
            ("instance_group", 7, kinds.TYPE_MESSAGE, "Group", True),
            ("dynamic_batching", 11, kinds.TYPE_MESSAGE, "Batching", False),
        ],
    }
    for name, fields in messages.items():
        message = file.message_type.add(name=name)
        for called, number, of, inner, repeated in fields:
            label = kinds.LABEL_REPEATED if repeated else kinds.LABEL_OPTIONAL
            message.field.add(
                name=called, number=number, type=of, label=label, type_name=f".t.{inner}" if inner else None
            )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    made = message_factory.GetMessageClass(pool.FindMessageTypeByName("t.Config"))()
    (folder,) = (bundle / "triton").iterdir()
    text_format.Parse((folder / "config.pbtxt").read_text(encoding="utf-8"), made)
    assert made.name == folder.name
    assert made.platform == "onnxruntime_onnx"
    return made
