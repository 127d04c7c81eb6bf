"""Records as the page shows them: figures, charts, tables and pictures, each cut to what is readable."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from diag.render.charts import draw
from diag.render.figures import Figure, cell, figure, meanings, measure
from diag.render.pictures import Album, Set
from diag.render.summary import GLYPHS, WORDS, identified
from diag.render.texts import Coloured, coloured
from study.record import Cell, Finding, Record, Table, Verdict

SHOWN = 100
"""Rows of a table, findings of the page: the rest is counted and lies in report.json."""
CHANGES = ("agreement", "drift")
"""Records that compare with the model as it came: a section of their own."""
SEARCH = "search"
"""The record of what was tried and chosen: a section of its own."""


@dataclass(frozen=True, slots=True)
class TableCell:
    """A cell as it is shown, and the number that it sorts by (None: by its text)."""

    text: str
    number: float | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Grid:
    """A table as it is shown; ``more`` rows are not."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[TableCell, ...], ...]
    more: int = 0


@dataclass(frozen=True, slots=True)
class Drawing:
    """A chart with its numbers."""

    id: str
    title: str
    text: str
    svg: str
    numbers: Grid


@dataclass(frozen=True, slots=True)
class Card:
    """One record."""

    id: str
    step: str
    by: str
    verdict: Verdict
    summary: str
    reason: str
    metrics: Grid | None
    findings: tuple[tuple[str, Finding], ...]
    drawings: tuple[Drawing, ...]
    tables: tuple[Grid, ...]
    sets: tuple[Set, ...]
    more_images: int
    texts: tuple[Coloured, ...]
    open: bool

    @property
    def glyph(self) -> str:
        """Beside the word, never colour alone."""
        return GLYPHS[self.verdict]

    @property
    def word(self) -> str:
        """The verdict in words."""
        return WORDS[self.verdict]


def grid(table: Table) -> Grid:
    """The first rows of a table, each number by what its column is called."""
    names = meanings(table.columns)
    rows = tuple(
        tuple(_cell(value, name) for value, name in zip(row, names, strict=False))
        for row in table.rows[:SHOWN]
    )
    return Grid(table.title, table.columns, rows, max(0, len(table.rows) - SHOWN))


def _cell(value: Cell, column: str) -> TableCell:
    sort = float(value) if isinstance(value, int | float) else None
    return TableCell(cell(value, column), sort)


def figure_cell(shown: Figure | None) -> TableCell:
    """A figure in a table, its interval below it; empty where there is none."""
    return TableCell(shown.text, shown.value, shown.interval) if shown else TableCell("")


def card(record: Record, step: str, identity: str, album: Album, *, opened: bool) -> Card:
    """One record as it is shown; BAD ones and those that tell of changes are always open."""
    tables = {table.title: table for table in record.tables}
    drawings = tuple(_drawings(record, tables, identity))
    drawn = {drawing.numbers.title for drawing in drawings}
    drawn |= {picture.source for picture in record.pictures if picture.kind == "text"}
    sets, more = album.sets(record.pictures)
    telling = record.verdict is Verdict.NOTED and (opened or record.by in (*CHANGES, SEARCH))
    return Card(
        id=identity,
        step=step,
        by=record.by,
        verdict=record.verdict,
        summary=record.summary,
        reason=record.reason,
        metrics=_metrics(record),
        findings=tuple(identified(record)),
        drawings=drawings,
        tables=tuple(grid(table) for table in record.tables if table.title not in drawn),
        sets=sets,
        more_images=more,
        texts=coloured(record.pictures, record.tables),
        open=record.verdict is Verdict.BAD or telling,
    )


def _drawings(record: Record, tables: Mapping[str, Table], identity: str) -> Iterator[Drawing]:
    for at, picture in enumerate(record.pictures):
        table = tables.get(picture.source)
        if picture.kind == "image" or table is None:
            continue
        name = f"{identity}-chart-{at}"
        svg = draw(picture, table, name)
        if svg:
            yield Drawing(name, picture.title, picture.text, svg, grid(table))


def _metrics(record: Record) -> Grid | None:
    if not record.metrics:
        return None
    rows = []
    for name, metric in record.metrics.items():
        shown = figure(name, metric)
        known = measure(name, metric.unit)
        rows.append(
            (
                TableCell(known.label, note=name if known.label.replace(" ", "_") != name else ""),
                TableCell(shown.text, shown.value),
                TableCell(shown.interval),
                TableCell(f"{metric.n:,}", metric.n),
                TableCell("" if metric.better == "neither" else metric.better),
            )
        )
    level = next(iter(record.metrics.values())).level
    return Grid(
        "Metrics",
        ("metric", "value", f"{level * 100:g}\N{NO-BREAK SPACE}% interval", "n", "better"),
        tuple(rows),
    )
