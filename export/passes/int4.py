"""Four bits, the weights alone."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, final

from export.change import Change, Pass
from export.examples import row_shapes
from export.graphs.files import Graph, bytes_of, copied, write_model
from export.graphs.layers import layers_of
from export.graphs.nodes import Node, read_current, split_gemm, stored, tidy
from export.quantization.audit import Fate, audit_record
from export.quiet import library
from export.size import readable
from study.errors import SkipError
from study.progress import Progress
from study.record import Finding, Record, Verdict
from study.runtime import open_runtime
from study.subject import Machine, Subject

BLOCK = 32
"""Weights that share a scale and a zero point; the shortest that onnxruntime has kernels for twice over."""
SKIPPED = {"Gather": "an embedding is looked up and multiplies nothing"}


@final
@dataclass(frozen=True, slots=True)
class Int4(Pass):
    """Weights of linear layers in 4 bits, rounded to nearest in blocks of 32; activations stay in float."""

    takes: ClassVar[tuple[str, ...]] = ("onnx/fp32",)
    gives: ClassVar[str] = "onnx/int4"

    def apply(self, subject: Subject, out: Path, machine: Machine, progress: Progress) -> Change:
        import onnxruntime

        before = read_current(subject.model.path)
        tidy(before)
        graph = copied(before)
        split_gemm(graph)
        linear = _linear(graph)
        chosen = {name for name, depth in linear.items() if depth >= BLOCK}
        if not chosen:
            raise SkipError(
                f"it has no MatMul whose stored weight has {BLOCK} rows or more, which a block of 4-bit "
                "numbers needs"
            )
        made = _quantized(graph, [name for name in linear if name not in chosen])
        tidy(made)
        model = write_model(made, out, "int4")
        with open_runtime(model, machine) as runtime:  # onnxruntime has a kernel for it here
            inputs = runtime.inputs
        sizes = bytes_of(subject.model.path), bytes_of(model.path)
        progress.tell("4-bit weights", 1, 1)
        record = _record(before, _fates(before, chosen, row_shapes(subject, inputs)), sizes)
        settings = {"bits": "4", "block": str(BLOCK), "algorithm": "round to nearest, with zero points"}
        return Change(model, (record,), {**settings, "onnxruntime": str(onnxruntime.__version__)})


def _linear(graph: Graph) -> dict[str, int]:
    """How many inputs each MatMul with a stored matrix has, by the node's name."""
    held = stored(graph)

    def is_linear(node: Node) -> bool:
        return node.op_type == "MatMul" and node.input[1] in held and len(held[node.input[1]].dims) == 2  # noqa: PLR2004

    return {node.name: int(held[node.input[1]].dims[0]) for node in graph.graph.node if is_linear(node)}


def _quantized(graph: Graph, left: list[str]) -> Graph:
    with library("onnxruntime's 4-bit quantizer"):
        from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

        quantizer = MatMulNBitsQuantizer(
            graph, bits=4, block_size=BLOCK, is_symmetric=False, nodes_to_exclude=left
        )
        quantizer.process()
        return quantizer.model.model


def _fates(before: Graph, chosen: Collection[str], sizes: "dict[str, tuple[int, ...]]") -> list[Fate]:
    """What became of each layer of the float model."""
    fates = []
    for layer in layers_of(before, sizes):
        if layer.inside:
            why = f"it is in the body of {layer.inside}, which stays as it is"
        elif not layer.weights:
            why = "it multiplies two activations"
        elif layer.op in ("Gemm", "MatMul"):
            why = f"a block of 4-bit numbers needs a stored weight of {BLOCK} rows or more"
        else:
            why = SKIPPED.get(layer.op, "onnxruntime has 4-bit kernels for products of matrices alone")
        done = layer.node in chosen
        fates.append(Fate(layer, integer=done, why="" if done else why))
    return fates


def _record(before: Graph, fates: list[Fate], sizes: tuple[int, int]) -> Record:
    record = audit_record(before, fates, "int4")
    summary = f"{record.summary} {readable(sizes[0])} became {readable(sizes[1])}."
    findings = record.findings
    if record.metrics["parameters_in_int4@audit"].value < 0.5:  # noqa: PLR2004 - the smaller half
        findings = (
            *findings,
            Finding(
                what="More than half of the parameters stay in float: embeddings, and what is no MatMul.",
                do="Expect less than 4 bits of 32 promise; int8 shrinks convolutions too.",
            ),
        )
    return replace(record, verdict=Verdict.NOTED, summary=summary, findings=findings)
