"""What every format says first: the verdict, one line a step, and the findings, worst first."""

import hashlib
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

from diag.render.figures import Figure, certainty, count, figure, measure, number, with_unit
from diag.render.report import Report, Step
from study.record import Finding, Metric, Record, Verdict

GLYPHS = {Verdict.GOOD: "✓", Verdict.BAD: "✕", Verdict.NOTED: "•", Verdict.SKIPPED: "\N{EN DASH}"}
WORDS = {
    Verdict.GOOD: "good",
    Verdict.BAD: "act before shipping",
    Verdict.NOTED: "noted",
    Verdict.SKIPPED: "skipped",
}
HEADLINES = {
    "classification": ("accuracy", "balanced_accuracy", "macro_f1"),
    "multilabel": ("macro_f1", "average_precision", "accuracy"),
    "regression": ("rmse", "mae", "r2"),
    "forecasting": ("mae", "rmse"),
    "segmentation": ("miou", "accuracy"),
    "tokens": ("entity_f1", "macro_f1", "accuracy"),
    "language": ("perplexity", "accuracy"),
    "detection": ("map", "map50"),
}
"""The first of these that a step has stands for how good the model is."""
_ANY_HEADLINE = ("accuracy", "macro_f1", "rmse", "perplexity", "miou", "map", "entity_f1")
_SHOWN_LEAVES = 3
_BROKEN = ("beyond", "surely beyond", "missing")
"""States of a budget that is not kept, in the record ``budgets``."""
_RANK = {Verdict.BAD: 0, Verdict.NOTED: 1}
_FOLDERS = re.compile(r"^.*[/\\\\](?=.)", re.DOTALL)
_NUMBERS = re.compile(r"[-+\N{MINUS SIGN}]?\d[\d,.]*(e-?\d+)?")


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the table of steps."""

    key: str
    title: str
    short: str
    """Where there is little room."""
    hint: str = ""


@dataclass(frozen=True, slots=True)
class StepLine:
    """One step of the table: its state and a figure for each column that it has one for."""

    name: str
    parent: str | None
    verdict: Verdict
    word: str
    figures: dict[str, Figure]
    why: str = ""
    """Why the step could not be made."""

    @property
    def glyph(self) -> str:
        """What stands beside the word (never colour alone)."""
        return GLYPHS[self.verdict]


@dataclass(frozen=True, slots=True)
class Found:
    """A finding with where it comes from; the same one at several steps is told once, as it last was."""

    id: str
    verdict: Verdict
    by: str
    steps: tuple[str, ...]
    finding: Finding

    @property
    def places(self) -> tuple[tuple[str, str], ...]:
        """Each step with the id of its record on the page."""
        return tuple((step, record_id(step, self.by)) for step in self.steps)

    @property
    def evidence(self) -> str:
        """What it stands on: the rows, the effect with its interval, the certainty."""
        found = self.finding
        parts = [count(found.rows, "row")] if found.rows else []
        if found.effect is not None:
            shown = figure("", found.effect)
            parts.append(f"effect {shown.short}" if not shown.n else f"effect {shown.full}")
        if found.certainty < 1 or not parts:
            parts.append(certainty(found.certainty))
        return ", ".join(parts)


@dataclass(frozen=True, slots=True)
class Summary:
    """The head of a report."""

    verdict: Verdict
    title: str
    """``No fault found: model.pt``."""
    fault: str
    """The worst thing found, when the verdict is bad."""
    sentences: tuple[str, ...]
    columns: tuple[Column, ...]
    lines: tuple[StepLine, ...]
    found: tuple[Found, ...]

    @property
    def glyph(self) -> str:
        """✓ or ✕."""
        return GLYPHS[self.verdict]


def summarize(report: Report) -> Summary:
    """The head of the report, made from its records alone."""
    headline = headline_of(report)
    lines = tuple(_line(step, headline) for step in report.steps)
    columns = tuple(c for c in _columns(headline) if any(c.key in line.figures for line in lines))
    words = "Act before shipping" if report.verdict is Verdict.BAD else "No fault found"
    missing = [step.name for step in report.steps if step.model is None]
    if missing and report.verdict is not Verdict.BAD:
        words += f", but {count(len(missing), 'step')} not made"
    found = tuple(sorted(_found(report), key=lambda one: _urgency(one, report)))
    title = f"{words}: {_FOLDERS.sub('', report.subject.model)}"
    sentences = _sentences(report, headline)
    return Summary(report.verdict, title, _fault(report, found), sentences, columns, lines, found)


def headline_of(report: Report) -> str:
    """The metric that says how good the model is; empty where nothing was measured."""
    names = (*HEADLINES.get(report.subject.task, ()), *_ANY_HEADLINE)
    return next((name for name in names if any(step.metric(name) for step in report.steps)), "")


def _columns(headline: str) -> tuple[Column, ...]:
    named = measure(headline).label if headline else ""
    return (
        Column("headline", named, named),
        Column(
            "change", "vs. original", "change", "paired difference to the model as it came, on the same rows"
        ),
        Column(
            "worse",
            "newly wrong",
            "flips",
            "rows that the model as it came got right and this step gets wrong",
        ),
        Column(
            "better",
            "newly right",
            "won",
            "rows that the model as it came got wrong and this step gets right",
        ),
        Column(
            "drift",
            "attribution",
            "drift",
            "rank correlation of the Occlusion maps with the original's; 1 = same",
        ),
        Column("latency", "latency p50", "p50"),
        Column("speedup", "speedup", "speed", "against torch eager as it came, with as many threads"),
        Column("size", "size", "size"),
    )


def _line(step: Step, headline: str) -> StepLine:
    named = {
        "headline": headline,
        "worse": "negative_flip_rate",
        "better": "positive_flip_rate",
        "drift": "attribution_rank_correlation",
        "latency": "latency_p50_ms",
        "speedup": "speedup",
        "size": "size_bytes",
    }
    figures: dict[str, Figure] = {}
    for key, name in named.items():
        metric = step.metric(name) if name else None
        if metric is not None:
            figures[key] = figure(name, metric)
    if "size" not in figures and step.model is not None and step.model.bytes:
        figures["size"] = figure("size_bytes", Metric.exact(step.model.bytes, n=1))
    change = change_of(step, headline)
    if change is not None:
        figures["change"] = change
    verdict, word, why = _state(step)
    return StepLine(step.name, step.parent, verdict, word, figures, why)


def change_of(step: Step, headline: str) -> Figure | None:
    """The paired difference of the headline metric to the model as it came, where it was measured.

    A record says it as ``accuracy@change``; for accuracy the two flip rates give it exactly.
    """
    metric = step.metric(f"{headline}@change") if headline else None
    if metric is not None:
        unit = "points" if measure(headline).kind == "percent" else metric.unit
        return figure("", replace(metric, unit=unit), signed=True)
    worse, better = step.metric("negative_flip_rate"), step.metric("positive_flip_rate")
    if headline != "accuracy" or worse is None or better is None:
        return None
    exact = Metric.exact(better.value - worse.value, worse.n, "points", "higher")
    return figure("", exact, signed=True)


def _state(step: Step) -> tuple[Verdict, str, str]:
    if step.model is None:
        failed = next((r for r in step.records if r.verdict in (Verdict.BAD, Verdict.SKIPPED)), None)
        if failed is None:
            return Verdict.SKIPPED, "not made", ""
        return failed.verdict, "not made", failed.reason or failed.summary
    faults = sum(record.verdict is Verdict.BAD for record in step.records)
    if faults:
        return Verdict.BAD, count(faults, "fault"), ""
    return (Verdict.NOTED, "over budget", "") if _over_budget(step) else (Verdict.GOOD, "good", "")


def _over_budget(step: Step) -> bool:
    """Whether a search found that it breaks a budget: no fault, since it goes on to another."""
    record = step.record("budgets")
    if record is None or record.verdict is not Verdict.NOTED:
        return False
    return any(row[-1] in _BROKEN for table in record.tables for row in table.rows)


def record_id(step: str, by: str) -> str:
    """Where a record stands on the page: the same in every run."""
    return f"{step}-{by}".replace(" ", "_")


def identified(record: Record) -> Iterator[tuple[str, Finding]]:
    """A record's findings, each with an id that stays the same while its numbers change."""
    seen: Counter[tuple[str, str, str]] = Counter()
    for finding in _findings(record):
        # The same fault of a place counts other rows at another step: its numbers do not make it another one.
        what = _NUMBERS.sub("#", finding.what) if finding.where else finding.what
        same = (record.by, finding.where, what)
        text = "\0".join((*same, str(seen[same])))
        yield "f-" + hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8], finding
        seen[same] += 1


