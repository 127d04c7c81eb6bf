"""Four bits, the weights alone."""

from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import ClassVar, final

from export.change import Change, Pass
from export.graph import Node, module_of, read_current, split_gemm, stored, tidy
from export.layers import FLOATS
from export.onnx_file import Graph, bytes_of, write_model
from export.quiet import library
from export.size import readable
from study.errors import SkipError
from study.progress import Progress
from study.record import Cell, Finding, Metric, Record, Table, Verdict
from study.runtime import open_runtime
from study.subject import Machine, Subject

BLOCK = 32
"""Weights that share a scale and a zero point; the shortest that onnxruntime has kernels for twice over."""
KERNEL = "MatMulNBits"


@final
@dataclass(frozen=True, slots=True)
class Int4(Pass):
    """Weights of linear layers in 4 bits, rounded to nearest in blocks of 32; activations stay in float."""

    takes: ClassVar[tuple[str, ...]] = ("onnx/fp32",)
    gives: ClassVar[str] = "onnx/int4"

    def apply(self, subject: Subject, out: Path, machine: Machine, progress: Progress) -> Change:
        import onnxruntime

        graph = read_current(subject.model.path)
        tidy(graph)
        every = sum(prod(tensor.dims) for tensor in stored(graph).values() if tensor.data_type in FLOATS)
        split_gemm(graph)
        linear = _linear(graph)
        chosen = {name: shape for name, (_, shape) in linear.items() if shape[0] >= BLOCK}
        if not chosen:
            raise SkipError(
                f"it has no MatMul whose stored weight has {BLOCK} rows or more, which a block of 4-bit "
                "numbers needs"
            )
        made = _quantized(graph, [name for name in linear if name not in chosen])
        tidy(made)
        model = write_model(made, out, "int4")
        open_runtime(model, machine).close()  # onnxruntime has a kernel for it here
        sizes = bytes_of(subject.model.path), bytes_of(model.path)
        progress.tell("4-bit weights", 1, 1)
        record = _record(linear, chosen, every, sizes)
        settings = {"bits": "4", "block": str(BLOCK), "algorithm": "round to nearest, with zero points"}
        return Change(model, (record,), {**settings, "onnxruntime": str(onnxruntime.__version__)})


def _linear(graph: Graph) -> "dict[str, tuple[str, tuple[int, ...]]]":
    """Module and weight shape (inputs, outputs) of each MatMul with a stored matrix, by the node's name."""
    held = stored(graph)

    def is_linear(node: Node) -> bool:
        return node.op_type == "MatMul" and node.input[1] in held and len(held[node.input[1]].dims) == 2  # noqa: PLR2004

    return {
        node.name: (module_of(node), tuple(held[node.input[1]].dims))
        for node in graph.graph.node
        if is_linear(node)
    }


def _quantized(graph: Graph, left: list[str]) -> Graph:
    with library("onnxruntime's 4-bit quantizer"):
        from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

        quantizer = MatMulNBitsQuantizer(
            graph, bits=4, block_size=BLOCK, is_symmetric=False, nodes_to_exclude=left
        )
        quantizer.process()
        return quantizer.model.model


def _record(
    linear: "dict[str, tuple[str, tuple[int, ...]]]",
    chosen: "dict[str, tuple[int, ...]]",
    every: int,
    sizes: tuple[int, int],
) -> Record:
    moved = sum(prod(shape) for shape in chosen.values())
    share = min(1.0, moved / every)
    rows: list[tuple[Cell, ...]] = [
        (name, module, f"{shape[0]} x {shape[1]}", prod(shape), "int4" if name in chosen else "float")
        for name, (module, shape) in linear.items()
    ]
    before, after = sizes
    summary = (
        f"{len(chosen)} of {len(linear)} linear layers hold 4-bit weights, {share:.1%} of the parameters: "
        f"{readable(before)} became {readable(after)}."
    )
    findings: tuple[Finding, ...] = ()
    if share < 0.5:  # noqa: PLR2004 - the smaller half
        findings = (
            Finding(
                what="More than half of the parameters stay in float: embeddings, and what is no MatMul.",
                do="Expect less than 4 bits of 32 promise; int8 shrinks convolutions too.",
            ),
        )
    metrics = {"parameters_in_int4@audit": Metric.exact(share, len(linear), better="higher")}
    table = Table(
        "Linear layers", ("node", "module", "inputs x outputs", "parameters", "held in"), tuple(rows)
    )
    return Record("audit", Verdict.NOTED, summary, metrics=metrics, findings=findings, tables=(table,))
