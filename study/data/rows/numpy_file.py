"""An ``.npy`` or ``.npz`` file, read without ever unpickling."""

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from study.errors import InputError
from study.loading.pickles import refuse_objects

MAGIC = b"\x93NUMPY"


def begins_with(path: Path, magic: bytes) -> bool:
    """Whether a file begins so."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(magic)) == magic


def read_npy(path: Path) -> NDArray[Any]:
    """An array, mapped from the file.

    Raises:
        InputError: the file is damaged, or holds Python objects (they are named, never run).
    """
    refuse_objects(path)
    try:
        return _plain(np.load(path, mmap_mode="r", allow_pickle=False), path, path.name)
    except (ValueError, EOFError, OSError) as error:
        raise InputError(
            f"{path} is no whole .npy file ({_first_line(error)}): copy or save it again."
        ) from error


def read_npz(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays by name, in the file's order.

    Raises:
        InputError: the file is damaged, or holds Python objects (they are named, never run).
    """
    refuse_objects(path)
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: _plain(archive[name], path, name) for name in archive.files}
    except (ValueError, EOFError, OSError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(
            f"{path} is no whole .npz file ({_first_line(error)}): copy or save it again."
        ) from error


def _plain(array: NDArray[Any], path: Path, name: str) -> NDArray[Any]:
    if array.dtype.names or array.dtype.kind in "cV":
        raise InputError(f"{path}: '{name}' is an array of {array.dtype}: save it as numbers or as text.")
    return array


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
