"""Which places of the last convolutional map spoke for the class."""

from contextlib import ExitStack
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, ClassVar, final

import numpy as np

from explain.method import Attribution, Explained, Method, Needs
from explain.score import rows_a_call, torch_scores
from study.errors import SkipError
from study.runtime import Runtime

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor
    from torch.nn import Module


@final
@dataclass(frozen=True, slots=True)
class GradCAM(Method):
    """Grad-CAM (Selvaraju et al. 2017), by Captum, on the last convolution whose map still has an extent.

    The map is what speaks for the target alone (ReLU), enlarged bilinearly to the size of the input. Only on
    an eager module: hooks on a traced, scripted or exported one are ignored or give wrong maps in silence.
    """

    needs: ClassVar[Needs] = "convolutions"

    def attribute(self, run: Runtime, rows: Explained) -> Attribution:
        import torch

        if run.model.format != "pytorch":
            raise SkipError(f"it needs the layers of an eager module, and this model is {run.model.format}")
        if not rows.apart:
            raise SkipError("its maps are of images, and these rows are texts")
        from study.runtimes.pytorch import PyTorch

        assert isinstance(run, PyTorch)
        layers = convolutions(run.module)
        if not layers:
            raise SkipError("the model has no convolutions")
        size = rows_a_call(run, rows)
        with torch.enable_grad():
            calls = _calls(run, rows, layers)
            layer = _last_with_extent(calls)
            name, shape = _fed(rows, calls)
            pieces = [
                _maps(run, rows, np.arange(len(rows))[at : at + size], layer, calls[0].fed)
                for at in range(0, len(rows), size)
            ]
        values = _like_input(np.concatenate(pieces), shape, calls[0].fed)
        if not np.isfinite(values).all():
            raise SkipError("the gradients of its score are not finite")
        return Attribution("gradcam", rows.ids, {name: values})


@dataclass(frozen=True, slots=True)
class _Call:
    """One call of a convolution, in order: the layer, and one row's shape of what went in and came out."""

    layer: "Module"
    fed: tuple[int, ...]
    gave: tuple[int, ...]


def convolutions(module: "Module") -> "tuple[Module, ...]":
    """The convolutional layers of a module."""
    from torch.nn import Conv1d, Conv2d, Conv3d

    return tuple(layer for layer in module.modules() if isinstance(layer, (Conv1d, Conv2d, Conv3d)))


def _calls(run: Runtime, rows: Explained, layers: "tuple[Module, ...]") -> tuple[_Call, ...]:
    """The calls of the convolutions in one forward pass of the first row."""
    calls: list[_Call] = []

    def seen(layer: "Module", fed: "tuple[Tensor, ...]", gave: "Tensor") -> None:
        calls.append(_Call(layer, tuple(fed[0].shape[1:]), tuple(gave.shape[1:])))

    with ExitStack() as stack:
        for layer in layers:
            stack.callback(layer.register_forward_hook(seen).remove)
        score, order = torch_scores(run, rows)
        score(*_tensors(run, rows, np.arange(1), order))
    if not calls:
        raise SkipError("its convolutions are not called")
    return tuple(calls)


def _last_with_extent(calls: tuple[_Call, ...]) -> "Module":
    """The layer called last whose output is more than one place; Captum reads a layer's last call."""
    last: dict[Module, tuple[int, ...]] = {}
    for call in calls:
        last.pop(call.layer, None)
        last[call.layer] = call.gave
    for layer, gave in reversed(last.items()):
        if prod(gave[1:]) > 1:
            return layer
    raise SkipError("no convolution gives a map of more than one place")


def _fed(rows: Explained, calls: tuple[_Call, ...]) -> tuple[str, tuple[int, ...]]:
    """The input that the first convolution looks at, and the shape of one row of it."""
    first = calls[0].fed
    for name, array in rows.batch.items():
        shape = array.shape[1:]
        if (
            shape == first
            or shape == (*first[1:], first[0])
            or (first[0] == 1 and prod(shape) == prod(first))
        ):
            return name, shape
    raise SkipError("its first convolution is not fed with an input as it is")


def _maps(
    run: Runtime, rows: Explained, which: "NDArray[Any]", layer: "Module", fed: tuple[int, ...]
) -> "NDArray[Any]":
    """The maps of some rows, (n, 1, ...), as large as what the first convolution is fed."""
    from captum.attr import LayerGradCam
    from torch.nn.functional import interpolate

    score, order = torch_scores(run, rows)
    inputs = _tensors(run, rows, which, order)
    import torch

    with torch.no_grad():
        single = score(*inputs).ndim == 1
    target = None if single else torch.from_numpy(rows.targets[which]).to(inputs[0].device)
    found = LayerGradCam(score, layer).attribute(inputs, target=target, relu_attributions=True)
    mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[len(fed) - 1]
    enlarged = interpolate(found.float(), size=fed[1:], mode=mode, align_corners=False)
    return np.asarray(enlarged.detach().cpu().numpy(), np.float32)


def _tensors(
    run: Runtime, rows: Explained, which: "NDArray[Any]", order: tuple[str, ...]
) -> "tuple[Tensor, ...]":
    import torch

    device = torch.device(run.machine.device)
    return tuple(torch.from_numpy(rows.batch[name][which]).to(device) for name in order)


def _like_input(maps: "NDArray[Any]", shape: tuple[int, ...], fed: tuple[int, ...]) -> "NDArray[Any]":
    """The maps with the axes of the input: a channel axis of 1 where it has channels."""
    if shape == fed:
        return maps
    if shape == (*fed[1:], fed[0]):
        return np.moveaxis(maps, 1, -1)
    return maps.reshape(len(maps), *shape)
