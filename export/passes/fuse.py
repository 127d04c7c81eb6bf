"""Transformer fusions for ONNX Runtime."""

from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import ClassVar, final

from export.change import Change, Pass
from export.examples import examples_of
from export.graphs.files import Graph, files_of, write_model
from export.graphs.nodes import read_current, split_gemm, tidy
from export.quiet import library
from export.verification.agreement import cases_of, verification_record, verify
from export.verification.divergence import begins, differs, of_change
from study.errors import InputError, SkipError
from study.progress import Progress
from study.record import Finding, Metric, Record, Table, Verdict
from study.runtime import open_runtime
from study.subject import Machine, Model, Subject

ROWS = 8


@final
@dataclass(frozen=True, slots=True)
class Fuse(Pass):
    """Attention and normalisation layers as single kernels."""

    takes: ClassVar[tuple[str, ...]] = ("onnx/fp32",)
    gives: ClassVar[str] = "onnx/fp32"

    def apply(self, subject: Subject, out: Path, machine: Machine, progress: Progress) -> Change:
        reasons: list[str] = []
        for split in (False, True):
            try:
                change = _attempt(subject, out, machine, split=split)
            except SkipError as error:
                reasons.append(str(error))
            else:
                progress.tell("fuse", 1, 1)
                return change
        raise SkipError("; ".join(dict.fromkeys(reasons)))


def _attempt(subject: Subject, out: Path, machine: Machine, *, split: bool) -> Change:
    """Fuse, and prove that it is the same; with ``split`` every Gemm is a MatMul and an Add before.

    onnxscript's fusion of attention drops a reshape to two axes behind it, which a Gemm needs (GPT-2's
    Conv1D, onnxscript 0.7): a MatMul takes three as well.

    Raises:
        SkipError: it does not run, or computes something else.
    """
    graph = read_current(subject.model.path)
    before = len(graph.graph.node)
    if split and not split_gemm(graph):
        raise SkipError("it has no Gemm to write in another way")
    fused, counts = _fused(graph)
    tidy(fused)
    model = write_model(fused, out, "fp32")
    examples = examples_of(subject, ROWS, machine.seed)
    try:
        with open_runtime(subject.model, machine) as reference, open_runtime(model, machine) as candidate:
            cases = cases_of(examples, subject.inputs)
            verification = verify(reference, candidate, cases, examples.origin, task=subject.task)
    except InputError as error:
        _removed(model)
        raise SkipError(f"onnxscript's fusions leave a model that does not run: {error}") from error
    if verification.faults:
        _removed(model)
        first = verification.faults[0]
        unfused = read_current(subject.model.path)
        place = begins(partial(of_change, unfused, fused, lambda: (first.case.batch,), differs))
        raise SkipError(f"the fused model is not the same (at {first.case.name}: {first.fault}{place})")
    said = verification_record(verification, "its input")
    records = (_record(counts, before, len(fused.graph.node)), said)
    provenance = {
        "rules": "onnxscript.rewriter.ort_fusions",
        "Gemm": "as MatMul and Add" if split else "as it is",
        "onnxscript": version("onnxscript"),
    }
    return Change(model, records, provenance)


def _removed(model: Model) -> None:
    for file in files_of(model.path):
        file.unlink()


def _fused(graph: Graph) -> tuple[Graph, dict[str, int]]:
    """The fused graph, and how often each rule fired."""
    import onnx_ir
    from onnxscript.rewriter.ort_fusions import optimize_for_ort

    with library("onnxscript's fusions"):
        fused, counts = optimize_for_ort(onnx_ir.from_proto(graph))
        return onnx_ir.to_proto(fused), {str(rule): int(count) for rule, count in counts.items() if count}


def _record(counts: dict[str, int], before: int, after: int) -> Record:
    metrics = {
        "nodes@before_fusion": Metric.exact(before, 1),
        "nodes@after_fusion": Metric.exact(after, 1, better="lower"),
    }
    if not counts:
        found = Finding(what="No transformer pattern was found, so the step changed nothing.")
        return Record("fuse", Verdict.NOTED, found.what, metrics=metrics, findings=(found,))
    rows = tuple((rule, count) for rule, count in sorted(counts.items()))
    summary = f"{sum(counts.values())} patterns were fused: {before} nodes became {after}."
    table = Table("Fusions", ("pattern", "times"), rows)
    return Record("fuse", Verdict.GOOD, summary, metrics=metrics, tables=(table,))
