"""What the layers cost, as a record: a table, charts, and the layers that should stay in float."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from export.sensitivity.alone import AUTO, Bench, LayerCost, Sensitivity, sensitivity
from export.sensitivity.effects import METRICS, Effect
from export.sensitivity.exclusion import USUAL, Proposal, Tolerance, proposed
from study.errors import counted, few
from study.progress import Progress
from study.record import Cell, Finding, Metric, Picture, Record, Table, Verdict
from study.show import show_steps
from study.subject import Machine, Model, Subject
from study.task import VALUES, Kind

NAME: Final = "sensitivity"
TABLE, ERRORS, WEIGHED = (
    "What each layer costs in int8",
    "Output error of each layer alone",
    "Error against latency",
)
CHANGED: Final = "decisions changed, share"
MOST_ROWS = 100


@dataclass(frozen=True, slots=True)
class Quantized:
    """The step whose layers are asked about."""

    origin: Model
    steps: tuple[str, ...]
    """From the model as it came, as typed; the last is the step."""
    exclude: tuple[str, ...] = ()
    """Layers that it leaves in float already."""
    calibrator: str = AUTO

    def with_left(self, names: Sequence[str]) -> str:
        """All steps with more layers in float, as typed."""
        *before, step = self.steps
        word, *settings = step.split(":")
        others = [one for one in settings if not one.startswith("exclude=")]
        excluded = "+".join(dict.fromkeys([*self.exclude, *names]))
        return ",".join([*before, ":".join([word, f"exclude={excluded}", *others])])


def sensitivity_record(
    subject: Subject,
    quantized: Quantized,
    machine: Machine,
    progress: Progress,
    tolerance: Tolerance = USUAL,
) -> Record:
    """Measure the layers of ``subject.model``, which is a float one, and say which should stay so.

    Raises:
        SkipError: there are no calibration rows, or no layers that static int8 quantizes.
    """
    bench = Bench(subject, machine, progress, quantized.calibrator, quantized.exclude)
    found = sensitivity(bench, progress)
    progress.tell("which layers should stay in float", 0, 0)
    proposal = proposed(found, bench.effect, tolerance)
    record = as_record(found, proposal, tolerance, bench.rows.task.kind)
    steps = quantized.with_left(proposal.names)
    do, show = f'Give --steps "{steps}".', show_steps(quantized.origin, subject, steps)
    findings = tuple(replace(one, do=do, show=show) if one.effect else one for one in record.findings)
    return replace(record, findings=findings)


def as_record(found: Sensitivity, proposal: Proposal, tolerance: Tolerance, kind: Kind) -> Record:
    """The record of what was found; ``kind`` says what the drop is of."""
    costs = sorted(found.layers, key=lambda cost: -cost.alone.noise)
    metrics = _metrics(found.whole, kind, "all layers")
    if proposal.left:
        metrics |= _metrics(proposal.effect, kind, "after excluding")
    exclude = bool(proposal.left) or not proposal.reached
    pictures = [
        Picture(ERRORS, "bars", ERRORS, "How far each layer alone moves the output, the worst first.")
    ]
    tables = [_table(costs, kind), _errors(costs)]
    if found.shares is not None:
        tables.append(_weighed(costs))
        told = "Each layer's share of the latency, and the error that it makes in int8."
        pictures.append(Picture(WEIGHED, "scatter", WEIGHED, told))
    if len(proposal.trials) > 1:
        tables.append(_trials(proposal))
    return Record(
        NAME,
        Verdict.NOTED if exclude else Verdict.GOOD,
        " ".join([_summary(found, costs, kind), _conclusion(found, proposal, tolerance)]),
        metrics=metrics,
        findings=_findings(found, proposal),
        tables=tuple(tables),
        pictures=tuple(pictures),
    )


def _summary(found: Sensitivity, costs: Sequence[LayerCost], kind: Kind) -> str:
    worst, count = costs[0], len(found.layers) + len(found.unmeasured)
    text = (
        f"{f'All {count} layers' if count > 1 else 'The one layer'} in int8 ({found.calibrator}): "
        f"{_words(found.whole, kind)}, on {found.whole.rows} calibration rows"
    )
    if len(costs) > 1 and worst.alone.sqnr_db:
        time = f", {worst.share.value:.0%} of the latency" if worst.share else ""
        text += f"; alone, '{worst.name}' makes most noise ({worst.alone.sqnr_db.value:.1f} dB{time})"
    return text + "."


def _conclusion(found: Sensitivity, proposal: Proposal, tolerance: Tolerance) -> str:
    asked = _asked(tolerance)
    if not proposal.left and proposal.reached:
        return f"No layer needs to stay in float ({asked})."
    if not proposal.reached:
        return f"No exclusion that was tried is within what is tolerated ({asked})."
    share = _share(proposal)
    time = f", {share:.0%} of the float model's latency," if share is not None else ""
    left = f"{counted(len(proposal.left), 'layer')} of {len(found.layers) + len(found.unmeasured)}"
    return f"With {left} in float{time} it is within what is tolerated ({asked})."


def _share(proposal: Proposal) -> float | None:
    shares = [cost.share.value for cost in proposal.left if cost.share is not None]
    return sum(shares) if len(shares) == len(proposal.left) else None


def _asked(tolerance: Tolerance) -> str:
    words = []
    if tolerance.changed is not None:
        words.append(f"at most {tolerance.changed:.1%} of the decisions changed")
    if tolerance.drop is not None:
        words.append(f"a drop of at most {100 * tolerance.drop:.2g} points")
    if tolerance.sqnr_db is not None:
        words.append(f"at least {tolerance.sqnr_db:g} dB")
    return ", ".join(words)


def _words(effect: Effect, kind: Kind) -> str:
    words = []
    if effect.changed is not None:
        words.append(
            f"{effect.changed.value:.1%} of the decisions changed (at most {effect.changed.high:.1%})"
        )
    if effect.drop is not None and effect.drop.value and kind not in {*VALUES, "language"}:
        words.append(f"{METRICS[kind]} {-100 * effect.drop.value:+.1f} points")
    words.append(f"{effect.sqnr_db.value:.1f} dB" if effect.sqnr_db else "no noise in the output")
    return ", ".join(words)


def _metrics(effect: Effect, kind: Kind, where: str) -> dict[str, Metric]:
    """Of the calibration rows, so never under a bare name."""
    found = {
        "decisions_changed_share": effect.changed,
        f"{METRICS.get(kind, 'metric').replace(' ', '_')}_drop": effect.drop if kind not in VALUES else None,
        "mae_change": effect.drop if kind in VALUES else None,
        "sqnr_db": effect.sqnr_db,
    }
    return {f"{name}@{where}": metric for name, metric in found.items() if metric is not None}


def _findings(found: Sensitivity, proposal: Proposal) -> tuple[Finding, ...]:
    findings = []
    if proposal.left:
        findings.append(
            Finding(
                what=f"{counted(len(proposal.left), 'layer')} should stay in float: {few(proposal.names)}.",
                where=", ".join(proposal.names[:3]),
                rows=found.whole.rows,
                effect=proposal.effect.changed or proposal.effect.sqnr_db,
                cause="with all layers in int8 more changes than is tolerated, and less with these in float",
            )
        )
    if found.unmeasured:
        what = f"{counted(len(found.unmeasured), 'layer')} with the fewest MACs were not measured alone"
        findings.append(Finding(what=f"{what}: {few(found.unmeasured)}."))
    if found.unshared:
        findings.append(Finding(what=f"The latency of the layers is not known: {found.unshared}."))
    return tuple(findings)


def _ends(metric: Metric | None) -> tuple[Cell, Cell, Cell]:
    return (None, None, None) if metric is None else (metric.value, metric.low, metric.high)


def _table(costs: Sequence[LayerCost], kind: Kind) -> Table:
    drop = "mae change" if kind in VALUES else f"{METRICS.get(kind, 'metric')} drop"
    columns = (
        *("layer", "node", "operator", "latency share", "low", "high"),
        *("SQNR (dB)", "SQNR (dB) low", "SQNR (dB) high", "SQNR (dB) of all but it"),
        *(CHANGED, "low", "high", drop, f"{drop} low", f"{drop} high", "MACs"),
    )
    rows = tuple(
        (
            cost.layer.module or cost.name,
            cost.layer.node,
            cost.layer.op,
            *_ends(cost.share),
            *_ends(cost.alone.sqnr_db),
            cost.without.sqnr_db.value if cost.without.sqnr_db else None,
            *_ends(cost.alone.changed),
            *_ends(cost.alone.drop),
            cost.layer.macs,
        )
        for cost in costs[:MOST_ROWS]
    )
    return Table(TABLE, columns, rows)


def _error(noise: float) -> float:
    """Root of the squared differences over that of the squares."""
    return float(noise**0.5)


def _errors(costs: Sequence[LayerCost]) -> Table:
    rows = []
    for cost in costs[:MOST_ROWS]:
        ratio = cost.alone.sqnr_db
        low, high = (10 ** (-end / 20) for end in (ratio.high, ratio.low)) if ratio else (0.0, 0.0)
        rows.append((cost.name, _error(cost.alone.noise), low, high))
    return Table(ERRORS, ("layer", "relative error", "low", "high"), tuple(rows))


def _weighed(costs: Sequence[LayerCost]) -> Table:
    rows = tuple(
        (cost.name, cost.share.value, _error(cost.alone.noise))
        for cost in costs[:MOST_ROWS]
        if cost.share is not None
    )
    return Table(WEIGHED, ("layer", "latency share", "relative error"), rows)


def _trials(proposal: Proposal) -> Table:
    rows = tuple(
        (
            len(trial.left),
            few(cost.name for cost in trial.left) if trial.left else "",
            trial.effect.changed.value if trial.effect.changed else None,
            trial.effect.sqnr_db.value if trial.effect.sqnr_db else None,
        )
        for trial in proposal.trials
    )
    return Table("Exclusions that were tried", ("layers in float", "which", CHANGED, "SQNR (dB)"), rows)
