"""A module whose answer is a plain tuple of tensors, whatever holds them: exporters know no dataclasses."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from typing import TYPE_CHECKING, Any

from study.loading.calling import named_outputs
from study.loading.found_lists import are_found

if TYPE_CHECKING:
    import torch
    from torch import nn
    from torch.export import ExportedProgram


@contextmanager
def flat_outputs(module: "nn.Module | ExportedProgram") -> Iterator[None]:
    """Its ``forward`` gives the tensors in the order of ``named_outputs``; afterwards what it gave before.

    The module itself is changed and not wrapped: the names of its layers go into the ONNX graph. A script and
    an exported program are left as they are, for nothing but tensors comes out of them.
    """
    import torch

    if not isinstance(module, torch.nn.Module) or isinstance(module, torch.jit.ScriptModule):
        yield
        return
    own = vars(module).get("forward")
    module.forward = _flat(module.forward)
    try:
        yield
    finally:
        if own is None:
            del module.forward
        else:
            module.forward = own


def gives_lists(module: "nn.Module | ExportedProgram", tensors: "Mapping[str, torch.Tensor]") -> bool:
    """Whether a module answers with what it found in each image, as a list."""
    import torch

    if not isinstance(module, torch.nn.Module):
        return False
    first, *others = tensors
    with torch.inference_mode():
        return are_found(module(tensors[first], **{name: tensors[name] for name in others}))


def _flat(forward: Callable[..., Any]) -> Callable[..., Any]:
    import torch

    @wraps(forward)  # exporters read the signature
    def flat(*inputs: Any, **named: Any) -> Any:
        given = forward(*inputs, **named)
        if isinstance(given, torch.Tensor):
            return given
        tensors = tuple(tensor for _, tensor in named_outputs(given, ""))
        return tensors[0] if len(tensors) == 1 else tensors

    return flat
