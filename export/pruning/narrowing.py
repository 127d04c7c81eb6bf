"""A module made narrower in every way that we know: channels, attention heads, recurrent units."""

import copy
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from export.pruning.channels import ATTENTION, Cut, kept_of, prune
from export.pruning.heads import attentions, fewer_heads, heads_kept
from export.pruning.recurrent import fewer_units
from export.quiet import library
from study.errors import SkipError

if TYPE_CHECKING:
    import torch
    from torch import nn

PRUNED = "the pruned module (whose forward may hold sizes as numbers)"


def pruned(
    module: "nn.Module",
    example: "dict[str, torch.Tensor]",
    ratio: float,
    worth: "Mapping[str, torch.Tensor]",
) -> "tuple[nn.Module, Cut]":
    """A narrower copy; the module stays as it is. Where its forward fails, what is reshaped stays wide.

    ``worth`` says of each weight what it is worth; empty: its square.

    Raises:
        SkipError: the library cannot prune it, or what is pruned does not run.
    """
    shapes = _shapes(_run(module, example, "the module"))
    made = copy.deepcopy(module)
    cut = prune(made, example, ratio, worth)
    try:
        _same_shapes(shapes, _shapes(_run(made, example, PRUNED)))
    except SkipError:
        made = copy.deepcopy(module)
        first, cut = cut, prune(made, example, ratio, worth, keep_reshaped=True)
        if cut.left == first.left:
            raise
        _same_shapes(shapes, _shapes(_run(made, example, PRUNED)))
    made = _with_fewer_units(made, example, ratio, worth, cut)
    return _with_fewer_heads(made, example, ratio, worth, cut), cut


def _with_fewer_units(
    module: "nn.Module",
    example: "dict[str, torch.Tensor]",
    ratio: float,
    worth: "Mapping[str, torch.Tensor]",
    cut: Cut,
) -> "nn.Module":
    from torch import nn

    run = partial(_run, example=example, what=PRUNED)
    layers: list[tuple[str, Any]] = [
        (name, layer) for name, layer in module.named_modules() if isinstance(layer, nn.RNNBase)
    ]
    for name, layer in layers:
        width = layer.hidden_size
        # torch takes a layer for one without a projection where that is as wide as its units
        kept = max(kept_of(width, ratio), layer.proj_size + 1)
        if kept >= width:
            continue
        try:
            module = fewer_units(module, name, kept, run, worth)
        except SkipError as error:
            cut.left.setdefault(f"are recurrent ({error})", []).append(name)
        else:
            cut.units[name] = (width, kept)
    cells = [name for name, layer in module.named_modules() if isinstance(layer, nn.RNNCellBase)]
    if cells:
        cut.left.setdefault("are single cells of a recurrent layer", []).extend(cells)
    return module


def _with_fewer_heads(
    module: "nn.Module",
    example: "dict[str, torch.Tensor]",
    ratio: float,
    worth: "Mapping[str, torch.Tensor]",
    cut: Cut,
) -> "nn.Module":
    run = partial(_run, example=example, what=PRUNED)
    for attention in list(attentions(module, run)):
        if isinstance(attention, tuple):
            name, why = attention
            cut.left.setdefault(f"have heads ({why})", []).append(name)
            continue
        kept = heads_kept(attention.heads, ratio)
        if kept == attention.heads:
            continue
        try:
            module, left = fewer_heads(module, attention, kept, run, worth)
        except SkipError as error:
            cut.left.setdefault(f"have heads ({error})", []).append(attention.name)
        else:
            cut.heads[attention.name] = (attention.heads, left)
    alone = cut.left.get(ATTENTION, [])
    alone[:] = [name for name in alone if name.rpartition(".")[0] not in cut.heads]
    if not alone:
        cut.left.pop(ATTENTION, None)
    return module


def _run(module: "nn.Module", example: "dict[str, torch.Tensor]", what: str) -> "list[torch.Tensor]":
    """All outputs.

    Raises:
        SkipError: the module does not run.
    """
    import torch

    first, *others = example.values()
    with library(what), torch.no_grad():
        outputs = module(first, **dict(zip(list(example)[1:], others, strict=True)))
    return _leaves(outputs)


def _leaves(outputs: Any) -> "list[torch.Tensor]":
    if isinstance(outputs, dict):
        outputs = tuple(outputs.values())
    if isinstance(outputs, Sequence):
        return [leaf for one in outputs for leaf in _leaves(one)]
    return [outputs] if hasattr(outputs, "shape") else []


def _shapes(outputs: "list[torch.Tensor]") -> list[tuple[int, ...]]:
    return [tuple(tensor.shape) for tensor in outputs]


def _same_shapes(before: list[tuple[int, ...]], after: list[tuple[int, ...]]) -> None:
    if before != after:
        raise SkipError(
            f"the pruned module's outputs have the shapes {after} instead of {before}: its forward holds "
            "sizes as numbers (view(-1, 320)); write flatten(1) or -1 for them"
        )
