"""Which column is what: the label, the inputs, the ids, and what is left over for slices."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import polars as pl

from study.data.rows.named import TRIED, Named, are_files, named_inputs, used_columns
from study.errors import InputError, did_you_mean, few
from study.subject import Data

LABEL_NAMES = ("label", "target", "y")
"""What a label's column is called where ``--label`` does not say, whatever its case."""
TAG_NAMES = ("ner_tags", "tags", "labels", "pos_tags")
"""What it is called where it holds a list a row."""
TEXT_NAMES = ("text", "sentence", "tokens", "words", "content", "document")
ID_NAME = "id"


@dataclass(frozen=True, slots=True)
class Roles:
    """The columns of a table by what they are for. ``stacked``: the inputs are one array of numbers."""

    label: tuple[str, ...]
    inputs: tuple[str, ...]
    id: str
    metadata: tuple[str, ...]
    stacked: bool
    named: tuple[Named, ...] = ()
    """The inputs that ``--columns`` maps to columns; empty: all of ``inputs`` are one input."""


def find_label(names: Iterable[str], asked: str, known: Sequence[str] = LABEL_NAMES) -> str:
    """The label's name: as asked for, or the first of the known ones; empty where there is none.

    Raises:
        InputError: there is no such column.
    """
    names = list(names)
    if asked:
        must_be_there([asked], names, "--label")
        return asked
    return next((name for word in known for name in names if name.lower() == word), "")


def must_be_there(asked: Iterable[str], names: Sequence[str], option: str) -> None:
    """Refuse names that are no columns, saying which ones come close.

    Raises:
        InputError: one is not there.
    """
    missing = [name for name in asked if name not in names]
    if missing:
        close = did_you_mean(missing[0], names)
        hint = close if len(missing) == 1 and "mean" in close else f" The columns are {few(names)}."
        raise InputError(f"{option} names {few(missing)}, which the data does not have.{hint}")


def roles(table: pl.LazyFrame | pl.DataFrame, data: Data) -> Roles:
    """Sort the columns of a table.

    Raises:
        InputError: a column is unknown, or which are the inputs cannot be told.
    """
    schema = table.collect_schema()
    names = schema.names()
    label = _labels(schema, data.label)
    must_be_there([data.group] if data.group else [], names, "--group")
    asked = used_columns(data.columns, names)
    must_be_there(asked, names, "--columns")
    if set(label) & set(asked):
        raise InputError(f"The label {few(label)} cannot be an input too: leave it out of --columns.")
    ids = _id(table, [name for name in names if name not in (*label, *asked)])
    free = [name for name in names if name not in (*label, ids, data.group)]
    inputs = asked or _inputs(
        schema, free, data, tagged=any(isinstance(schema[name], pl.List) for name in label)
    )
    numbers = [name for name in inputs if _is_number(schema[name])]
    named = _named(table, data)
    if not (named or data.preprocess or data.tokenizer) and numbers and len(numbers) < len(inputs):
        words = [name for name in inputs if name not in numbers]
        raise InputError(
            f"Of the --columns {few(words)} are no numbers: leave them out, "
            "or give --preprocess module:function, which turns a row into arrays."
        )
    rest = tuple(name for name in names if name not in (*label, *inputs, ids) or name == data.group)
    stacked = bool(numbers) and not data.preprocess and not named
    return Roles(label, tuple(inputs), ids, rest, stacked, named)


def _named(table: pl.LazyFrame | pl.DataFrame, data: Data) -> tuple[Named, ...]:
    """The inputs that ``--columns`` maps.

    Raises:
        InputError: columns that are joined are not all numbers.
    """
    schema = table.collect_schema()
    found = []
    for one in named_inputs(data.columns, schema.names()):
        words = [column for column in one.columns if not _is_number(schema[column])]
        if words and len(one.columns) > 1:
            raise InputError(
                f"{few(words)} of the input '{one.name}' is no number: only numbers can be joined with +."
            )
        column = table.lazy().select(one.columns[0]).head(TRIED).collect().to_series()
        found.append(replace(one, files=are_files(column)))
    return tuple(found)


def _labels(schema: pl.Schema, asked: str) -> tuple[str, ...]:
    """One column, or several that are joined by commas (multi-label, several targets)."""
    names = schema.names()
    if asked in names or "," not in asked:
        lists = [name for name in names if isinstance(schema[name], pl.List)]
        found = find_label(names, asked) or find_label(lists, "", TAG_NAMES)
        return (found,) if found else ()
    several = tuple(part.strip() for part in asked.split(","))
    must_be_there(several, names, "--label")
    return several


def _inputs(schema: pl.Schema, free: Sequence[str], data: Data, *, tagged: bool) -> tuple[str, ...]:
    if data.preprocess:
        return tuple(free)
    numbers = tuple(name for name in free if _is_number(schema[name]))
    words = tuple(name for name in free if schema[name] in (pl.String, pl.List(pl.String)))
    if data.tokenizer and words:
        lists = tuple(name for name in words if schema[name] != pl.String)
        return _text(lists if tagged and lists else words)
    if numbers:
        return numbers
    if len(words) == 1:
        return words
    sequences = tuple(name for name in free if _is_sequence(schema[name]))
    if sequences:
        return sequences
    if data.tokenizer:
        raise no_texts(data.tokenizer)
    called_so = [name for name in words if name.lower() in TEXT_NAMES]
    if called_so:
        raise must_have_tokenizer(called_so)
    found = f"the columns {few(free)} are no numbers" if free else "there is no column but the label"
    raise InputError(f"Nothing in the table can be an input: {found}. Name the inputs with --columns.")


def _text(words: tuple[str, ...]) -> tuple[str, ...]:
    """The text column of a model that takes texts: the only one, or the one that is called so.

    Raises:
        InputError: there are several.
    """
    if len(words) == 1:
        return words
    named = tuple(name for name in words if name.lower() in TEXT_NAMES)
    if len(named) != 1:
        raise InputError(f"There are several columns of texts ({few(words)}): name the one with --columns.")
    return named


def must_have_tokenizer(names: Sequence[str]) -> InputError:
    """Why texts cannot be fed."""
    return InputError(
        f"{few(names)} holds texts: give --tokenizer (a folder with tokenizer.json, or a vocabulary), or "
        "--preprocess module:function, which turns a row into arrays."
    )


def no_texts(tokenizer: str) -> InputError:
    """Why a tokenizer is of no use."""
    return InputError(
        f"--tokenizer {tokenizer} is given, and the inputs hold no texts: name the column of texts with "
        "--columns, or leave the tokenizer out."
    )


def _is_sequence(kind: pl.DataType) -> bool:
    """Lists of numbers."""
    return isinstance(kind, pl.List | pl.Array) and kind.inner.is_numeric()


def _is_number(kind: pl.DataType) -> bool:
    return kind.is_numeric() or kind == pl.Boolean


def _id(table: pl.LazyFrame | pl.DataFrame, free: Sequence[str]) -> str:
    """The ``id`` column where it tells rows apart; else rows go by number."""
    name = next((name for name in free if name.lower() == ID_NAME), "")
    if not name:
        return ""
    column = pl.col(name)
    counts = table.lazy().select(
        column.n_unique().alias("unique"), column.null_count().alias("missing"), pl.len()
    )
    unique, missing, rows = counts.collect().row(0)
    return name if unique == rows and not missing else ""


def metadata_frame(columns: dict[str, Any], rows: int) -> pl.DataFrame:
    """Metadata as a table; it has ``rows`` rows also where it has no columns."""
    return pl.DataFrame(columns) if columns else pl.DataFrame(height=rows)