def _findings(record: Record) -> tuple[Finding, ...]:
    if record.verdict not in _RANK:
        return ()
    if record.findings or record.verdict is not Verdict.BAD:
        return record.findings
    return (Finding(what=record.summary, cause=record.reason),)


def _found(report: Report) -> Iterator[Found]:
    """Each finding once, with every step that has it; told as the latest of them tells it."""
    kept: dict[str, Found] = {}
    for step in report.steps:
        for record in step.records:
            for identity, finding in identified(record):
                before = kept[identity].steps if identity in kept else ()
                steps = before if step.name in before else (*before, step.name)
                kept[identity] = Found(identity, record.verdict, record.by, steps, finding)
    yield from kept.values()


def _urgency(one: Found, report: Report) -> tuple[int, bool, float, int]:
    lasting = any(step.name in one.steps for step in report.leaves())
    return _RANK[one.verdict], not lasting, -one.finding.certainty, -one.finding.rows


def _fault(report: Report, found: tuple[Found, ...]) -> str:
    if report.verdict is not Verdict.BAD:
        return ""
    worst = found[0]
    where = f"{worst.finding.where}: " if worst.finding.where else ""
    return f"{where}{worst.finding.what.rstrip('.')} ({', '.join(worst.steps)})."


def _sentences(report: Report, headline: str) -> tuple[str, ...]:
    """One sentence on each of the last steps."""
    searched = [record for step in report.steps if (record := step.record("search"))]
    told = [record.summary for record in searched]
    told += [_leaf_sentence(step, report, headline) for step in report.leaves()[-_SHOWN_LEAVES:]]
    told += [
        f"{step.name}: {one.what} {one.do}"
        for step in report.leaves()[-_SHOWN_LEAVES:]
        if (record := step.record("sensitivity"))
        for one in record.findings
        if one.do
    ]
    sentences = tuple(sentence for sentence in told if sentence)
    if sentences:
        return sentences
    records = [(step.name, one) for step in report.steps for one in step.records]
    learnt = [(name, one) for name, one in records if one.verdict is not Verdict.SKIPPED]
    telling = [(name, one) for name, one in learnt if one.by != "size"] or learnt
    return tuple(f"{name}: {one.summary.rstrip('.')}." for name, one in telling[-_SHOWN_LEAVES:])


