"""``run.json``: what was asked, what is studied, and how far each step has come."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Self, TypeAlias, cast

from diag.plan import Step, folder_of
from diag.render.report import ModelFacts, Report, SubjectFacts
from diag.render.report import Step as ReportStep
from diag.request import Request
from diag.work import Taken
from study.record import JSON
from study.storage import RunFolder
from study.subject import Format, Model, Precision

FORMAT = 1
Outcome: TypeAlias = Literal["pending", "made", "done", "skipped", "failed"]
"""``made``: the model is there and was not yet looked at; only done and skipped steps are kept."""


@dataclass(slots=True)
class StepState:
    """One step: its place in the plan, how far it came, its model and how that was made."""

    step: Step
    folder: str
    outcome: Outcome = "pending"
    model: Model | None = None
    provenance: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Unique among the steps."""
        return self.step.name


@dataclass(slots=True)
class State:
    """Everything that a resume needs beside the step folders."""

    key: str
    command: str
    steps: list[StepState]
    facts: dict[str, JSON] = field(default_factory=dict)
    """The subject as the report tells it: task, classes, rows; and the ids of the calibration rows."""
    notes: tuple[str, ...] = ()
    providers: set[str] = field(default_factory=set)

    @classmethod
    def new(cls, key: str, request: Request) -> Self:
        """Nothing was done yet."""
        new = cls(key, request.typed or request.command, [])
        for index, step in enumerate(request.plan.steps):
            new.place(index, step)
        return new

    def place(self, index: int, step: Step) -> list["StepState"]:
        """Put a step where it stands in the plan; what stood there instead goes, with all after it."""
        if index < len(self.steps) and self.steps[index].step == step:
            return []
        gone, self.steps[index:] = self.steps[index:], [StepState(step, folder_of(index, step))]
        return gone

    def typed(self, index: int) -> tuple[str, ...]:
        """The steps by which a step was made of the model as it came, as typed, itself the last."""
        step = self.steps[index].step
        return () if step.parent is None else (*self.typed(step.parent), step.typed)

    @classmethod
    def read(cls, folder: RunFolder, request: Request) -> Self | None:
        """What ``run.json`` says; None where there is none."""
        data = folder.state()
        if not data:
            return None
        steps = cast("list[dict[str, JSON]]", data["steps"])
        plan = cast("list[dict[str, JSON]]", data["plan"])
        return cls(
            key=cast("str", data["key"]),
            command=cast("str", data["command"]),
            steps=[_step(one, place, folder.path, request) for one, place in zip(steps, plan, strict=True)],
            facts=cast("dict[str, JSON]", data["subject"]),
            notes=tuple(cast("list[str]", data["notes"])),
            providers=set(cast("list[str]", data["providers"])),
        )

    def write(self, folder: RunFolder, request: Request, environment: dict[str, JSON]) -> None:
        """Keep it."""
        folder.keep(
            {
                "format": FORMAT,
                "key": self.key,
                "command": self.command,
                "plan": [{"step": one.step.typed, "from": one.step.parent} for one in self.steps],
                "seed": request.machine.seed,
                "environment": environment,
                "subject": self.facts,
                "notes": list[JSON](self.notes),
                "providers": list[JSON](sorted(self.providers)),
                "steps": [_step_to_json(step, folder.path) for step in self.steps],
            }
        )

    def studied(self, taken: Taken) -> None:
        """What is judged and what the outputs mean is known now."""
        task = taken.subject.task
        self.notes = taken.subject.notes
        self.facts = {
            "task": task.name if task else "",
            "classes": list[JSON](task.classes) if task else [],
            "rows": taken.rows,
            "calibration_ids": list[JSON](taken.calibration_ids),
        }

    def report(self, folder: RunFolder, request: Request, facts: dict[str, JSON]) -> Report:
        """The report of all steps; ``facts`` are those of the machine."""
        return Report(
            subject=self.subject(request.models[0]),
            steps=tuple(_report_step(one, self.steps, folder) for one in self.steps),
            environment={
                **facts,
                "providers_used": list[JSON](sorted(self.providers)),
                "notes": [*request.plan.notes, *request.notes, *self.notes],
                "plan": [one.step.typed for one in self.steps],
                "run": str(folder.path),
            },
        )

    def subject(self, model: Model) -> SubjectFacts:
        """The subject as the report tells it."""
        return SubjectFacts(
            model=model.path.as_posix(),
            sha256=model.sha256,
            task=cast("str", self.facts.get("task", "")),
            classes=tuple(cast("list[str]", self.facts.get("classes", []))),
            rows=cast("int", self.facts.get("rows", 0)),
        )


