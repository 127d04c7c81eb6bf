"""Large weights that a module takes as they lie in the mapped file, instead of a copy of them."""

import ctypes
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from itertools import chain
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import torch
    from torch import nn

LARGE: Final = 1 << 20
"""Bytes; smaller tensors are copied, which costs nothing."""


def adopt(module: "nn.Module", saved: "Mapping[str, torch.Tensor]") -> set[str]:
    """Let large parameters and buffers lie where the saved ones do, and say which.

    Only where copying would give the same: of the same type, shape and strides, in memory that no other
    tensor of either side has a part in, in a module whose layers load their state as all do. A file is mapped
    so that what is written to a tensor stays in this process.
    """
    if any(_loads_otherwise(layer) for layer in module.modules()):
        return set()
    named = [
        *chain(
            module.named_parameters(remove_duplicate=False),
            module.named_buffers(remove_duplicate=False),
        )
    ]
    plain = {id(tensor): tensor for _, tensor in named if _is_plain(tensor)}
    homes = {key: tensor.untyped_storage().data_ptr() for key, tensor in plain.items()}
    owners = Counter(homes.values())
    givers = Counter(tensor.data_ptr() for tensor in saved.values() if _is_plain(tensor))
    names = Counter(id(tensor) for _, tensor in named)
    taken: set[str] = set()
    for name, own in named:
        given = saved.get(name)
        if (
            given is not None
            and id(own) in plain
            and _is_plain(given)
            and given.nbytes >= LARGE
            and (given.dtype, given.shape, given.stride()) == (own.dtype, own.shape, own.stride())
            and owners[homes[id(own)]] == 1
            and (givers[given.data_ptr()] == 1 or names[id(own)] > 1)
        ):
            own.data = given
            taken.add(name)
    return taken


def give_back() -> None:
    """Return freed memory, such as what a module was made with, to the system.

    The C library would keep blocks of some megabytes for later.
    """
    with suppress(OSError, AttributeError):  # another C library than glibc
        ctypes.CDLL(None).malloc_trim(0)


def _loads_otherwise(layer: "nn.Module") -> bool:
    """It changes what it is given (hooks, an override of its own); norms only count their batches."""
    from torch import nn
    from torch.nn.modules.batchnorm import _NormBase

    kind = type(layer)
    usual = (nn.Module._load_from_state_dict, _NormBase._load_from_state_dict)  # noqa: SLF001 - torch's own hook
    return (
        kind._load_from_state_dict not in usual  # noqa: SLF001
        or kind.load_state_dict is not nn.Module.load_state_dict
        or bool(layer._load_state_dict_pre_hooks)  # noqa: SLF001
    )


def _is_plain(tensor: "torch.Tensor") -> bool:
    """A dense tensor with memory of its own kind on the CPU."""
    import torch
    from torch.nn.parameter import is_lazy

    return (
        not is_lazy(tensor)
        and tensor.layout is torch.strided
        and tensor.device.type == "cpu"
        and not tensor.is_quantized
        and type(tensor) in (torch.Tensor, torch.nn.Parameter)
    )
