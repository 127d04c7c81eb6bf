"""Bags of embeddings over rows that are filled up: what a runtime feeds, and what exports well."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn

OFFSETS = "offsets"
"""What the argument of ``forward`` is called that says where each text begins among the tokens of all."""


def takes_offsets(module: "nn.Module") -> bool:
    """Whether its ``forward`` takes the tokens of all texts in one line, and where each of them begins."""
    import inspect

    from torch import nn

    try:
        asked = OFFSETS in inspect.signature(module.forward).parameters
    except (TypeError, ValueError):
        return False
    return asked and any(isinstance(layer, nn.EmbeddingBag) for layer in module.modules())


def without_bags(module: "nn.Module") -> "nn.Module":
    """The module with each ``nn.EmbeddingBag`` computed by a look-up and a reduction; changed in place.

    The weights keep their names. Where two-dimensional ids come with offsets these are taken for the number
    of tokens of each row. (The exporters of torch turn an ``EmbeddingBag`` into a loop over the rows, which
    is slow, and which no quantizer reads.)
    """
    from torch import nn

    places = [
        (parent, name, layer)
        for parent in module.modules()
        for name, layer in parent.named_children()
        if isinstance(layer, nn.EmbeddingBag) and layer.max_norm is None
    ]
    for parent, name, layer in places:
        setattr(parent, name, _dense(layer))
    return module


def _dense(bag: "nn.EmbeddingBag") -> "nn.Module":
    import torch
    from torch import nn

    class Bag(nn.EmbeddingBag):
        """The same on (rows, tokens)."""

        def __init__(self) -> None:
            super().__init__(
                bag.num_embeddings,
                bag.embedding_dim,
                mode=bag.mode,
                _weight=bag.weight,
                include_last_offset=bag.include_last_offset,
                padding_idx=bag.padding_idx,
            )
            self.weight = bag.weight  # the parameter itself: it may be tied

        def forward(
            self,
            input: "Tensor",  # noqa: A002 - as nn.EmbeddingBag calls it
            offsets: "Tensor | None" = None,
            per_sample_weights: "Tensor | None" = None,
        ) -> "Tensor":
            if input.dim() == 1:
                return super().forward(input, offsets, per_sample_weights)
            counts = torch.ones_like(input, dtype=torch.bool)
            if self.padding_idx is not None:
                counts = input != self.padding_idx
            if offsets is not None:
                places = torch.arange(input.shape[1], device=input.device)
                counts = counts & (places < offsets[:, None])
            found = nn.functional.embedding(input, self.weight)
            if per_sample_weights is not None:
                found = found * per_sample_weights[..., None]
            return _reduced(found, counts[..., None], self.mode)

    return Bag().train(bag.training)


def _reduced(found: "Tensor", counts: "Tensor", mode: str) -> "Tensor":
    """(rows, tokens, width) over the tokens that count; zero where none does."""
    if mode == "max":
        largest = found.masked_fill(~counts, float("-inf")).amax(dim=1)
        return largest.masked_fill(~counts.any(dim=1), 0.0)
    total = (found * counts.to(found.dtype)).sum(dim=1)
    return total if mode == "sum" else total / counts.sum(dim=1).clamp(min=1).to(found.dtype)
