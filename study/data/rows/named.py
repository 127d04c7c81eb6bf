"""Inputs that ``--columns`` names, each of some columns of a table: ``image=file, cells=age+fare``."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from study.data.rows.pixels import SUFFIXES, Pixels, read_image
from study.data.source import Column
from study.errors import InputError

TRIED = 100
"""Cells that tell whether a column of words holds the paths of images."""


@dataclass(frozen=True, slots=True)
class Named:
    """One input, and the columns that it is made of."""

    name: str
    columns: tuple[str, ...]
    files: bool = False
    """The column holds the paths of images."""


def named_inputs(asked: Sequence[str], names: Sequence[str]) -> tuple[Named, ...]:
    """What ``--columns`` maps; empty where it only lists columns. A column may itself have a ``=`` or ``+``.

    Raises:
        InputError: an input is named twice, or has no column.
    """
    if all(item in names or "=" not in item for item in asked):
        return ()
    found = []
    for item in asked:
        name, equals, rest = item.partition("=")
        if item in names or not equals:
            name, rest = item, item
        parts = (rest.strip(),) if rest.strip() in names else tuple(part.strip() for part in rest.split("+"))
        if not name.strip() or not all(parts):
            raise InputError(f"--columns has '{item}': write INPUT=COLUMN, or INPUT=COLUMN+COLUMN.")
        found.append(Named(name.strip(), parts))
    if len({one.name for one in found}) < len(found):
        twice = next(one.name for one in found if [other.name for other in found].count(one.name) > 1)
        raise InputError(f"--columns names the input '{twice}' twice: join its columns with +.")
    return tuple(found)


def used_columns(asked: Sequence[str], names: Sequence[str]) -> tuple[str, ...]:
    """The columns that ``--columns`` names, each once."""
    mapped = named_inputs(asked, names)
    return (
        tuple(dict.fromkeys(column for one in mapped for column in one.columns)) if mapped else tuple(asked)
    )


def joined(arrays: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Several arrays of one number a row as columns; one alone as it is.

    Raises:
        InputError: their shapes differ.
    """
    if len(arrays) == 1:
        return arrays[0]
    try:
        return np.stack(arrays, axis=-1)
    except ValueError as error:
        raise InputError(f"Arrays that are joined with + must be of one shape ({error}).") from error


def are_files(column: pl.Series) -> bool:
    """Whether words are the paths of images, by their endings."""
    said = column.drop_nulls().head(TRIED).to_list() if column.dtype == pl.String else []
    return bool(said) and all(Path(word).suffix.lower() in SUFFIXES for word in said)


def read_named(
    piece: pl.DataFrame, inputs: Sequence[Named], folder: Path
) -> tuple[dict[str, Column], dict[int, str]]:
    """The inputs of these rows, and the places of those that cannot be read with the reason.

    Paths are relative to ``folder``. What a broken row holds is a stand-in of no meaning.
    """
    found: dict[str, Column] = {}
    broken: dict[int, str] = {}
    for one in inputs:
        if one.files:
            found[one.name] = _images(piece[one.columns[0]].to_list(), folder, broken)
        elif all(_is_number(piece.schema[column]) for column in one.columns):
            found[one.name] = _numbers(piece.select(one.columns))
        else:
            found[one.name] = piece[one.columns[0]].to_list()
    return found, broken


def _is_number(kind: pl.DataType) -> bool:
    return kind.is_numeric() or kind == pl.Boolean


def _numbers(piece: pl.DataFrame) -> NDArray[Any]:
    """Several columns as (rows, columns) float32; a single one as one number a row, whole ones as such."""
    column = piece.to_series()
    if piece.width == 1 and column.dtype.is_integer() and not column.null_count():
        return column.cast(pl.Int64).to_numpy()
    numbers = piece.select(pl.all().cast(pl.Float64).fill_null(float("nan"))).to_numpy().astype(np.float32)
    return numbers[:, 0] if piece.width == 1 else numbers


def _images(paths: Sequence[str | None], folder: Path, broken: dict[int, str]) -> list[Any]:
    images: list[Pixels | None] = []
    for row, path in enumerate(paths):
        image, why = _image(path, folder)
        if why:
            broken[row] = why
        images.append(image)
    return images


def _image(path: str | None, folder: Path) -> tuple[Pixels | None, str]:
    """The pixels, or why there are none; a path in Pillow's message would be this machine's."""
    if path is None:
        return None, "names no image"
    try:
        return read_image(folder / path), ""
    except FileNotFoundError:
        return None, f"names '{path}', which is not there"
    except Exception as error:  # noqa: BLE001 - decoders of damaged files raise whatever they meet
        kind = "no image" if "identify" in str(error) else f"a damaged image ({type(error).__name__})"
        return None, f"names '{path}', which is {kind}"


def features_of(inputs: Sequence[Named]) -> Mapping[str, tuple[str, ...]]:
    """The columns that are stacked into an input."""
    return {one.name: one.columns for one in inputs if not one.files}
