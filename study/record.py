"""What was learnt: records of metrics, findings, tables and pictures, and their JSON.

The JSON is format 1 of ``report.json`` (others script against it). No float in it is infinite or NaN: a
number that is not finite is no metric, and a record that needs one is SKIPPED.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Literal, TypeAlias, cast

JSON: TypeAlias = "bool | int | float | str | list[JSON] | dict[str, JSON] | None"
Cell: TypeAlias = str | int | float | bool | None
Better: TypeAlias = Literal["lower", "higher", "neither"]
Chart: TypeAlias = Literal["image", "bars", "lines", "scatter", "ecdf", "heatmap", "reliability", "text"]


class Verdict(Enum):
    """What a record says: act before shipping, worth knowing, looked for and not found, could not look."""

    GOOD = "good"
    BAD = "bad"
    NOTED = "noted"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Metric:
    """A number with its interval, unit, direction and the count of units that it stands on."""

    value: float
    low: float
    high: float
    n: int
    unit: str = ""
    better: Better = "neither"
    level: float = 0.95

    def __post_init__(self) -> None:
        """A number that is not finite is no metric."""
        if not all(math.isfinite(number) for number in (self.value, self.low, self.high)):
            raise ValueError(f"not a metric: {self.value} [{self.low}, {self.high}]")

    @classmethod
    def exact(cls, value: float, n: int, unit: str = "", better: Better = "neither") -> "Metric":
        """A figure without sampling error (a count, a size): low = high = value."""
        return cls(value=value, low=value, high=value, n=n, unit=unit, better=better)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing found: what, where (a slice, tensor or layer), on how many rows, and what to do."""

    what: str
    where: str = ""
    rows: int = 0
    effect: Metric | None = None
    certainty: float = 1.0
    cause: str = ""
    do: str = ""
    show: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of cells under columns."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


@dataclass(frozen=True, slots=True)
class Picture:
    """A chart of one of the record's tables, or an image.

    ``source`` is the title of the table that is drawn or, for an ``image``, the PNG's path below the run
    folder. ``text`` says in one sentence what is to be seen (the page's alternative text).

    What the columns of a drawn table mean: ``bars``: label, value[, low, high]; ``lines``: x, then one
    column a line; ``scatter``: label, x, y; ``ecdf``: value; ``heatmap``: row label, then one column a
    cell; ``reliability``: confidence, accuracy, low, high, rows; ``text``: title of the text, word, how far
    it speaks for or against.
    """

    title: str
    kind: Chart
    source: str
    text: str = ""


@dataclass(frozen=True, slots=True)
class Record:
    """What one plug-in learnt of one step; ``by`` is the plug-in's name."""

    by: str
    verdict: Verdict
    summary: str
    reason: str = ""
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()
    tables: tuple[Table, ...] = ()
    pictures: tuple[Picture, ...] = ()

    @classmethod
    def skipped(cls, by: str, reason: str) -> "Record":
        """What could not be looked for, and why."""
        return cls(by=by, verdict=Verdict.SKIPPED, summary=f"{by} was skipped", reason=reason)


def worst(records: "list[Record] | tuple[Record, ...]") -> Verdict:
    """BAD when any record is; a report is as bad as the records of its last step."""
    return Verdict.BAD if any(record.verdict is Verdict.BAD for record in records) else Verdict.GOOD


def metric_to_json(metric: Metric) -> dict[str, JSON]:
    """All keys, always."""
    return {
        "value": metric.value,
        "low": metric.low,
        "high": metric.high,
        "n": metric.n,
        "unit": metric.unit,
        "better": metric.better,
        "level": metric.level,
    }


def metric_from_json(data: dict[str, JSON]) -> Metric:
    """The metric that was written."""
    return Metric(
        value=cast("float", data["value"]),
        low=cast("float", data["low"]),
        high=cast("float", data["high"]),
        n=cast("int", data["n"]),
        unit=cast("str", data["unit"]),
        better=cast("Better", data["better"]),
        level=cast("float", data["level"]),
    )


def record_to_json(record: Record) -> dict[str, JSON]:
    """The record as ``report.json`` holds it."""
    return {
        "by": record.by,
        "verdict": record.verdict.value,
        "summary": record.summary,
        "reason": record.reason,
        "metrics": {name: metric_to_json(metric) for name, metric in record.metrics.items()},
        "findings": [
            {
                "what": found.what,
                "where": found.where,
                "rows": found.rows,
                "effect": metric_to_json(found.effect) if found.effect else {},
                "certainty": found.certainty,
                "cause": found.cause,
                "do": found.do,
                "show": found.show,
            }
            for found in record.findings
        ],
        "tables": [
            {
                "title": table.title,
                "columns": list(table.columns),
                "rows": [list[JSON](row) for row in table.rows],
            }
            for table in record.tables
        ],
        "pictures": [
            {"title": shown.title, "kind": shown.kind, "source": shown.source, "text": shown.text}
            for shown in record.pictures
        ],
    }


def record_from_json(data: dict[str, JSON]) -> Record:
    """The record that was written."""
    metrics = cast("dict[str, dict[str, JSON]]", data["metrics"])
    findings = cast("list[dict[str, JSON]]", data["findings"])
    tables = cast("list[dict[str, JSON]]", data["tables"])
    pictures = cast("list[dict[str, str]]", data["pictures"])
    return Record(
        by=cast("str", data["by"]),
        verdict=Verdict(data["verdict"]),
        summary=cast("str", data["summary"]),
        reason=cast("str", data["reason"]),
        metrics={name: metric_from_json(metric) for name, metric in metrics.items()},
        findings=tuple(_finding(found) for found in findings),
        tables=tuple(
            Table(
                title=cast("str", table["title"]),
                columns=tuple(cast("list[str]", table["columns"])),
                rows=tuple(tuple(row) for row in cast("list[list[Cell]]", table["rows"])),
            )
            for table in tables
        ),
        pictures=tuple(
            Picture(shown["title"], cast("Chart", shown["kind"]), shown["source"], shown["text"])
            for shown in pictures
        ),
    )


def _finding(data: dict[str, JSON]) -> Finding:
    effect = cast("dict[str, JSON]", data["effect"])
    return Finding(
        what=cast("str", data["what"]),
        where=cast("str", data["where"]),
        rows=cast("int", data["rows"]),
        effect=metric_from_json(effect) if effect else None,
        certainty=cast("float", data["certainty"]),
        cause=cast("str", data["cause"]),
        do=cast("str", data["do"]),
        show=cast("str", data["show"]),
    )
