"""Any torch model file as a module in eval mode, and a module that was changed as a file again."""

import copy
from collections.abc import Mapping
from dataclasses import replace
from hashlib import file_digest
from pathlib import Path
from typing import TYPE_CHECKING, cast

from study.errors import InputError, SkipError, few
from study.loading.adapters import merge
from study.loading.adopted import give_back
from study.loading.archives import pickled_contents
from study.loading.bags import takes_offsets, without_bags
from study.loading.factory import build_module
from study.loading.library import LIBRARIES
from study.loading.live import held, unwrapped
from study.loading.packing import in_any_order
from study.loading.resized import Widths, resize, widths_of
from study.loading.standins import read_module_state
from study.loading.states import fill, read_checkpoint, states_of
from study.loading.weight_file import weight_file
from study.loading.weight_sets import choose
from study.storage import written
from study.subject import Model

if TYPE_CHECKING:
    import torch
    from torch import nn


def load_module(model: Model) -> "nn.Module":
    """A module that nobody else holds, in eval mode, on the CPU.

    Raises:
        InputError: the file cannot be read, does not fit its ``--arch``, or is weights alone.
        SkipError: the format has no torch module.
    """
    if model.format == "torchscript":
        from study.loading.torchscript import load_script

        return load_script(model)
    if model.format == "exported":
        from study.loading.exported import load_program

        return load_program(model).module()
    if model.format == "onnx":
        raise SkipError(f"{model.path.name} is ONNX: it has no torch module")
    if model.format == "weights":
        raise InputError(
            f"{model.path} is a state dict, which says nothing of the layers: add --arch module:factory."
        )
    module = _eager(model)
    if model.adapter is not None:
        merge(module, model.adapter)
    return _in_eval_mode(_as_fed(module), model)


def new_module(arch: str, arch_args: str, what: str = "--arch") -> "nn.Module":
    """What a factory makes, with the weights that it draws, to be trained; fed as ``load_module``'s is.

    Raises:
        InputError: the factory fails, or gives no ``nn.Module``; the sentence names the option ``what``.
    """
    return _as_fed(build_module(arch, arch_args, what, drawn=True))


def _as_fed(module: "nn.Module") -> "nn.Module":
    """The module, taking batches as they are made here."""
    return in_any_order(without_bags(module) if takes_offsets(module) else module)


def _eager(model: Model) -> "nn.Module":
    as_it_came = not (model.live and model.path.is_file())  # weights of a live model that a step changed
    if model.library and model.skeleton is None and as_it_came:
        return LIBRARIES.get(model.library).build(model)
    if model.live and not model.path.is_file():
        return _skeleton(model)
    if not (model.live or model.arch or model.skeleton):
        return _pickled_module(model)
    module = _skeleton(model)
    states, widths = _states(model)
    fits = f"--arch {model.arch}" if model.arch else "the module that it was made from"
    if widths is not None:
        resize(module, widths, cast("Mapping[str, torch.Tensor]", states[0]))
    fill(module, states, model.path, fits)
    give_back()
    return module


def _skeleton(model: Model) -> "nn.Module":
    """The module that weights are put into."""
    import torch

    if model.arch:
        return build_module(model.arch, model.arch_args)
    if model.library:
        return LIBRARIES.get(model.library).build(replace(model, path=model.skeleton or model.path))
    if model.skeleton is not None:
        return _pickled_module(replace(model, path=model.skeleton, skeleton=None))
    module = held(model.live)
    assert isinstance(module, torch.nn.Module)
    try:
        return copy.deepcopy(module)
    except Exception as error:
        raise InputError(
            f"{type(module).__name__} cannot be copied ({type(error).__name__}: {error}): save its "
            "state_dict() and give the file with its factory."
        ) from error


def _pickled_module(model: Model) -> "nn.Module":
    import torch

    if not model.trust:
        raise InputError(f"{model.path} is a whole pickled module: add --trust, or --arch module:factory.")
    loaded = read_checkpoint(model)
    _, loaded = choose(loaded, model.weights, model.path)
    if isinstance(loaded, Mapping):
        loaded = next((part for part in loaded.values() if isinstance(part, torch.nn.Module)), loaded)
    if not isinstance(loaded, torch.nn.Module):
        raise InputError(
            f"{model.path} holds a {type(loaded).__name__}, not a module: add --arch module:factory."
        )
    return unwrapped(loaded)


def _states(model: Model) -> tuple[list[dict[str, object]], Widths | None]:
    """The sets of weights, of which the one that fits is taken; and the widths that ``save_module`` wrote."""
    path = model.path
    if not model.trust and weight_file(path) is None and (foreign := pickled_contents(path).foreign):
        return [dict(read_module_state(path, foreign, model.weights))], None
    loaded = read_checkpoint(model)
    if isinstance(loaded, Mapping) and loaded.keys() == {"state_dict", "widths"}:
        return [dict(loaded["state_dict"])], loaded["widths"]
    return states_of(loaded, path, model.weights), None


def _in_eval_mode(module: "nn.Module", model: Model) -> "nn.Module":
    """The module, with every layer proved to be in eval mode: ``train`` and ``eval`` can be overridden."""
    module.eval()
    training = [name or type(module).__name__ for name, layer in module.named_modules() if layer.training]
    if training:
        raise InputError(
            f"{model.path}: {few(training)} stayed in train mode after eval(): correct its train()."
        )
    return module


def save_module(module: "nn.Module", out: Path, origin: Model) -> Model:
    """Write the weights of a module made from ``origin``, with the widths of the layers that were changed.

    ``load_module`` of the result builds the origin's module anew, sets the widths and loads the weights.

    Raises:
        SkipError: more than widths and weights was changed, so that it would not come back.
    """
    import torch

    if origin.format != "pytorch":
        raise SkipError(
            f"a module made from {origin.format} has no skeleton that its weights could be put into"
        )
    skeleton = _skeleton_of(origin)
    state = {name: value.detach().cpu() for name, value in module.state_dict().items()}
    widths = widths_of(module, skeleton)
    try:
        resize(skeleton, widths, state)
        fill(skeleton, [state], out, "the module that it was made from")
    except InputError as error:
        raise SkipError(f"the changed module cannot be saved: {error}") from error
    # torch tells why a disk refuses only where it is given an open file
    with written(out) as beside, beside.open("wb") as stream:
        torch.save({"state_dict": state, "widths": widths}, stream)
    with out.open("rb") as file:
        digest = file_digest(file, "sha256").hexdigest()
    kept = origin.skeleton or (None if origin.arch or origin.live else origin.path)
    size = out.stat().st_size
    return replace(origin, path=out, sha256=digest, bytes=size, skeleton=kept, adapter=None)


def _skeleton_of(origin: Model) -> "nn.Module":
    """A fresh module of the origin, as ``load_module`` will build it before it sets widths."""
    pickled = not (origin.arch or origin.live or origin.skeleton or origin.library)
    return _pickled_module(origin) if pickled else _skeleton(origin)
