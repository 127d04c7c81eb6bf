"""Layers of Keras that torch has too: the same weights in torch's layout, and what is done around them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

CONVOLUTIONS: Final[dict[str, type[nn.Conv1d | nn.Conv2d | nn.Conv3d]]] = {
    "Conv1D": nn.Conv1d,
    "Conv2D": nn.Conv2d,
    "Conv3D": nn.Conv3d,
}


@dataclass(frozen=True, slots=True)
class Around:
    """What goes before and after a layer of torch: the channels' axis turned, and the activation."""

    activation: Callable[[Tensor], Tensor] | None = None
    channels_last: bool = False
    last_step: bool = False
    """Of a recurrent layer only the last step is the answer."""

    def __call__(self, layer: nn.Module, rows: Tensor) -> Tensor:
        """Rows as Keras has them, and the answer so too."""
        rows = _as_weights(layer, rows)
        space = range(
            1, rows.ndim - 1
        )  # permuted by counts from the left: exporters write others as they stand
        answer = layer(rows.permute(0, rows.ndim - 1, *space) if self.channels_last else rows)
        answer = answer[0] if isinstance(answer, tuple) else answer
        if self.last_step:
            answer = answer[:, -1]
        answer = answer.permute(0, *range(2, answer.ndim), 1) if self.channels_last else answer
        return answer if self.activation is None else self.activation(answer)


def _as_weights(layer: nn.Module, rows: Tensor) -> Tensor:
    """In the dtype of the layer, as Keras casts: in mixed precision its neighbours give another."""
    wanted = next((parameter.dtype for parameter in layer.parameters()), rows.dtype)
    return rows.to(wanted) if rows.is_floating_point() and rows.dtype != wanted else rows


def graph_of(model: Any) -> Any:
    """The functional graph of a model; None where it has none (a subclass, or a layer)."""
    from keras import Model, Sequential
    from keras.src.models.functional import Functional

    if isinstance(model, Sequential):
        return model._functional  # noqa: SLF001 - where a sequential model keeps its graph
    own_call = isinstance(model, Model) and type(model).call is not Functional.call
    return model if isinstance(model, Functional) and not own_call else None


def masks(layer: Any) -> bool:
    """Whether it marks steps that the layers after it must pass over."""
    return type(layer).__name__ == "Masking" or bool(getattr(layer, "mask_zero", False))


def translated(layer: Any) -> tuple[nn.Module, Around] | None:
    """The layer of torch that computes the same, with the same weights; None where there is none."""
    kind = type(layer)
    plain = (
        kind.__module__.startswith("keras.src.layers.")
        and layer.dtype_policy.name == "float32"
        and not getattr(layer, "lora_enabled", False)
        and not getattr(layer, "quantization_mode", None)
    )
    if not plain:
        return None
    with torch.no_grad():
        if kind.__name__ in CONVOLUTIONS:
            return _convolution(layer)
        if kind.__name__ == "Dense":
            return _dense(layer)
        if kind.__name__ == "LSTM":
            return _lstm(layer)
    return None


def _convolution(layer: Any) -> tuple[nn.Module, Around] | None:
    """Torch has no ``same`` padding that depends on the size (with strides), and warns of one-sided ones."""
    uneven = any(step != 1 for step in layer.strides) or any(size % 2 == 0 for size in layer.kernel_size)
    if layer.padding not in ("valid", "same") or (layer.padding == "same" and uneven):
        return None
    last = layer.data_format == "channels_last"
    kernel = layer.kernel.value  # (…, in, out)
    made = CONVOLUTIONS[type(layer).__name__](
        kernel.shape[-2] * layer.groups,
        kernel.shape[-1],
        layer.kernel_size,
        stride=layer.strides,
        padding=0 if layer.padding == "valid" else "same",
        dilation=layer.dilation_rate,
        groups=layer.groups,
        bias=layer.use_bias,
    )
    _copy(made.weight, kernel.movedim((-1, -2), (0, 1)))
    if made.bias is not None:
        _copy(made.bias, layer.bias.value)
    return made, Around(_activation(layer), channels_last=last)


def _dense(layer: Any) -> tuple[nn.Module, Around]:
    kernel = layer.kernel.value  # (in, out)
    made = nn.Linear(kernel.shape[0], kernel.shape[1], bias=layer.use_bias)
    _copy(made.weight, kernel.T)
    if layer.use_bias:
        _copy(made.bias, layer.bias.value)
    return made, Around(_activation(layer))


def _lstm(layer: Any) -> tuple[nn.Module, Around] | None:
    """Gates are in the same order (input, forget, cell, output)."""
    names = (layer.activation.__name__, layer.recurrent_activation.__name__)
    special = layer.go_backwards or layer.stateful or layer.return_state or layer.unroll
    if names != ("tanh", "sigmoid") or special or layer.dropout or layer.recurrent_dropout:
        return None
    cell = layer.cell
    made = nn.LSTM(cell.kernel.shape[0], layer.units, bias=layer.use_bias, batch_first=True)
    _copy(made.weight_ih_l0, cell.kernel.value.T)
    _copy(made.weight_hh_l0, cell.recurrent_kernel.value.T)
    if layer.use_bias:
        _copy(made.bias_ih_l0, cell.bias.value)
        _copy(made.bias_hh_l0, torch.zeros_like(cell.bias.value))
    return made, Around(last_step=not layer.return_sequences)


def _activation(layer: Any) -> "Callable[[Tensor], Tensor] | None":
    """None for the identity."""
    found: Callable[[Tensor], Tensor] = layer.activation
    return None if getattr(found, "__name__", "") == "linear" else found


def _copy(parameter: Any, value: Tensor) -> None:
    parameter.copy_(value)
