"""The configuration inside ``.keras`` and ``.h5`` files, read without importing Keras or running anything."""

import json
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, TypeAlias

from study.errors import InputError
from study.subject import InputSpec

Config: TypeAlias = "Mapping[str, object]"

HDF5_MAGIC: Final = b"\x89HDF\r\n\x1a\n"
EXTRA: Final = "pip install 'diag-toolkit[keras]'"
_CODE: Final = ("Lambda", "TorchModuleWrapper", "__lambda__")
"""Classes of Keras whose configuration is code."""
_NO_LAYERS: Final = ("compile_config", "build_config", "training_config")


def is_keras_zip(path: Path) -> bool:
    """Whether it is a ``.keras`` archive, whatever its name."""
    if not zipfile.is_zipfile(path):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            names = set(archive.namelist())
    except (zipfile.BadZipFile, OSError):
        return False
    return "config.json" in names and bool(names & {"model.weights.h5", "model.weights.json"})


def is_hdf5(path: Path) -> bool:
    """Whether it is a file that can be read and begins as HDF5 does."""
    try:
        with path.open("rb") as file:
            return file.read(len(HDF5_MAGIC)) == HDF5_MAGIC
    except OSError:  # a folder, say; whoever must read it says why it cannot
        return False


def config_of(path: Path) -> Config:
    """The model's configuration.

    Raises:
        InputError: the file is damaged, holds weights alone, or needs h5py to be read.
    """
    text = _hdf5_config(path) if is_hdf5(path) else _zip_config(path)
    try:
        config = json.loads(text)
    except ValueError:
        config = None
    if not isinstance(config, dict) or "class_name" not in config:
        raise InputError(f"{path} holds no model of Keras: save it again with model.save('model.keras').")
    return config


def _zip_config(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.read("config.json").decode("utf-8", "replace")
    except (zipfile.BadZipFile, OSError, EOFError, ValueError):
        raise InputError(f"{path} is damaged or cut off: copy or save it again.") from None


def _hdf5_config(path: Path) -> str:
    try:
        import h5py
    except ImportError:
        raise InputError(f"{path} is an HDF5 file, which h5py reads: {EXTRA}.") from None
    try:
        with h5py.File(path, "r") as file:
            said = file.attrs.get("model_config")
    except OSError:
        raise InputError(f"{path} is damaged or cut off: copy or save it again.") from None
    if said is None:
        raise InputError(
            f"{path} holds weights of Keras alone (or no model), which say nothing of the layers: save the "
            "whole model with model.save('model.keras')."
        )
    return said.decode("utf-8", "replace") if isinstance(said, bytes) else str(said)


def inputs_of(config: Config) -> tuple[InputSpec, ...]:
    """The inputs that it is fed, in order; none where only running it would tell (a subclassed model)."""
    inner = _inner(config)
    layers = [layer for layer in _list(inner.get("layers")) if isinstance(layer, Mapping)]
    if config.get("class_name") == "Sequential":
        found = _first_of_sequence(config, layers)
        return (found,) if found else ()
    named = {str(layer.get("name") or _inner(layer).get("name")): layer for layer in layers}
    order = [str(entry[0]) for entry in _entries(inner.get("input_layers"))]
    if not order or any(name not in named for name in order):
        return ()
    specs = [_spec(_inner(named[name])) for name in order]
    return tuple(spec for spec in specs if spec) if all(specs) else ()


def foreign_code(config: Config) -> str:
    """The first layer that is code, or a class that is not Keras's own; empty where none is."""
    return next(_foreign(config, "the model"), "")


def custom_classes(config: Config) -> Iterator[tuple[str, str, str]]:
    """Module, name and registered name of every class or function that is not Keras's own."""
    for node in _nodes(config):
        module, name = str(node.get("module") or ""), _name_of(node)
        if module and not _own(module):
            yield module, name, str(node.get("registered_name") or "")


def parameter_name(name: str) -> str:
    """An input's name as one of a Python function."""
    plain = re.sub(r"\W", "_", name)
    return plain if plain.isidentifier() else f"input_{plain}"


def _foreign(node: object, layer: str) -> Iterator[str]:
    if isinstance(node, Mapping):
        inner = node.get("config")
        if "class_name" in node and isinstance(inner, Mapping) and isinstance(inner.get("name"), str):
            layer = f"the layer '{inner['name']}'"
        module, kind = str(node.get("module") or ""), str(node.get("class_name") or "")
        if kind in _CODE:
            what = "a Lambda" if kind in ("Lambda", "__lambda__") else f"a {kind}"
            yield f"{layer} is {what}" if kind in ("Lambda", "TorchModuleWrapper") else f"{layer} has {what}"
        elif kind and module and not _own(module):
            yield f"{layer} is '{_name_of(node)}' of the module {module}"
        for key, value in node.items():
            if key not in _NO_LAYERS:
                yield from _foreign(value, layer)
    elif isinstance(node, list):
        for value in node:
            yield from _foreign(value, layer)


def _nodes(node: object) -> Iterator[Config]:
    if isinstance(node, Mapping):
        if "class_name" in node:
            yield node
        for key, value in node.items():
            if key not in _NO_LAYERS:
                yield from _nodes(value)
    elif isinstance(node, list):
        for value in node:
            yield from _nodes(value)


def _own(module: str) -> bool:
    """Whether Keras itself has the class: tensorflow.keras wrote its modules as ``keras.…`` too."""
    return module.partition(".")[0] in ("keras", "builtins")


def _name_of(node: Config) -> str:
    """A function is saved with its name for a configuration."""
    inner = node.get("config")
    return (
        inner if node.get("class_name") == "function" and isinstance(inner, str) else str(node["class_name"])
    )


def _inner(node: Config) -> Config:
    inner = node.get("config")
    if isinstance(inner, list):  # a Sequential of the first Keras: its layers alone
        return {"layers": inner}
    return inner if isinstance(inner, Mapping) else {}


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _entries(value: object) -> list[list[object]]:
    """``input_layers`` as a list of (name, node, tensor): a single one is saved bare, several by name too."""
    if isinstance(value, Mapping):
        return [entry for part in value.values() for entry in _entries(part)]
    rows = _list(value)
    if rows and isinstance(rows[0], str):
        return [rows]
    return [entry for part in rows for entry in _entries(part)]


def _first_of_sequence(config: Config, layers: list[Config]) -> InputSpec | None:
    inner = _inner(config)
    first = _inner(layers[0]) if layers else {}
    spec = _spec(first)
    if spec is None:
        built = config.get("build_config")
        shape = inner.get("build_input_shape") or (
            built.get("input_shape") if isinstance(built, Mapping) else None
        )
        spec = _spec({"name": "input", "batch_shape": shape})
    return spec


def _spec(layer: Config) -> InputSpec | None:
    shape = layer.get("batch_shape") or layer.get("batch_input_shape")
    if not isinstance(shape, list):
        return None
    sizes = [size if isinstance(size, int) else None for size in shape]
    dtype = layer.get("dtype")
    known = (
        dtype if isinstance(dtype, str) and re.fullmatch(r"(float|int|uint)\d+|bool", dtype) else "float32"
    )
    return InputSpec(parameter_name(str(layer.get("name") or "input")), tuple(sizes), known)
