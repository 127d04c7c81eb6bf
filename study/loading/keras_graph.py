"""A model of Keras as a torch module whose layers have names, weights and hooks as torch's own have.

Keras calls its layers past ``nn.Module.__call__`` and keeps their weights in one flat dictionary. Here the
graph of the model is walked layer by layer: what torch has too is a layer of torch, with axes turned around
it; all else is Keras' own layer.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from study.loading.keras_config import parameter_name
from study.loading.keras_layers import Around, graph_of, masks, translated


class Kept(nn.Module):
    """One layer of Keras; its weights lie in here, under its own names."""

    layer: Any

    def __init__(self, layer: Any) -> None:
        super().__init__()
        object.__setattr__(self, "layer", layer)  # no child of torch's: its weights would be found twice
        for variable in layer.variables:
            if variable.value.is_floating_point():
                # Parameters even where they are not learnt: a buffer is another tensor after a move.
                self.register_parameter(_tail(variable.path, layer.name), variable.value)

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """What the layer gives, in the mode that this module is in."""
        if "training" in self.layer._call_context_args:  # noqa: SLF001 - as Keras' own walk asks
            named["training"] = self.training
        return self.layer(*inputs, **named)


class KerasModule(nn.Module):
    """A functional or sequential model; one of another kind (a subclass) is a single kept layer.

    ``load`` gives the model anew, for copies: Keras copies a model by saving it.
    """

    model: Any
    names: tuple[str, ...]
    """The parameters of ``forward``."""

    def __init__(self, model: Any, load: Callable[[], Any]) -> None:
        super().__init__()
        object.__setattr__(self, "model", model)
        self.load = load
        self.around: dict[str, tuple[str, Around | None]] = {}
        graph = graph_of(model)
        if graph is None:
            self.add_module(_free(self, model.name), Kept(model))
            return
        plain = not any(masks(layer) for layer in model._flatten_layers())  # noqa: SLF001
        for operation in graph.operations:
            self._add(operation, plain=plain)

    def _add(self, operation: Any, *, plain: bool) -> None:
        """A child for a layer; inputs and operations (``x + y``) need none."""
        from keras import layers

        if not isinstance(operation, layers.Layer) or isinstance(operation, layers.InputLayer):
            return
        name, around = _free(self, operation.name), None
        if plain and graph_of(operation) is not None:
            child: nn.Module = module_of(operation, lambda: operation)
        elif plain and (found := translated(operation)) is not None:
            child, around = found
        else:
            child = Kept(operation)
        self.around[operation.name] = (name, around)
        self.add_module(name, child)

    def answers(self, tensors: Sequence[Tensor]) -> Any:
        """The outputs for the inputs in order: one, or several under their own names."""
        import keras

        graph = graph_of(self.model)
        with keras.device(str(tensors[0].device)):
            if graph is None:
                (child,) = self.children()
                return child(tensors[0] if len(tensors) == 1 else list(tensors))
            given = graph._adjust_input_rank(graph._convert_inputs_to_tensors(list(tensors)))  # noqa: SLF001
            outputs = graph._run_through_graph(given, operation_fn=self._step)  # noqa: SLF001
        if not isinstance(outputs, list | tuple):
            return outputs
        return outputs[0] if len(outputs) == 1 else dict(zip(graph.output_names, outputs, strict=True))

    def _step(self, operation: Any) -> Callable[..., Any]:
        if operation.name not in self.around:
            return cast("Callable[..., Any]", operation)
        name, around = self.around[operation.name]
        child = self.get_submodule(name)
        return child if around is None else lambda rows, **_: around(child, rows)

    def __deepcopy__(self, memo: dict[int, Any]) -> "KerasModule":
        copied = module_of(self.load(), self.load, self.names)
        copied.load_state_dict(self.state_dict())
        copied.train(self.training)
        for mine, other in zip(self.parameters(), copied.parameters(), strict=True):
            other.requires_grad_(mine.requires_grad)
        device = next((parameter.device for parameter in self.parameters()), torch.device("cpu"))
        memo[id(self)] = copied
        return copied.to(device)


def module_of(model: Any, load: Callable[[], Any], names: Sequence[str] = ()) -> KerasModule:
    """The module of a model; ``forward`` has a parameter for each of its inputs, as torch's exporters ask."""
    graph = graph_of(model)
    names = tuple(names) or tuple(parameter_name(one.name) for one in graph.inputs if graph is not None)
    signature = inspect.Signature(
        [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in names]
    )
    module = KerasModule(model, load)
    module.names = tuple(names)

    def forward(*given: Any, **named: Any) -> Any:
        named.pop("mask", None)  # which Keras hands to a model inside a model: here it is None
        bound = signature.bind(*_flat(given), **named).arguments
        return module.answers([bound[name] for name in names])

    # On the instance: whoever wraps a bound method (functools.wraps) would take over a signature with self.
    forward.__signature__ = signature  # type: ignore[attr-defined]
    module.forward = forward
    return module


def _flat(given: Sequence[Any]) -> list[Any]:
    """A model inside a model may be called with a list or a dictionary of tensors."""
    from keras import tree

    return list(tree.flatten(list(given)))


def _tail(path: str, layer: str) -> str:
    """``lstm/lstm_cell/kernel`` in the layer ``lstm`` as ``lstm_cell/kernel``."""
    parts = path.split("/")
    inside = parts[parts.index(layer) + 1 :] if layer in parts else parts[-1:]
    return "/".join(inside).replace(".", "_")


def _free(module: nn.Module, name: str) -> str:
    """A name that a child may have: no dots in it, and none that the module uses itself."""
    name = name.replace(".", "_")
    while hasattr(module, name):
        name += "_"
    return name
