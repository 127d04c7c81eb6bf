"""What a zip file holds: a pickle of torch, TorchScript, a torch.export archive, or no model."""

import io
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final, Literal, TypeAlias

from study.errors import InputError
from study.loading.pickles import UNREADABLE, Contents, contents_of
from study.subject import Precision

Kind: TypeAlias = Literal["pickle", "torchscript", "exported", "compiled", "arrays", "other"]
ZIP_MAGIC: Final = b"PK\x03\x04"
_NESTED_LIMIT: Final = 256 * 2**20
"""A zip inside a zip is read into memory to be looked at: not one that says it is larger than this."""
_DEPTH: Final = 4


@dataclass(slots=True)
class Archive:
    """What was found in a zip."""

    kind: Kind
    precision: Precision = "fp32"
    contents: Contents = field(default_factory=Contents)
    """The pickle that torch would read."""
    foreign: set[str] = field(default_factory=set)
    """What the pickles in it, however deeply nested, would call that torch does not allow by itself."""


def read_archive(path: Path) -> Archive:
    """Look at every member.

    Raises:
        zipfile.BadZipFile: it is cut off.
        InputError: its pickle is cut off.
    """
    with zipfile.ZipFile(path) as archive:
        if min((member.header_offset for member in archive.infolist()), default=0):
            # Python takes the directory of a zip inside it when its own is cut off; torch does not.
            raise zipfile.BadZipFile
        kind = _kind([member.filename for member in archive.infolist()])
        if kind == "pickle":
            return Archive(kind, contents=_pickles(archive, path))
        if kind == "torchscript":
            return Archive(kind, precision=_precision(archive, b"ops.quantized."))
        quantized = b"torch.ops.quantized_decomposed."
        precision = _precision(archive, quantized) if kind == "exported" else "fp32"
        return Archive(kind, precision=precision, foreign=_foreign(archive, 0))


def _kind(names: list[str]) -> Kind:
    inner = {name.partition("/")[2] or name for name in names} | set(names)
    if "serialized_exported_program.json" in inner or any(
        name.startswith("models/") and name.endswith(".json") for name in inner
    ):
        return "exported"
    if "archive_format" in inner:
        return "compiled"
    if "constants.pkl" in inner:
        return "torchscript"
    if "data.pkl" in inner:
        return "pickle"
    if names and all(name.endswith(".npy") for name in names):
        return "arrays"
    return "other"


def pickled_contents(path: Path) -> Contents:
    """What the pickle says that ``torch.load`` would read from a zip or a plain file.

    Raises:
        InputError: it is cut off.
    """
    with path.open("rb") as file:
        zipped = file.read(len(ZIP_MAGIC)) == ZIP_MAGIC
        if not zipped:
            file.seek(0)
            return contents_of(file)
    with zipfile.ZipFile(path) as archive:
        return _pickles(archive, path)


def _pickles(archive: zipfile.ZipFile, path: Path) -> Contents:
    """The pickle that torch reads; all count where several members have its name, since readers differ."""
    found = Contents()
    for member in archive.infolist():
        if member.filename.endswith("data.pkl"):
            try:
                with archive.open(member) as stream:
                    part = contents_of(stream)
            except InputError as error:
                raise InputError(f"{path}: {error}: copy or save it again.") from None
            found.globals |= part.globals
            found.root = part.root
    return found


def _precision(archive: zipfile.ZipFile, mark: bytes) -> Precision:
    """int8 where the code or graph in the archive names quantized operators."""
    for member in archive.infolist():
        if member.filename.endswith((".py", ".json")) and mark in archive.read(member):
            return "int8"
    return "fp32"


def _foreign(archive: zipfile.ZipFile, depth: int) -> set[str]:
    found: set[str] = set()
    for member in archive.infolist():
        with archive.open(member) as stream:
            head = stream.read(4)
        if head == ZIP_MAGIC:
            if depth == _DEPTH or member.file_size > _NESTED_LIMIT:
                found.add(UNREADABLE)
                continue
            try:
                with zipfile.ZipFile(io.BytesIO(archive.read(member))) as nested:
                    found |= _foreign(nested, depth + 1)
            except zipfile.BadZipFile:
                continue
        elif not member.filename.endswith((".py", ".json")):
            with archive.open(member) as stream:
                found |= _foreign_pickle(stream)
    return found


def _foreign_pickle(stream: IO[bytes]) -> set[str]:
    try:
        return contents_of(stream).foreign
    except InputError:
        return set()
