"""Rows as a model takes them: a source's pieces, prepared, in batches."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from study.data.source import Rows
from study.subject import InputSpec, Split

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Piece:
    """Some rows, raw and as named model inputs. ``broken`` rows (id -> why) are in neither."""

    rows: Rows
    batch: Mapping[str, "NDArray[Any]"]
    broken: Mapping[str, str]

    def __len__(self) -> int:
        return len(self.rows)


class Feed:
    """The rows of one split, prepared for the model's inputs."""

    @classmethod
    def open(cls, split: Split, inputs: tuple[InputSpec, ...]) -> Self:
        """Open the source and set up the preparation for these model inputs."""
        raise NotImplementedError

    def __len__(self) -> int:
        raise NotImplementedError

    def pieces(self, size: int) -> Iterator[Piece]:
        """All rows in order, at most ``size`` a piece."""
        raise NotImplementedError

    def at(self, positions: "NDArray[Any]") -> Piece:
        """The rows at these positions of the source."""
        raise NotImplementedError
