"""Fewer units in recurrent layers: the rows of their gates, their own columns, and those who read them."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from export.pruning.surgery import Run, keep, must_agree
from export.verification.probing import NOBODY, readers
from study.errors import SkipError

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True, slots=True)
class Part:
    """One layer and direction of a recurrent layer, whose weights end in ``suffix``: ``_l0_reverse``."""

    number: int
    suffix: str


def parts_of(layer: "nn.RNNBase") -> list[Part]:
    """In the order of the initial states: by layer, forward before backward."""
    ends = ("", "_reverse") if layer.bidirectional else ("",)
    names = [f"_l{depth}{end}" for depth in range(layer.num_layers) for end in ends]
    return [Part(number, suffix) for number, suffix in enumerate(names)]


def fewer_units(
    module: "nn.Module", name: str, kept: int, run: Run, slopes: "Mapping[str, torch.Tensor]"
) -> "nn.Module":
    """A module whose recurrent layer ``name`` has ``kept`` units in each layer and direction, the strongest.

    It is proved on the example to be the module in which the other units are silent: what feeds a unit's
    candidate state is zero, so that the unit is zero at every step that began with zero.

    Raises:
        SkipError: who reads the units cannot be told, or the proof fails.
    """
    who = _readers(module, name, run)
    left = _strongest(module, name, who, kept, slopes)
    silent = copy.deepcopy(module)
    _silence(silent.get_submodule(name), left)
    made = copy.deepcopy(module)
    _cut(made, name, left, who)
    must_agree(silent, made, run)
    return made


def _readers(module: "nn.Module", name: str, run: Run) -> dict[str, NDArray[np.int64]]:
    """Who reads which unit; a unit's number is its place in the layer, after those of the layers before."""
    layer: Any = module.get_submodule(name)
    width, parts = layer.hidden_size, parts_of(layer)
    of_state = np.arange(width * len(parts)).reshape(len(parts), width)
    directions = 2 if layer.bidirectional else 1
    of_steps = of_state[-directions:].reshape(-1)

    def written(outputs: Any, mark: Callable[..., Any]) -> Any:
        steps, states = outputs
        several = isinstance(states, tuple)
        hidden, cells = states if several else (states, None)
        if not layer.proj_size:
            data = mark(steps.data if hasattr(steps, "batch_sizes") else steps, of_steps)
            steps = steps.replace_parameter(data=data) if hasattr(steps, "batch_sizes") else data
            hidden = _by_part(hidden, of_state, mark)
        return steps, (hidden, _by_part(cells, of_state, mark)) if several else hidden

    try:
        return readers(module, lambda: run(module), name, written, width * len(parts))
    except SkipError:
        if layer.proj_size:  # its projection keeps its width, and few read the cells
            return {}
        raise


def _by_part(state: Any, ids: NDArray[np.int64], mark: Callable[..., Any]) -> "torch.Tensor":
    import torch

    return torch.stack([mark(one, of_part) for one, of_part in zip(state, ids, strict=True)])


