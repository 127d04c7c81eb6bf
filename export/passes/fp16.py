"""Half precision."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, final

import numpy as np

from export.change import Change, Pass
from export.examples import examples_of, fitting, named, typed
from export.graphs.files import Graph, copied, write_model
from export.graphs.layers import FLOATS
from export.graphs.nodes import array_of, read_current, sort_nodes, tidy
from export.quantization.calibration import MASKED, magnitudes
from export.quantization.half import around, half_record, straighten
from export.quiet import library
from export.verification.agreement import Verification, cases_of, verification_record, verify
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
        sizes = {name: array[:1].shape for name, array in batch.items()}
        weights = _cut_off(graph)
        beyond = {name: size for name, size in magnitudes(graph, rows).items() if not size <= LARGEST}
        kept = around(graph, {*weights, *beyond})
        with library("onnxruntime's float16 converter"):
            from onnxruntime.transformers.float16 import convert_float_to_float16

            halved = convert_float_to_float16(copied(graph), keep_io_types=True, node_block_list=kept)
        straighten(halved)
        tidy(halved)
        sort_nodes(halved)
        model = write_model(halved, out, "fp16")
        with open_runtime(subject.model, machine) as reference, open_runtime(model, machine) as candidate:
            cases = cases_of(examples, subject.inputs)
            verification = verify(
                reference, candidate, cases, examples.origin, precision="fp16", task=subject.task
            )
        progress.tell("half precision", 1, 1)
        findings = (*_wide_weights(weights), *_overflowing(beyond, examples.origin))
        record = _record(verification, findings)
        audit = half_record(graph, model.path, halved, sizes)
        provenance = {"keep_io_types": "true", "onnxruntime": str(onnxruntime.__version__)}
        return Change(model, (record, audit), {**provenance, "left in float": ", ".join(kept)})


def _cut_off(graph: Graph) -> dict[str, int]:
    """The weights beyond the range of half precision, and how many of their numbers are."""
    counts = {}
    for tensor in graph.graph.initializer:
        if tensor.data_type in FLOATS:
            sizes = np.abs(array_of(tensor).astype(np.float64))
            counts[tensor.name] = int(((sizes > LARGEST) & (sizes < MASKED)).sum())
    return {name: count for name, count in counts.items() if count}


def _wide_weights(weights: Mapping[str, int]) -> tuple[Finding, ...]:
    if not weights:
        return ()
    return (
        Finding(
            what=f"Weights beyond ±{LARGEST:.0f}: {sum(weights.values())}; their layers stay in float.",
            where=few(weights),
            cause="half precision would cut them off there",
        ),
    )


def _overflowing(beyond: Mapping[str, float], origin: str) -> tuple[Finding, ...]:
    """The activations that half precision cannot hold, by what was seen of the float model."""
    if not beyond:
        return ()
    largest_first = sorted(beyond.items(), key=lambda item: (-item[1], item[0]))
    return (
        Finding(
            what=f"Activations that reach beyond ±{LARGEST:.0f} on {origin}: {len(beyond)}; "
            "the layers around them stay in float.",
            where=few(name for name, _ in largest_first),
            cause="they would overflow on hardware that computes in half precision",
        ),
    )


def _record(verification: Verification, kept: tuple[Finding, ...]) -> Record:
    """BAD where outputs overflow; what stays in float, and how far it is off, are worth knowing."""
    record = verification_record(verification, "its input")
    findings = (*kept, *record.findings)
    if any(not one.error for one in verification.faults):
        return replace(record, verdict=Verdict.BAD, findings=findings)
    verdict = Verdict.NOTED if verification.faults or kept else record.verdict
    return replace(record, verdict=verdict, findings=findings)
