"""What torchvision's detectors give: for each image a dictionary of as many boxes as were found."""

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeGuard

if TYPE_CHECKING:
    import torch
    from torch import nn

BOXES = "boxes"
NAMES = (BOXES, "labels", "scores")


def are_found(value: Any) -> "TypeGuard[list[Mapping[str, torch.Tensor]]]":
    """Whether it is a list of dictionaries with boxes, labels and scores, one an image."""
    return (
        isinstance(value, list | tuple)
        and bool(value)
        and all(isinstance(one, Mapping) and {*NAMES} <= {*one} for one in value)
    )


def padded(found: "list[Mapping[str, torch.Tensor]]") -> "dict[str, torch.Tensor]":
    """Boxes (images, most, 4), labels and scores (images, most), filled up with zeros.

    A score of zero is no detection. What else was found (masks, key points) is left out.
    """
    from torch.nn.utils.rnn import pad_sequence

    if len(found) == 1:  # nothing to fill up, and exporters know no pad_sequence
        return {name: found[0][name][None] for name in NAMES}
    return {name: pad_sequence([one[name] for one in found], batch_first=True) for name in NAMES}


def takes_list(module: "nn.Module", error: Exception) -> bool:
    """Whether a module that refused a batch takes a list of images, as it says itself."""
    if "list of" in str(error).lower():
        return True
    try:
        parameters = inspect.signature(module.forward).parameters.values()
    except (TypeError, ValueError):
        return False
    stated = next((parameter.annotation for parameter in parameters), "")
    return str(stated).replace("typing.", "").lower().startswith("list[")
