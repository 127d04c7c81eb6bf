"""Structured pruning by the dependency graph, and what it must leave alone."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from export.quiet import library
from study.errors import SkipError

if TYPE_CHECKING:
    import torch
    from torch import nn

MULTIPLES = (16, 8, 4)
"""Channels that kernels take at once. As measured with ONNX Runtime 1.31 under AVX-512, a convolution of 72
channels takes as long as one of 80, one of 88 as 96, and 66 longer than 68; other layers do not mind."""
CLOSE = 8
"""A width may be moved by an eighth to be such a multiple."""
ATTENTION = "share their width with attention heads"
HEAD_ATTRIBUTES = ("num_heads", "n_heads", "nhead", "num_attention_heads")


@dataclass(slots=True)
class Cut:
    """What is pruned (layer -> width before and after), and what is left alone (reason -> layers)."""

    widths: dict[str, tuple[int, int]] = field(default_factory=dict)
    left: dict[str, list[str]] = field(default_factory=dict)
    units: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Of recurrent layers, in each layer and direction."""
    heads: dict[str, tuple[int, list[int]]] = field(default_factory=dict)
    """How many there were, and the places of those that are left."""


def kept_of(width: int, ratio: float) -> int:
    """How many channels stay: the nearest multiple of 16, 8 or 4 that is close; at least one, never all."""
    target = width * (1 - ratio)
    for multiple in MULTIPLES:
        nearest = multiple * round(target / multiple)
        if 0 < nearest < width and abs(nearest - target) <= width / CLOSE:
            return nearest
    return min(max(round(target), 1), width - 1) if width > 1 else width


def prune(
    module: "nn.Module",
    example: "dict[str, torch.Tensor]",
    ratio: float,
    worth: "Mapping[str, torch.Tensor]",
    *,
    keep_reshaped: bool = False,
) -> Cut:
    """Take the weakest channels out of convolutions and linear layers, in place.

    ``worth`` says of each weight what it is worth; empty: its square (the group's L2 norm).

    DepGraph (Fang et al. 2023, arXiv 2301.12900): channels that depend on each other go together. The
    model's outputs, recurrent layers and attention heads keep their widths here, and so does what feeds them;
    with ``keep_reshaped`` also what is reshaped, for a ``forward`` that says to what size in numbers.

    Raises:
        SkipError: the library cannot trace or prune the module.
    """
    import torch
    import torch_pruning as tp
    from torch import nn

    from export.pruning.stand_in import recurrence_in_one_step

    roots = [nn.modules.conv._ConvNd, nn.Linear]  # noqa: SLF001 -- the name torch-pruning's own default has
    given = example if len(example) > 1 else tuple(example.values())
    for parameter in module.parameters():
        parameter.requires_grad = True  # the dependency graph is read from autograd's
    for name, parameter in module.named_parameters() if worth else ():
        # the library takes weight times slope for what a weight is worth
        parameter.grad = torch.where(parameter == 0, 0.0, worth[name] / parameter.detach())
    names = {layer: name for name, layer in module.named_modules()}
    with library("torch-pruning"), torch.enable_grad(), recurrence_in_one_step(module):
        graph = tp.DependencyGraph().build_dependency(module, example_inputs=given)
        cut = Cut()
        ratios: dict[nn.Module, float] = {}
        ignored: list[nn.Module] = []
        for group, root, width in _groups(graph, module, tuple(roots)):
            reason = _guarded(group, module, names) or _lost(group, graph)
            if not reason and keep_reshaped and _reshaped(group):
                reason = "are reshaped to a size that forward holds as a number"
            kept = kept_of(width, ratio)
            if reason:
                ignored.append(root)
                cut.left.setdefault(reason, []).append(names[root])
            elif kept < width:
                # a thousandth of a channel more: the library truncates width * (1 - ratio) to an integer
                ratios[root] = (width - kept - 1e-3) / width
                cut.widths[names[root]] = (width, kept)
        pruner = tp.pruner.BasePruner(
            module,
            given,
            importance=tp.importance.GroupTaylorImportance()
            if worth
            else tp.importance.GroupMagnitudeImportance(p=2),
            pruning_ratio=0.0,
            pruning_ratio_dict=ratios,
            ignored_layers=ignored,
            root_module_types=roots,
        )
        pruner.step()
        layers = dict(module.named_modules())
        for name, (width, _) in cut.widths.items():
            cut.widths[name] = (width, int(graph.get_out_channels(layers[name])))
    for parameter in module.parameters():
        parameter.grad = None
    return cut


def _groups(
    graph: Any, module: "nn.Module", roots: "tuple[type[nn.Module], ...]"
) -> "Iterator[tuple[Any, nn.Module, int]]":
    """Each prunable layer with the group of everything that depends on its output channels."""
    for layer in module.modules():
        if isinstance(layer, roots) and layer in graph.module2node and not _inside_attention(module, layer):
            handler = graph.get_pruner_of_module(layer).prune_out_channels
            width = int(graph.get_out_channels(layer))
            yield graph.get_pruning_group(layer, handler, idxs=list(range(width))), layer, width


def _inside_attention(module: "nn.Module", layer: "nn.Module") -> bool:
    """``nn.MultiheadAttention`` owns its projection, which its own pruner handles."""
    from torch import nn

    return any(
        isinstance(part, nn.MultiheadAttention) and layer in part.children() for part in module.modules()
    )


def _guarded(group: Any, module: "nn.Module", names: "dict[nn.Module, str]") -> str:
    """Why a group must keep its width; empty where nothing forbids it."""
    for dependency, _ in group:
        target = dependency.target.module
        if not dependency.target.outputs and _cuts_outputs(dependency):
            return "make the model's output"
        reason = _fragile(target, module, names)
        if reason:
            return reason
    return ""


def _lost(group: Any, graph: Any) -> str:
    """Why a group is not what it says: some layer in it has no such channels (behind a ``PixelShuffle``)."""
    for dependency, places in group:
        outputs = _cuts_outputs(dependency)
        layer = dependency.target.module
        width = graph.get_out_channels(layer) if outputs else graph.get_in_channels(layer)
        if width is not None and max(places, default=0) >= width:
            return "feed a rearrangement of channels that torch-pruning does not follow"
    return ""


def _reshaped(group: Any) -> bool:
    """Whether channels of the group are flattened with the pixels that they have."""
    return any(
        type(mapping).__name__ == "_FlattenIndexMapping"
        for dependency, _ in group
        for mapping in dependency.index_mapping
    )


def _cuts_outputs(dependency: Any) -> bool:
    """Whether the dependency removes output channels; an elementwise node at the end passes them on."""
    handler: Callable[..., Any] = dependency.handler
    return "in_channels" not in handler.__name__


def _fragile(target: "nn.Module", module: "nn.Module", names: "dict[nn.Module, str]") -> str:
    from torch import nn

    if isinstance(target, nn.RNNBase):
        return "feed a recurrent layer"
    name = names.get(target)
    if name is None:
        return ""
    owner = module.get_submodule(name.rpartition(".")[0])
    attention = isinstance(target, nn.MultiheadAttention) or (
        owner is not module and any(hasattr(owner, attribute) for attribute in HEAD_ATTRIBUTES)
    )
    return ATTENTION if attention else ""


def must_fall(before: int, after: int, cut: Cut) -> None:
    """Pruning that removes nothing is none.

    Raises:
        SkipError: no parameter went.
    """
    if after >= before:
        left = ", ".join(f"layers that {reason} ({len(layers)})" for reason, layers in cut.left.items())
        raise SkipError(f"no parameter could be pruned{f': {left} keep their width' if left else ''}")
