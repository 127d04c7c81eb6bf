"""Eight bits, without calibration."""

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, final

from export.change import Change, Pass
from export.examples import row_shapes
from export.graphs.bodies import keep_captured
from export.graphs.files import Graph, hand_to_library, read_graph, write_model
from export.graphs.nodes import in_order, read_current, split_gemm, tidy
from export.quantization.audit import audit_record, fates_of
from export.quantization.isa import IntegerTypes
from export.quiet import library
from study.progress import Progress
from study.record import Finding, Verdict
from study.runtime import open_runtime
from study.subject import Machine, Subject

OPERATORS = ["MatMul", "LSTM"]
SKIPPED = {
    "Conv": "int8-dynamic leaves convolutions alone: onnxruntime's ConvInteger is slower than float",
    "ConvTranspose": "onnxruntime has no dynamic int8 ConvTranspose",
    "Gather": "an embedding is looked up and multiplies nothing",
    "GRU": "onnxruntime has no dynamic int8 GRU",
    "RNN": "onnxruntime has no dynamic int8 RNN",
    "Gemm": "its weight is not constant, or it scales its operands",
}

BY_BATCH = Finding(
    what="an answer depends a little on the rows beside it",
    cause="the range of the activations is that of the whole batch",
    do="Judge it with the batch that will be served: --batch-size 1 for single rows.",
)


@final
@dataclass(frozen=True, slots=True)
class Int8Dynamic(Pass):
    """Dynamic int8: weights per channel, activation ranges measured at each call; linear layers and LSTMs."""

    takes: ClassVar[tuple[str, ...]] = ("onnx/fp32",)
    gives: ClassVar[str] = "onnx/int8"

    def apply(self, subject: Subject, out: Path, machine: Machine, progress: Progress) -> Change:
        import onnxruntime

        before = read_current(subject.model.path)
        tidy(before)
        types = IntegerTypes.of_this_machine()
        graph = _quantized(before, types)
        in_order(graph)
        tidy(graph)
        model = write_model(graph, out, "int8")
        with open_runtime(subject.model, machine) as runtime:
            inputs = runtime.inputs
        fates = fates_of(before, model.path, row_shapes(subject, inputs), SKIPPED)
        audit = audit_record(before, fates)
        quick = any(fate.integer for fate in fates)
        said = (*audit.findings, BY_BATCH) if quick else audit.findings
        record = replace(audit, verdict=Verdict.NOTED, findings=said)
        progress.tell("dynamic int8", 1, 1)
        provenance = {"onnxruntime": str(onnxruntime.__version__), "operators": ", ".join(OPERATORS)}
        return Change(model, (record,), {**provenance, **types.words, "activations": "uint8, at each call"})


def _quantized(before: Graph, types: IntegerTypes) -> Graph:
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    given = onnx.ModelProto()
    given.CopyFrom(before)
    split_gemm(given)
    keep_captured(given)
    with tempfile.TemporaryDirectory() as folder, library("onnxruntime's quantizer"):
        source, made = Path(folder) / "given.onnx", Path(folder) / "made.onnx"
        large = hand_to_library(given, source)
        quantize_dynamic(
            source,
            made,
            op_types_to_quantize=OPERATORS,
            per_channel=True,
            reduce_range=types.reduce_range,
            weight_type=QuantType.QInt8,
            use_external_data_format=large,
        )
        return read_graph(made)
