"""Modules whose layers were made narrower: the widths that a fresh module has to be given."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import torch
    from torch import nn

Width: TypeAlias = int | float | list[int]
Widths: TypeAlias = dict[str, dict[str, Width]]
"""Module name -> attribute (``in_channels``, ``num_heads``, ``normalized_shape``, …) -> its value."""


def widths_of(module: "nn.Module", skeleton: "nn.Module") -> Widths:
    """Numbers, and lists of integers, that the layers of ``module`` and of the skeleton hold differently."""
    fresh = dict(skeleton.named_modules())
    found: Widths = {}
    for name, layer in module.named_modules():
        if name in fresh:
            before = _numbers(fresh[name])
            changed = {key: value for key, value in _numbers(layer).items() if before.get(key) != value}
            if changed:
                found[name] = changed
    return found


def _numbers(layer: "nn.Module") -> dict[str, Width]:
    found: dict[str, Width] = {}
    for name, value in vars(layer).items():
        if isinstance(value, int | float) and not isinstance(value, bool):
            found[name] = value
        elif isinstance(value, list | tuple) and value and all(type(part) is int for part in value):
            found[name] = list(value)
    return found


def resize(module: "nn.Module", widths: Widths, state: "Mapping[str, torch.Tensor]") -> None:
    """Give a fresh module the widths, and parameters and buffers of the shapes and dtypes of the state."""
    import torch

    from study.loading.narrowed import adapt

    layers = dict(module.named_modules())
    for name, changed in widths.items():
        for attribute, value in changed.items():
            held = getattr(layers[name], attribute, None)
            # A tuple was saved as a list; to layers (LayerNorm) and to TorchScript the two are not the same.
            kept = type(held)(value) if isinstance(held, tuple) and isinstance(value, list) else value
            setattr(layers[name], attribute, kept)
    for name, saved in state.items():
        owner, _, last = name.rpartition(".")
        layer = layers.get(owner)
        if layer is None:
            continue
        parameter = layer._parameters.get(last)  # noqa: SLF001 - the only way to tell parameter from buffer
        if parameter is not None and parameter.shape != saved.shape:
            blank = torch.nn.Parameter(torch.empty_like(saved), requires_grad=parameter.requires_grad)
            setattr(layer, last, blank)
        elif last in layer._buffers and getattr(layer, last).shape != saved.shape:  # noqa: SLF001
            setattr(layer, last, torch.empty_like(saved))
    adapt(module)
