"""The report: what every renderer reads, and the JSON that others script against.

Format 1 of ``report.json`` (its keys are always all there):
  1: format, verdict, subject, environment, steps; a step that could not be made has ``"model": null`` and a
     record that says why.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import cast

from study.errors import InputError
from study.record import JSON, Metric, Record, Verdict, record_from_json, record_to_json, worst

FORMAT = 1


@dataclass(frozen=True, slots=True)
class SubjectFacts:
    """What was studied: the model file, what its outputs mean, and how many rows judged it (0: none)."""

    model: str
    sha256: str
    task: str
    classes: tuple[str, ...]
    rows: int


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """The artifact of one step; ``path`` is below the run folder, or as it was given for the first."""

    path: str
    format: str
    sha256: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Step:
    """One artifact and what was learnt of it.

    ``parent`` is the name of the step that it was made from (``from`` in the JSON; None for a model as it
    came). ``model`` is None when the step could not be made: a record says why.
    """

    name: str
    parent: str | None
    model: ModelFacts | None
    records: tuple[Record, ...] = ()

    def metric(self, name: str) -> Metric | None:
        """The metric of that bare name, which stands in at most one record of a step."""
        return next((record.metrics[name] for record in self.records if name in record.metrics), None)

    def record(self, by: str) -> Record | None:
        """The record of that plug-in."""
        return next((record for record in self.records if record.by == by), None)


@dataclass(frozen=True, slots=True)
class Report:
    """A whole run.

    ``environment`` is shown as it is; the page gives a place of their own to ``command`` (a string),
    ``notes`` (what was guessed or left out: sentences), ``plan`` and ``run`` (the run folder).
    """

    subject: SubjectFacts
    steps: tuple[Step, ...]
    environment: Mapping[str, JSON] = field(default_factory=dict)

    @property
    def verdict(self) -> Verdict:
        """BAD when any record of a last step is; every leaf of the tree of steps is a last one.

        Where a last step could not be made, what it was to be made from is the last that there is.
        """
        return worst([record for step in self.leaves() for record in self._deciding(step)])

    def _deciding(self, step: Step) -> tuple[Record, ...]:
        if step.model is not None or step.parent is None:
            return step.records
        before = next(one for one in self.steps if one.name == step.parent)
        return (*step.records, *self._deciding(before))

    def leaves(self) -> tuple[Step, ...]:
        """The steps that no other was made from, in order; of a search, what it ended with alone."""
        ended = tuple(step for step in self.steps if step.record("search"))
        if ended:
            return ended
        parents = {step.parent for step in self.steps}
        return tuple(step for step in self.steps if step.name not in parents)

    def text(self, key: str) -> str:
        """A string of the environment, or nothing."""
        value = self.environment.get(key)
        return value if isinstance(value, str) else ""

    def notes(self) -> tuple[str, ...]:
        """What was guessed, left out or held back: said aloud in every format."""
        value = self.environment.get("notes")
        return tuple(str(note) for note in value) if isinstance(value, list) else ()

    def with_verdict(self, *verdicts: Verdict) -> Iterator[tuple[Step, Record]]:
        """Every record that says one of these, with its step."""
        for step in self.steps:
            for record in step.records:
                if record.verdict in verdicts:
                    yield step, record


def to_json(report: Report) -> dict[str, JSON]:
    """The report as ``report.json`` holds it."""
    subject = report.subject
    return {
        "format": FORMAT,
        "verdict": report.verdict.value,
        "subject": {
            "model": subject.model,
            "sha256": subject.sha256,
            "task": subject.task,
            "classes": list[JSON](subject.classes),
            "rows": subject.rows,
        },
        "environment": dict(report.environment),
        "steps": [
            {
                "name": step.name,
                "from": step.parent,
                "model": _model_to_json(step.model),
                "records": [record_to_json(record) for record in step.records],
            }
            for step in report.steps
        ],
    }


def from_json(data: dict[str, JSON]) -> Report:
    """The report that was written.

    Raises:
        InputError: it is no report, or one of another format.
    """
    if data.get("format") != FORMAT:
        raise InputError(
            f"This is no report of format {FORMAT}: run the command that wrote the folder again with --force."
        )
    try:
        subject = cast("dict[str, JSON]", data["subject"])
        steps = cast("list[dict[str, JSON]]", data["steps"])
        return Report(
            subject=SubjectFacts(
                model=cast("str", subject["model"]),
                sha256=cast("str", subject["sha256"]),
                task=cast("str", subject["task"]),
                classes=tuple(cast("list[str]", subject["classes"])),
                rows=cast("int", subject["rows"]),
            ),
            steps=tuple(_step(step) for step in steps),
            environment=cast("dict[str, JSON]", data["environment"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"The report is damaged ({type(error).__name__}: {error}): run the command that wrote it again."
        ) from error


def _model_to_json(model: ModelFacts | None) -> JSON:
    if model is None:
        return None
    return {"path": model.path, "format": model.format, "sha256": model.sha256, "bytes": model.bytes}


def _step(data: dict[str, JSON]) -> Step:
    model = cast("dict[str, JSON] | None", data["model"])
    return Step(
        name=cast("str", data["name"]),
        parent=cast("str | None", data["from"]),
        model=ModelFacts(
            path=cast("str", model["path"]),
            format=cast("str", model["format"]),
            sha256=cast("str", model["sha256"]),
            bytes=cast("int", model["bytes"]),
        )
        if model is not None
        else None,
        records=tuple(record_from_json(record) for record in cast("list[dict[str, JSON]]", data["records"])),
    )
