"""The statistics of batch normalisation, as they are for the weights that a module has now.

Cutting channels changes what later layers see, and running means and variances are of the network before.
"""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


def normalised_layers(module: "nn.Module") -> "list[nn.Module]":
    """The layers that keep statistics of batches."""
    from torch.nn.modules.batchnorm import _BatchNorm

    return [
        layer for layer in module.modules() if isinstance(layer, _BatchNorm) and layer.track_running_stats
    ]


def renormalise(module: "nn.Module", calls: Iterable[Callable[[], object]]) -> None:
    """Replace the running statistics by the plain means over some calls; the module comes back in eval mode.

    Each of ``calls`` runs the module on one batch.
    """
    import torch

    layers = normalised_layers(module)
    momenta = [layer.momentum for layer in layers]
    module.eval()
    for layer in layers:
        layer.reset_running_stats()  # type: ignore[operator]  # a method of batch normalisation
        layer.momentum = None  # type: ignore[assignment]  # a plain mean over all batches
        layer.train()
    try:
        with torch.no_grad():
            for call in calls:
                call()
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
        module.eval()
