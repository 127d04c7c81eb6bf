"""Arrays in one ``.npz`` file."""

import zipfile
from pathlib import Path
from typing import final

from study.data.rows.arrays import Arrays
from study.data.rows.numpy_file import begins_with, read_npy, read_npz
from study.data.source import Reader, Source
from study.subject import Data


@final
class Npz(Source):
    """A zip of ``.npy`` members: one of them the labels, those with as many rows inputs or metadata."""

    @classmethod
    def recognises(cls, data: Data) -> bool:
        """A zip whose members are arrays."""
        path = Path(data.source)
        if not begins_with(path, b"PK") or not zipfile.is_zipfile(path):
            return False
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith(".npy") for name in archive.namelist())

    @classmethod
    def open(cls, data: Data) -> Reader:
        """Read all arrays; ``--label`` may also be the path of an ``.npy`` file."""
        arrays = read_npz(Path(data.source))
        beside = Path(data.label)
        elsewhere = data.label not in arrays and begins_with(beside, b"\x93NUMPY")
        return Arrays.of(arrays, data, read_npy(beside) if elsewhere else None)
