"""The weights of a whole pickled module, read without its classes: nothing named in it is imported."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from study.errors import InputError, did_you_mean
from study.loading.pickles import UNREADABLE, called

if TYPE_CHECKING:
    import torch


class _NeverCalled(type):
    """A name of the file that is only held, never called: a pickle that calls it is refused."""

    def __call__(cls, *_arguments: object) -> object:
        raise InputError(f"it calls '{cls.__name__}'")


def read_module_state(path: Path, foreign: set[str], key: str = "") -> "dict[str, torch.Tensor]":
    """The state dict of a pickled module, by reading the module's attributes into empty objects.

    torch's restricted unpickler makes them: it creates objects of the names that it is given and fills in
    their attributes. Instead of the classes it is given empty ones that refuse to be called, so a pickle that
    needs more than attributes (every malicious one) is refused. ``key`` names one of several modules.

    Raises:
        InputError: it does, or it is no module.
    """
    import torch

    if UNREADABLE in foreign:
        raise InputError(f"{path} hides what it would call: do not use it.")
    empty: list[Any] = [(_NeverCalled(name, (), {}), name) for name in sorted(foreign)]
    try:
        with torch.serialization.safe_globals(empty):
            root = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise InputError(
            f"{path} is a pickle that runs code when it is read ({called(foreign)}), and its weights cannot "
            "be read without: add --trust if you know who made it."
        ) from error
    if isinstance(root, Mapping):  # a checkpoint that keeps the module under a key
        modules = {str(k): part for k, part in root.items() if "_modules" in getattr(part, "__dict__", {})}
        if key and key not in modules:
            raise InputError(f"{path} has no weights '{key}'.{did_you_mean(key, modules)}")
        root = modules.get(key, next(iter(modules.values()), None))
    state = dict(_state(root, ""))
    if not state:
        raise InputError(f"{path} holds no module with weights.")
    return state


def _state(node: object, prefix: str) -> "Iterator[tuple[str, torch.Tensor]]":
    """Names and tensors as ``Module.state_dict`` gives them."""
    import torch

    held = getattr(node, "__dict__", {})
    transient = held.get("_non_persistent_buffers_set", ())
    for group in ("_parameters", "_buffers"):
        for name, value in _mapping(held.get(group)).items():
            if isinstance(value, torch.Tensor) and not (group == "_buffers" and name in transient):
                yield f"{prefix}{name}", value
    for name, child in _mapping(held.get("_modules")).items():
        yield from _state(child, f"{prefix}{name}.")


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}
