"""A data source yields raw rows in pieces and keeps their ids."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import polars as pl

from study.catalog import Catalog
from study.subject import Data

if TYPE_CHECKING:
    from numpy.typing import NDArray

Column: TypeAlias = "NDArray[Any] | list[Any]"
"""One raw input of some rows: an array with rows first, or a list (texts, images of mixed sizes)."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Raw rows of one piece: what people gave, before it becomes model inputs.

    ``broken`` are rows of the piece that could not be read, id -> why; they are in none of the others.
    ``metadata`` has the columns that are neither input nor label, for slices (it may have no columns).
    """

    positions: "NDArray[Any]"
    ids: tuple[str, ...]
    inputs: Mapping[str, Column]
    labels: "NDArray[Any] | None"
    metadata: pl.DataFrame
    broken: Mapping[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)


class Source(ABC):
    """Rows by position, 0 to ``len - 1``; reading the same positions twice gives the same rows."""

    @classmethod
    @abstractmethod
    def recognises(cls, data: Data) -> bool:
        """Whether this source reads it, by looking at the file (not at its name where that can lie)."""

    @classmethod
    @abstractmethod
    def open(cls, data: Data) -> Self:
        """Open it.

        Raises:
            InputError: it cannot be read, a column is unknown, or there are no rows.
        """

    @abstractmethod
    def __len__(self) -> int:
        """The number of rows, broken ones included."""

    @abstractmethod
    def read(self, positions: "NDArray[Any]") -> Rows:
        """The rows at these positions (ascending)."""

    @abstractmethod
    def labels(self) -> "NDArray[Any] | None":
        """All labels as given (integers, floats, strings; rows first), or None where there are none."""

    classes: tuple[str, ...] = ()
    """The class names that the source itself knows (folder names), in label order."""


SOURCES: Catalog[Source] = Catalog(
    "data source",
    {
        "live": "study.data.live:Live",
        "factory": "study.data.factory:Factory",
        "images": "study.data.images:ImageFolder",
        "npz": "study.data.npz:Npz",
        "npy": "study.data.npy:Npy",
        "tensors": "study.data.tensors:TensorFile",
        "parquet": "study.data.parquet:Parquet",
        "csv": "study.data.csv:Csv",
    },
)
"""In the order in which they are asked whether they recognise a file."""
