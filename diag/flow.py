"""The flow: the model as it came and every step of the plan, made, looked at and timed, one at a time.

What is whole is kept: the same command again goes on from there. A step that fails is a record, the steps
that need its artifact are SKIPPED, and the other branches go on.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from diag.artifact import hand_over
from diag.bundle import shipment
from diag.environment import environment
from diag.events import Watcher
from diag.glance import glance
from diag.growing import Tried
from diag.plan import CHOSEN, NEAREST, Step
from diag.racing import Racers
from diag.render.report import Report
from diag.render.write import write_reports
from diag.request import Part, Request
from diag.search import growing_of
from diag.sensing import sense
from diag.state import Outcome, State
from diag.work import Job, Seen, Taking, change, look, take
from export.change import PASSES
from export.deployment.bundle import write_bundle
from export.size import size_record
from study.errors import DiagError, InputError, OutputError, SkipError, WorkerError
from study.provider import must_run
from study.record import Record, Verdict
from study.runtime import runtime_of
from study.storage import RunFolder, refused
from study.subject import Artifact, Model, Subject
from study.worker import Child, Inline, Worker

T = TypeVar("T")
LOOKS: Mapping[Part, str] = {
    "weights": "health of the weights",
    "diagnose": "errors",
    "explain": "attributions",
    "latency": "latency",
    "size": "size",
    "glance": "a first look at few rows",
    "sensitivity": "sensitivity of the layers to int8",
}
"""What each part of a look looks at, in words."""
PRELOAD: Mapping[str, tuple[str, ...]] = {"pytorch": ("torch",), "onnxruntime": ()}
"""What every worker of a framework imports, and takes seconds."""
MAKES_ONNX = ("export", "run", "optimize")
LIMIT_S = 3600.0
"""No worker may be silent for longer: a library that hangs is ended, and the step has failed."""


@dataclass(frozen=True, slots=True)
class Result:
    """What a command returns: the report and the folder where it lies."""

    folder: Path
    report: Report

    @property
    def verdict(self) -> Verdict:
        """BAD when any record of a last step is."""
        return self.report.verdict

    def _repr_html_(self) -> str:
        from diag.render.notebook import repr_html

        return repr_html(self.report, self.folder)


def run(request: Request, watcher: Watcher) -> Result:
    """Do what is asked, in its run folder.

    Raises:
        InputError: the model, the data or the settings do not fit; nothing half-written is left.
        OutputError: the disk is full, or a folder may not be written to; what is whole is left.
    """
    folder = RunFolder(request.folder())
    with folder.locked():
        try:
            with ExitStack() as stack:
                return Flow(request, folder, watcher, stack).run()
        except (InputError, OutputError):
            raise
        except Exception as error:
            if (sentence := refused(error, folder.path)) is not None:
                raise sentence from error
            error.add_note(f"The log of this run is {folder.log}.")
            raise


class Flow:
    """One run of one request: what each step gave so far, and the workers that are open."""

    def __init__(self, request: Request, folder: RunFolder, watcher: Watcher, stack: ExitStack) -> None:
        self.request = request
        self.folder = folder
        self.watcher = watcher
        self._stack = stack
        self._workers: dict[str, Worker] = {}
        self._racers = Racers(request, folder.log)
        stack.callback(self._racers.close)
        self._seen: dict[int, Seen] = {}
        self._state = self._opened()
        self._growing = growing_of(request)
        self._tried: list[Tried] = []

    def run(self) -> Result:
        """All steps in order, then the report."""
        self._must_run()
        again: set[int] = set()
        for note in (*self.request.plan.notes, *self.request.notes):
            self.watcher.note(note)
        while (step := self._growing.step(self._tried)) is not None:
            index = len(self._tried)
            for other in self._state.place(index, step):
                self.folder.remove(other.folder)
            if step.parent not in again and self._is_whole(index):
                self.watcher.ends(step.name, 0.0, "kept")
            else:
                again.add(index)
                self.watcher.begins(step.name, index, len(self._state.steps))
                began = time.monotonic()
                outcome = self._step(index, step)
                self.watcher.ends(step.name, time.monotonic() - began, outcome)
            records = self.folder.records(self._state.steps[index].folder)
            self._tried.append(self._trying(index, records or ()))
        report = self._state.report(self.folder, self.request, environment(self.request))
        write_reports(report, self.folder.path)
        if self.request.command in ("export", "optimize"):
            hand_over(self._state.steps, self.folder, self.watcher)
        if self.request.bundle is not None:
            parts = shipment(self._state, self.request, self.folder, lambda index: self._see(index).subject)
            self.watcher.note(self._call(self._worker("onnxruntime"), write_bundle, parts))
        return Result(self.folder.path, report)

    def _must_run(self) -> None:
        """What was asked to run the ONNX models does, before anything is made."""
        machine, models = self.request.machine, self.request.models
        onnx = self.request.command in MAKES_ONNX or any(model.format == "onnx" for model in models)
        if onnx and (machine.provider or machine.device != "cpu"):
            self._call(self._worker("onnxruntime"), must_run, machine)

    # --- what is whole -----------------------------------------------------------------------------------

    def _opened(self) -> State:
        """The state of a folder of this same request; a new one where there is none."""
        key = self.request.key()
        state = None if self.request.force else State.read(self.folder, self.request)
        if state is not None:
            if state.key == key:
                return state
            raise InputError(
                f"{self.folder.path} holds another run ({state.command}): use --force to replace it, "
                "or another --out."
            )
        self.folder.clear()
        new = State.new(key, self.request)
        new.write(self.folder, self.request, environment(self.request))
        return new

    def _is_whole(self, index: int) -> bool:
        step = self._state.steps[index]
        if step.outcome not in ("done", "skipped") or self.folder.records(step.folder) is None:
            return False
        made = step.model
        if made is None or step.step.parent is None:
            return True
        return made.path.exists() and (made.with_past is None or made.with_past.path.exists())

    # --- one step ----------------------------------------------------------------------------------------

    def _step(self, index: int, step: Step) -> Outcome:
        state = self._state.steps[index]
        into = self.folder.begin(state.folder)
        state.outcome, state.model = "pending", None
        records: list[Record] = []
        try:
            state.model, made = self._make(index, step, into)
            records.extend(made)
            self._save(index, "made")
            self._learn(index, records)
            outcome: Outcome = "done"
        except SkipError as skipped:
            outcome = "skipped"
            records.append(Record.skipped(step.word, str(skipped)))
        except (WorkerError, InputError) as error:
            if step.parent is None:
                raise
            outcome = "failed"
            records.append(_failure(step.word, error))
        self.folder.finish(state.folder, tuple(records))
        self._save(index, outcome)
        return outcome

    def _save(self, index: int, outcome: Outcome) -> None:
        self._state.steps[index].outcome = outcome
        self._state.write(self.folder, self.request, environment(self.request))

    def _make(self, index: int, step: Step, into: Path) -> tuple[Model, tuple[Record, ...]]:
        """The step's model: as it was given, or changed by the step's pass."""
        if step.parent is None:
            return self.request.models[0 if len(self.request.models) == 1 else index], ()
        before = self._state.steps[step.parent]
        if before.outcome != "done" or before.model is None:
            raise SkipError(
                f"it needs the model of step {before.name}, which was not made or could not be run"
            )
        if step.typed in (CHOSEN, NEAREST):
            return before.model, ()
        subject = self._see(step.parent).subject
        kind = PASSES.get(step.word)
        if not any(taken.split("/")[0] == subject.model.format for taken in kind.takes):
            raise SkipError(f"{step.word} takes {kind.takes[0]}, and the model is {subject.model.artifact}")
        with self._new_worker(
            runtime_of(subject.model.format)
        ) as worker:  # nothing that a library leaves stays
            changed = self._call(worker, change, step.typed, subject, into, self.request.machine)
        self._state.steps[index].provenance = changed.provenance
        return changed.model, changed.records

    def _trying(self, index: int, records: Sequence[Record], looked: frozenset[Part] = frozenset()) -> Tried:
        state = self._state.steps[index]
        form, task = state.model.format if state.model else "", str(self._state.facts.get("task", ""))
        return Tried(state.step, form, tuple(records), looked, task)

    def _learn(self, index: int, records: list[Record]) -> None:
        """Everything that is asked of the step's artifact, in as many looks as it takes."""
        looked: frozenset[Part] = frozenset()
        while parts := self._growing.parts([*self._tried, self._trying(index, records, looked)]):
            records.extend(self._look(index, parts))
            looked |= parts
        records.extend(self._growing.says([*self._tried, self._trying(index, records, looked)]))

    def _look(self, index: int, asked: frozenset[Part]) -> list[Record]:
        """One look at the step's artifact."""
        seen, step = self._see(index), self._state.steps[index].step
        model = seen.artifact.model
        origin = self._see(0) if index else None
        records: list[Record] = []
        parent = self._see(step.parent) if step.parent is not None else None
        job = Job(seen, origin, parent, self.request.machine, asked, self.request.explaining)
        if "glance" in asked:
            records.append(self._call(self._worker(runtime_of(model.format)), glance, job))
        if asked & {"weights", "diagnose", "explain"}:
            looked = self._call(self._worker(runtime_of(model.format)), look, job)
            records.extend(looked.records)
            self._state.providers.update(filter(None, [looked.provider]))
            if index == 0 and looked.rows is not None:
                self._state.facts["rows"] = looked.rows  # those that could be read
        if "latency" in asked:
            records.extend(self._race(index))
        if "size" in asked:
            records.append(size_record(model, origin.artifact.model if origin else None))
        if "sensitivity" in asked and step.parent is not None and model.precision != "fp32":
            records.append(self._sense(step.parent, step))
        return records

    def _sense(self, parent: int, step: Step) -> Record:
        """What the layers of the model before the step cost in int8."""
        origin, subject = self._see(0).artifact.model, self._see(parent).subject
        steps = (*self._state.typed(parent), step.typed)
        budgets, machine = self.request.budgets, self.request.machine
        return self._call(self._worker("onnxruntime"), sense, origin, subject, steps, budgets, machine)

    def _race(self, index: int) -> tuple[Record, ...]:
        """Times the artifact beside the one it is compared with: the model as it came."""
        against = self._growing.beside([*self._tried, self._trying(index, ())])
        seen = [self._see(one) for one in (*against, index)]
        reads = [self._worker(runtime_of(one.artifact.model.format)) for one in seen]
        return self._racers.race(list(zip(seen, reads, strict=True)), self.watcher.progress)

    # --- what is studied ---------------------------------------------------------------------------------

    def _see(self, index: int) -> Seen:
        """The artifact of a step that was made, with its own subject."""
        if index not in self._seen:
            state = self._state.steps[index]
            step = state.step
            assert state.model is not None, f"step {state.name} has no model"
            artifact = Artifact(state.name, self.folder.path / state.folder, state.model)
            if step.parent is None:
                subject = self._subject(index, state.model)
            else:
                subject = replace(self._see(step.parent).subject, model=state.model)
            self._seen[index] = Seen(artifact, subject)
        return self._seen[index]

    def _subject(self, index: int, model: Model) -> Subject:
        request = self.request
        taken = self._call(self._worker(runtime_of(model.format)), take, Taking.of(request, model))
        feeds = request.command == "benchmark" or (request.command == "export" and model.format != "onnx")
        if feeds and not taken.subject.inputs:
            raise InputError(
                f"Nothing says what {model.path} takes: give --data, or --shape such as 1x3x224x224."
            )
        if index == 0:
            self._state.studied(taken)
            for note in taken.subject.notes:
                self.watcher.note(note)
        return replace(taken.subject, student=request.student)

    # --- where it runs -----------------------------------------------------------------------------------

    def _worker(self, framework: str) -> Worker:
        """The one worker of a framework that looks at models."""
        if framework not in self._workers:
            self._workers[framework] = self._stack.enter_context(self._new_worker(framework))
        return self._workers[framework]

    def _new_worker(self, framework: str) -> Worker:
        """A process of its own; this one where something live has to stay in it."""
        if self.request.in_process:
            return Inline()
        return Child(framework, self.folder.log, PRELOAD[framework])

    def _call(self, worker: Worker, function: Callable[..., T], *arguments: object) -> T:
        return worker.call(function, *arguments, progress=self.watcher.progress, limit_s=LIMIT_S)


def _failure(by: str, error: DiagError) -> Record:
    """A step that failed: there is no artifact to ship, so someone must act."""
    return Record(by, Verdict.BAD, f"{by} failed: {str(error).splitlines()[0]}", reason=str(error))
