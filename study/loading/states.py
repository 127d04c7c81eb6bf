"""State dicts as people save them: read without running them, unwrapped, and put into a module."""

import tarfile
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from study.errors import InputError, few
from study.loading.adopted import adopt
from study.loading.archives import pickled_contents
from study.loading.factory import open_user_folder, run_user_code
from study.loading.reparametrised import folded
from study.loading.weight_file import weight_file
from study.loading.weight_sets import choose, flat, said_of, sets_in
from study.subject import Model

if TYPE_CHECKING:
    import torch
    from torch import nn


def read_checkpoint(model: Model) -> object:
    """What lies in the file, on the CPU; a zip's tensors stay on disk until they are used.

    Raises:
        InputError: it cannot be read.
    """
    import torch

    path = model.path
    if not path.is_file():
        raise InputError(f"There is no file {path}.")
    kind = weight_file(path)
    if kind is not None:
        try:
            return dict(kind.read(path))
        except InputError:
            raise
        except Exception as error:  # each library has its own; the file is recognised, so it is damaged
            raise _damaged(path, _first(error)) from error
    mapped = zipfile.is_zipfile(path)
    if model.trust and _needs_full_unpickle(path):
        return _unpickled(path, mapped=mapped)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:
        raise _unreadable(path, error) from error


def _needs_full_unpickle(path: Path) -> bool:
    """An old tar, a pickle not of torch.save, or one with names that torch does not allow by itself."""
    if tarfile.is_tarfile(path):
        return True
    contents = pickled_contents(path)
    return bool(contents.foreign) or not (contents.legacy or zipfile.is_zipfile(path))


def _foreign(path: Path) -> bool:
    return not tarfile.is_tarfile(path) and bool(pickled_contents(path).foreign)


def _unpickled(path: Path, *, mapped: bool) -> object:
    """A full unpickle: the user has said that it may run what the file says."""
    import pickle  # noqa: TID251 - only here, and only after --trust

    import torch

    def load() -> object:
        if not (mapped or tarfile.is_tarfile(path) or pickled_contents(path).legacy):
            with path.open("rb") as file:
                return pickle.load(file)  # noqa: S301 - as above
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the classes' source has changed since: everybody's has
            return torch.load(path, map_location="cpu", weights_only=False, mmap=mapped)

    open_user_folder()
    return run_user_code(
        load, f"{path} cannot be unpickled", "stand in the folder whose modules it was saved with"
    )


def state_of(loaded: object, path: Path, key: str = "") -> dict[str, object]:
    """The flat state dict in a checkpoint: the set of that key, nested names joined by dots.

    Raises:
        InputError: there is no tensor in it, or no set of that key.
    """
    import torch

    _, node = choose(loaded, key, path)
    state = dict(flat(node))
    if not any(isinstance(value, torch.Tensor) for value in state.values()):
        raise InputError(
            f"{path} holds no tensors: give the file that torch.save(model.state_dict(), …) wrote."
        )
    return state


def said_of_weights(model: Model) -> tuple[str, ...]:
    """Which weights were taken where the file holds several sets, in a sentence.

    Raises:
        InputError: it cannot be read, or has no weights of the key that was asked for.
    """
    plain = model.format in ("pytorch", "weights") and model.path.is_file() and not model.library
    if not plain or (not model.trust and weight_file(model.path) is None and _foreign(model.path)):
        return ()
    return said_of(read_checkpoint(model), model.weights, model.path, fits=bool(model.arch))


def states_of(loaded: object, path: Path, key: str = "") -> list[dict[str, object]]:
    """The set of that key; without one, and where nothing says which of several, the file and each set."""
    whole = state_of(loaded, path, key)
    if choose(loaded, key, path)[0]:
        return [whole]
    return [whole, *(dict(flat(node)) for where, node in sets_in(loaded) if where)]


