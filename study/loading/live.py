"""Objects that the Python API was handed, under keys: ``Model`` and ``Data`` are plain data, without them.

They live in this process alone; work on them is never sent to another one.
"""

import hashlib
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from study.errors import InputError
from study.subject import Model

if TYPE_CHECKING:
    import torch

_HELD: dict[str, object] = {}
_NUMBERS = count(1)


def hold(thing: object) -> str:
    """Keep an object and give its key; the same object has the same key."""
    for key, other in _HELD.items():
        if other is thing:
            return key
    key = f"live-{next(_NUMBERS)}"
    _HELD[key] = thing
    return key


def held(key: str) -> object:
    """The object under a key.

    Raises:
        InputError: this process was not handed it (it was another, or it was released).
    """
    if key not in _HELD:
        raise InputError("The object was handed to another process: call the function with it again.")
    return _HELD[key]


def release(key: str) -> None:
    """Let go of an object."""
    _HELD.pop(key, None)


def live_model(module: "torch.nn.Module", library: str = "") -> Model:
    """A module, out of the wrappers of compile and DataParallel, as the ``Model`` that the rest takes.

    ``library`` is the one that builds it anew (``study.loading.library.library_of_live``).
    """
    module = unwrapped(module)
    return Model(
        path=Path("<live>") / type(module).__name__,
        format="pytorch",
        sha256=digest(module),
        bytes=sum(t.numel() * t.element_size() for t in module.state_dict().values() if hasattr(t, "numel")),
        live=hold(module),
        library=library,
    )


def unwrapped(module: "torch.nn.Module") -> "torch.nn.Module":
    """The module inside ``torch.compile``, ``DataParallel`` and ``DistributedDataParallel``."""
    inner = {"OptimizedModule": "_orig_mod", "DataParallel": "module", "DistributedDataParallel": "module"}
    while type(module).__name__ in inner and hasattr(module, inner[type(module).__name__]):
        module = getattr(module, inner[type(module).__name__])
    return module


def digest(module: "torch.nn.Module") -> str:
    """SHA-256 of a module's structure, tensor names and values: the same in every process."""
    import torch

    found = hashlib.sha256(f"{type(module).__qualname__}\n{module!r}".encode())
    for name, value in module.state_dict().items():
        found.update(f"\n{name} ".encode())
        if not isinstance(value, torch.Tensor):
            found.update(repr(value).encode())
            continue
        found.update(f"{value.dtype} {tuple(value.shape)} ".encode())
        plain = value.detach().cpu()
        plain = plain.int_repr() if plain.is_quantized else plain
        found.update(plain.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()
