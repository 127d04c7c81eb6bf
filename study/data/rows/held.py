"""Objects as rows: arrays, pairs, dictionaries, data frames, datasets and loaders."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from study.data.rows.arrays import Arrays
from study.data.rows.frame import Frame
from study.data.rows.samples import Samples
from study.data.source import Reader
from study.errors import InputError
from study.host import to_numpy
from study.subject import Data

PAIR = 2


def reader_of(thing: Any, data: Data) -> Reader:
    """What reads this object.

    Raises:
        InputError: it is none of the kinds that can be read, or has no rows.
    """
    if isinstance(thing, pl.DataFrame | pl.LazyFrame):
        return Frame.of(thing, data)
    if _is_array(thing):
        return Arrays.of({"x": _array(thing)}, Data(source=data.source), None)
    if isinstance(thing, Mapping):
        return Arrays.of({str(name): _array(value) for name, value in thing.items()}, data)
    if hasattr(thing, "columns") and hasattr(thing, "iloc"):
        return Frame.of(_from_pandas(thing), data)
    if isinstance(thing, tuple | list):
        return _of_sequence(thing, data)
    return _of_dataset(thing, data)


def _of_sequence(thing: "tuple[Any, ...] | list[Any]", data: Data) -> Reader:
    """``(x, y)``, with x an array or a dictionary of them; else a list of samples."""
    if len(thing) == PAIR and _is_array(thing[1]) and (_is_array(thing[0]) or isinstance(thing[0], Mapping)):
        inputs, labels = thing
        named = dict(inputs) if isinstance(inputs, Mapping) else {"x": inputs}
        targets = _array(labels)
        if targets.ndim:
            columns = Data(source=data.source, columns=data.columns, group=data.group)
            return Arrays.of({str(name): _array(value) for name, value in named.items()}, columns, targets)
    return Samples.of(list(thing), data)


def _of_dataset(thing: Any, data: Data) -> Reader:
    from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset, default_collate

    collate = None
    if isinstance(thing, DataLoader):
        # The loader's order may be shuffled; its dataset's is not. Only a collate of the user's own matters.
        collate = (
            None
            if thing.collate_fn in (default_collate, None) or thing.batch_size is None
            else thing.collate_fn
        )
        thing = thing.dataset
    if type(thing) is TensorDataset and collate is None and len(thing.tensors) == PAIR:
        x, y = thing.tensors
        return Arrays.of({"x": _array(x)}, Data(source=data.source), _array(y))
    has_rows = (
        isinstance(thing, Dataset | IterableDataset)
        or hasattr(thing, "__getitem__")
        or hasattr(thing, "__iter__")
    )
    if not has_rows or isinstance(thing, str | bytes):
        raise InputError(
            f"{data.source or 'The data'} gave a {type(thing).__name__}: return a Dataset, a DataLoader, "
            "or arrays with rows first."
        )
    return Samples.of(thing, data, collate)


def _is_array(thing: Any) -> bool:
    return isinstance(thing, np.ndarray) or (
        hasattr(thing, "__array__") and hasattr(thing, "shape") and not hasattr(thing, "iloc")
    )


def _array(thing: Any) -> NDArray[Any]:
    """As numpy; Python objects become text or are refused.

    Raises:
        InputError: they are neither numbers nor text.
    """
    array = to_numpy(thing)
    if array.dtype.kind != "O":
        return array
    if all(isinstance(value, str) for value in array.ravel().tolist()):
        return array.astype(str)
    raise InputError("An array holds Python objects: give numbers or text.")


def _from_pandas(frame: Any) -> pl.DataFrame:
    columns = {}
    for name in frame.columns:
        values = frame[name].to_numpy()
        if values.dtype.kind == "O":
            # pandas writes a missing text as NaN or its own NA, neither of which equals itself.
            cells = [value if value is not None and value == value else None for value in values.tolist()]  # noqa: PLR0124
            columns[str(name)] = pl.Series(cells, strict=False)
        else:
            columns[str(name)] = pl.Series(values)
    return pl.DataFrame(columns)
