"""What a command says at its end: the verdict, the steps, the worst findings, and where the report lies."""

import os
import shutil
import sys
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

from diag.render.figures import Figure, plain
from diag.render.report import Report
from diag.render.summary import GLYPHS, Column, Summary, summarize
from study.record import Verdict

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

WORST = 3
_PIPED = 120
"""Columns where nobody says how wide a line may be."""
_ROOM = 10_000
_FEW = ("headline", "worse", "drift", "latency", "size")
"""What remains of the table on eighty columns."""
_STYLES = {Verdict.GOOD: "green", Verdict.BAD: "red", Verdict.NOTED: "yellow", Verdict.SKIPPED: "dim"}


def show(report: Report, folder: Path | None = None) -> None:
    """Print the summary on stdout: coloured on a terminal unless NO_COLOR is set."""
    terminal = sys.stdout.isatty()
    color = terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    width = shutil.get_terminal_size((80, 24)).columns if terminal or "COLUMNS" in os.environ else _PIPED
    text = render(report, folder, width=width, color=color)
    # A terminal that cannot write ✓ shows a question mark; it is no reason to fail at the end of a long run.
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(text.encode(encoding, "replace").decode(encoding))


def render(report: Report, folder: Path | None = None, *, width: int = _PIPED, color: bool = False) -> str:
    """The summary as text of at most so many columns."""
    from rich.console import Console
    from rich.text import Text

    summary = summarize(report)
    file = StringIO()
    console = Console(
        file=file, width=width, force_terminal=color, color_system="standard" if color else None,
        highlight=False, emoji=False, legacy_windows=False,
    )  # fmt: skip
    style = _STYLES[summary.verdict]
    console.print(Text(f"{summary.glyph} {plain(summary.title)}", style=f"bold {style}"))
    for sentence in filter(None, (summary.fault, *summary.sentences)):
        console.print(Text(plain(sentence)))
    console.print()
    _steps(console, summary)
    _findings(console, summary)
    skipped = {record.by: record.reason for _, record in report.with_verdict(Verdict.SKIPPED)}
    if skipped:
        reasons = set(skipped.values())
        why = f" ({reasons.pop()})" if len(reasons) == 1 else ", with reasons in the report"
        console.print(Text(plain(f"Skipped{why}: {', '.join(sorted(skipped))}"), style="dim"))
    if folder is not None:
        # Like a command never folded: it is to be copied.
        console.print(Text(f"Report: {plain(str(folder / 'report.html'))}"), soft_wrap=True)
    return "\n".join(line.rstrip() for line in file.getvalue().split("\n"))


def _steps(console: "Console", summary: Summary) -> None:
    """The fullest table that fits: intervals beside their figures or below, fewer columns; else a list."""
    from rich.text import Text

    few = tuple(column for column in summary.columns if column.key in _FEW)
    for columns, between in ((summary.columns, " "), (summary.columns, "\n"), (few, "\n"), (few, None)):
        table = _table(summary, columns, between)
        # Measured where there is room, for rich says of no table that it is wider than the console.
        if console.measure(table, options=console.options.update(max_width=_ROOM)).maximum <= console.width:
            console.print(table)
            return
    for line in summary.lines:
        console.print(Text(f"{line.glyph} {plain(line.name)}: {line.word}", style=_STYLES[line.verdict]))
        for column in summary.columns:
            if column.key in line.figures:
                console.print(Text(f"  {column.title}: {line.figures[column.key].short}"))


def _table(summary: Summary, columns: Sequence[Column], between: str | None) -> "Table":
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1))
    table.add_column("step", no_wrap=True)
    table.add_column("", no_wrap=True)
    for column in columns:
        title = column.title if columns is summary.columns else column.short
        table.add_column(title, justify="right", no_wrap=True)
    for line in summary.lines:
        cells = [_cell(line.figures.get(column.key), between) for column in columns]
        state = Text(f"{line.glyph} {line.word}", style=_STYLES[line.verdict])
        table.add_row(Text(plain(line.name)), state, *map(Text, cells))
    return table


def _cell(figure: Figure | None, between: str | None) -> str:
    if figure is None:
        return ""
    return figure.text if between is None or not figure.interval else figure.text + between + figure.interval


def _findings(console: "Console", summary: Summary) -> None:
    from rich.padding import Padding
    from rich.text import Text

    console.print()
    for one in summary.found[:WORST]:
        told = one.finding
        where = f"{told.where}: " if told.where else ""
        head = Text(f"{GLYPHS[one.verdict]} ", style=_STYLES[one.verdict])
        console.print(head.append(plain(f"{where}{told.what}"), style="default"))
        evidence = f"{one.evidence}; {one.by} at {', '.join(one.steps)}"
        for detail in filter(None, (evidence, told.do)):
            console.print(Padding(Text(plain(detail), style="dim"), (0, 0, 0, 2), expand=False))
        if told.show:
            console.print(Text(f"  {plain(told.show)}"), soft_wrap=True)
    if len(summary.found) > WORST:
        more = len(summary.found) - WORST
        said = "1 more finding is" if more == 1 else f"{more} more findings are"
        console.print(Text(f"{said} in the report.", style="dim"))
