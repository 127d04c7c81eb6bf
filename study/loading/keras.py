"""Models that Keras saved whole: ``.keras`` archives and ``.h5`` files, run by Keras 3 on torch."""

import importlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, final

from study.errors import InputError
from study.loading.keras_config import (
    EXTRA,
    Config,
    config_of,
    custom_classes,
    foreign_code,
    inputs_of,
    is_hdf5,
    is_keras_zip,
)
from study.loading.library import Facts, Library
from study.loading.live import held
from study.offline import offline
from study.subject import Model
from study.user_code import open_user_folder

if TYPE_CHECKING:
    from torch import nn

TENSORFLOW: Final = ("saved_model.pb", "keras_metadata.pb")
CONVERT: Final = "load it where TensorFlow is installed and save it with model.save('model.keras')"


@final
class Keras(Library):
    """A ``.keras`` archive or an HDF5 file with ``model_config``."""

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """By the members of the zip or the first bytes; a folder of TensorFlow, to be refused with a word."""
        if path.is_dir():
            return any((path / name).is_file() for name in TENSORFLOW)
        return path.is_file() and (is_hdf5(path) or is_keras_zip(path))

    @classmethod
    def files(cls, path: Path) -> list[Path]:
        """The one file; it must hold a model."""
        if path.is_dir():
            raise InputError(f"{path} is a SavedModel of TensorFlow, which torch cannot run: {CONVERT}.")
        config_of(path)
        return [path]

    @classmethod
    def facts(cls, path: Path) -> Facts:
        """Its inputs; Keras keeps no names of classes."""
        return _facts(config_of(path))

    @classmethod
    def is_live(cls, thing: object) -> bool:
        """A functional or sequential model; a subclass is a torch module that Keras alone can walk."""
        keras: Any = sys.modules.get("keras")
        if keras is None or not isinstance(thing, keras.Model):
            return False
        _on_torch(keras)
        from study.loading.keras_layers import graph_of

        return graph_of(thing) is not None

    @classmethod
    def facts_of_live(cls, thing: object) -> Facts:
        """As its file would say."""
        return _facts(_config_of_live(thing))

    @classmethod
    def build(cls, model: Model) -> "nn.Module":
        """The model in float32 layers of torch where they are the same, else as Keras computes it."""
        if model.live:
            return _copied(held(model.live))
        path, config = model.path, config_of(model.path)
        code = foreign_code(config)
        if code and not model.trust:
            raise InputError(
                f"{path} holds code that would be run: {code}; add --trust if you know who made it."
            )
        keras = _keras(path)
        from study.loading.keras_graph import module_of

        def load() -> Any:
            with offline(), keras.device("cpu"), _well_named(path) as file:
                custom = _custom(config) if model.trust else {}
                return keras.models.load_model(
                    str(file), custom_objects=custom, compile=False, safe_mode=not model.trust
                )

        with _in_one_sentence(path):
            return module_of(load(), load, tuple(spec.name for spec in inputs_of(config)))


def _keras(path: Path) -> Any:
    """Keras on torch.

    Raises:
        InputError: it is not installed, or this process runs it on another backend already.
    """
    os.environ["KERAS_BACKEND"] = "torch"
    try:
        with offline():
            import keras
    except ImportError:
        raise InputError(f"{path} is a model of Keras: {EXTRA}.") from None
    _on_torch(keras)
    return keras


def _on_torch(keras: Any) -> None:
    """Refuse another backend.

    Raises:
        InputError: this process runs Keras on one.
    """
    running = keras.backend.backend()
    if running != "torch":
        raise InputError(
            f"Keras was imported with the backend {running} in this process: set KERAS_BACKEND=torch before "
            "it is imported."
        )


def _facts(config: Config) -> Facts:
    return Facts(
        inputs=inputs_of(config),
        unprunable="a model of Keras has its channels last, and torch-pruning would cut other channels",
    )


def _config_of_live(model: Any) -> Config:
    config: Config = json.loads(model.to_json())
    return config


def _copied(model: Any) -> "nn.Module":
    """The module of a live model, with weights of its own."""
    import keras

    from study.loading.keras_graph import module_of

    def copy() -> Any:
        with keras.device("cpu"):
            made = keras.models.clone_model(model)
            made.set_weights(model.get_weights())
        return made

    return module_of(copy(), copy, tuple(spec.name for spec in inputs_of(_config_of_live(model))))


def _custom(config: Config) -> dict[str, object]:
    """What the configuration names that is not Keras's own, imported from where the user stands."""
    open_user_folder()
    found: dict[str, object] = {}
    for module, name, registered in custom_classes(config):
        source = sys.modules.get(module) or importlib.import_module(module)
        if hasattr(source, name):
            found |= {name: getattr(source, name), registered or name: getattr(source, name)}
    return found


@contextmanager
def _well_named(path: Path) -> Iterator[Path]:
    """The file under a name that ends as Keras asks, which tells the formats apart by it."""
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder) / f"model{'.h5' if is_hdf5(path) else '.keras'}"
        link.symlink_to(path.resolve())
        yield link


@contextmanager
def _in_one_sentence(path: Path) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # its loaders raise whatever they meet
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        line = (lines or [type(error).__name__])[0][:200].rstrip(".:")
        raise InputError(
            f"{path} cannot be read by Keras ({line}): save it again with the Keras that is installed here."
        ) from error
