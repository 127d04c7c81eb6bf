"""The data of the page, built whole before any HTML: what stands where, and what is left out and said."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from diag.render.cards import CHANGES, SEARCH, SHOWN, Card, Drawing, Grid, TableCell, card, figure_cell, grid
from diag.render.charts import draw, span
from diag.render.figures import capitalized, cell, figure, measure
from diag.render.pictures import Album
from diag.render.report import Report, Step
from diag.render.summary import Found, StepLine, Summary, headline_of, record_id, summarize
from study.record import JSON, Cell, Picture, Table, Verdict


@dataclass(frozen=True, slots=True)
class StepPart:
    """The section of one step."""

    id: str
    line: StepLine
    cards: tuple[Card, ...]
    spot: str
    """The headline figure on the scale of all steps, as SVG."""
    facts: str


@dataclass(frozen=True, slots=True)
class Page:
    """Everything on the page, in its order."""

    summary: Summary
    steps: tuple[StepPart, ...]
    found: tuple[Found, ...]
    more_found: int
    tradeoff: Drawing | None
    searched: tuple[Card, ...]
    changed: tuple[Card, ...]
    album: Album
    compared: Grid | None
    skipped: Grid
    passed: tuple[Card, ...]
    notes: tuple[str, ...]
    command: str
    record: Grid
    hashes: Grid

    @property
    def spots(self) -> bool:
        """Whether the headline figures are drawn beside each other."""
        return any(step.spot for step in self.steps)


def build(report: Report, folder: Path | None) -> Page:
    """The page's data; pictures are read from the run folder."""
    summary = summarize(report)
    album = Album(folder)
    cards = {step.name: tuple(_cards(step, at == 0, album)) for at, step in enumerate(report.steps)}
    return Page(
        summary=summary,
        steps=tuple(_parts(report, summary, cards)),
        found=summary.found[:SHOWN],
        more_found=max(0, len(summary.found) - SHOWN),
        tradeoff=_tradeoff(report),
        searched=tuple(card for some in cards.values() for card in some if card.by == SEARCH),
        changed=tuple(card for some in cards.values() for card in some if _is_change(card)),
        album=album,
        compared=_compared(report),
        skipped=_skipped(report),
        passed=tuple(card for some in cards.values() for card in some if card.verdict is Verdict.GOOD),
        notes=report.notes(),
        command=report.text("command"),
        record=grid(Table("The record", ("what", "value"), tuple(_facts(report)))),
        hashes=_hashes(report),
    )


def _is_change(card: Card) -> bool:
    return card.by in CHANGES and card.verdict is not Verdict.SKIPPED


def _parts(report: Report, summary: Summary, cards: Mapping[str, tuple[Card, ...]]) -> Iterator[StepPart]:
    headline = headline_of(report)
    shared = [metric for step in report.steps if (metric := step.metric(headline))]
    for step, line in zip(report.steps, summary.lines, strict=True):
        metric = step.metric(headline)
        spot = span.draw(metric, shared) if metric and len(shared) > 1 else ""
        facts = f"{step.model.format}, {step.model.path}" if step.model else line.why
        shown = tuple(card for card in cards[step.name] if not _is_change(card) and card.by != SEARCH)
        yield StepPart(f"step-{step.name}", line, shown, spot, facts)


def _cards(step: Step, first: bool, album: Album) -> Iterator[Card]:  # noqa: FBT001  private
    names = Counter[str]()
    for record in step.records:
        names[record.by] += 1
        again = f"-{names[record.by]}" if names[record.by] > 1 else ""
        yield card(record, step.name, record_id(step.name, record.by) + again, album, opened=first)


def _compared(report: Report) -> Grid | None:
    """Every bare metric that at least two steps have, a column a step."""
    made = [step for step in report.steps if step.model is not None]
    names: dict[str, int] = {}
    for step in made:
        for record in step.records:
            for name in record.metrics:
                names[name] = names.get(name, 0) + 1
    rows = [
        (TableCell(measure(name).label), *(_at(step, name) for step in made))
        for name, steps in names.items()
        if steps > 1 and "@" not in name
    ]
    if len(made) < 2 or not rows:  # noqa: PLR2004  a comparison has two sides
        return None
    return Grid("All metrics by step", ("metric", *(step.name for step in made)), tuple(rows))


def _at(step: Step, name: str) -> TableCell:
    metric = step.metric(name)
    return figure_cell(figure(name, metric) if metric else None)


def _tradeoff(report: Report) -> Drawing | None:
    headline = headline_of(report)
    points: list[tuple[Cell, ...]] = []
    for step in report.steps:
        good, time = step.metric(headline), step.metric("latency_p50_ms")
        if good and time:
            points.append((step.name, time.value, good.value))
    if len(points) < 2:  # noqa: PLR2004  one point trades nothing
        return None
    title = capitalized(f"{measure(headline).label} by latency")
    table = Table(title, ("step", "latency_p50_ms", headline), tuple(points))
    label = measure(headline).label
    text = f"The {label} of each step against its median latency; a dashed line joins the best."
    picture = Picture(title, "scatter", title, text)
    return Drawing("tradeoff", title, text, draw(picture, table, "tradeoff"), grid(table))


def _skipped(report: Report) -> Grid:
    rows: dict[tuple[str, str], list[str]] = {}
    for step, record in report.with_verdict(Verdict.SKIPPED):
        rows.setdefault((record.by, record.reason or record.summary), []).append(step.name)
    cells = tuple((by, why, ", ".join(steps)) for (by, why), steps in rows.items())
    return grid(Table("Skipped", ("what", "why", "steps"), cells))


def _facts(report: Report) -> Iterator[tuple[Cell, Cell]]:
    subject = report.subject
    yield "model", subject.model
    yield "SHA-256", subject.sha256
    yield "task", subject.task
    yield "rows judged", subject.rows
    if subject.classes:
        yield "classes", _few(subject.classes)
    for key, value in report.environment.items():
        if key not in ("command", "notes"):
            yield from _flat(key.replace("_", " "), value)


def _flat(name: str, value: JSON) -> Iterator[tuple[Cell, Cell]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(f"{name}: {key}", inner)
    elif isinstance(value, list):
        yield name, _few([str(item) for item in value])
    else:
        yield name, value


def _few(items: Sequence[str], most: int = 20) -> str:
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(items[:most]) + more


def _hashes(report: Report) -> Grid:
    rows: list[tuple[Cell, ...]] = [
        (step.name, step.parent or "", m.path, m.format, cell(m.bytes, "size_bytes"), m.sha256)
        for step in report.steps
        if (m := step.model)
    ]
    return grid(Table("Artifacts", ("step", "from", "path", "format", "size", "SHA-256"), tuple(rows)))
