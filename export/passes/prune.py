"""Fewer channels."""

from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, final

from export.change import Change, Pass
from export.examples import EXAMPLE_ROWS, examples_of, tensors_for, typed
from export.pruned import pruned
from export.pruning import Cut, must_fall
from export.recovery import NO_ROWS, Teaching, figures_of, settings_told, told_of
from study.errors import InputError, SkipError, few
from study.fits import Fitted
from study.loading.library import facts_of
from study.progress import Progress
from study.record import Finding, Metric, Record, Table, Verdict
from study.runtime import open_runtime
from study.subject import Machine, Subject

if TYPE_CHECKING:
    from torch import nn

MOST_ROWS = 100


@final
@dataclass(frozen=True, slots=True)
class Prune(Pass, Teaching):
    """Structured pruning: whole channels go, with a short recovery fit where training rows are given."""

    takes: ClassVar[tuple[str, ...]] = ("pytorch/fp32",)
    gives: ClassVar[str] = "pytorch/fp32"
    argument: ClassVar[str] = "ratio"
    ratio: float = 0.3

    def __post_init__(self) -> None:
        """The ratio is of channels, not of parameters."""
        self.fit()
        if not 0 < self.ratio < 1:
            raise InputError(f"The ratio of prune:{self.ratio:g} must lie between 0 and 1, e.g. prune:0.3.")

    def apply(self, subject: Subject, out: Path, machine: Machine, progress: Progress) -> Change:
        from study.loading import load_module, save_module

        reason = facts_of(subject.model).unprunable
        if reason:
            raise SkipError(reason)
        module = load_module(subject.model)
        with open_runtime(subject.model, replace(machine, device="cpu", provider="")) as runtime:
            known = runtime.inputs
        examples = examples_of(subject, EXAMPLE_ROWS, machine.seed)
        example = tensors_for(module, known, typed(examples.take(EXAMPLE_ROWS), known))
        before = _parameters(module)
        frozen = [name for name, parameter in module.named_parameters() if not parameter.requires_grad]
        progress.tell("prune", 0, 1)
        module, cut = pruned(module, example, self.ratio, {})
        after = _parameters(module)
        must_fall(before, after, cut)
        progress.tell("prune", 1, 1)
        fitted, why_not = self._recover(module, subject, machine, progress)
        for name, parameter in module.named_parameters():
            parameter.requires_grad = name not in frozen
        module.eval()
        out.mkdir(parents=True, exist_ok=True)
        model = save_module(module, out / "model.pt", subject.model)
        record = _record(before, after, cut, fitted, why_not)
        provenance = {
            "torch-pruning": version("torch-pruning"),
            "torch": version("torch"),
            "ratio": f"{self.ratio:g}",
            "importance": "group L2 norm",
        }
        told = settings_told(self.fit(), fitted) if fitted else {"": f"none: {why_not}"}
        provenance |= {f"recovery {name}".strip(): text for name, text in told.items()}
        return Change(model, (record,), provenance)

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


def _parameters(module: "nn.Module") -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _record(before: int, after: int, cut: Cut, fitted: Fitted | None, why_not: str) -> Record:
    metrics = {
        "parameters@before_pruning": Metric.exact(before, 1, better="lower"),
        "parameters@after_pruning": Metric.exact(after, 1, better="lower"),
    }
    summary = f"{1 - after / before:.1%} of the parameters are gone: {before:,} became {after:,}."
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
    tables = [Table("Widths", ("layer", "before", "after"), rows)]
    if cut.units:
        units = tuple((name, *numbers) for name, numbers in cut.units.items())
        tables.append(Table("Recurrent units", ("layer", "before", "after"), units[:MOST_ROWS]))
    if cut.heads:
        heads = tuple(
            (name, count, len(left), " ".join(map(str, left))) for name, (count, left) in cut.heads.items()
        )
        columns = ("layer", "before", "after", "heads that stay")
        tables.append(Table("Heads", columns, heads[:MOST_ROWS]))
    return Record("prune", Verdict.NOTED, summary, metrics=metrics, findings=findings, tables=tuple(tables))
