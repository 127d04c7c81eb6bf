"""Fewer attention heads: the rows of queries, keys and values, and the columns of what mixes the heads."""

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from export.pruning.surgery import Run, keep, must_agree
from export.verification.probing import readers
from study.errors import SkipError

if TYPE_CHECKING:
    import torch
    from torch import nn

PROJECTIONS = (
    ("query", "key", "value"),
    ("q_proj", "k_proj", "v_proj"),
    ("q_lin", "k_lin", "v_lin"),
    ("q", "k", "v"),
    ("to_q", "to_k", "to_v"),
)
"""What attention calls the linear layers that make queries, keys and values."""
COUNTS = ("num_attention_heads", "num_heads", "n_heads", "nhead", "heads")
SIZES = ("attention_head_size", "head_dim", "head_size", "dim_head")
WIDTHS = ("all_head_size", "inner_dim")


@dataclass(frozen=True, slots=True)
class Attention:
    """One layer with heads: its parameters that hold them, by name in the whole module."""

    name: str
    heads: int
    width: int
    """Of one head."""
    rows: tuple[str, ...]
    """Parameters with a block of rows a head."""
    columns: str
    """The weight that reads the heads, with a block of columns a head."""
    blocks: int = 1
    """How often the heads stand below each other in ``rows``: three times in one weight for all."""


def attentions(module: "nn.Module", run: Run) -> Iterator[Attention | tuple[str, str]]:
    """Each layer with heads; or its name, and why its heads cannot be told apart."""
    from torch import nn

    for name, layer in module.named_modules():
        if isinstance(layer, nn.MultiheadAttention):
            yield _of_torch(name, layer)
        elif found := _projections(layer):
            try:
                yield _of_linear(module, name, layer, found, run)
            except SkipError as error:
                yield name, str(error)


def _of_torch(name: str, layer: Any) -> Attention | tuple[str, str]:
    if layer.bias_k is not None or layer.add_zero_attn:
        return name, "it adds a key of its own"
    at = f"{name}." if name else ""
    bias = () if layer.in_proj_bias is None else (f"{at}in_proj_bias",)
    output = f"{at}out_proj.weight"
    if layer.in_proj_weight is not None:
        return Attention(
            name, layer.num_heads, layer.head_dim, (f"{at}in_proj_weight", *bias), output, blocks=3
        )
    if bias:
        return name, "its projections are of several widths and share a bias"
    rows = tuple(f"{at}{one}_proj_weight" for one in "qkv")
    return Attention(name, layer.num_heads, layer.head_dim, rows, output)


def _projections(layer: "nn.Module") -> tuple[str, ...]:
    from torch import nn

    children = dict(layer.named_children())
    for names in PROJECTIONS:
        if all(isinstance(children.get(one), nn.Linear) for one in names) and _number(layer, COUNTS):
            return names
    return ()


def _number(layer: "nn.Module", names: tuple[str, ...]) -> int:
    return next((held for one in names if isinstance(held := getattr(layer, one, None), int)), 0)


def _of_linear(module: "nn.Module", name: str, layer: Any, names: tuple[str, ...], run: Run) -> Attention:
    """Three linear layers of one width; who reads the values is found out by changing them."""
    heads = _number(layer, COUNTS)
    inner = {getattr(layer, one).out_features for one in names}
    if len(inner) > 1:
        raise SkipError("its keys and values have other widths than its queries")
    (total,) = inner
    width = _number(layer, SIZES) or total // heads
    if heads * width != total:
        raise SkipError("its width is not that of its heads together")
    at = f"{name}." if name else ""
    values = f"{at}{names[2]}"

    def written(outputs: Any, mark: Callable[..., Any]) -> Any:
        return mark(outputs, np.arange(total))

    who = readers(module, lambda: run(module), values, written, total)
    if len(who) > 1:
        raise SkipError("several layers read its heads")
    ((reader, columns),) = who.items()
    if not np.array_equal(columns, np.arange(total)):
        raise SkipError(f"'{reader}' reads its heads in another order")
    rows = [f"{at}{one}.{part}" for one in names for part in ("weight", "bias")]
    held = {parameter for parameter, _ in module.named_parameters(remove_duplicate=False)}
    return Attention(name, heads, width, tuple(one for one in rows if one in held), f"{reader}.weight")


def heads_kept(heads: int, ratio: float) -> int:
    """How many heads stay: one goes where at least two thirds of it were asked for; one always stays."""
    return max(1, heads - int(heads * ratio + 1 / 3))


def fewer_heads(
    module: "nn.Module", attention: Attention, kept: int, run: Run, slopes: "Mapping[str, torch.Tensor]"
) -> "tuple[nn.Module, list[int]]":
    """A module with the strongest ``kept`` heads of that layer, and which they are.

    It is proved on the example to be the module in which nothing reads the others (Michel et al. 2019,
    arXiv 1905.10650, whose measure of a head's worth is taken where ``slopes`` are known).

    Raises:
        SkipError: the proof fails: its code holds the width as a number.
    """
    left = _strongest(module, attention, kept, slopes)
    silent, made = copy.deepcopy(module), copy.deepcopy(module)
    _silence(silent, attention, left)
    _cut(made, attention, left)
    must_agree(silent, made, run)
    return made, left.tolist()


def _strongest(
    module: "nn.Module", attention: Attention, kept: int, slopes: "Mapping[str, torch.Tensor]"
) -> NDArray[np.int64]:
    mixing = slopes.get(attention.columns, module.get_parameter(attention.columns).detach() ** 2)
    worth = mixing.double().sum(0).reshape(attention.heads, -1).sum(1).numpy()
    if attention.columns not in slopes:
        for place in attention.rows:
            rows = module.get_parameter(place).detach().double().numpy() ** 2
            blocks = rows.reshape(attention.blocks, attention.heads, -1)
            worth = worth + blocks.sum((0, 2))
    return np.sort(np.argsort(-worth, kind="stable")[:kept])


def _places(attention: Attention, heads: NDArray[np.int64]) -> NDArray[np.int64]:
    """The rows, or columns, of some heads."""
    return (heads[:, None] * attention.width + np.arange(attention.width)).reshape(-1)


def _silence(module: "nn.Module", attention: Attention, left: NDArray[np.int64]) -> None:
    import torch

    gone = _places(attention, np.setdiff1d(np.arange(attention.heads), left))
    with torch.no_grad():
        module.get_parameter(attention.columns)[:, torch.from_numpy(gone)] = 0.0


def _cut(module: "nn.Module", attention: Attention, left: NDArray[np.int64]) -> None:
    from torch import nn

    from study.loading.narrowed import adapt

    stays = _places(attention, left)
    total = attention.heads * attention.width
    blocks = np.arange(attention.blocks)[:, None] * total + stays
    for place in attention.rows:
        keep(module, place, 0, blocks.reshape(-1))
        owner: Any = module.get_submodule(place.rpartition(".")[0])
        if isinstance(owner, nn.Linear):
            owner.out_features = len(stays)
    keep(module, attention.columns, 1, stays)
    mixing: Any = module.get_submodule(attention.columns.rpartition(".")[0])
    mixing.in_features = len(stays)
    layer = module.get_submodule(attention.name)
    for names, value in ((COUNTS, len(left)), (WIDTHS, len(stays))):
        for one in names:
            if isinstance(getattr(layer, one, None), int):
                setattr(layer, one, value)
    adapt(module)
