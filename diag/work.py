"""What the workers are asked to do: take in, change, look. Each is a function of plain data."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import polars as pl

from diag.request import Explaining, Judging, Part, Request
from diagnose.check import CHECKS
from diagnose.probe import PROBES
from explain.look import explain
from export.change import Change
from export.generation.with_past import applied
from export.settings import make_pass
from export.verification.divergence import explained
from study.errors import SkipError
from study.feed import Feed
from study.intake import not_judged, take_in
from study.progress import Progress
from study.record import Record
from study.runtime import of_this_process
from study.subject import Artifact, Data, Machine, Model, Subject
from study.view import View

ALL_FORMATS = ("weights",)
"""Checks that a bare state dict has too."""
BARE = "a state dict alone cannot be run: give --arch module:factory"


@dataclass(frozen=True, slots=True)
class Taking:
    """One model and the rows that will judge it."""

    model: Model
    data: Data | None
    training: Data | None
    judging: Judging
    machine: Machine
    hold_out: bool

    @classmethod
    def of(cls, request: Request, model: Model) -> Self:
        """A model of a request: rows are held back when a step needs them and nothing else has any."""
        hold_out = request.needs_calibration() and request.training is None
        return cls(model, request.data, request.training, request.judging, request.machine, hold_out)


@dataclass(frozen=True, slots=True)
class Seen:
    """One artifact with its own subject: what a view is made of."""

    artifact: Artifact
    subject: Subject


@dataclass(frozen=True, slots=True)
class Job:
    """One artifact to be looked at, and what it is compared with."""

    seen: Seen
    origin: Seen | None
    parent: Seen | None
    machine: Machine
    parts: frozenset[Part]
    explaining: Explaining
    checks: tuple[str, ...] = ()
    """These alone; empty: all that fit."""


@dataclass(frozen=True, slots=True)
class Looked:
    """What was learnt, what really ran the model, and how many rows judged it (None: they were not read)."""

    records: tuple[Record, ...]
    provider: str
    rows: int | None


@dataclass(frozen=True, slots=True)
class Taken:
    """What is studied, how many rows judge it, and the ids of those that were held back for calibration."""

    subject: Subject
    rows: int
    calibration_ids: tuple[str, ...]


def take(taking: Taking, progress: Progress) -> Taken:
    """Open the model and the data, and find out what is judged and what the outputs mean."""
    bare = taking.model.format == "weights"
    untold = taking.data is None and not bare and taking.training is not None
    progress.tell("opening the model and the data", 0, 0)
    subject = take_in(
        taking.model,
        None if bare else of_this_process().get(taking.model, taking.machine),
        taking.training if untold else taking.data,
        None if untold else taking.training,
        task=taking.judging.task,
        classes=taking.judging.classes,
        output_name=taking.judging.output,
        sample=None if untold else taking.judging.sample,
        hold_out=taking.hold_out,
        seed=taking.machine.seed,
        unlabelled=taking.judging.unlabelled or untold,
        shapes=taking.judging.shapes,
    )
    if untold:
        subject = not_judged(subject, taking.machine.seed)
    rows = len(Feed.open(subject.judged, subject.inputs)) if subject.judged else 0
    held_back: tuple[str, ...] = ()
    if subject.calibration is not None and taking.hold_out:
        feed = Feed.open(subject.calibration, subject.inputs)
        held_back = tuple(name for piece in feed.pieces(256) for name in piece.rows.ids)
    return Taken(subject, rows, held_back)


def change(typed: str, subject: Subject, out: Path, machine: Machine, progress: Progress) -> Change:
    """Apply one step's pass, to what the step before made to write texts with too."""
    made = make_pass(typed)
    applied_once = made.apply(subject, out, machine, progress)
    change = explained(typed.partition(":")[0], applied_once, subject, machine)
    return applied(made, change, subject, out, machine, progress)


def look(job: Job, progress: Progress) -> Looked:
    """Run the probes, checks and methods that are asked for, on one artifact."""
    view = _view(job)
    records: list[Record] = []
    checks = _checks(job)
    tables = {table for name in checks for table in CHECKS.get(name).needs}
    if "explain" in job.parts and view.subject.judged is not None:
        tables.add("predictions")
    reasons = {
        table: reason for table in PROBES if table in tables if (reason := _probe(table, view, progress))
    }
    for number, name in enumerate(checks):
        progress.tell(f"checking {name}", number, len(checks))
        records.append(_check(name, view, reasons))
    if "explain" in job.parts and view.subject.judged is not None:
        if "predictions" in reasons:
            records.append(Record.skipped("occlusion", reasons["predictions"]))
        else:
            asked = job.explaining
            records.extend(explain(view, asked.methods, asked.rows, progress, asked.target))
    ran = view.model.format != "weights" and view.subject.judged is not None
    judged = "predictions" in tables and "predictions" not in reasons
    rows = view.table("predictions").select(pl.len()).collect().item() if judged else None
    return Looked(tuple(records), view.runtime.provider if ran else "", rows)


def _view(job: Job) -> View:
    runtimes = of_this_process()

    def view(seen: Seen | None, origin: View | None = None, parent: View | None = None) -> View | None:
        if seen is None:
            return None
        return View(seen.artifact, seen.subject, job.machine, runtimes, origin, parent)

    made = view(job.seen, view(job.origin), view(job.parent))
    assert made is not None
    return made


def _checks(job: Job) -> list[str]:
    """The checks of the parts that are asked for and of this kind of task; without data, health alone."""
    task = job.seen.subject.task
    names = [
        name
        for name in CHECKS
        if not (job.checks and name not in job.checks)
        and ("weights" in job.parts if name == "weights" else "diagnose" in job.parts)
        and not (CHECKS.get(name).compares and job.origin is None)
        and (task is None or task.kind in CHECKS.get(name).kinds)
    ]
    return names if job.seen.subject.judged is not None else [name for name in names if name in ALL_FORMATS]


def _probe(table: str, view: View, progress: Progress) -> str:
    """Write a table; the reason where it cannot be."""
    try:
        PROBES.get(table)().run(view, progress)
    except SkipError as skipped:
        return BARE if view.model.format == "weights" else str(skipped)
    return ""


def _check(name: str, view: View, reasons: dict[str, str]) -> Record:
    kind = CHECKS.get(name)
    missing = [reasons[table] for table in kind.needs if table in reasons]
    if missing:
        return Record.skipped(name, missing[0])
    try:
        return kind().check(view)
    except SkipError as skipped:
        return Record.skipped(name, str(skipped))
