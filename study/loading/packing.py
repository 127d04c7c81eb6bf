"""Rows that a recurrent layer reads packed by length, in any order."""

import inspect
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import torch
    from torch import nn
    from torch.nn.utils.rnn import PackedSequence

NAME: Final = "pack_padded_sequence"


def in_any_order(module: "nn.Module") -> "nn.Module":
    """The module, of which a batch need not begin with the longest row; changed in place, by hooks.

    ``pack_padded_sequence`` asks for that order unless it is told otherwise, and only the batches of the
    training loop had it. While the module is called, rows are brought into that order and back, so that each
    row's answer is the one that it has in a sorted batch. Lengths may lie on any device.
    """
    import torch

    places = [] if isinstance(module, torch.jit.ScriptModule) else _places(module)
    if not places:
        return module
    packing = torch.nn.utils.rnn.pack_padded_sequence

    def packed(
        input: "torch.Tensor",  # noqa: A002 - as torch calls it
        lengths: "torch.Tensor | list[int]",
        batch_first: bool = False,  # noqa: FBT001, FBT002 - as torch has it
        enforce_sorted: bool = True,  # noqa: ARG001, FBT001, FBT002
    ) -> "PackedSequence":
        counted = lengths.cpu() if isinstance(lengths, torch.Tensor) else lengths
        return packing(input, counted, batch_first, enforce_sorted=False)

    def enter(_module: "nn.Module", _inputs: object) -> None:
        for place in places:
            place[NAME] = packed

    def leave(_module: "nn.Module", _inputs: object, _outputs: object) -> None:
        for place in places:
            place[NAME] = packing

    module.register_forward_pre_hook(enter)
    module.register_forward_hook(leave, always_call=True)
    for layer in module.modules():
        if isinstance(layer, torch.nn.RNNBase):
            layer.register_forward_hook(_reads_every_step)
    return module


def _reads_every_step(layer: "nn.Module", inputs: object, outputs: Any) -> Any:
    """Let the last state of packed rows be seen to read the steps before, while a trace is taken.

    torch's TorchScript exporter fails where nothing reads the packed steps ("vector::_M_range_check", torch
    2.15), as in every classifier that takes the last state alone. What is added is zero.
    """
    import torch
    from torch.nn.utils import rnn

    del layer, inputs
    tracing = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]  # torch has no types there
    if not (tracing and isinstance(outputs[0], rnn.PackedSequence)):
        return None
    steps, _ = rnn.pad_packed_sequence(outputs[0])
    nothing = steps[:1, :, :1] * 0.0
    last = outputs[1]
    last = tuple(one + nothing for one in last) if isinstance(last, tuple) else last + nothing
    return outputs[0], last


def _places(module: "nn.Module") -> list[dict[str, Any]]:
    """The namespaces in which the code of these layers finds torch's function."""
    from torch.nn.utils import rnn

    found: list[dict[str, Any]] = []
    asked = False
    for kind in {type(layer) for layer in module.modules()}:
        for function in vars(kind).values():
            if not inspect.isfunction(function):
                continue
            names = function.__globals__
            asked |= NAME in function.__code__.co_names
            if names.get(NAME) is rnn.pack_padded_sequence and all(names is not one for one in found):
                found.append(names)
    everywhere = vars(rnn)
    return [everywhere, *(one for one in found if one is not everywhere)] if asked or found else []
