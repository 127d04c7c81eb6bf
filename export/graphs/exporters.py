"""Torch's two exporters to ONNX, each with the same things asked of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from export.examples import EXAMPLE_ROWS, Axes, Examples, tensors_for, typed
from export.graphs.files import Graph
from export.graphs.flat_outputs import flat_outputs, gives_lists
from export.graphs.folding import store_recurrent_weights
from export.graphs.nodes import tidy
from export.quiet import descriptors, library
from study.errors import SkipError, few
from study.loading.found_lists import BOXES
from study.runtime import Runtime
from study.subject import Model

if TYPE_CHECKING:
    import torch
    from torch import nn
    from torch.export import ExportedProgram

BATCH_AXIS = "batch"


@dataclass(frozen=True, slots=True)
class Source:
    """What is exported: the module, the tensors of one call by input, and the names of the outputs."""

    module: "nn.Module | ExportedProgram"
    example: "dict[str, torch.Tensor]"
    outputs: tuple[str, ...]
    exporters: tuple[str, ...]
    one_by_one: bool = False
    """The module goes through its images one by one, which fixes the batch: at one, and so is the example."""

    @classmethod
    def of(cls, model: Model, reference: Runtime, examples: Examples) -> "Source":
        """The module of a model, and one call of it with a few of the example rows."""
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


def exported(source: Source, exporter: str, loose: tuple[Axes, ...]) -> Graph:
    """One export; the module is in eval mode before and after.

    Raises:
        SkipError: the exporter cannot, or left a part of the module in train mode for good.
    """
    axes: dict[str, list[int]] = {name: [0] * (not source.one_by_one) for name in source.inputs}
    for group in loose:
        for name, axis in group:
            axes[name].append(axis)
    try:
        put_in_eval(source.module, exporter)
        with library(f"torch's {exporter} exporter"), flat_outputs(source.module):
            graph = _dynamo(source, axes) if exporter == "dynamo" else _torchscript(source, axes)
    finally:
        put_in_eval(source.module, exporter)
    store_recurrent_weights(graph)
    tidy(graph)
    return graph


def put_in_eval(module: "nn.Module | ExportedProgram", exporter: str) -> None:
    """Every part of a module in eval mode.

    The TorchScript exporter puts all parts into the mode of the outermost one when it is done: a part that
    was in eval mode inside of one in train mode then drops out again in all that is measured afterwards.

    Raises:
        SkipError: a part stays in train mode.
    """
    import torch

    if isinstance(module, torch.nn.Module):
        module.eval()
        training = [name for name, part in module.named_modules() if part.training]
        if training:
            raise SkipError(f"{few(training)} stayed in train mode around torch's {exporter} exporter")


def _dynamo(source: Source, axes: Mapping[str, list[int]]) -> Graph:
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


def _torchscript(source: Source, axes: Mapping[str, list[int]]) -> Graph:
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
