"""Weights that were saved in parts (weight norm, spectral norm, pruning masks), put together again."""

import re
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import torch

_PART: Final = re.compile(
    r"(?P<stem>.*?)(?:parametrizations\.(?P<new>\w+)\.(?P<at>original\d?|0\._u|0\._v)"
    r"|(?P<old>\w+?)_(?P<end>g|v|u|orig|mask))"
)
_ENDS: Final = {"original": "orig", "original0": "g", "original1": "v", "0._u": "u", "0._v": "v"}
Parts = dict[str, tuple[str, "torch.Tensor"]]
"""``g``, ``v``, ``u``, ``orig``, ``mask`` -> the name in the file, and the tensor."""


def folded(state: Mapping[str, object], own: Collection[str]) -> dict[str, object]:
    """The state with every weight whole that the module has whole and the file in parts.

    Where the module has the parts too, under the names of torch's older functions, they get these names.
    Weight norm is g·v/|v| (Salimans and Kingma 2016), spectral norm W/(u·W·v) (Miyato et al. 2018), a pruned
    weight is its original times its mask.
    """
    found = dict(state)
    for whole, parts in _parts(state).items():
        if whole in own:
            weight = _put_together(parts)
            if weight is not None:
                for name, _ in parts.values():
                    found.pop(name, None)
                found[whole] = weight
        else:
            for end, (name, tensor) in parts.items():
                if f"{whole}_{end}" in own and name not in own:
                    del found[name]
                    found[f"{whole}_{end}"] = tensor
    return found


def _parts(state: Mapping[str, object]) -> dict[str, Parts]:
    import torch

    found: dict[str, Parts] = {}
    for name, value in state.items():
        match = _PART.fullmatch(name)
        if match is None or not isinstance(value, torch.Tensor):
            continue
        whole = f"{match['stem']}{match['new'] or match['old']}"
        end = _ENDS[match["at"]] if match["at"] else match["end"]
        found.setdefault(whole, {})[end] = (name, value)
    return found


def _put_together(parts: Parts) -> "torch.Tensor | None":
    """The weight; None where the parts are not those of a reparametrisation that is known here."""
    import torch

    tensors = {end: tensor for end, (_, tensor) in parts.items()}
    ends = set(tensors)
    if ends == {"g", "v"}:
        g, v = tensors["g"], tensors["v"]
        axes = [axis for axis in range(v.ndim) if g.ndim != v.ndim or g.shape[axis] == 1]
        length: torch.Tensor = torch.linalg.vector_norm(v, dim=axes, keepdim=True)
        return v * (g / length)
    if ends == {"orig", "mask"}:
        return tensors["orig"] * tensors["mask"]
    if "orig" in ends and {"u", "v"} <= ends:
        return _spectral(tensors["orig"], tensors["u"], tensors["v"])
    return None


def _spectral(weight: "torch.Tensor", u: "torch.Tensor", v: "torch.Tensor") -> "torch.Tensor | None":
    """Divided by the largest singular value, as the vectors of the last training step have it.

    The outputs are the first axis, or the second of a transposed convolution; where both have as many, the
    vectors are those of the axis along which they see the larger value.
    """
    import torch

    if weight.numel() != u.numel() * v.numel():
        return None
    turned = [weight.movedim(axis, 0) for axis in range(weight.ndim) if weight.shape[axis] == u.numel()]
    values = [torch.dot(u, whole.reshape(u.numel(), -1) @ v) for whole in turned]
    return weight / max(values, key=abs) if values else None
