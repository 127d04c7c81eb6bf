"""Whether ONNX Runtime really runs on the provider that was asked for: a fall-back is an error, at once."""

from pathlib import Path
from tempfile import TemporaryDirectory

from study.progress import Progress
from study.runtime import open_runtime
from study.subject import Machine, Model


def must_run(machine: Machine, _progress: Progress) -> str:
    """The provider that really runs a model of one node here.

    Raises:
        InputError: it is not the one that was asked for.
    """
    from onnx import TensorProto, helper

    wire = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "g", wire[:1], wire[1:])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    with TemporaryDirectory() as folder:
        file = Path(folder) / "one_node.onnx"
        file.write_bytes(made.SerializeToString())
        with open_runtime(Model(file, "onnx"), machine) as runtime:
            return runtime.provider
