"""How a torch module is called: the names of its inputs, and of what comes out."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from study.loading.exported import load_program
from study.loading.found_lists import are_found, padded
from study.subject import InputSpec, Model

if TYPE_CHECKING:
    import torch
    from torch import nn

Call: TypeAlias = "Callable[[Mapping[str, torch.Tensor]], Any]"


@dataclass(frozen=True, slots=True)
class Signature:
    """How a module is called."""

    inputs: tuple[InputSpec, ...]
    optional: tuple[str, ...] | None
    """Names that may be given too; None where any may."""
    call: Call


def of_module(module: "nn.Module", runs: Callable[..., Any] | None = None) -> Signature:
    """By the parameters of ``forward``: those without a default are needed.

    ``runs`` is called in the module's place (what torch.compile made of it).
    """
    try:
        parameters = list(inspect.signature(module.forward).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    plain = [p for p in parameters if p.kind in positional or p.kind is inspect.Parameter.KEYWORD_ONLY]
    needed = [p.name for p in plain if p.default is inspect.Parameter.empty]
    open_ended = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)
    optional = None if open_ended else tuple(p.name for p in plain if p.name not in needed)
    needed = needed or [plain[0].name if plain else "input"]
    first = plain[0].name if plain and plain[0].kind in positional else "" if plain else needed[0]

    def call(batch: Mapping[str, "torch.Tensor"]) -> Any:
        named = dict(batch)
        # The first goes by position: forward(self, *args) and positional-only parameters have no name.
        leading = (named.pop(first),) if first in named else ()
        return runner(*leading, **named)

    runner = runs or module
    return Signature(tuple(InputSpec(name) for name in needed), optional, call)


def of_script(module: "nn.Module") -> Signature:
    """By the schema of the script's ``forward``."""
    forward: Any = module.forward
    arguments = forward.schema.arguments[1:]  # the first is the script itself
    needed = [a.name for a in arguments if not a.has_default_value()] or [a.name for a in arguments[:1]]
    optional = tuple(a.name for a in arguments if a.name not in needed)
    return Signature(tuple(InputSpec(name) for name in needed), optional, lambda batch: module(**batch))


def of_program(model: Model, device: "torch.device") -> tuple["nn.Module", Signature]:
    """By the placeholders of the graph, with their shapes and dtypes."""
    import torch
    from torch.export.passes import move_to_device_pass
    from torch.utils._pytree import tree_unflatten

    program = load_program(model)
    if device.type != "cpu":
        program = move_to_device_pass(program, device)
    module, tree = program.module(), program.call_spec.in_spec
    assert tree is not None
    nodes = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    # A constant argument (None, a number) stands there itself instead of a name.
    leaves: list[tuple[str, Any]] = [
        (str(leaf), nodes[str(leaf)].meta["val"]) if str(leaf) in nodes else ("", leaf)
        for leaf in program.graph_signature.user_inputs
    ]
    specs = tuple(
        InputSpec(
            name,
            tuple(_known(size) for size in value.shape),
            str(value.dtype).removeprefix("torch."),
        )
        for name, value in leaves
        if isinstance(value, torch.Tensor)
    )

    def call(batch: Mapping[str, "torch.Tensor"]) -> Any:
        arguments, named = tree_unflatten([batch.get(name, value) for name, value in leaves], tree)
        return module(*arguments, **named)

    return module, Signature(specs, (), call)


def _known(size: object) -> int | None:
    """A symbolic size is any size."""
    return size if isinstance(size, int) else None


def named_outputs(value: Any, name: str) -> Iterator[tuple[str, "torch.Tensor"]]:
    """Tensors with names: keys and fields as they are, places in tuples ``output_0``, one ``output``.

    What was found in each image, as lists of any length, comes as arrays that are filled up.
    """
    import torch

    if isinstance(value, torch.Tensor):
        yield name or "output", value
    elif isinstance(value, Mapping):
        for key, part in value.items():
            yield from named_outputs(part, f"{name}_{key}" if name else str(key))
    elif is_dataclass(value):
        for slot in fields(value):
            yield from named_outputs(getattr(value, slot.name), f"{name}_{slot.name}" if name else slot.name)
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        yield from named_outputs(dict(zip(value._fields, value, strict=True)), name)
    elif are_found(value):
        yield from named_outputs(padded(value), name)
    elif isinstance(value, tuple | list):
        for at, part in enumerate(value):
            yield from named_outputs(part, f"{name or 'output'}_{at}")
