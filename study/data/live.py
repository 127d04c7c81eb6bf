"""Objects that the Python API was handed."""

import hashlib
from collections.abc import Mapping
from typing import Any, final

import numpy as np

from study.data.rows.held import reader_of
from study.data.source import Reader, Source
from study.host import to_numpy
from study.loading.live import held
from study.subject import Data

ROWS_HASHED = 64
"""Of a dataset, whose rows may be slow to read; spread over all of it."""


@final
class Live(Source):
    """Arrays, ``(x, y)``, a dictionary of arrays, a data frame, a ``Dataset`` or a ``DataLoader``."""

    @classmethod
    def recognises(cls, data: Data) -> bool:
        """It goes by the key that the object is held under."""
        return bool(data.live)

    @classmethod
    def open(cls, data: Data) -> Reader:
        """Sort the object out."""
        return reader_of(held(data.live), data)


def digest(thing: Any) -> str:
    """SHA-256 of what an object holds, the same in every process; of a dataset, of some of its rows."""
    found = hashlib.sha256()
    _hash(thing, found)
    return found.hexdigest()


def _hash(thing: Any, found: "hashlib._Hash") -> None:
    found.update(f"\n{type(thing).__qualname__} ".encode())
    if isinstance(thing, Mapping):
        for name, value in thing.items():
            found.update(str(name).encode())
            _hash(value, found)
    elif isinstance(thing, tuple | list):
        for value in thing:
            _hash(value, found)
    elif thing is None or isinstance(thing, str | int | float | bool):
        found.update(repr(thing).encode())
    elif hasattr(thing, "shape") and hasattr(thing, "dtype"):
        array = np.ascontiguousarray(to_numpy(thing))
        found.update(f"{array.dtype} {array.shape} ".encode())
        found.update(repr(array.tolist()).encode() if array.dtype.kind == "O" else array.tobytes())
    elif hasattr(thing, "columns") and hasattr(thing, "to_numpy"):
        for name in thing.columns:
            found.update(str(name).encode())
            _hash(thing[name].to_numpy(), found)
    else:
        rows = reader_of(thing, Data(source=""))
        found.update(f"{len(rows)} ".encode())
        spread = np.unique(np.linspace(0, len(rows) - 1, min(ROWS_HASHED, len(rows))).astype(int))
        read = rows.read(spread)
        _hash([dict(read.inputs), read.labels, repr(read.metadata.rows())], found)
