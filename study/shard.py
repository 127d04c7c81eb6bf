"""The seam for growing past one machine: rows cut into shards, each scored for itself into a file.

A shard is plain data; done means that its file exists; the file's name holds a hash of all that it depends
on, so that a run that was killed goes on where it was, and no stale file is taken for a new one.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from study.errors import DiagError, few
from study.storage import digest_of
from study.subject import Data, InputSpec, Machine, Model, Split
from study.task import Task

if TYPE_CHECKING:
    from study.record import JSON

VERSION = 1
"""Of what a shard's file holds; a change here makes all old files stale."""


@dataclass(frozen=True, slots=True)
class Shard:
    """Rows ``start`` to ``stop`` (exclusive, counted within the split) of one model's judged rows."""

    model: Model
    machine: Machine
    split: Split
    inputs: tuple[InputSpec, ...]
    task: Task
    start: int
    stop: int
    folder: Path

    @property
    def key(self) -> str:
        """A hash of the model's bytes, the data, the options and this code's version."""
        positions = self.split.positions
        parts: dict[str, JSON] = {
            "version": VERSION,
            "model": _stated(self.model),
            "machine": _stated(self.machine),
            "data": [_stated(self.split.data), *_signature(self.split.data)],
            "inputs": [_stated(one) for one in self.inputs],
            "task": _stated(self.task),
            "rows": [self.start, self.stop] if positions is None else list(positions[self.start : self.stop]),
        }
        return digest_of(parts)

    @property
    def out(self) -> Path:
        """Its file; with it the shard is done."""
        return self.folder / f"{self.start:012d}-{self.key[:16]}.parquet"

    @property
    def done(self) -> bool:
        """Whether it was scored."""
        return self.out.exists()


def run_shards(score: Callable[[Shard], None], shards: Sequence[Shard]) -> None:
    """Score here, one after the other, the shards that are not done; an engine for more is handed the same.

    Raises:
        DiagError: a shard has no file afterwards.
    """
    for shard in shards:
        if not shard.done:
            score(shard)
    refuse_lost(shards)


def refuse_lost(shards: Iterable[Shard]) -> None:
    """A lost shard is an error, never a silent gap.

    Raises:
        DiagError: a shard is not done.
    """
    lost = [f"{shard.start}-{shard.stop}" for shard in shards if not shard.done]
    if lost:
        raise DiagError(f"{len(lost)} shards were lost (rows {few(lost)}): run the same command again.")


def _stated(record: "Model | Machine | Data | InputSpec | Task") -> "JSON":
    """A dataclass as JSON; a model by its hash where it has one, wherever its file lies."""
    stated = asdict(record)
    if stated.get("sha256"):
        stated.pop("path")
    return cast("JSON", {name: _plain(value) for name, value in stated.items()})


def _plain(value: object) -> "JSON":
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, dict):
        return {str(name): _plain(one) for name, one in value.items()}
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _signature(data: Data) -> "list[JSON]":
    """Size and time of the data's file: enough to notice another one in its place."""
    path = Path(data.source)
    if not path.is_file():
        return []
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns]
