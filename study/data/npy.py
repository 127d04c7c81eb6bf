"""One array in an ``.npy`` file, its labels in another."""

from pathlib import Path
from typing import final

from study.data.rows.arrays import Arrays
from study.data.rows.numpy_file import MAGIC, begins_with, read_npy
from study.data.source import Reader, Source
from study.errors import InputError
from study.subject import Data


@final
class Npy(Source):
    """The array is the one input; ``--label y.npy`` has its labels."""

    @classmethod
    def recognises(cls, data: Data) -> bool:
        """A file that begins as numpy's do."""
        return begins_with(Path(data.source), MAGIC)

    @classmethod
    def open(cls, data: Data) -> Reader:
        """Map the array; the labels lie where ``--label`` says, seen from here or from the array's folder."""
        path = Path(data.source)
        array = read_npy(path)
        if not array.ndim:
            raise InputError(f"{path} holds a single number: it needs an array whose first axis is the rows.")
        targets = read_npy(_label_path(path, data.label)) if data.label else None
        unlabelled = Data(source=data.source)
        return Arrays.of({path.stem: array}, unlabelled, targets)


def _label_path(array: Path, label: str) -> Path:
    places = (Path(label), array.parent / label)
    found = next((place for place in places if begins_with(place, MAGIC)), None)
    if found is None:
        raise InputError(f"The labels of {array} must be an .npy file, and '{label}' is none: --label y.npy.")
    return found