def unwrapped_names(state: Mapping[str, object]) -> dict[str, object]:
    """Without ``module.`` (where every name begins with it) and without ``_orig_mod.`` anywhere.

    The count that ``AveragedModel`` (EMA, SWA) keeps beside the weights is left out.
    """
    names = {name: name.replace("_orig_mod.", "") for name in state if name != "n_averaged"}
    while names and all(name.startswith("module.") for name in names.values()):
        names = {old: name.removeprefix("module.") for old, name in names.items()}
    return {name: state[old] for old, name in names.items()}


def fill(module: "nn.Module", states: Sequence[Mapping[str, object]], path: Path, arch: str) -> None:
    """Put a state dict into a module: the one of several, under the naming, that fits it best.

    Raises:
        InputError: it does not fit; at most three of the keys at fault are named.
    """
    own = module.state_dict()
    namings = (folded(naming, own) for state in states for naming in _namings(state))
    best = max(namings, key=lambda names: len(own.keys() & names.keys()))
    tensors = _tensors(best)
    bent = [
        f"{name} {tuple(tensors[name].shape)} for {tuple(own[name].shape)}"
        for name in own
        if name in tensors and not _same_shape(own[name], tensors[name])
    ]
    if not bent:
        try:
            shared = {own[name].data_ptr() for name in tensors if name in own and _real(own[name])}
            taken = adopt(module, tensors)
            rest = {name: value for name, value in best.items() if name not in taken}
            keys = module.load_state_dict(rest, strict=False)
        except Exception as error:
            raise InputError(f"{path} does not fit {arch}: {_first(error)}") from error
        missing = [
            name
            for name in keys.missing_keys
            if not (name in taken or name.endswith("num_batches_tracked") or own[name].data_ptr() in shared)
        ]
        unexpected = [name for name in keys.unexpected_keys if name in tensors]
        if not missing and not unexpected:
            return
    else:
        missing = unexpected = []
    faults = [("are of another shape", bent), ("are missing", missing), ("are not known to it", unexpected)]
    parts = [f"{few(names, shown=1)} {what}" for what, names in faults if names]
    if len(parts) == 1:
        parts = [f"{few(names)} {what}" for what, names in faults if names]
    raise InputError(
        f"{path} does not fit {arch}: {'; '.join(parts)}: give the --arch (and --arch-args) that it was "
        "saved from."
    )


def _namings(state: Mapping[str, object]) -> Iterator[dict[str, object]]:
    """The names as saved, without what wrappers put in, and without a first segment that all share."""
    yield dict(state)
    plain = unwrapped_names(state)
    yield plain
    tensors = _tensors(plain)
    firsts = {name.partition(".")[0] for name in tensors}
    if len(firsts) == 1:
        yield {name.partition(".")[2]: value for name, value in tensors.items()}


def _tensors(state: Mapping[str, object]) -> "dict[str, torch.Tensor]":
    import torch

    return {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}


def _real(tensor: "torch.Tensor") -> bool:
    """Has memory: no lazy, meta or empty one."""
    from torch.nn.parameter import is_lazy

    return not is_lazy(tensor) and tensor.device.type != "meta" and tensor.numel() > 0


def _same_shape(own: "torch.Tensor", saved: "torch.Tensor") -> bool:
    """A lazy parameter takes any shape; a scalar was saved with one element before torch 0.4."""
    from torch.nn.parameter import is_lazy

    return is_lazy(own) or own.shape == saved.shape or (own.ndim == 0 and tuple(saved.shape) == (1,))


def _unreadable(path: Path, error: Exception) -> InputError:
    text = _first(error)
    if "nsupported" in text or "Weights only" in text:
        return InputError(
            f"{path} holds what torch does not read without running code: add --trust if you know who "
            "made it."
        )
    return _damaged(path, text)


def _damaged(path: Path, text: str) -> InputError:
    said = text.partition(". ")[0].rstrip(".")
    return InputError(f"{path} is damaged or cut off ({said}): copy or save it again.")


def _first(error: Exception) -> str:
    """The first line of a message that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (
        lines[1] if len(lines) > 1 and lines[0].startswith("Error(s) in loading") else (lines or [""])[0]
    )[:200]
