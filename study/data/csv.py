"""A table as text: commas, semicolons or tabs; UTF-8, UTF-16 or GBK; any line ends."""

import codecs
import io
from pathlib import Path
from typing import Final, final

import polars as pl

from study.data.rows.frame import Frame
from study.data.rows.named import used_columns
from study.data.source import Reader, Source
from study.errors import InputError
from study.subject import Data

HEAD: Final = 65536
BINARY: Final = frozenset(range(9)) | {14, 15, 16, 17, 18, 19}
"""Control characters that no text has."""
MISSING: Final = ("na", "n/a", "nan", "null", "none", "-", "?")
"""What people write, whatever its case, into an empty cell of a column of numbers."""
SEPARATORS: Final = (",", ";", "\t", "|")


@final
class Csv(Source):
    """A text file with a header line. It is read whole: lines of a text cannot be found by number."""

    @classmethod
    def recognises(cls, data: Data) -> bool:
        """A file that begins with text, not with a bracket of JSON or a tag."""
        path = Path(data.source)
        if not path.is_file():
            return False
        with path.open("rb") as file:
            head = file.read(HEAD)
        if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            return True
        return bool(head.strip()) and not BINARY & set(head) and head.lstrip()[:1] not in (b"{", b"[", b"<")

    @classmethod
    def open(cls, data: Data) -> Reader:
        """Decode and parse it; the types of columns are told from all rows."""
        path = Path(data.source)
        text = _decode(path.read_bytes(), path)
        separator, line_end = _layout(text)
        try:
            table = pl.read_csv(
                io.StringIO(text),
                separator=separator,
                eol_char=line_end,
                infer_schema_length=None,
                try_parse_dates=True,
            )
        except pl.exceptions.PolarsError as error:
            reason = str(error).splitlines()[0]
            raise InputError(f"{path} cannot be read as a table ({reason}): save it as CSV again.") from error
        table, broken = _numbers(table, data)
        return Frame.of(table, data, broken)


def _decode(raw: bytes, path: Path) -> str:
    """By its byte order mark, else UTF-8, else GB 18030 (of which GBK is a part).

    Raises:
        InputError: it is none of these.
    """
    marked = raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    for encoding in ("utf-16",) if marked else ("utf-8-sig", "gb18030"):
        try:
            return raw.decode(encoding)
        except UnicodeDecodeError:
            continue
    raise InputError(f"{path} is neither UTF-8 nor GBK text: save it as UTF-8.")


def _layout(text: str) -> tuple[str, str]:
    """The separator and the line end, told from the header line (outside of quotes)."""
    quoted, counts, end = False, dict.fromkeys(SEPARATORS, 0), "\n"
    for place, letter in enumerate(text):
        if letter == '"':
            quoted = not quoted
        elif quoted:
            continue
        elif letter in counts:
            counts[letter] += 1
        elif letter in "\r\n":
            # A bare carriage return ends the lines of old spreadsheets; before a line feed it is Windows'.
            end = "\r" if letter == "\r" and text[place + 1 : place + 2] != "\n" else "\n"
            break
    return max(SEPARATORS, key=lambda separator: counts[separator]), end


def _numbers(table: pl.DataFrame, data: Data) -> tuple[pl.DataFrame, dict[int, str]]:
    """Turn columns of words into numbers where they are numbers but for missing or a few garbled cells.

    Few is as ``--max-bad-rows`` says. The rows of garbled cells come back with the reason.
    """
    broken: dict[int, str] = {}
    asked = used_columns(data.columns, table.columns)
    for name in [name for name in table.columns if table.schema[name] == pl.String]:
        said = table[name].str.strip_chars()
        gone = said.is_null() | said.str.to_lowercase().is_in(MISSING) | (said == "")
        values = said.cast(pl.Float64, strict=False)
        garbled = (values.is_null() & ~gone).arg_true().to_list()
        filled = len(said) - int(gone.sum())
        if not filled or len(garbled) > data.max_bad_rows * len(said) or len(garbled) == filled:
            continue
        is_label = name == data.label or (not data.label and name.lower() in ("label", "target", "y"))
        if is_label and garbled:
            continue
        table = table.with_columns(values.alias(name))
        if name in asked or not asked:
            broken |= {row: f"'{name}' holds '{said[row]}', which is no number" for row in garbled}
    return table, broken
