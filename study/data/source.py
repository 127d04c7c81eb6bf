"""A data source yields raw rows in pieces and keeps their ids."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
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
    features: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """The names of the columns of a table that an input is stacked of."""

    def __len__(self) -> int:
        return len(self.ids)

    def keep(self, mask: "NDArray[np.bool_]") -> "Rows":
        """The rows where the mask is true; ``broken`` stays as it is."""
        chosen = np.flatnonzero(mask)
        return Rows(
            positions=self.positions[chosen],
            ids=tuple(self.ids[row] for row in chosen),
            inputs={
                name: column[chosen] if isinstance(column, np.ndarray) else [column[row] for row in chosen]
                for name, column in self.inputs.items()
            },
            labels=None if self.labels is None else self.labels[chosen],
            metadata=self.metadata[chosen],
            broken=self.broken,
            features=self.features,
        )


class Reader(Protocol):
    """Rows by position, 0 to ``len - 1``; reading the same positions twice gives the same rows."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names that it knows itself (folder names), in label order."""

    def __len__(self) -> int: ...

    def read(self, positions: "NDArray[Any]") -> Rows:
        """The rows at these positions (ascending)."""

    def labels(self) -> "NDArray[Any] | None":
        """All labels as given (integers, floats, strings; rows first), or None where there are none."""


class Source(ABC):
    """One kind of data: it recognises it, and opens it."""

    @classmethod
    @abstractmethod
    def recognises(cls, data: Data) -> bool:
        """Whether this source reads it, by looking at the file (not at its name where that can lie)."""

    @classmethod
    @abstractmethod
    def open(cls, data: Data) -> Reader:
        """Open it; broken rows count in its length.

        Raises:
            InputError: it cannot be read, a column is unknown, or there are no rows.
        """


SOURCES: Catalog[Source] = Catalog(
    "data source",
    {
        "live": "study.data.live:Live",
        "factory": "study.data.factory:Factory",
        "coco": "study.data.coco:Coco",
        "masks": "study.data.masks:MaskFolder",
        "images": "study.data.images:ImageFolder",
        "npz": "study.data.npz:Npz",
        "npy": "study.data.npy:Npy",
        "tensors": "study.data.tensors:TensorFile",
        "parquet": "study.data.parquet:Parquet",
        "jsonl": "study.data.jsonl:JsonLines",
        "conll": "study.data.conll:Conll",
        "text": "study.data.text:Text",
        "csv": "study.data.csv:Csv",
    },
)
"""In the order in which they are asked whether they recognise a file."""
