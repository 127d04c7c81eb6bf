"""``report.md``: for a pull request or a mail; what came with model or data is text and nothing else."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from diag.render.cards import SHOWN
from diag.render.figures import figure, measure, plain
from diag.render.report import Report, Step
from diag.render.summary import GLYPHS, Found, Summary, summarize
from study.record import Record, Verdict

_ACTS = re.compile(r"([\\`*_\[\]|~$#])")
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "@": "&#64;", "://": "&#58;//"}


def render(report: Report, _folder: Path | None = None) -> str:
    """The verdict, the steps, the findings, each step's records with their figures, and what was skipped."""
    summary = summarize(report)
    blocks = [f"# {summary.glyph} {text(summary.title)}", *map(text, filter(None, (summary.fault,)))]
    blocks += [text(sentence) for sentence in summary.sentences]
    blocks += ["## Steps", _steps(summary)]
    if summary.found:
        blocks += ["## Findings, worst first", *_findings(summary.found)]
    for step in report.steps:
        blocks += [f"## {text(step.name)}", *_records(step)]
    skipped = list(report.with_verdict(Verdict.SKIPPED))
    if skipped:
        lines = [f"- {text(r.by)} at {text(step.name)}: {text(r.reason or r.summary)}" for step, r in skipped]
        blocks += ["## Skipped, and why", "\n".join(lines[:SHOWN])]
    blocks += ["## The record", *_record(report)]
    return "\n\n".join(blocks) + "\n"


def text(raw: str) -> str:
    """Text that no Markdown reader takes for anything else."""
    escaped = _ACTS.sub(r"\\\1", plain(raw))
    # An entity is never markup, neither a mention nor a link that is found in bare text.
    return re.sub(r"[&<>@]|://", lambda found: _ENTITIES[found.group()], escaped)


def code(raw: str) -> str:
    """A command in a fence that nothing in it can close."""
    raw = plain(raw)
    fence = "`" * max(3, 1 + max(map(len, re.findall("`*", raw))))
    return f"{fence}sh\n{raw}\n{fence}"


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], numeric: int = 0) -> str:
    """A pipe table; the columns from ``numeric`` on stand to the right."""
    rule = ["---" if at < numeric else "---:" for at in range(len(columns))]
    lines = [columns, rule, *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _steps(summary: Summary) -> str:
    columns = ["step", "verdict", *(text(column.title) for column in summary.columns)]
    rows = []
    for line in summary.lines:
        shown = (line.figures.get(column.key) for column in summary.columns)
        cells = (text(one.short) if one else "" for one in shown)
        rows.append([text(line.name), f"{line.glyph} {text(line.word)}", *cells])
    return table(columns, rows, numeric=2)


def _findings(found: Sequence[Found]) -> Iterator[str]:
    for one in found[:SHOWN]:
        told = one.finding
        where = f"{text(told.where)}: " if told.where else ""
        lines = [f"**{GLYPHS[one.verdict]} {where}{text(told.what)}**", ""]
        lines.append(text(f"{one.evidence}; {one.by} at {', '.join(one.steps)}"))
        lines += [f"- why: {text(told.cause)}"] if told.cause else []
        lines += [f"- what to do: {text(told.do)}"] if told.do else []
        yield "\n".join(lines) + (f"\n\n{code(told.show)}" if told.show else "")
    if len(found) > SHOWN:
        yield f"{len(found) - SHOWN:,} more findings are in report.json."


def _records(step: Step) -> Iterator[str]:
    shown = [record for record in step.records if record.verdict is not Verdict.SKIPPED]
    if shown:
        yield "\n".join(f"- {GLYPHS[r.verdict]} **{text(r.by)}**: {text(r.summary)}" for r in shown)
    rows = [row for record in shown for row in _figures(record)]
    if rows:
        yield table(("metric", "value", "interval", "n"), rows, numeric=1)


def _figures(record: Record) -> Iterator[tuple[str, ...]]:
    for name, metric in record.metrics.items():
        shown = figure(name, metric)
        named = text(measure(name, metric.unit).label)
        yield named, text(shown.text), text(shown.interval), f"{metric.n:,}"


def _record(report: Report) -> Iterator[str]:
    if report.text("command"):
        yield code(report.text("command"))
    facts = [f"- model: {text(report.subject.model)} (SHA-256 {report.subject.sha256})"]
    facts.append(f"- task: {text(report.subject.task)}, {report.subject.rows:,} rows judged")
    facts += [f"- {text(note)}" for note in report.notes()]
    yield "\n".join(facts)