def _first_lost(step: Step, report: Report) -> Step:
    """The step on the way to this one at which the chain broke."""
    parent = next((one for one in report.steps if one.name == step.parent), None)
    return step if parent is None or parent.model is not None else _first_lost(parent, report)


def _leaf_sentence(step: Step, report: Report, headline: str) -> str:
    if step.model is None:
        first = _first_lost(step, report)
        at = "" if first is step else f", as {first.name} could not"
        return f"{step.name} could not be made{at}: {_state(first)[2].rstrip('.')}."
    parts = []
    metric = step.metric(headline) if headline else None
    if metric is not None:
        shown = figure(headline, metric)
        interval = f" {shown.interval}" if shown.interval else ""
        parts.append(f"{measure(headline).label} {shown.text}{interval} on {count(metric.n, 'row')}")
    change = change_of(step, headline)
    if change is not None and step.parent is not None:
        parts.append(f"{change.short} against the model as it came")
    parts += _cost(step, report)
    return f"{step.name}: {', '.join(parts)}." if parts else ""


def _cost(step: Step, report: Report) -> list[str]:
    parts = []
    speedup = step.metric("speedup")
    if speedup is not None and step.parent is not None:
        parts.append(f"{figure('speedup', speedup).short} the speed of torch eager")
    size, first = step.metric("size_bytes"), report.steps[0].metric("size_bytes")
    bytes_now = size.value if size else step.model.bytes if step.model else 0
    bytes_then = first.value if first else report.steps[0].model.bytes if report.steps[0].model else 0
    if step.parent is not None and bytes_now and bytes_then:
        share = with_unit(number(round(100 * bytes_now / bytes_then)), "%")
        text = figure("size_bytes", Metric.exact(bytes_now, n=1)).text
        as_slow = _is_no_faster(step, report.steps[0]) and bytes_now < bytes_then
        word = "smaller, not faster: " if as_slow else ""
        parts.append(f"{word}{text} ({share} of the original's size)")
    return parts


def _is_no_faster(step: Step, first: Step) -> bool:
    """Whether the race says so, in the words that every race uses."""
    raced = step.record("latency")
    words = ("no measurable difference from", "slower than")
    return raced is not None and any(f"{step.name}: {word} {first.name}" in raced.summary for word in words)
