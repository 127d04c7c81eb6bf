"""Runs the model over the judged rows and keeps what it said of each."""

import shutil
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar, final

import numpy as np
import polars as pl

from diagnose.probe import Probe
from diagnose.worded import columns_of_texts
from study.errors import InputError, SkipError
from study.parts import SCORES_A_BATCH
from study.progress import Progress
from study.reading import READINGS
from study.runtime import Batch, Runtime, open_runtime
from study.shard import Shard, run_shards
from study.storage import SHARDS, written
from study.task import ROWS, Kind
from study.view import View

if TYPE_CHECKING:
    from study.feed import Feed, Piece

BATCH_BYTES = 64 * 1024 * 1024
BATCH_ROWS = 256
WORDED: frozenset[Kind] = ROWS | {"tokens"}
"""Kinds whose texts are kept: of a language model they would be its whole data."""
BROKEN = {"id": pl.String, "why": pl.String}


@final
@dataclass(frozen=True, slots=True)
class Predictions(Probe):
    """One line a judged row: what the model said, how sure it was, and what it cost."""

    gives: ClassVar[str] = "predictions"

    shard_rows: int = 8192
    """At most 32 MB of outputs that are 1000 wide; what a killed run loses at most."""

    def run(self, view: View, progress: Progress) -> None:
        """Write ``predictions.parquet`` and ``broken.parquet``."""
        split, task, runtime, feed = view.subject.judged, view.task, view.runtime, view.judged()
        if split is None:
            raise SkipError("no data was given")
        rows = len(feed)
        folder = view.artifact.folder / SHARDS
        shards = [
            Shard(
                model=view.model,
                machine=view.machine,
                split=split,
                inputs=view.subject.inputs,
                task=task,
                start=start,
                stop=min(start + self.shard_rows, rows),
                folder=folder,
            )
            for start in range(0, rows, self.shard_rows)
        ]
        run_shards(partial(score, feed=feed, runtime=runtime, progress=progress), shards)
        _gather(view, shards, rows)
        gathered = folder.with_name(f"{SHARDS}.gathered")  # half a removed folder must not look like shards
        folder.rename(gathered)
        shutil.rmtree(gathered)


def score_shard(shard: Shard) -> None:
    """The map, for a process of its own: open the model and the rows, score one shard."""
    from study.feed import Feed

    with open_runtime(shard.model, shard.machine) as runtime:
        feed = Feed.open(shard.split, shard.inputs)
        score(shard, feed=feed, runtime=runtime, progress=Progress())


def score(shard: Shard, *, feed: "Feed", runtime: Runtime, progress: Progress) -> None:
    """Write the lines of one shard's rows, and those of its broken rows, whole or not at all."""
    positions = shard.split.positions
    every = np.arange(len(feed)) if positions is None else np.asarray(positions, dtype=np.int64)
    inside = every[shard.start : shard.stop]
    frames, broken, done = [], dict[str, str](), 0
    for piece in feed.batches(inside, batch_rows(shard), most_steps(shard)):
        broken |= piece.broken
        if len(piece):
            texts = columns_of_texts(piece, feed.preparation.tokenizer) if shard.task.kind in WORDED else {}
            frames.append(_lines(shard, piece, runtime(piece.batch)).with_columns(**texts))
        done += len(piece) + len(piece.broken)
        progress.tell("predictions", shard.start + done, len(every))
    lines = pl.concat(frames, how="diagonal_relaxed").sort("position") if frames else pl.DataFrame()
    left_out = {"id": list(broken), "why": list(broken.values())}
    with written(shard.out.with_suffix(".broken")) as beside:
        pl.DataFrame(left_out, schema=BROKEN).write_parquet(beside)
    # The lines last: with that file the shard is done.
    with written(shard.out) as beside:
        lines.write_parquet(beside)


def batch_rows(shard: Shard) -> int:
    """Rows a batch: what was asked for, or some 64 MB of input; the runtime cuts it where the model must."""
    if shard.machine.batch_size:
        return shard.machine.batch_size
    row = 0
    for one in shard.inputs:
        shape = [size or 1 for size in (one.shape or ())[1:]]
        row += int(np.prod(shape)) * 8
    most = min(BATCH_ROWS, BATCH_BYTES // max(row, 1))
    if shard.task.width:  # a score a part and class: the outputs are what is large
        parts = max(int(np.prod([size or 1 for size in (one.shape or ())[1:]])) for one in shard.inputs)
        most = min(most, SCORES_A_BATCH // (parts * shard.task.width))
    return max(1, most)


def most_steps(shard: Shard) -> int:
    """Steps a batch of sequences, the filling included; 0 where it does not matter."""
    return SCORES_A_BATCH // shard.task.width if shard.task.width else 0


def _lines(shard: Shard, piece: "Piece", outputs: Batch) -> pl.DataFrame:
    """The columns of the prediction table for the rows of one piece."""
    rows = piece.rows
    columns = {
        "position": pl.Series(np.asarray(rows.positions), dtype=pl.Int64),
        "id": pl.Series(list(rows.ids), dtype=pl.String),
    }
    columns |= READINGS.get(shard.task.kind).columns(shard.task, piece, outputs)
    group = shard.split.data.group
    if group:
        columns["group"] = rows.metadata[group].cast(pl.String)
    for name in rows.metadata.columns:
        columns[f"meta.{name}"] = rows.metadata[name]
    return pl.DataFrame([series.alias(name) for name, series in columns.items()])


def _gather(view: View, shards: list[Shard], rows: int) -> None:
    """The reduce's side of the map: the shards' files as one table, in order, streamed."""
    from study.intake import refuse_bad_rows

    broken = pl.concat([pl.read_parquet(shard.out.with_suffix(".broken")) for shard in shards])
    data = shards[0].split.data
    refuse_bad_rows(dict(broken.iter_rows()), rows, data.max_bad_rows)
    with written(view.artifact.folder / "broken.parquet") as beside:
        broken.write_parquet(beside)
    tables = [pl.scan_parquet(shard.out) for shard in shards]
    filled = [table for table in tables if table.collect_schema().names()]
    if not filled:
        raise InputError("Not one row could be read: see broken.parquet in the step's folder.")
    with written(view.artifact.folder / "predictions.parquet") as beside:
        pl.concat(filled, how="diagonal_relaxed").sink_parquet(beside)
