"""What is asked: one plain record, whoever asks (the command line, ``diag.toml`` or Python)."""

from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal, TypeAlias, cast

from diag.plan import Plan
from diag.policy import Budget
from diag.policy import to_json as budgets_to_json
from study.record import JSON
from study.storage import digest_of, sha256_of
from study.subject import Data, InputSpec, Machine, Model

Part: TypeAlias = Literal["weights", "glance", "diagnose", "explain", "latency", "size", "sensitivity"]
EVERYTHING: frozenset[Part] = frozenset({"weights", "diagnose", "explain", "latency", "size"})


@dataclass(frozen=True, slots=True)
class Judging:
    """How the rows are chosen and read: what ``--task``, ``--classes``, ``--sample`` and others say."""

    task: str = ""
    classes: tuple[str, ...] = ()
    sample: int | None = None
    unlabelled: bool = False
    shapes: tuple[InputSpec, ...] = ()
    """What ``--shape`` says where no data does."""
    output: str = ""
    """The output that is scored."""


@dataclass(frozen=True, slots=True)
class Explaining:
    """Which rows are explained, by what, for which class; empty means chosen."""

    methods: tuple[str, ...] = ()
    rows: str = ""
    target: str = ""


@dataclass(frozen=True, slots=True)
class Timing:
    """What is timed beside each artifact as it is."""

    compiled: bool = False
    callers: tuple[int, ...] = (1,)
    """So many callers side by side, for throughput."""


@dataclass(frozen=True, slots=True)
class Request:
    """One command on one or several models. Nothing in it is open; all of it can be sent to a worker.

    ``models`` holds the model that the plan starts from, or one a step where all are given.
    """

    command: str
    models: tuple[Model, ...]
    plan: Plan
    parts: frozenset[Part] = EVERYTHING
    data: Data | None = None
    training: Data | None = None
    student: Model | None = None
    """What a step distill trains."""
    judging: Judging = Judging()
    explaining: Explaining = Explaining()
    machine: Machine = Machine()
    batches: tuple[int, ...] = (1,)
    timing: Timing = Timing()
    budgets: tuple[Budget, ...] = ()
    """What a search has to keep; empty: the plan is fixed."""
    recovery: str = ""
    """How a search trains what it pruned, and the student."""
    out: Path | None = None
    bundle: Path | None = None
    """Where the last artifact is bundled too; it is made of the run, and no part of its key."""
    force: bool = False
    typed: str = ""
    """The command as it was typed, for the report."""
    notes: tuple[str, ...] = field(default=())

    @property
    def in_process(self) -> bool:
        """Whether something live is in it, which no other process can be sent."""
        sources = (one.live for one in (*self.models, self.data, self.training) if one is not None)
        return any(sources)

    def needs_calibration(self) -> bool:
        """Whether a step reads calibration rows, or may."""
        return bool(self.budgets) or self.plan.needs_calibration()

    def folder(self) -> Path:
        """``--out``, or a name that hashes model, data and plan."""
        if self.out is not None:
            return self.out
        stem = self.models[0].path.stem or "model"
        return Path("diag-runs") / f"{stem}-{self.key()[:8]}"

    def key(self) -> str:
        """The hash of all that decides the result: model and data bytes, plan, settings, our version."""
        return digest_of(
            {
                "command": self.command,
                "models": [
                    [
                        *(
                            model.sha256,
                            model.format,
                            model.arch,
                            model.arch_args,
                            model.weights,
                            model.trust,
                        ),
                        model.with_past.sha256 if model.with_past else "",
                    ]
                    for model in self.models
                ],
                "plan": [[step.typed, step.parent] for step in self.plan.steps],
                "parts": list[JSON](sorted(self.parts)),
                "data": _data_key(self.data),
                "training": _data_key(self.training),
                "student": [self.student.arch, self.student.arch_args] if self.student else None,
                "judging": _plain(self.judging),
                "explaining": _plain(self.explaining),
                "machine": _plain(self.machine),
                "batches": list(self.batches),
                "timing": _plain(self.timing),
                "budgets": budgets_to_json(self.budgets),
                "recovery": self.recovery,
                "version": own_version(),
            }
        )


def _plain(settings: "Judging | Explaining | Timing | Machine | Data") -> JSON:
    return cast("JSON", {name: _listed(value) for name, value in asdict(settings).items()})


def _listed(value: object) -> JSON:
    if isinstance(value, (tuple, list)):
        return [_listed(one) for one in value]
    if isinstance(value, dict):
        return {str(name): _listed(one) for name, one in value.items()}
    return cast("JSON", value)


def _data_key(data: Data | None) -> JSON:
    """The settings with the content of the files they name."""
    if data is None:
        return None
    return [_plain(data), list[JSON](data_hashes(data))]


def data_hashes(data: Data) -> list[str]:
    """Of the files that it names: the rows, the labels, the tokenizer."""
    files = [Path(name) for name in (data.source, data.label, data.tokenizer) if name and Path(name).exists()]
    return [sha256_of(file) for file in files]


def own_version() -> str:
    """The version of this project, as installed."""
    try:
        return version("diag-toolkit")
    except PackageNotFoundError:
        return "0 (not installed)"
