"""Transformer fusions for ONNX Runtime."""

from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import ClassVar, final

from export.agreement import cases_of, verification_record, verify
from export.change import Change, Pass
from export.divergence import begins, differs, of_change
from export.examples import examples_of
from export.graph import read_current, tidy
from export.onnx_file import Graph, files_of, write_model
from export.quiet import library
from study.errors import SkipError
from study.progress import Progress
from study.record import Finding, Metric, Record, Table, Verdict
from study.runtime import open_runtime
from study.subject import Machine, Subject

ROWS = 8


@final
@dataclass(frozen=True, slots=True)
class Fuse(Pass):
    """Attention and normalisation layers as single kernels."""

    takes: ClassVar[tuple[str, ...]] = ("onnx/fp32",)
    gives: ClassVar[str] = "onnx/fp32"

    def apply(self, subject: Subject, out: Path, machine: Machine, progress: Progress) -> Change:
        graph = read_current(subject.model.path)
        before = len(graph.graph.node)
        fused, counts = _fused(graph)
        tidy(fused)
        model = write_model(fused, out, "fp32")
        examples = examples_of(subject, ROWS, machine.seed)
        with open_runtime(subject.model, machine) as reference, open_runtime(model, machine) as candidate:
            cases = cases_of(examples, subject.inputs)
            verification = verify(reference, candidate, cases, examples.origin, task=subject.task)
        if verification.faults:
            for file in files_of(model.path):
                file.unlink()
            first = verification.faults[0]
            unfused = read_current(subject.model.path)
            place = begins(partial(of_change, unfused, fused, lambda: (first.case.batch,), differs))
            raise SkipError(f"the fused model is not the same (at {first.case.name}: {first.fault}{place})")
        progress.tell("fuse", 1, 1)
        said = verification_record(verification, "its input")
        records = (_record(counts, before, len(fused.graph.node)), said)
        provenance = {"rules": "onnxscript.rewriter.ort_fusions", "onnxscript": version("onnxscript")}
        return Change(model, records, provenance)


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
