"""Fewer channels, attention heads and recurrent units."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self, final

from export.change import Change, Pass
from export.examples import EXAMPLE_ROWS, examples_of, tensors_for, typed
from export.pruning.channels import Cut, must_fall
from export.pruning.narrowing import pruned
from export.pruning.recovery import NO_ROWS, Teaching, figures_of, settings_told, told_of
from export.pruning.targets import Bench, Goal, Then, Trial, followed, reach
from export.pruning.worth import NONE, Chosen, better
from study.errors import InputError, SkipError, few
from study.fits import Fitted
from study.loading.library import facts_of
from study.progress import Progress
from study.record import Finding, Metric, Record, Table, Verdict
from study.runtime import open_runtime
from study.subject import Machine, Subject

if TYPE_CHECKING:
    import torch
    from torch import nn

    from export.examples import Batch

MOST_ROWS = 100


@final
@dataclass(frozen=True, slots=True)
class Prune(Pass, Teaching):
    """Structured pruning: channels, heads and recurrent units go; training rows, where given, mend it."""

    takes: ClassVar[tuple[str, ...]] = ("pytorch/fp32",)
    gives: ClassVar[str] = "pytorch/fp32"
    argument: ClassVar[str] = "ratio"
    ratio: float = 0.0
    latency: str = ""
    size: str = ""
    then: tuple[str, ...] = ()
    """The steps after the export for which the latency and the size are meant: ``int8``."""

    def __post_init__(self) -> None:
        """The ratio is of channels, not of parameters; or it is what reaches a latency or a size."""
        self.fit()
        for word in self.then:
            followed(word)
        if self.then and self.goal is None:
            raise InputError(f"then={'+'.join(self.then)} says what a latency or a size is of: give one.")
        if self.goal is not None and self.ratio:
            raise InputError(f"prune:{self.ratio:g} says its ratio: leave out the latency and the size.")
        if self.goal is None and not 0 < self.ratio < 1:
            raise InputError(f"The ratio of prune:{self.ratio:g} must lie between 0 and 1, e.g. prune:0.3.")

    @property
    def goal(self) -> Goal | None:
        """What is to be reached, where no ratio is given."""
        return Goal.of(self.latency, self.size)

    def apply(self, subject: Subject, out: Path, machine: Machine, progress: Progress) -> Change:
        from study.loading import load_module, save_module

        reason = facts_of(subject.model).unprunable
        if reason:
            raise SkipError(reason)
        module = load_module(subject.model)
        call = _Call.of(subject, module, machine)
        frozen = [name for name, parameter in module.named_parameters() if not parameter.requires_grad]
        before = _parameters(module)
        progress.tell("prune", 0, 1)
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out, prefix=".pruning-") as folder:
            found = self._narrower(module, call, subject, machine, Path(folder), progress)
        module = found.module
        progress.tell("prune", 1, 1)
        fitted, why_not = self._recover(module, subject, machine, progress)
        for name, parameter in module.named_parameters():
            parameter.requires_grad = name not in frozen
        module.eval()
        model = save_module(module, out / "model.pt", subject.model)
        record = _record(before, found, fitted, why_not)
        provenance = {
            "torch-pruning": version("torch-pruning"),
            "torch": version("torch"),
            "ratio": f"{found.ratio:g}",
            "importance": found.chosen.importance,
        }
        told = settings_told(self.fit(), fitted) if fitted else {"": f"none: {why_not}"}
        provenance |= {f"recovery {name}".strip(): text for name, text in told.items()}
        return Change(model, (record,), provenance)

    def _narrower(
        self,
        module: "nn.Module",
        call: "_Call",
        subject: Subject,
        machine: Machine,
        folder: Path,
        progress: Progress,
    ) -> "_Found":
        """What is pruned by the ratio, or by the smallest one that reaches the goal.

        Raises:
            SkipError: nothing can be pruned, or the goal cannot be reached.
        """
        before = _parameters(module)

        def make(ratio: float, worth: "Mapping[str, torch.Tensor]" = NONE) -> "tuple[nn.Module, Cut]":
            made, cut = pruned(module, call.example, ratio, worth)
            must_fall(before, _parameters(made), cut)
            return made, cut

        if (goal := self.goal) is not None:
            then = Then(subject, self.then)
            bench = Bench.of(module, call.example, call.outputs, call.row, machine, folder, then)
            trial, made, cut = reach(goal, bench, make, progress)
            made, cut, chosen = better(module, made, cut, partial(make, trial.ratio), subject, machine.seed)
            return _Found(trial.ratio, made, cut, chosen, trial, "", bench.table(trial, goal))
        made, cut = make(self.ratio)
        made, cut, chosen = better(module, made, cut, partial(make, self.ratio), subject, machine.seed)
        try:
            bench = Bench.of(module, call.example, call.outputs, call.row, machine, folder, Then(subject))
            return _Found(self.ratio, made, cut, chosen, bench.try_out(self.ratio, made))
        except SkipError as error:
            return _Found(self.ratio, made, cut, chosen, None, str(error))

    def _recover(
        self, module: "nn.Module", subject: Subject, machine: Machine, progress: Progress
    ) -> tuple[Fitted | None, str]:
        """The recovery fit, or why there was none."""
        from study.loading import load_module

        if subject.training is None:
            return None, NO_ROWS
        try:
            return self.taught(module, load_module(subject.model), subject, machine, progress), ""
        except SkipError as error:
            return None, str(error)


@dataclass(frozen=True, slots=True)
class _Call:
    """One call of the module: rows as its tensors, one of them as arrays, and the names of its outputs."""

    example: "dict[str, torch.Tensor]"
    row: "Batch"
    outputs: tuple[str, ...]

    @classmethod
    def of(cls, subject: Subject, module: "nn.Module", machine: Machine) -> Self:
        examples = examples_of(subject, EXAMPLE_ROWS, machine.seed)
        with open_runtime(subject.model, replace(machine, device="cpu", provider="")) as runtime:
            known = runtime.inputs
            batch = typed(examples.take(EXAMPLE_ROWS), known)
            outputs = tuple(runtime(batch))
        return cls(tensors_for(module, known, batch), typed(examples.take(1), known), outputs)


@dataclass(frozen=True, slots=True)
class _Found:
    """The pruned module, and what it is beside the unpruned one as ONNX (or why that is not known)."""

    ratio: float
    module: "nn.Module"
    cut: Cut
    chosen: Chosen
    trial: Trial | None
    untimed: str = ""
    tried: Table | None = None


def _parameters(module: "nn.Module") -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _record(before: int, found: _Found, fitted: Fitted | None, why_not: str) -> Record:
    after, cut, trial = _parameters(found.module), found.cut, found.trial
    metrics = {
        "parameters@before_pruning": Metric.exact(before, 1, better="lower"),
        "parameters@after_pruning": Metric.exact(after, 1, better="lower"),
    }
    summary = f"{1 - after / before:.1%} of the parameters are gone: {before:,} became {after:,}."
    summary += f" {found.chosen}"
    metrics |= found.chosen.metrics
    if trial is None:
        summary += f" Whether it is faster as ONNX was not measured: {found.untimed}."
    else:
        metrics |= _measured(trial)
        summary += f" {trial.gain.capitalize()}: {trial}."
        if found.tried:
            summary += f" The ratio is {found.ratio:g}, the smallest of {len(found.tried.rows)} that does."
    if fitted:
        metrics |= figures_of(fitted, "recovery")
        summary += f" {told_of(fitted, 'recovery')}"
    else:
        summary += f" There was no recovery fit: {why_not}."
    findings = tuple(
        Finding(what=f"Layers that {reason} keep their width: {len(layers)}.", where=few(layers))
        for reason, layers in cut.left.items()
    )
    rows = tuple((name, *widths) for name, widths in cut.widths.items())[:MOST_ROWS]
    tables = [Table("Widths", ("layer", "before", "after"), rows)] if rows else []
    if cut.units:
        units = tuple((name, *numbers) for name, numbers in cut.units.items())
        tables.append(Table("Recurrent units", ("layer", "before", "after"), units[:MOST_ROWS]))
    if cut.heads:
        heads = tuple(
            (name, count, len(left), " ".join(map(str, left))) for name, (count, left) in cut.heads.items()
        )
        columns = ("layer", "before", "after", "heads that stay")
        tables.append(Table("Heads", columns, heads[:MOST_ROWS]))
    tables += [found.tried] if found.tried else []
    return Record("prune", Verdict.NOTED, summary, metrics=metrics, findings=findings, tables=tuple(tables))


def _measured(trial: Trial) -> dict[str, Metric]:
    """Beside the unpruned model, both as ONNX: figures of the clock, and counts."""
    return {
        "latency_p50_ms@onnx_before_pruning": trial.timed.first,
        "latency_p50_ms@onnx_after_pruning": trial.timed.second,
        "speedup@pruning_alone": trial.timed.speedup,
        "size_bytes@onnx_before_pruning": Metric.exact(trial.before.bytes, 1, "B", "lower"),
        "size_bytes@onnx_after_pruning": Metric.exact(trial.made.bytes, 1, "B", "lower"),
        "macs@before_pruning": Metric.exact(trial.before.macs, 1, better="lower"),
        "macs@after_pruning": Metric.exact(trial.made.macs, 1, better="lower"),
    }
