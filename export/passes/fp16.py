"""Half precision."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, final

import numpy as np

from export.agreement import Verification, cases_of, verification_record, verify
from export.calibration import MASKED, fitting, magnitudes
from export.change import Change, Pass
from export.examples import examples_of, named, typed
from export.graph import array_of, read_current, sort_nodes, tidy
from export.layers import FLOATS
from export.onnx_file import Graph, write_model
from export.quiet import library
from study.errors import few
from study.progress import Progress
from study.record import Finding, Record, Verdict
from study.runtime import open_runtime
from study.subject import Machine, Subject

ROWS = 64
LARGEST = 65504.0
"""The largest number of half precision."""


@final
@dataclass(frozen=True, slots=True)
class Fp16(Pass):
    """Weights and activations in half precision; inputs and outputs stay as they are."""

    takes: ClassVar[tuple[str, ...]] = ("onnx/fp32",)
    gives: ClassVar[str] = "onnx/fp16"

    def apply(self, subject: Subject, out: Path, machine: Machine, progress: Progress) -> Change:
        import onnxruntime

        graph = read_current(subject.model.path)
        tidy(graph)
        examples = examples_of(subject, ROWS, machine.seed)
        with open_runtime(subject.model, machine) as reference:
            batch = typed(named(examples.batch, reference.inputs), reference.inputs)
            rows = list(fitting(batch, reference.inputs))
        overflowing = (*_cut_off(graph), *_overflowing(magnitudes(graph, rows), examples.origin))
        with library("onnxruntime's float16 converter"):
            from onnxruntime.transformers.float16 import convert_float_to_float16

            halved = convert_float_to_float16(graph, keep_io_types=True)
        tidy(halved)
        sort_nodes(halved)
        model = write_model(halved, out, "fp16")
        with open_runtime(subject.model, machine) as reference, open_runtime(model, machine) as candidate:
            cases = cases_of(examples, subject.inputs)
            verification = verify(
                reference, candidate, cases, examples.origin, precision="fp16", task=subject.task
            )
        progress.tell("half precision", 1, 1)
        record = _record(verification, overflowing)
        provenance = {"keep_io_types": "true", "onnxruntime": str(onnxruntime.__version__)}
        return Change(model, (record,), provenance)


def _cut_off(graph: Graph) -> tuple[Finding, ...]:
    """The weights beyond the range of half precision, which the converter cuts off."""
    findings = []
    for tensor in graph.graph.initializer:
        if tensor.data_type not in FLOATS:
            continue
        sizes = np.abs(array_of(tensor).astype(np.float64))
        beyond = int(((sizes > LARGEST) & (sizes < MASKED)).sum())
        if beyond:
            findings.append(
                Finding(
                    what=f"Weights beyond ±{LARGEST:.0f}, which were cut off there: {beyond}.",
                    where=tensor.name,
                    do="Keep this layer in float, or leave out fp16.",
                )
            )
    return tuple(findings)


def _overflowing(magnitudes: Mapping[str, float], origin: str) -> tuple[Finding, ...]:
    """The activations that half precision cannot hold.

    On a CPU onnxruntime computes most of a half-precision graph in float, so no output shows it there.
    """
    beyond = {name: size for name, size in magnitudes.items() if not size <= LARGEST}
    largest_first = sorted(beyond.items(), key=lambda item: (-item[1], item[0]))
    if not beyond:
        return ()
    return (
        Finding(
            what=f"Activations that reach beyond ±{LARGEST:.0f} on {origin}: {len(beyond)}; "
            "they overflow on hardware that computes in half precision.",
            where=few(name for name, _ in largest_first),
            do="Keep these layers in float, or leave out fp16.",
        ),
    )


def _record(verification: Verification, overflowing: tuple[Finding, ...]) -> Record:
    """BAD where outputs overflow or a weight was cut off; differences of half precision are worth knowing."""
    record = verification_record(verification, "its input")
    broken = [one for one in verification.faults if not one.error]
    findings = (*overflowing, *record.findings)
    if overflowing or broken:
        return replace(record, verdict=Verdict.BAD, findings=findings)
    verdict = Verdict.NOTED if verification.faults else record.verdict
    return replace(record, verdict=verdict, findings=findings)
