"""Opening what was given as data: the first source of the catalogue that recognises it."""

from functools import lru_cache
from pathlib import Path
from zipfile import is_zipfile

from study.data.rows.numpy_file import begins_with
from study.data.source import SOURCES, Reader
from study.errors import InputError, did_you_mean
from study.subject import Data

KEPT = 8
"""Open sources that are kept: a factory is called once, and a table parsed once."""


def open_source(data: Data) -> Reader:
    """Open it, or take the one that this process has open already, if its file is the same still.

    Raises:
        InputError: there is no such file, nothing reads it, or it cannot be read.
    """
    return _open(data, str(Path.cwd()), _stamps(data))


def forget_sources() -> None:
    """Let go of the open sources (a factory would be called again)."""
    _open.cache_clear()


@lru_cache(maxsize=KEPT)
def _open(data: Data, _folder: str, _stamp: tuple[tuple[int, int], ...]) -> Reader:
    for name in SOURCES:
        source = SOURCES.get(name)
        if source.recognises(data):
            return source.open(data)
    raise InputError(_why_not(data))


def _stamps(data: Data) -> tuple[tuple[int, int], ...]:
    """Time and size of the files, so that one that was written anew is read anew."""
    paths = [] if data.live else [Path(data.source), Path(data.label)]
    found = []
    for path in paths:
        if path.is_file():
            stat = path.stat()
            found.append((stat.st_mtime_ns, stat.st_size))
    return tuple(found)


def _why_not(data: Data) -> str:
    path = Path(data.source)
    if not path.exists():
        siblings = (
            [str(path.parent / other.name) for other in path.parent.iterdir()] if path.parent.is_dir() else []
        )
        hint = did_you_mean(data.source, siblings)
        return (
            f"There is no file or folder '{data.source}'.{hint if 'mean' in hint else ''}"
            " Data is a path, or module:factory."
        )
    if path.is_file() and not path.stat().st_size:
        return f"{data.source} is empty: copy or save it again."
    if begins_with(path, b"PK") and not is_zipfile(path):
        return f"{data.source} is damaged or cut off: copy or save it again."
    return (
        f"{data.source} is no data that can be read: give .npz, .npy, CSV, JSONL, Parquet, COCO, a .pt of "
        "tensors, a folder of class folders of images, or module:factory."
    )