def _report_step(state: StepState, states: list[StepState], folder: RunFolder) -> ReportStep:
    step, facts = state.step, None
    if state.model is not None:
        path = state.model.path
        if step.parent is not None:
            path = path.relative_to(folder.path)
        facts = ModelFacts(path.as_posix(), state.model.format, state.model.sha256, state.model.bytes)
    return ReportStep(
        name=state.name,
        parent=states[step.parent].name if step.parent is not None else None,
        model=facts,
        records=folder.records(state.folder) or (),
    )


def _step_to_json(step: StepState, run: Path) -> dict[str, JSON]:
    return {
        "name": step.name,
        "folder": step.folder,
        "state": step.outcome,
        "model": _model_to_json(step.model, run) if step.model else None,
        "provenance": dict[str, JSON](step.provenance),
    }


def _step(data: dict[str, JSON], place: dict[str, JSON], run: Path, request: Request) -> StepState:
    model = cast("dict[str, JSON] | None", data["model"])
    typed, parent = cast("str", place["step"]), cast("int | None", place["from"])
    return StepState(
        step=Step(typed, cast("str", data["name"]), parent),
        folder=cast("str", data["folder"]),
        outcome=cast("Outcome", data["state"]),
        model=_model(model, run, request) if model else None,
        provenance=cast("dict[str, str]", data["provenance"]),
    )


def _model_to_json(model: Model, run: Path) -> dict[str, JSON]:
    """Paths below the run folder are relative to it, so that the folder can be moved."""
    made = model.path.is_relative_to(run)
    return {
        "path": (model.path.relative_to(run) if made else model.path).as_posix(),
        "made_here": made,
        "format": model.format,
        "precision": model.precision,
        "sha256": model.sha256,
        "bytes": model.bytes,
        "arch": model.arch,
        "arch_args": model.arch_args,
        "weights": model.weights,
        "adapter": model.adapter.as_posix() if model.adapter else "",
        "skeleton": model.skeleton.as_posix() if model.skeleton else "",
        "live": model.live,
        "library": model.library,
        "with_past": _model_to_json(model.with_past, run) if model.with_past else None,
    }


def _model(data: dict[str, JSON], run: Path, request: Request) -> Model:
    path, skeleton = cast("str", data["path"]), cast("str", data["skeleton"])
    with_past = cast("dict[str, JSON] | None", data.get("with_past"))
    return Model(
        path=run / path if data["made_here"] else Path(path),
        format=cast("Format", data["format"]),
        precision=cast("Precision", data["precision"]),
        sha256=cast("str", data["sha256"]),
        bytes=cast("int", data["bytes"]),
        arch=cast("str", data["arch"]),
        arch_args=cast("str", data["arch_args"]),
        weights=cast("str", data.get("weights", "")),
        adapter=Path(cast("str", data["adapter"])) if data.get("adapter") else None,
        trust=request.models[0].trust,  # never from a file: trust is given by whoever types the command
        skeleton=Path(skeleton) if skeleton else None,
        live=cast("str", data["live"]),
        library=cast("str", data["library"]),
        with_past=_model(with_past, run, request) if with_past else None,
    )
