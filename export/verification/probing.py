"""Who reads a layer's channels: told by changing them, and looking which inputs of other layers change."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from study.errors import SkipError

if TYPE_CHECKING:
    import torch
    from torch import nn

Written: TypeAlias = "Callable[[Any, Callable[[torch.Tensor, NDArray[np.int64]], torch.Tensor]], Any]"
"""The outputs of a layer, with ``mark(tensor, ids of its last axis)`` in place of those that are followed."""
NOBODY = -1


@dataclass(slots=True)
class _Seen:
    """What one pass saw: the inputs of layers with weights by name and call, and the model's outputs."""

    inputs: dict[str, list["torch.Tensor"]] = field(default_factory=dict)
    outputs: list["torch.Tensor"] = field(default_factory=list)


def readers(
    module: "nn.Module",
    run: "Callable[[], list[torch.Tensor]]",
    producer: str,
    written: Written,
    ids: int,
) -> dict[str, NDArray[np.int64]]:
    """For each layer that reads the channels of ``producer``: which channel each of its inputs is, or NOBODY.

    A channel is told by the bits of its number: for each bit all channels that have it are changed, then all
    that have it not. An input that reads one channel changes in exactly one of the two. All other layers with
    weights repeat what they said in the first pass, so that a change goes no further than to whom reads it.

    Raises:
        SkipError: an input mixes several channels, a layer other than a linear or recurrent one reads them,
            or they are the model's output.
    """
    from torch import nn

    probe = _Probe(module, run, producer, written)
    base = probe.see(np.zeros(ids, bool))
    bits = max(1, (ids - 1).bit_length())
    changed: dict[str, NDArray[np.bool_]] = {}
    for bit in range(bits):
        has = (np.arange(ids) >> bit & 1).astype(bool)
        for side, which in enumerate((~has, has)):
            seen = probe.see(which)
            if any(_differs(one, two).any() for one, two in zip(base.outputs, seen.outputs, strict=True)):
                raise SkipError("what it gives is the model's output")
            for name, inputs in seen.inputs.items():
                columns = np.any(
                    [_differs(one, two) for one, two in zip(base.inputs[name], inputs, strict=True)], axis=0
                )
                changed.setdefault(name, np.zeros((bits, 2, len(columns)), bool))[bit, side] = columns
    found = {}
    for name, flags in changed.items():
        if not flags.any():
            continue
        layer = module.get_submodule(name)
        if not isinstance(layer, nn.Linear | nn.RNNBase):
            raise SkipError(f"what it gives is read by '{name}', a {type(layer).__name__}")
        reads = flags.any(axis=(0, 1))
        if (flags[:, 0, reads] == flags[:, 1, reads]).any():
            raise SkipError(f"what '{name}' reads of it is mixed beforehand")
        numbers = (flags[:, 1] * (1 << np.arange(bits))[:, None]).sum(axis=0)
        found[name] = np.where(reads, numbers, NOBODY)
    if not found:
        raise SkipError("no layer reads what it gives")
    return found


def _differs(one: "torch.Tensor", two: "torch.Tensor") -> NDArray[np.bool_]:
    """For each place of the last axis, whether anything there differs."""
    if one.ndim == 0:
        one, two = one[None], two[None]
    different: NDArray[np.bool_] = (one != two).reshape(-1, one.shape[-1]).any(0).numpy()
    return different


class _Probe:
    """One model run again and again, with all layers but one saying what they said first."""

    def __init__(
        self,
        module: "nn.Module",
        run: "Callable[[], list[torch.Tensor]]",
        producer: str,
        written: Written,
    ) -> None:
        self.module, self.run, self.producer, self.written = module, run, producer, written
        self.said: dict[str, list[Any]] = {}
        self.first = True

    def see(self, which: NDArray[np.bool_]) -> _Seen:
        """Run with these channels changed."""
        seen = _Seen()
        with self._hooks(which, seen):
            seen.outputs = [tensor.detach().clone() for tensor in self.run()]
        self.first = False
        return seen

    @contextmanager
    def _hooks(self, which: NDArray[np.bool_], seen: _Seen) -> "Iterator[None]":
        calls: dict[str, int] = {}

        def hear(name: str) -> Callable[..., Any]:
            def hook(_layer: "nn.Module", inputs: Any, outputs: Any) -> Any:
                tensor = _first_tensor(inputs)
                if name == self.producer:
                    return self.written(outputs, lambda like, ids: _marked(like, ids, which))
                seen.inputs.setdefault(name, []).append(tensor.detach().clone())
                if self.first:
                    self.said.setdefault(name, []).append(outputs)
                    return None
                calls[name] = calls.get(name, 0) + 1
                return self.said[name][calls[name] - 1]

            return hook

        handles = [
            layer.register_forward_hook(hear(name))
            for name, layer in self.module.named_modules()
            if name == self.producer or _reads(layer)
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _reads(layer: "nn.Module") -> bool:
    """Whether the layer has weights that channels may meet: an embedding reads indices."""
    from torch import nn

    has_weights = next(layer.parameters(recurse=False), None) is not None
    return has_weights and not isinstance(layer, nn.Embedding | nn.EmbeddingBag)


def _first_tensor(inputs: Any) -> "torch.Tensor":
    import torch
    from torch.nn.utils.rnn import PackedSequence

    first = inputs[0] if inputs else None
    if isinstance(first, PackedSequence):
        first = first.data
    return first if isinstance(first, torch.Tensor) else torch.zeros(1)


def _marked(like: "torch.Tensor", ids: NDArray[np.int64], which: NDArray[np.bool_]) -> "torch.Tensor":
    """Positive numbers, all of them different, of which those of the chosen channels are others."""
    import torch

    noise = torch.rand(like.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    moved = torch.from_numpy(which[ids])
    return (1 + noise + 2 * moved).to(like.dtype)
