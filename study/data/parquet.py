"""A Parquet file, scanned lazily."""

from pathlib import Path
from typing import final

import polars as pl

from study.data.rows.frame import Frame
from study.data.rows.numpy_file import begins_with
from study.data.source import Reader, Source
from study.errors import InputError
from study.subject import Data


@final
class Parquet(Source):
    """Columns as a table's, read by row group as they are asked for."""

    @classmethod
    def recognises(cls, data: Data) -> bool:
        """A file that begins with Parquet's magic."""
        return begins_with(Path(data.source), b"PAR1")

    @classmethod
    def open(cls, data: Data) -> Reader:
        """Read the footer."""
        try:
            return Frame.of(pl.scan_parquet(data.source, glob=False), data)
        except pl.exceptions.PolarsError as error:
            reason = str(error).splitlines()[0]
            raise InputError(
                f"{data.source} is no whole Parquet file ({reason}): copy or save it again."
            ) from error
