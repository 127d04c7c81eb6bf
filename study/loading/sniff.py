"""What a model file is, by looking at it and not at its name; nothing in it is run, no framework imported."""

import hashlib
import tarfile
import zipfile
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from shlex import quote
from typing import Final

from study.errors import InputError, few
from study.loading.archives import Archive, read_archive
from study.loading.library import LIBRARIES, library_of
from study.loading.pickles import Contents, called, contents_of
from study.loading.protobuf import NotProtobufError, read_onnx
from study.loading.shards import index_in
from study.loading.weight_file import weight_file
from study.storage import GENERATION, hash_of_all
from study.subject import Model

ZIP_MAGIC: Final = b"PK\x03\x04"
_PROTOCOLS: Final = tuple(bytes([0x80, protocol]) for protocol in range(2, 6))
"""How every pickle begins since Python 2.3."""
SETS: Final = ("pytorch", "weights")
"""Formats of which one file may hold several sets of weights."""
_ACCEPTED: Final = (
    "a state dict (.pt, .ckpt, .safetensors), TorchScript, a torch.export archive (.pt2) or ONNX"
)


def identify(
    path: Path, *, arch: str = "", arch_args: str = "{}", weights: str = "", trust: bool = False
) -> Model:
    """The model in this file, with its format, precision, hash and size.

    Raises:
        InputError: there is no such file, it is no model, is cut off, or would run code when it is read.
    """
    library = library_of(path)
    if library:
        digest, size = hash_of_all(LIBRARIES.get(library).files(path))
        model = Model(path, "pytorch", sha256=digest, bytes=size, trust=trust, library=library)
        return _without_sets(model, weights)
    path = index_in(path)
    head = _head(path)
    model = Model(path=path, format="weights", arch=arch, arch_args=arch_args, trust=trust)
    runs = replace(model, format="pytorch") if arch else model
    kind = weight_file(path)
    if kind:
        found = runs
    elif head.startswith(ZIP_MAGIC):
        found = _zip(runs)
    elif tarfile.is_tarfile(path):
        found = _tar(runs)
    elif (contents := _pickle(path, head)) is not None:
        found = _judge(runs, contents)
    else:
        return _without_sets(_onnx(model), weights)
    found = replace(found, weights=weights) if found.format in SETS else _without_sets(found, weights)
    digest, size = hash_of_all(kind.files(path) if kind else [path])
    return replace(found, sha256=digest, bytes=size)


def with_adapter(model: Model, folder: Path) -> Model:
    """The model with what a LoRA adapter adds to its weights; both decide its hash.

    Raises:
        InputError: the folder is no adapter, or the model has no module that it could be added to.
    """
    from study.loading.adapters import files_of_adapter

    if model.format != "pytorch":
        raise InputError(
            f"--adapter changes the weights of a module, and {model.path} is {model.format}: "
            + ("give its --arch." if model.format == "weights" else "give the model that was trained.")
        )
    digest, size = hash_of_all(files_of_adapter(folder))
    joined = hashlib.sha256(f"{model.sha256}{digest}".encode()).hexdigest()
    return replace(model, adapter=folder, sha256=joined, bytes=model.bytes + size)


def _without_sets(model: Model, weights: str) -> Model:
    """The model, of which no weights can be chosen."""
    if weights:
        what = model.library or model.format
        raise InputError(
            f"--weights chooses among the weights of a checkpoint, and {model.path} is {what}: leave it out."
        )
    return model


def _head(path: Path) -> bytes:
    """The first bytes of a file that can be read."""
    if path.is_dir():
        inside = sorted(
            p.name for p in path.iterdir() if p.suffix in (".pt", ".pth", ".onnx", ".safetensors")
        )
        there = f" It holds {few(inside)}." if inside else ""
        raise InputError(f"{path} is a folder: name the model file in it.{there}")
    if not path.exists():
        beside = [p.name for p in path.parent.iterdir() if p.is_file()] if path.parent.is_dir() else []
        close = get_close_matches(path.name, beside, n=1)
        raise InputError(f"There is no file {path}." + (f" Did you mean '{close[0]}'?" if close else ""))
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from None
    if not head:
        raise InputError(f"{path} is empty: copy or save it again.")
    return head


def _zip(model: Model) -> Model:
    path = model.path
    try:
        archive = read_archive(path)
    except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError, RuntimeError, ValueError):
        raise _cut_off(path) from None
    if archive.kind == "exported":
        if archive.foreign and not model.trust:
            raise _refused(path, archive.foreign)
        return replace(model, format="exported", precision=archive.precision)
    if archive.kind == "torchscript":
        return replace(model, format="torchscript", precision=archive.precision)
    if archive.kind == "pickle":
        return _judge(model, archive.contents, zipped=True)
    raise _no_model(path, archive)


