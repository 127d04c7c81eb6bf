"""Layers of torch that pruning made narrower than their own code allows for."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

KEPT, BEFORE = "units_kept", "units_before"
"""Attributes of a recurrent layer: the units left, by layer and direction, and how many there were."""


class FewerHeads(nn.MultiheadAttention):
    """Attention whose inner width, heads times their width, is no longer the width of its input.

    ``nn.MultiheadAttention`` takes the one for the other, so its ``forward`` is written anew.
    """

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,  # noqa: FBT001, FBT002 - as torch has it
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,  # noqa: FBT001, FBT002
        is_causal: bool = False,  # noqa: ARG002, FBT001, FBT002 - torch asks for the mask beside it
    ) -> tuple[Tensor, Tensor | None]:
        """As that of ``nn.MultiheadAttention``."""
        batched = query.dim() == 3  # noqa: PLR2004 - rows, steps, width
        if not batched:
            query, key, value = (one.unsqueeze(0) for one in (query, key, value))
            key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
        elif not self.batch_first:
            query, key, value = (one.transpose(0, 1) for one in (query, key, value))
        heads = [
            functional.linear(one, weight, bias).view(*one.shape[:2], -1, self.head_dim).transpose(1, 2)
            for one, (weight, bias) in zip((query, key, value), self._projections(), strict=True)
        ]
        mask = _added(attn_mask, key_padding_mask, heads[0])
        share = self.dropout if self.training else 0.0
        weights = None
        if need_weights:
            scores = heads[0] @ heads[1].transpose(-2, -1) * self.head_dim**-0.5
            weights = (scores if mask is None else scores + mask).softmax(-1)
            weights = functional.dropout(weights, share)
            mixed = weights @ heads[2]
        else:
            mixed = functional.scaled_dot_product_attention(
                heads[0], heads[1], heads[2], attn_mask=mask, dropout_p=share
            )
        answer: Tensor = self.out_proj(mixed.transpose(1, 2).flatten(2))
        if weights is not None and average_attn_weights:
            weights = weights.mean(1)
        if not batched:
            return answer.squeeze(0), None if weights is None else weights.squeeze(0)
        return answer if self.batch_first else answer.transpose(0, 1), weights

    def _projections(self) -> list[tuple[Tensor, Tensor | None]]:
        held: Any = self  # in torch's stubs none of its parameters may be None
        together, biases = held.in_proj_weight, held.in_proj_bias
        weights = (
            (held.q_proj_weight, held.k_proj_weight, held.v_proj_weight)
            if together is None
            else together.chunk(3)
        )
        return list(zip(weights, (None, None, None) if biases is None else biases.chunk(3), strict=True))


def _added(attention: Tensor | None, padding: Tensor | None, like: Tensor) -> Tensor | None:
    """One mask that is added to the scores, of (rows, heads, steps, steps) or less."""
    found = None
    for mask, places in ((attention, None), (padding, (1, 2))):
        if mask is None:
            continue
        numbers = mask
        if mask.dtype == torch.bool:
            numbers = torch.zeros_like(mask, dtype=like.dtype).masked_fill(mask, float("-inf"))
        if places is not None:
            numbers = numbers[:, None, None]
        found = numbers if found is None else found + numbers
    return found


def adapt(module: nn.Module) -> None:
    """Let layers whose numbers say that they are narrower work so; in place, and again does no harm."""
    for layer in module.modules():
        if isinstance(layer, nn.MultiheadAttention) and layer.num_heads * layer.head_dim != layer.embed_dim:
            layer.__class__ = FewerHeads
            layer._qkv_same_embed_dim = False  # noqa: SLF001 - else TransformerEncoder takes its fast path
        if isinstance(layer, nn.RNNBase) and hasattr(layer, KEPT) and not _is_adapted(layer):
            layer.register_forward_pre_hook(_narrow_states, with_kwargs=True)


def _is_adapted(layer: nn.Module) -> bool:
    return _narrow_states in layer._forward_pre_hooks.values()  # noqa: SLF001 - there is no other way to ask


def _narrow_states(layer: nn.Module, given: Any, named: Any) -> tuple[Any, Any]:
    """Of the initial states that the caller makes, at the width that he knows, those of the units left."""
    if len(given) > 1:
        given = (given[0], _narrowed(layer, given[1]), *given[2:])
    return given, {name: _narrowed(layer, value) if name == "hx" else value for name, value in named.items()}


def _narrowed(layer: nn.Module, states: Any) -> Any:
    if isinstance(states, tuple):
        return tuple(_narrowed(layer, state) for state in states)
    if states is None or states.size(-1) != getattr(layer, BEFORE):
        return states
    kept = torch.tensor(getattr(layer, KEPT), device=states.device).reshape(states.size(0), -1)
    return torch.stack([states[at].index_select(-1, kept[at]) for at in range(states.size(0))])
