"""Values within a model, a few at a time: of an ONNX graph, and of the torch module that it was made from."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from export.examples import Batch, named, typed
from export.graphs.cuts import Flow
from export.graphs.nodes import modules_of
from export.graphs.taps import tapped
from export.quiet import quiet
from study.runtime import Runtime, to_numpy
from study.subject import InputSpec

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from torch import nn

    from study.runtimes.pytorch import PyTorch

Read: TypeAlias = "Callable[[Batch], Mapping[str, list[NDArray[Any]]]]"
"""Of each value the arrays that it may be: a module may give several."""


class Reader(ABC):
    """Reads values of one model by the names that they have in a graph."""

    @abstractmethod
    def reading(self, values: Sequence[str]) -> "Any":
        """A context with a ``Read`` of these values; no other one is kept in memory."""


@dataclass(frozen=True, slots=True)
class GraphReader(Reader):
    """Reads from an ONNX graph, of which only the nodes before those values run."""

    flow: Flow
    inputs: tuple[InputSpec, ...]
    renamed: Mapping[str, str] = field(default_factory=dict)
    """What stands for a value in this graph, where that is another name."""

    @contextmanager
    def reading(self, values: Sequence[str]) -> Iterator[Read]:
        """A session of the part of the graph that makes these values."""
        here = {value: self.renamed.get(value, value) for value in values}
        with tapped(self.flow.until(set(here.values())), sorted(set(here.values()))) as call:

            def read(batch: Batch) -> "Mapping[str, list[NDArray[Any]]]":
                given = call(typed(named(batch, self.inputs), self.inputs))
                return {value: [given[name]] for value, name in here.items()}

            yield read


class _Enough(Exception):  # noqa: N818 - no error: all that was asked for is there
    """Ends a forward whose remaining layers nobody asks for."""


@dataclass(frozen=True, slots=True)
class ModuleReader(Reader):
    """Reads from the layers of a torch module, by hooks, and from its outputs."""

    runtime: "PyTorch"
    ends: Mapping[str, str]
    """The module that ends with a value."""

    @contextmanager
    def reading(self, values: Sequence[str]) -> Iterator[Read]:
        """Hooks on the modules that end with these values; they come off again."""
        whole = [value for value in values if value not in self.ends]
        wanted = {value: self.ends[value] for value in values if value in self.ends}
        seen: dict[str, list[torch.Tensor]] = {}

        def take(name: str) -> Callable[..., None]:
            def hook(_module: object, _inputs: object, given: object) -> None:
                seen[name] = list(_tensors(given))
                if not whole and seen.keys() >= set(wanted.values()):
                    raise _Enough

            return hook

        with ExitStack() as stack:
            for name in set(wanted.values()):
                handle = self.runtime.module.get_submodule(name).register_forward_hook(take(name))
                stack.callback(handle.remove)

            def read(batch: Batch) -> "Mapping[str, list[NDArray[Any]]]":
                seen.clear()
                outputs = _called(self.runtime, batch)
                found = {
                    value: [to_numpy(one) for one in seen.get(name, [])] for value, name in wanted.items()
                }
                return found | {value: [to_numpy(outputs[value])] for value in whole}

            yield read


def _called(runtime: Runtime, batch: Batch) -> Mapping[str, Any]:
    try:
        with quiet("a model"):
            return runtime(typed(named(batch, runtime.inputs), runtime.inputs))
    except _Enough:
        return {}


def module_ends(flow: Flow, floats: set[str], runtime: "PyTorch", row: Batch) -> dict[str, str]:
    """The values of an export that a module ends with: (value, module), as far as they can be told apart.

    A module that is called several times has several ends and is left out. What the exporter folded into the
    module before it (a BatchNorm) or left out (Dropout) has no node of its own: it is where that one ends.
    """
    inside: dict[str, set[int]] = {}
    for place, node in enumerate(flow.nodes):
        for name in modules_of(node):
            inside.setdefault(name, set()).add(place)
    calls, follows = _watched(runtime, row)
    folded = {before: name for name, before in follows.items() if name not in inside}
    readers = _readers(flow)
    ends: dict[str, str] = {}
    for name in sorted(inside, key=lambda name: name.count(".")):  # the innermost has the last word
        places = inside[name]
        made = (value for place in places for value in flow.nodes[place].output if value in floats)
        leaving = [value for value in made if readers.get(value, set()) - places]
        while name in folded:
            name = folded[name]  # noqa: PLW2901 - what is folded into it, and into that
        if len(leaving) == 1 and calls.get(name) == 1:
            ends[leaving[0]] = name
    return ends


def _readers(flow: Flow) -> dict[str, set[int]]:
    """The places of the nodes that read each value; an output of the graph is read behind the last one."""
    from export.graphs.cuts import read_by

    readers: dict[str, set[int]] = {}
    for place, node in enumerate(flow.nodes):
        for value in read_by(node):
            readers.setdefault(value, set()).add(place)
    for output in flow.graph.graph.output:
        readers.setdefault(output.name, set()).add(len(flow.nodes))
    return readers


def _watched(runtime: "PyTorch", row: Batch) -> tuple[dict[str, int], dict[str, str]]:
    """How often each module is called; and the layer whose answer a BatchNorm or Dropout was given."""
    calls: dict[str, int] = {}
    follows: dict[str, str] = {}
    last: list[tuple[str, torch.Tensor]] = []

    def before(name: str, layer: "nn.Module") -> Callable[..., None]:
        def hook(_module: object, inputs: tuple[object, ...]) -> None:
            if last and inputs and inputs[0] is last[0][1] and _hands_on(layer):
                follows[name] = last[0][0]

        return hook

    def after(name: str, *, leaf: bool) -> Callable[..., None]:
        def hook(_module: object, _inputs: object, given: object) -> None:
            calls[name] = calls.get(name, 0) + 1
            if leaf:
                last[:] = [(name, tensor) for tensor in list(_tensors(given))[:1]]

        return hook

    with ExitStack() as stack:
        for name, layer in runtime.module.named_modules():
            leaf = not any(True for _ in layer.children())
            if leaf:
                stack.callback(layer.register_forward_pre_hook(before(name, layer)).remove)
            stack.callback(layer.register_forward_hook(after(name, leaf=leaf)).remove)
        _called(runtime, row)
    return calls, follows


def _hands_on(layer: "nn.Module") -> bool:
    """Whether an exporter folds a layer into the one before it, or leaves it out."""
    from torch import nn
    from torch.nn.modules.batchnorm import _BatchNorm
    from torch.nn.modules.dropout import _DropoutNd

    return isinstance(layer, (_BatchNorm, _DropoutNd, nn.Identity))


def _tensors(given: object) -> "Iterator[torch.Tensor]":
    """The tensors in what a module gave, in order."""
    import torch

    if isinstance(given, torch.Tensor):
        yield given
    elif isinstance(given, Mapping):
        for one in given.values():
            yield from _tensors(one)
    elif isinstance(given, (tuple, list)):
        for one in given:
            yield from _tensors(one)
