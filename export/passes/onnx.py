"""PyTorch to ONNX, and the proof that it is the same model."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, final

from export.agreement import Verification, cases_of, verification_record, verify
from export.change import Change, Pass
from export.examples import EXAMPLE_ROWS, Axes, Examples, examples_of, free_axes, tensors_for, typed
from export.flat_outputs import flat_outputs, gives_lists
from export.graph import tidy
from export.onnx_file import Graph, write_model
from export.output_axes import free_outputs
from export.quiet import descriptors, library
from export.with_past import added
from study.errors import SkipError
from study.loading.found_lists import BOXES
from study.progress import Progress
from study.record import Finding, Verdict
from study.runtime import Runtime, open_runtime
from study.subject import Machine, Model, Subject

if TYPE_CHECKING:
    import torch
    from torch import nn
    from torch.export import ExportedProgram

BATCH_AXIS = "batch"
ROWS = 8


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
        reasons: list[str] = []
        with open_runtime(subject.model, machine) as reference:
            source = _Source.of(subject.model, reference, examples)
            # an older exporter that leaves every axis free is better than a newer one that fixes a length
            fixing = (False, True) if free_axes(subject.inputs, examples.batch) else (False,)
            for may_fix, exporter in product(fixing, source.exporters):
                progress.tell(f"export to ONNX with {exporter}", 0, 1)
                try:
                    change = _attempt(source, exporter, subject, reference, examples, out, may_fix=may_fix)
                except SkipError as error:
                    reasons.append(str(error))
                else:
                    progress.tell(f"export to ONNX with {exporter}", 1, 1)
                    return added(change, source.module, subject, reference, examples.batch, out)
        raise SkipError("; ".join(dict.fromkeys(reasons)))


@dataclass(frozen=True, slots=True)
class _Source:
    """What is exported: the module, the tensors of one call by input, and the names of the outputs."""

    module: "nn.Module | ExportedProgram"
    example: "dict[str, torch.Tensor]"
    outputs: tuple[str, ...]
    exporters: tuple[str, ...]
    one_by_one: bool = False
    """The module goes through its images one by one, which fixes the batch: at one, and so is the example."""

    @classmethod
    def of(cls, model: Model, reference: Runtime, examples: Examples) -> "_Source":
        from study.loading import load_module
        from study.loading.bags import without_bags
        from study.loading.exported import load_program

        if model.format == "exported":
            module: nn.Module | ExportedProgram = load_program(model)
        else:
            module = without_bags(load_module(model)) if model.format == "pytorch" else load_module(model)
        example = typed(examples.take(EXAMPLE_ROWS), reference.inputs)
        outputs = tuple(reference(example))
        tensors = tensors_for(module, reference.inputs, example)
        exporters = ("torchscript",) if model.format == "torchscript" else ("dynamo", "torchscript")
        if model.format == "exported":
            exporters = ("dynamo",)
        boxes = any(name.endswith(BOXES) for name in outputs)
        if boxes and model.format == "pytorch" and gives_lists(module, tensors):
            first = {name: tensor[:1] for name, tensor in tensors.items()}
            return cls(module, first, outputs, exporters, one_by_one=True)
        return cls(module, tensors, outputs, exporters)

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of the inputs, in order."""
        return tuple(self.example)

    @property
    def call(self) -> "tuple[tuple[torch.Tensor], dict[str, torch.Tensor]]":
        """The first by position, the others by name."""
        first, *others = self.inputs
        return (self.example[first],), {name: self.example[name] for name in others}


def _attempt(
    source: _Source,
    exporter: str,
    subject: Subject,
    reference: Runtime,
    examples: Examples,
    out: Path,
    *,
    may_fix: bool,
) -> Change:
    """Export with every free axis free; what turns out wrong is refused, or fixed at the example's size.

    Raises:
        SkipError: the library cannot, or what it made computes something else.
    """
    free = free_axes(subject.inputs, examples.batch)
    fixed: tuple[Axes, ...] = ()
    while True:
        loose = tuple(axes for axes in free if axes not in fixed)
        try:
            graph = _export(source, exporter, loose)
        except SkipError:
            if not loose or not may_fix:
                raise
            fixed = free
            continue
        free_outputs(graph, reference, examples, loose)
        with tempfile.TemporaryDirectory(dir=out, prefix=".export-") as folder:
            model = write_model(graph, Path(folder), "fp32")
            del graph  # its tensors are in the file now
            with open_runtime(model, reference.machine) as candidate:
                cases = cases_of(examples, subject.inputs, fixed)
                verification = verify(reference, candidate, cases, examples.origin, task=subject.task)
            wrong = tuple(axes for axes in loose if axes in {one.case.axes for one in verification.faults})
            if not verification.faults:
                alone = (tuple((name, 0) for name in source.inputs),) if source.one_by_one else ()
                return _change(_moved(model, out), verification, exporter, (*alone, *fixed), examples)
        if not may_fix or not wrong or any(not one.case.axes for one in verification.faults):
            first = verification.faults[0]
            raise SkipError(
                f"the {exporter} export is not the same model (at {first.case.name}: {first.fault}), "
                "so it was not kept"
            )
        fixed += wrong


