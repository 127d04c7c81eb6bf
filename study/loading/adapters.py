"""Low-rank adapters (LoRA, Hu et al. 2021) as peft saves them, merged into the weights of their base."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from study.errors import InputError, few
from study.loading.states import read_checkpoint, state_of
from study.subject import Model

if TYPE_CHECKING:
    import torch
    from torch import nn

CONFIG: Final = "adapter_config.json"
WEIGHTS: Final = ("adapter_model.safetensors", "adapter_model.bin")
_PREFIX: Final = "base_model.model."
_LOW_RANK: Final = re.compile(r"(?P<layer>.+)\.lora_(embedding_)?(?P<side>[AB])(\.default)?(\.weight)?")
_MATRIX: Final = 2


@dataclass(frozen=True, slots=True)
class Settings:
    """What ``adapter_config.json`` says of the product that is added."""

    alpha: float = 1.0
    root: bool = False
    """Divided by the root of the rank (rsLoRA, Kalajdzievski 2023) instead of by the rank."""
    turned: bool = False
    """The base keeps its matrices with the inputs first."""
    alphas: Mapping[str, float] = field(default_factory=dict)
    """Layers, by a pattern, that have an alpha of their own."""
    base: str = ""
    """The model that it was made for."""

    def scale(self, layer: str, rank: int) -> float:
        """What the product of the two factors is multiplied by."""
        own = (value for key, value in self.alphas.items() if re.match(rf".*\.?({key})$", layer))
        return next(own, self.alpha) / (math.sqrt(rank) if self.root else rank)


def files_of_adapter(folder: Path) -> list[Path]:
    """The two files that decide what an adapter adds.

    Raises:
        InputError: one is missing; it is named.
    """
    weights = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    missing = [] if (folder / CONFIG).is_file() else [CONFIG]
    missing += [] if weights else [WEIGHTS[0]]
    if weights is None or missing:
        raise InputError(f"{folder} is no adapter, it lacks {few(missing)}: give the folder that peft saved.")
    return [folder / CONFIG, weights]


def merge(module: "nn.Module", folder: Path) -> None:
    """Add an adapter to the weights of the module that it was made for, in place.

    What it holds besides (``modules_to_save``, biases) takes the place of what the module has.

    Raises:
        InputError: it is no LoRA adapter, or was made for another base.
    """
    settings = _settings(folder)
    pairs: dict[str, dict[str, torch.Tensor]] = {}
    whole: dict[str, torch.Tensor] = {}
    for name, tensor in _tensors(folder).items():
        short = name.removeprefix(_PREFIX)
        match = _LOW_RANK.fullmatch(short)
        if match:
            pairs.setdefault(match["layer"], {})[match["side"]] = tensor
        else:
            whole[short.replace(".modules_to_save.default", "").replace(".base_layer", "")] = tensor
    weights = dict(module.named_parameters(remove_duplicate=False)) | dict(module.named_buffers())
    changes = {f"{layer}.weight": _product(layer, pair, weights, settings) for layer, pair in pairs.items()}
    unknown = [name for name in (*changes, *whole) if name not in weights]
    bent = [name for name in whole if name in weights and whole[name].shape != weights[name].shape]
    bent += [name for name, change in changes.items() if change is None and name in weights]
    if unknown or bent:
        made_for = f" (it was made for {settings.base})" if settings.base else ""
        what = f"has no {few(unknown)}" if unknown else f"has {few(bent)} in another shape"
        raise InputError(
            f"The adapter {folder} does not fit: the model {what}{made_for}: give the model that it was made "
            "from."
        )
    for name, change in changes.items():
        if change is not None:
            weights[name].data = weights[name].data + change.to(weights[name].dtype)
    for name, tensor in whole.items():
        weights[name].data = tensor.to(weights[name].dtype)


def _product(
    layer: str,
    pair: "Mapping[str, torch.Tensor]",
    weights: "Mapping[str, torch.Tensor]",
    settings: Settings,
) -> "torch.Tensor | None":
    """B·A, scaled, in the shape of the layer's weight; None where it does not have it."""
    weight, a, b = weights.get(f"{layer}.weight"), pair.get("A"), pair.get("B")
    if weight is None or a is None or b is None:
        return None
    rank = a.shape[0]
    if b.shape[1] != rank:
        return None
    factors = b.float().reshape(b.shape[0], -1), a.float().reshape(rank, -1)
    product: torch.Tensor = factors[0] @ factors[1] * settings.scale(layer, rank)
    if weight.ndim == _MATRIX and (settings.turned or product.shape != weight.shape):
        product = product.T  # an embedding has its rows first too
    return product.reshape(weight.shape) if product.numel() == weight.numel() else None


def _settings(folder: Path) -> Settings:
    path = files_of_adapter(folder)[0]
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        kind = "DoRA" if said.get("use_dora") else str(said.get("peft_type") or "unknown")
        if kind != "LORA":
            raise InputError(
                f"{folder} is an adapter of the kind {kind}, and diag "
                "merges LoRA: merge it with peft's merge_and_unload() and give what comes out."
            )
        return Settings(
            alpha=float(said["lora_alpha"]),
            root=bool(said.get("use_rslora")),
            turned=bool(said.get("fan_in_fan_out")),
            alphas={str(key): float(value) for key, value in (said.get("alpha_pattern") or {}).items()},
            base=str(said.get("base_model_name_or_path") or ""),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is no configuration of a LoRA adapter: save it with peft again.") from error


def _tensors(folder: Path) -> "dict[str, torch.Tensor]":
    import torch

    path = files_of_adapter(folder)[1]
    state = state_of(read_checkpoint(Model(path, "weights")), path)
    return {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}
