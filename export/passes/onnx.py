"""PyTorch to ONNX, and the proof that it is the same model."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import ClassVar, final

from export.change import Change, Pass
from export.examples import Axes, Examples, examples_of, free_axes
from export.generation.with_past import added
from export.graphs.exporters import Source, exported
from export.graphs.files import write_model
from export.graphs.output_axes import free_outputs
from export.refusals import RefusalError
from export.verification.agreement import Case, Verification, cases_of, verification_record, verify
from export.verification.divergence import begins, of_export
from study.errors import SkipError
from study.progress import Progress
from study.record import Finding, Verdict
from study.runtime import Runtime, open_runtime
from study.subject import Machine, Model, Subject

ROWS = 8
MORE_ROWS = 32


@final
@dataclass(frozen=True, slots=True)
class Onnx(Pass):
    """Exported to ONNX, verified."""

    takes: ClassVar[tuple[str, ...]] = ("pytorch/fp32", "torchscript/fp32", "exported/fp32")
    gives: ClassVar[str] = "onnx/fp32"

    def apply(self, subject: Subject, out: Path, machine: Machine, progress: Progress) -> Change:
        if subject.model.artifact == "torchscript/int8":
            raise SkipError(
                "its layers are quantized in TorchScript already, and no exporter of torch reads their "
                "packed weights: export the float model, and quantize that"
            )
        machine = replace(machine, device="cpu", provider="")
        examples = examples_of(subject, ROWS, machine.seed)
        out.mkdir(parents=True, exist_ok=True)
        reasons: list[SkipError] = []
        with open_runtime(subject.model, machine) as reference:
            source = Source.of(subject.model, reference, examples)
            # an older exporter that leaves every axis free is better than a newer one that fixes a length
            fixing = (False, True) if free_axes(subject.inputs, examples.batch) else (False,)
            for may_fix, exporter in product(fixing, source.exporters):
                progress.tell(f"export to ONNX with {exporter}", 0, 1)
                try:
                    change = _attempt(
                        source, exporter, subject, reference, examples, out, reasons, may_fix=may_fix
                    )
                except SkipError as error:
                    reasons.append(error)
                else:
                    progress.tell(f"export to ONNX with {exporter}", 1, 1)
                    return added(change, source.module, subject, reference, examples.batch, out)
        told = _told(reasons)
        if any(isinstance(error, RefusalError) for error in reasons) and len(source.exporters) > 1:
            told += "; torch's other exporter does no better"
        raise SkipError(told)


def _told(reasons: list[SkipError]) -> str:
    """The lines of the model that no exporter can follow, if any; else all that the exporters said."""
    refusals = [error for error in reasons if isinstance(error, RefusalError)]
    return "; ".join(dict.fromkeys(str(error) for error in (refusals[:1] or reasons)))


def _attempt(
    source: Source,
    exporter: str,
    subject: Subject,
    reference: Runtime,
    examples: Examples,
    out: Path,
    before: list[SkipError],
    *,
    may_fix: bool,
) -> Change:
    """Export with every free axis free; what turns out wrong is refused, or fixed at the example's size.

    ``before`` is why other exporters could not. Where the reason is a decision by numbers, this one keeps the
    way that the example went, so it is compared on more rows.

    Raises:
        SkipError: the library cannot, or what it made computes something else.
    """
    free = free_axes(subject.inputs, examples.batch)
    fixed: dict[Axes, str] = {}
    while True:
        loose = tuple(axes for axes in free if axes not in fixed)
        try:
            graph = exported(source, exporter, loose)
        except SkipError as error:
            if not loose or not may_fix:
                raise
            fixed = dict.fromkeys(free, str(error))
            continue
        freed = free_outputs(graph, reference, examples, loose)
        with tempfile.TemporaryDirectory(dir=out, prefix=".export-") as folder:
            model = write_model(graph, Path(folder), "fp32")
            del graph  # its tensors are in the file now
            with open_runtime(model, reference.machine) as candidate:
                cases = cases_of(examples, subject.inputs, tuple(fixed))
                if any(isinstance(error, RefusalError) for error in before):
                    more = examples_of(subject, MORE_ROWS, reference.machine.seed)
                    cases.append(Case(f"batch={more.rows}", more.batch))
                verification = verify(reference, candidate, cases, examples.origin, task=subject.task)
            wrong = {one.case.axes: one for one in verification.faults if one.case.axes in loose}
            if not verification.faults:
                alone = {tuple((name, 0) for name in source.inputs): ""} if source.one_by_one else {}
                made = _Made(exporter, alone | fixed, freed, examples, _told(before))
                return made.change(_moved(model, out), verification)
            first = verification.faults[0]
            place = (
                begins(partial(of_export, model, reference, first.case.batch)) if may_fix or not free else ""
            )
        if not may_fix or not wrong or any(not one.case.axes for one in verification.faults):
            raise SkipError(
                f"the {exporter} export is not the same model (at {first.case.name}: {first.fault}{place}), "
                "so it was not kept"
            )
        fixed |= {axes: f"At {one.case.name} {one.fault}{place}." for axes, one in wrong.items()}


def _moved(model: Model, out: Path) -> Model:
    """The verified files in their place, the tensors' file first."""
    for file in sorted(model.path.parent.iterdir(), reverse=True):
        file.replace(out / file.name)
    return replace(model, path=out / model.path.name)


@dataclass(frozen=True, slots=True)
class _Made:
    """How an export was made: the input axes that it fixes, and the output axes that torch had fixed."""

    exporter: str
    fixed: Mapping[Axes, str]
    """With the reason."""
    freed: tuple[str, ...]
    examples: Examples
    instead: str
    """Why no other exporter was used."""

    def change(self, model: Model, verification: Verification) -> Change:
        record = verification_record(verification, "the PyTorch model")
        findings = [*record.findings, *(_fixed(*one, self.examples) for one in self.fixed.items())]
        if self.exporter == "torchscript":
            what = "Exported by the TorchScript exporter, which torch no longer develops."
            do = "Correct that line: what it decides, the export decides as it did for the example."
            findings.append(Finding(what, cause=self.instead, do=do if " line " in self.instead else ""))
        if findings:
            record = replace(record, verdict=Verdict.NOTED, findings=tuple(findings))
        return Change(model, (record,), self.provenance())

    def provenance(self) -> dict[str, str]:
        fixed = ", ".join(f"{name}.{axis}" for group in self.fixed for name, axis in group)
        return {
            "exporter": self.exporter,
            "verified on": self.examples.origin,
            "fixed axes": fixed or "none",
            "output axes that torch had fixed": ", ".join(self.freed) or "none",
            **{package: version(package) for package in ("torch", "onnx", "onnxscript")},
        }


def _fixed(axes: Axes, cause: str, examples: Examples) -> Finding:
    name, axis = axes[0]
    if not axis:
        return Finding(
            what="The batch is fixed at one image: the model goes through its images one by one.",
            where=name,
            do="Feed one image at a time, or write the model so that it answers for all images at once.",
        )
    size = examples.batch[name].shape[axis]
    return Finding(
        what=f"Axis {axis} of the input '{name}' is fixed at {size}: with that axis free, "
        "torch's export computes something else, or fails.",
        where=name,
        cause=cause,
        do="Feed this size only, or write the layer that depends on it so that it can be exported.",
    )