def _outgoing(
    module: "nn.Module", name: str, who: Mapping[str, NDArray[np.int64]]
) -> list[tuple[str, NDArray[np.int64]]]:
    """Each weight that units are multiplied by, and which unit each of its columns is."""
    layer: Any = module.get_submodule(name)
    width, parts = layer.hidden_size, parts_of(layer)
    directions = 2 if layer.bidirectional else 1
    found = []
    for part in parts:
        own = part.number * width + np.arange(width)
        if layer.proj_size:
            found.append((f"{name}.weight_hr{part.suffix}", own))
            continue
        found.append((f"{name}.weight_hh{part.suffix}", own))
        if part.number >= directions:
            first = (part.number // directions - 1) * directions * width
            found.append((f"{name}.weight_ih{part.suffix}", first + np.arange(directions * width)))
    for reader, columns in who.items():
        target: Any = module.get_submodule(reader)
        weights = ("weight",) if hasattr(target, "weight") else _inputs_of(target)
        found += [(f"{reader}.{weight}", columns) for weight in weights]
    return [(weight.removeprefix("."), columns) for weight, columns in found]


def _inputs_of(layer: "nn.RNNBase") -> tuple[str, ...]:
    return ("weight_ih_l0", "weight_ih_l0_reverse") if layer.bidirectional else ("weight_ih_l0",)


def _strongest(
    module: "nn.Module",
    name: str,
    who: Mapping[str, NDArray[np.int64]],
    kept: int,
    slopes: "Mapping[str, torch.Tensor]",
) -> list[NDArray[np.int64]]:
    """The units that stay, by part: by what their outgoing weights are worth, or the norm of all."""
    layer: Any = module.get_submodule(name)
    width, parts = layer.hidden_size, parts_of(layer)
    worth = np.zeros(width * len(parts))
    outgoing = _outgoing(module, name, who)
    known = all(weight in slopes for weight, _ in outgoing)
    for weight, columns in outgoing:
        told = slopes[weight] if known else module.get_parameter(weight).detach() ** 2
        np.add.at(worth, columns[columns != NOBODY], told.sum(0).double().numpy()[columns != NOBODY])
    if not known:
        for part in parts:
            for weight in (f"weight_ih{part.suffix}", f"weight_hh{part.suffix}"):
                rows = getattr(layer, weight).detach().double().numpy() ** 2
                worth[part.number * width :][:width] += rows.sum(1).reshape(-1, width).sum(0)
    best = np.argsort(-np.abs(worth).reshape(len(parts), width), axis=1, kind="stable")[:, :kept]
    return list(np.sort(best, axis=1))


def _candidate(layer: Any) -> slice:
    """The rows of the gate whose zero keeps a unit at zero: of an LSTM the cell gate, of a GRU the new."""
    if layer.mode.startswith("RNN"):
        return slice(None)
    return slice(2 * layer.hidden_size, 3 * layer.hidden_size)


def _silence(layer: Any, left: list[NDArray[np.int64]]) -> None:
    import torch

    with torch.no_grad():
        for part, units in zip(parts_of(layer), left, strict=True):
            gone = np.setdiff1d(np.arange(layer.hidden_size), units)
            rows = _candidate(layer)
            for weight in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                held = getattr(layer, f"{weight}{part.suffix}", None)
                if held is not None:
                    held[rows][gone] = 0.0
        layer.flatten_parameters()


def _cut(
    module: "nn.Module", name: str, left: list[NDArray[np.int64]], who: Mapping[str, NDArray[np.int64]]
) -> None:
    """Slice every weight by rows of gates and by columns, and write down the numbers that say so."""
    from study.loading.narrowed import BEFORE, KEPT, adapt

    layer: Any = module.get_submodule(name)
    width = layer.hidden_size
    staying = np.concatenate([part * width + units for part, units in enumerate(left)])
    for weight, columns in _outgoing(module, name, who):
        stays = np.flatnonzero((columns == NOBODY) | np.isin(columns, staying))
        keep(module, weight, 1, stays)
    for part, units in zip(parts_of(layer), left, strict=True):
        for weight in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            if hasattr(layer, f"{weight}{part.suffix}"):
                place = f"{name}.{weight}{part.suffix}".removeprefix(".")
                gates = len(getattr(layer, f"{weight}{part.suffix}")) // width
                keep(module, place, 0, (np.arange(gates)[:, None] * width + units).reshape(-1))
    for reader, columns in who.items():
        target: Any = module.get_submodule(reader)
        narrower = int(((columns == NOBODY) | np.isin(columns, staying)).sum())
        setattr(target, "input_size" if hasattr(target, "input_size") else "in_features", narrower)
    earlier = np.array(getattr(layer, KEPT, np.tile(np.arange(width), len(left)))).reshape(len(left), width)
    setattr(layer, KEPT, [int(row[unit]) for row, units in zip(earlier, left, strict=True) for unit in units])
    setattr(layer, BEFORE, getattr(layer, BEFORE, width))
    layer.hidden_size = len(left[0])
    layer.flatten_parameters()
    adapt(module)
