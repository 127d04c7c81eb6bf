"""Which weights of a checkpoint are meant, where it holds several sets of them beside other things."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias, TypeGuard

from study.errors import InputError, did_you_mean, few

if TYPE_CHECKING:
    import torch

Node: TypeAlias = object
"""What a checkpoint is made of: mappings, lists, tensors, whole modules, and numbers and words besides."""

WRAPPERS: Final = ("state_dict", "model_state_dict", "model_state", "model", "params")
"""Keys under which training scripts keep the weights, the first that is there before the others."""
_AVERAGED: Final = ("ema", "swa", "shadow", "averag")
_NO_WEIGHTS: Final = ("optim", "lr_sched", "callbacks", "loops", "hyper_param")
_DEPTH: Final = 4


def choose(loaded: Node, key: str, path: Path) -> tuple[str, Node]:
    """The node that holds the weights, and its dotted key; an empty one is the whole file.

    Raises:
        InputError: there is none of the key that was asked for.
    """
    if key:
        return key, _named(loaded, key, path)
    where, node = "", loaded
    best: tuple[str, Node] = ("", loaded)
    for _ in range(_DEPTH):
        step, sure = _inside(node, alone=bool(best[0]))
        if not step:
            break
        where, node = (f"{where}.{step}" if where else step), child(node, step)
        best = (where, node) if sure else best
    return best


def sets_in(node: Node, where: str = "") -> Iterator[tuple[str, Node]]:
    """Every part that is a set of weights, by its dotted key; what is inside one is not looked at."""
    if is_set(node):
        yield where, node
    elif where.count(".") < _DEPTH:
        for key, inner in _children(node):
            yield from sets_in(inner, f"{where}.{key}" if where else key)


def others(loaded: Node, chosen: str) -> list[str]:
    """The keys of the sets that were not chosen."""
    beside = [key for key, _ in sets_in(loaded) if key]
    return [key for key in beside if key != chosen and not key.startswith(f"{chosen}.")]


def is_set(node: Node) -> bool:
    """A whole module, or a mapping of which some values are tensors."""
    import torch

    if isinstance(node, Mapping):
        return any(isinstance(value, torch.Tensor) for value in node.values())
    return isinstance(node, torch.nn.Module)


def flat(node: Node, name: str = "") -> Iterator[tuple[str, object]]:
    """Leaves by dotted name; what an optimizer keeps beside the weights is left out."""
    if is_module(node):
        node = node.state_dict()
    if isinstance(node, Mapping):
        for key, value in node.items():
            if not (_is_container(value) and _is_besides(str(key), value)):
                yield from flat(value, f"{name}.{key}" if name else str(key))
    elif isinstance(node, list | tuple):
        for at, value in enumerate(node):
            if not _is_besides("", value):
                yield from flat(value, f"{name}.{at}" if name else str(at))
    else:
        yield name, node


def is_module(node: Node) -> "TypeGuard[torch.nn.Module]":
    """A whole module."""
    import torch

    return isinstance(node, torch.nn.Module)


def child(node: Node, step: str) -> Node:
    """What lies under one key of a mapping, or at one place of a list."""
    return next(inner for key, inner in _children(node) if key == step)


def _inside(node: Node, *, alone: bool) -> tuple[str, bool]:
    """The key to go down by, and whether it says that weights are kept there; empty where there is none.

    A wrapper's key says so, and so does that of the first of several sets that are alike. ``alone``: such a
    key counts only where nothing else is beside it.
    """
    if is_set(node):
        return "", False
    inner = {key: part for key, part in _children(node) if any(True for _ in sets_in(part))}
    wrapper = next((key for key in WRAPPERS if key in inner), "")
    first = next(iter(inner), "")
    if len(inner) == 1:
        return first, first == wrapper or isinstance(node, list | tuple)
    if alone or wrapper or not inner:
        return ("", False) if alone else (wrapper, True)
    if isinstance(node, list | tuple):
        return (first, True) if all(is_set(part) for part in inner.values()) else ("", False)
    plain = [key for key in inner if not any(word in key.lower() for word in _AVERAGED)]
    return (plain[0], True) if len(plain) == 1 and _alike(inner, plain[0]) else ("", False)


def _alike(sets: Mapping[str, Node], one: str) -> bool:
    """The others have tensors of the names that one has, whatever wrappers put before them."""
    ends = {key: {name.rpartition(".")[2] for name, _ in flat(node)} for key, node in sets.items()}
    return all(ends[one] <= other for other in ends.values())


def _named(loaded: Node, key: str, path: Path) -> Node:
    node, rest = loaded, key
    while rest:
        steps = [step for step, _ in _children(node) if rest == step or rest.startswith(f"{step}.")]
        if not steps:
            break
        step = max(steps, key=len)
        node, rest = child(node, step), rest[len(step) + 1 :]
    if rest:
        within = {name: value for name, value in flat(node) if name.startswith(f"{rest}.")}
        node = {name[len(rest) + 1 :]: value for name, value in within.items()}
    if any(True for _ in sets_in(node)):
        return node
    known = dict.fromkeys([*(name for name, _ in sets_in(loaded) if name), *_prefixes(loaded)])
    known.pop(key, None)
    there = did_you_mean(key, known)
    raise InputError(f"{path} has no weights '{key}'.{there or ' It holds one set: leave --weights out.'}")


def _prefixes(loaded: Node) -> list[str]:
    """First segments of names, where a single flat state dict has several."""
    if not isinstance(loaded, Mapping) or not is_set(loaded):
        return []
    return list(dict.fromkeys(str(name).partition(".")[0] for name in loaded if "." in str(name)))


def _children(node: Node) -> Iterator[tuple[str, Node]]:
    if isinstance(node, Mapping):
        parts = ((str(key), value) for key, value in node.items())
    elif isinstance(node, list | tuple):
        parts = ((str(at), value) for at, value in enumerate(node))
    else:
        return
    yield from ((key, value) for key, value in parts if not _is_besides(key, value))


def _is_container(value: Node) -> bool:
    return isinstance(value, Mapping | list)


def _is_besides(key: str, value: Node) -> bool:
    """What training keeps beside the weights: by its key, or an optimizer by what is in it."""
    optimizer = isinstance(value, Mapping) and value.keys() >= {"state", "param_groups"}
    return optimizer or (_is_container(value) and key.lower().startswith(_NO_WEIGHTS))


def said_of(loaded: Node, key: str, path: Path, *, fits: bool) -> tuple[str, ...]:
    """What was chosen of several, in a sentence; ``fits``: an architecture decides between equals."""
    chosen, _ = choose(loaded, key, path)
    left = others(loaded, chosen)
    if not left or (chosen == "" and not fits):
        return ()
    there = f"{path.name} holds {few(left)}"
    if chosen == "":
        return (f"{there}: those that fit --arch best are taken, or what --weights KEY names.",)
    return (f"The weights '{chosen}' are taken; {there} too: --weights KEY takes others.",)
