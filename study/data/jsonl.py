"""A table as JSON: one object a line, or a list of objects."""

import json
from pathlib import Path
from typing import Final, final

import polars as pl

from study.data.rows.frame import Frame
from study.data.rows.numpy_file import begins_with
from study.data.source import Reader, Source
from study.errors import InputError
from study.subject import Data

BEGINNINGS: Final = (b'{"', b"[{", b"[\n", b"[\r\n", b'\xef\xbb\xbf{"', b"{ ")


@final
class JsonLines(Source):
    """A text file. It is read whole: lines of a text cannot be found by number."""

    @classmethod
    def recognises(cls, data: Data) -> bool:
        """A file that begins with a JSON object, or with a list."""
        return any(begins_with(Path(data.source), beginning) for beginning in BEGINNINGS)

    @classmethod
    def open(cls, data: Data) -> Reader:
        """Parse it; a key that a line lacks is a missing value."""
        path = Path(data.source)
        try:
            table = _list(path) if path.read_bytes()[:4].lstrip(b"\xef\xbb\xbf").startswith(b"[") else None
            if table is None:
                table = pl.read_ndjson(path, infer_schema_length=None)
        except (pl.exceptions.PolarsError, ValueError, TypeError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise InputError(f"{path} is not one JSON object a line ({reason}): save it as JSONL.") from error
        return Frame.of(table, data)


def _list(path: Path) -> pl.DataFrame:
    """The objects of a JSON list."""
    rows = json.loads(path.read_text(encoding="utf-8-sig"))
    return pl.DataFrame(rows, infer_schema_length=None)