def _no_model(path: Path, archive: Archive) -> InputError:
    if archive.foreign:
        return _refused(path, archive.foreign)
    if archive.kind == "arrays":
        return InputError(f"{path} is a zip of arrays, not a model: give it as --data {path}.")
    if archive.kind == "compiled":
        return InputError(f"{path} is compiled for one machine: give what torch.export.save wrote instead.")
    return InputError(f"{path} is a zip that holds no model: give {_ACCEPTED}.")


def _tar(model: Model) -> Model:
    """A file of torch before 0.1.10, which torch reads by a full unpickle only."""
    path = model.path
    found = Contents()
    try:
        with tarfile.open(path) as archive:
            names = archive.getnames()
            for member in archive:
                stream = archive.extractfile(member) if member.isfile() else None
                if stream is not None and member.name in ("pickle", "sys_info"):
                    part = contents_of(stream)
                    found.globals |= part.globals
                    found.root = part.root if member.name == "pickle" else found.root
    except (tarfile.TarError, OSError, EOFError):
        raise _cut_off(path) from None
    except InputError as error:
        raise InputError(f"{path}: {error}: copy or save it again.") from None
    if not {"pickle", "storages"} <= set(names):
        raise InputError(f"{path} is a tar archive that holds no model: give {_ACCEPTED}.")
    if not model.trust:
        raise _refused(path, found.foreign or found.globals, "a checkpoint in the old tar format, ")
    return _judge(model, found)


def _pickle(path: Path, head: bytes) -> Contents | None:
    """What a pickle without a zip around it says; None where the file is none."""
    with path.open("rb") as file:
        try:
            return contents_of(file)
        except InputError:
            if head[:2] in _PROTOCOLS:
                raise _cut_off(path) from None
            return None


def _judge(model: Model, contents: Contents, *, zipped: bool = False) -> Model:
    """Weights, a module that may be unpickled, or a refusal."""
    path, foreign = model.path, contents.foreign
    whole = contents.is_module
    if foreign and not model.trust:
        if whole and zipped and model.arch:
            return model
        if whole:
            raise _whole_module(path, foreign, zipped=zipped)
        raise _refused(path, foreign)
    if whole and not model.arch:
        return replace(model, format="pytorch")
    if not contents.is_mapping and contents.root != "list" and not whole:
        raise InputError(f"{path} is a pickle, but not of a state dict or a module: give {_ACCEPTED}.")
    return model


def _whole_module(path: Path, foreign: set[str], *, zipped: bool) -> InputError:
    """The two commands that work. Weights alone can be read without its classes since torch 1.6 (a zip)."""
    shell = quote(str(path))
    other = (
        f"diag analyze {shell} --arch module:factory to read its weights alone"
        if zipped
        else "save its state_dict() as weights.pt and type diag analyze weights.pt --arch module:factory"
    )
    return InputError(
        f"{path} is a whole pickled module, and reading it runs code from the file ({called(foreign)}): "
        f"type diag analyze {shell} --trust if you trust it, or {other}."
    )


def _refused(path: Path, names: set[str], what: str = "") -> InputError:
    return InputError(
        f"{path} is {what}a pickle that runs code when it is read ({called(names)}): add --trust if you know "
        "who made it, or ask for its state dict, saved by torch.save or safetensors."
    )


def _onnx(model: Model) -> Model:
    path = model.path
    try:
        found = read_onnx(path)
    except NotProtobufError:
        if path.suffix == ".onnx":
            raise InputError(f"{path} is no ONNX model, or is cut off: copy or export it again.") from None
        raise InputError(f"{path} is not a model: give {_ACCEPTED}.") from None
    outside = [name for name in found.external if Path(name).is_absolute() or ".." in Path(name).parts]
    if outside:
        raise InputError(f"{path} keeps weights outside its folder ({few(outside)}): put them beside it.")
    beside = [path.parent / name for name in sorted(found.external)]
    missing = [file.name for file in beside if not file.is_file()]
    if missing:
        raise InputError(f"{path} keeps its weights in {few(missing)}: put that file beside it.")
    digest, size = hash_of_all([path, *beside])
    writes = path.parent / GENERATION / path.name
    past = _onnx(replace(model, path=writes)) if writes.is_file() else None
    made = replace(model, format="onnx", precision=found.precision, sha256=digest, bytes=size)
    return replace(made, with_past=past)


def _cut_off(path: Path) -> InputError:
    return InputError(f"{path} is damaged or cut off: copy or save it again.")
