"""Eight bits, calibrated."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, final

from export.audit import audit_record, fates_of
from export.bodies import keep_captured
from export.calibration import Calibration, check_scales
from export.change import Change, Pass
from export.chosen import IN_FLOAT, left_in_float
from export.examples import row_shapes
from export.graph import flatten_biases, in_order, read_current, tidy
from export.isa import IntegerTypes
from export.onnx_file import Graph, hand_to_library, read_graph, write_model
from export.quiet import library
from study.progress import Progress
from study.runtime import open_runtime
from study.subject import Machine, Subject

FRAGILE = ("LayerNormalization", "InstanceNormalization", "BatchNormalization", "Softmax")
"""Little of the work and much of the error: they stay in float."""
SKIPPED = {
    op: f"onnxruntime has no calibrated int8 {op} (int8-dynamic quantizes LSTM alone)"
    for op in ("LSTM", "GRU", "RNN")
} | {"Gather": "an embedding is looked up and multiplies nothing"}


@final
@dataclass(frozen=True, slots=True)
class Int8(Pass):
    """Static int8: layers with stored weights, per channel, activation ranges from calibration rows."""

    takes: ClassVar[tuple[str, ...]] = ("onnx/fp32",)
    gives: ClassVar[str] = "onnx/int8"
    needs_calibration: ClassVar[bool] = True

    def apply(self, subject: Subject, out: Path, machine: Machine, progress: Progress) -> Change:
        import onnxruntime

        before = read_current(subject.model.path)
        tidy(before)
        with open_runtime(subject.model, machine) as runtime:
            inputs = runtime.inputs
        rows = Calibration(subject, inputs, progress)
        types = IntegerTypes.of_this_machine()
        graph = _quantized(before, rows, types)
        check_scales(graph)
        in_order(graph)
        tidy(graph)
        model = write_model(graph, out, "int8")
        record = audit_record(before, fates_of(before, model.path, row_shapes(subject, inputs), SKIPPED))
        provenance = {
            "onnxruntime": str(onnxruntime.__version__),
            "calibration": f"MinMax over {rows.rows} rows",
            **types.words,
        }
        return Change(model, (record,), provenance)


def _quantized(before: Graph, rows: Calibration, types: IntegerTypes) -> Graph:
    """The graph with Q/DQ pairs; MinMax keeps two numbers a tensor and piece, so the rows are streamed."""
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry
    from onnxruntime.quantization.shape_inference import quant_pre_process

    operators = sorted({*QDQRegistry, *QLinearOpsRegistry} - {*FRAGILE})
    with tempfile.TemporaryDirectory() as folder, library("onnxruntime's quantizer", streams=False):
        given, prepared, made = (Path(folder) / name for name in ("given.onnx", "prepared.onnx", "made.onnx"))
        large = hand_to_library(before, given)
        # symbolic shape inference gives up on transformers, and nothing here needs it
        quant_pre_process(
            given,
            prepared,
            skip_symbolic_shape=True,
            save_as_external_data=large,
            external_data_location="prepared.onnx.data" if large else None,
        )
        simple = read_graph(prepared)
        flatten_biases(simple)
        keep_captured(simple)
        (Path(folder) / "prepared.onnx.data").unlink(missing_ok=True)  # onnx appends to what is there
        large = hand_to_library(simple, prepared)
        quantize_static(
            prepared,
            made,
            rows,
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=operators,
            nodes_to_exclude=left_in_float(simple, operators),
            per_channel=True,
            reduce_range=types.reduce_range,
            activation_type=QuantType.QInt8 if types.signed_activations else QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            use_external_data_format=large,
            extra_options={"WeightSymmetric": True, "OpTypesToExcludeOutputQuantization": [IN_FLOAT]},
        )
        return read_graph(made)
