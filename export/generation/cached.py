"""Torch modules that keep the keys and values of the past: how they are asked, and what they keep.

The past of a layer is two tensors, (batch, heads, tokens, width), to which every call adds its tokens: what a
later token attends to is computed once (Pope et al., Efficiently Scaling Transformer Inference, 2022).
"""

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self, TypeAlias

from export.quiet import quiet, reason_of
from study.errors import SkipError

if TYPE_CHECKING:
    import torch
    from torch import nn

Cache: TypeAlias = Any
"""``transformers.Cache``."""

ARGUMENTS: Final = ("cache", "past_key_values")
"""What ``forward`` calls the past, in transformers from 5.24 on and before."""
TOKENS, MASK, POSITIONS = "input_ids", "attention_mask", "position_ids"
PROBED: Final = 3
"""Tokens that a module is tried with."""
NO_STATE: Final = (
    "nothing of the past can be handed to {name}: its forward takes no key/value cache (past_key_values "
    "with use_cache), so each new token costs a call on the whole text"
)


@dataclass(frozen=True, slots=True)
class Cached:
    """A module that takes what it kept of the tokens before."""

    module: "nn.Module"
    argument: str
    takes: frozenset[str]
    sizes: tuple[tuple[int, int], ...]
    """Heads and width of the keys and of the values, a layer after the other."""

    @classmethod
    def of(cls, module: "nn.Module") -> Self:
        """By the parameters of ``forward``, and by what a call on a few tokens keeps.

        Raises:
            SkipError: it keeps nothing, or something else than the keys and values of all tokens.
        """
        name = type(module).__name__
        try:
            takes = frozenset(inspect.signature(module.forward).parameters)
        except (TypeError, ValueError):
            takes = frozenset()
        argument = next((one for one in ARGUMENTS if one in takes), "")
        if not argument or "use_cache" not in takes:
            raise SkipError(NO_STATE.format(name=name))
        if not {TOKENS, MASK} <= takes:
            raise SkipError(f"the forward of {name} takes no {TOKENS} and {MASK}")
        asked = cls(module, argument, takes, ())
        try:
            with quiet(name):
                kept = asked.probed()
        except Exception as error:  # a forward may raise anything; it is what we ask
            raise SkipError(
                f"{name} does not run with an empty key/value cache: {reason_of(error)}"
            ) from error
        if not kept or any(tensor.ndim != 4 or tensor.shape[2] != PROBED for tensor in kept):  # noqa: PLR2004
            raise SkipError(f"what {name} keeps is not the keys and values of every token")
        return cls(module, argument, takes, tuple((tensor.shape[1], tensor.shape[3]) for tensor in kept))

    @property
    def bytes_per_token(self) -> int:
        """Of the cache, in the dtype of the module."""
        return self.dtype.itemsize * sum(heads * width for heads, width in self.sizes)

    @property
    def dtype(self) -> "torch.dtype":
        """Of the keys and values."""
        return next(one.dtype for one in self.module.parameters() if one.is_floating_point())

    @property
    def device(self) -> "torch.device":
        """Where the module is."""
        return next(self.module.parameters()).device

    def __call__(
        self,
        tokens: "torch.Tensor",
        mask: "torch.Tensor",
        positions: "torch.Tensor",
        cache: Cache = None,
        forward: "Callable[..., Any] | None" = None,
    ) -> "tuple[torch.Tensor, Cache]":
        """The logits of the last token, (batch, 1, vocabulary), and the cache with these tokens added.

        ``mask`` is of the past and these tokens together. Without ``cache`` the module begins its own;
        ``forward`` stands in for the module.
        """
        named: dict[str, Any] = {TOKENS: tokens, MASK: mask, self.argument: cache, "use_cache": True}
        if POSITIONS in self.takes:
            named[POSITIONS] = positions
        if "logits_to_keep" in self.takes:
            named["logits_to_keep"] = 1
        given = (forward or self.module)(**named)
        return given.logits[:, -1:], getattr(given, self.argument)

    def probed(self) -> "list[torch.Tensor]":
        """The keys and values of a few tokens."""
        import torch

        places = torch.arange(PROBED, device=self.device)[None]
        with torch.inference_mode():
            _, cache = self(places % 2, torch.ones_like(places), places, _filled(()))
        return _flat(cache)

    @contextmanager
    def flat(self) -> Iterator[None]:
        """The module's ``forward`` takes the past as a list of tensors and gives it so; afterwards as before.

        The module itself is changed and not wrapped: the names of its layers go into the ONNX graph.
        """
        own = vars(self.module).get("forward")
        asked = self.module.forward

        def forward(
            input_ids: "torch.Tensor",
            attention_mask: "torch.Tensor",
            position_ids: "torch.Tensor",
            past_key_values: "list[torch.Tensor]",
        ) -> "tuple[torch.Tensor, ...]":
            past = _filled(past_key_values)
            logits, cache = self(input_ids, attention_mask, position_ids, past, asked)
            return logits, *_flat(cache)

        self.module.forward = forward
        try:
            yield
        finally:
            if own is None:
                del self.module.forward
            else:
                self.module.forward = own


def _filled(past: "Sequence[torch.Tensor]") -> Cache:
    """A cache of these keys and values, one layer after the other.

    It keeps all tokens: a layer that looks at a window of them alone is told so by its mask.
    """
    from transformers import DynamicCache

    cache = DynamicCache()
    for layer in range(len(past) // 2):
        cache.update(past[2 * layer], past[2 * layer + 1], layer)
    return cache


def _flat(cache: Cache) -> "list[torch.Tensor]":
    """The keys and values that a cache holds, one layer after the other."""
    return [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]