def _moved(model: Model, out: Path) -> Model:
    """The verified files in their place, the tensors' file first."""
    for file in sorted(model.path.parent.iterdir(), reverse=True):
        file.replace(out / file.name)
    return replace(model, path=out / model.path.name)


def _export(source: _Source, exporter: str, loose: tuple[Axes, ...]) -> Graph:
    """One export; the module is in eval mode before and after."""
    import torch

    axes: dict[str, list[int]] = {name: [0] * (not source.one_by_one) for name in source.inputs}
    for group in loose:
        for name, axis in group:
            axes[name].append(axis)
    try:
        with library(f"torch's {exporter} exporter"), flat_outputs(source.module):
            graph = _dynamo(source, axes) if exporter == "dynamo" else _torchscript(source, axes)
    finally:
        if isinstance(source.module, torch.nn.Module):
            source.module.eval()  # the TorchScript exporter restores the mode of the outermost module alone
    tidy(graph)
    return graph


def _dynamo(source: _Source, axes: Mapping[str, list[int]]) -> Graph:
    import onnx_ir
    import torch

    # AUTO, not named dimensions: those work once per process for a model with an LSTM or GRU (torch 2.13)
    shapes = tuple(dict.fromkeys(axes[name], torch.export.Dim.AUTO) for name in source.inputs)
    arguments, named = source.call
    program = torch.onnx.export(
        source.module,
        arguments,
        kwargs=named or None,
        dynamo=True,
        dynamic_shapes=dict(zip(source.inputs, shapes, strict=True)) if named else shapes,
        input_names=list(source.inputs),
        output_names=list(source.outputs),
        verbose=False,
    )
    assert program is not None
    names: dict[str, str] = {}
    for value in program.model.graph.inputs:
        for axis, size in enumerate(value.shape or ()):
            if isinstance(size, onnx_ir.SymbolicDim) and size.value is not None:
                names.setdefault(size.value, f"{value.name}_{axis}" if axis else BATCH_AXIS)
    program.rename_axes(dict(names))
    return onnx_ir.to_proto(program.model)


def _torchscript(source: _Source, axes: Mapping[str, list[int]]) -> Graph:
    import io

    import onnx
    import torch

    arguments, named = source.call
    written = io.BytesIO()
    free = {
        name: {axis: f"{name}_{axis}" if axis else BATCH_AXIS for axis in which}
        for name, which in axes.items()
    }
    of_outputs = {name: {0: BATCH_AXIS} for name in source.outputs}
    with descriptors("torch's TorchScript exporter"):
        torch.onnx.export(
            source.module,
            (*arguments, named) if named else arguments,
            written,  # type: ignore[arg-type]  # the TorchScript exporter writes to streams, its annotation omits it
            dynamo=False,
            input_names=list(source.inputs),
            output_names=list(source.outputs),
            dynamic_axes={**free, **({} if source.one_by_one else of_outputs)},
        )
    return onnx.load_from_string(written.getvalue())


def _change(
    model: Model, verification: Verification, exporter: str, fixed: tuple[Axes, ...], examples: Examples
) -> Change:
    record = verification_record(verification, "the PyTorch model")
    findings = [*record.findings, *(_fixed(group, examples) for group in fixed)]
    if exporter == "torchscript":
        findings.append(Finding(what="Exported by the TorchScript exporter, which torch no longer develops."))
    if findings:
        record = replace(record, verdict=Verdict.NOTED, findings=tuple(findings))
    return Change(model, (record,), _provenance(exporter, fixed, examples))


def _fixed(axes: Axes, examples: Examples) -> Finding:
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
        do="Feed this size only, or write the layer that depends on it so that it can be exported.",
    )


def _provenance(exporter: str, fixed: tuple[Axes, ...], examples: Examples) -> dict[str, str]:
    return {
        "exporter": exporter,
        "verified on": examples.origin,
        "fixed axes": ", ".join(f"{name}.{axis}" for group in fixed for name, axis in group) or "none",
        **{package: version(package) for package in ("torch", "onnx", "onnxscript")},
    }
