"""Tensors that ``torch.save`` wrote: a dictionary, ``(x, y)``, or a list of samples."""

import pickle  # noqa: TID251 - only the name of its error: nothing is unpickled here
import zipfile
from pathlib import Path
from typing import Any, Final, final

from study.data.rows.held import reader_of
from study.data.rows.numpy_file import begins_with
from study.data.source import Reader, Source
from study.errors import InputError
from study.loading.pickles import called, contents_of
from study.subject import Data

LEGACY: Final = (b"\x80\x02\x8a", b"\x80\x02}", b"\x80\x03", b"\x80\x04")


@final
class TensorFile(Source):
    """A file of tensors, read with ``weights_only`` and mapped where its format allows it."""

    @classmethod
    def recognises(cls, data: Data) -> bool:
        """A zip with a ``data.pkl``, or a bare pickle."""
        path = Path(data.source)
        if begins_with(path, b"PK") and zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                return any(name.endswith("/data.pkl") for name in archive.namelist())
        return any(begins_with(path, magic) for magic in LEGACY)

    @classmethod
    def open(cls, data: Data) -> Reader:
        """Read the tensors; what else is in the pickle is named and never run."""
        return reader_of(_load(Path(data.source)), data)


def _load(path: Path) -> Any:
    import torch

    _refuse_foreign(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except (pickle.UnpicklingError, RuntimeError, ValueError, EOFError, KeyError, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path} holds no readable tensors ({reason}).") from error


def _refuse_foreign(path: Path) -> None:
    """Name what the pickle would call beside tensors."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            name = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
            with archive.open(name) as stream:
                contents = contents_of(stream)
    else:
        with path.open("rb") as stream:
            contents = contents_of(stream)
    if contents.foreign:
        raise InputError(
            f"{path} holds objects ({called(contents.foreign)}), which would run code if they were read: "
            "save a dictionary of tensors, or give --data module:factory."
        )
