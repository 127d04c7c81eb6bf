"""Does it still compute the same? A new model against the one that it was made from, at several sizes.

torch's own verifier compares an export with the exporter's intermediate program, at the example's shapes:
it is content with exports that are wrong at every other shape (``AdaptiveAvgPool2d(3)``, torch 2.13). So the
reference is the model that was given, and every axis that should be free is tried at other sizes.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from export.examples import Axes, Batch, Examples, free_axes, resized, typed
from export.quiet import quiet, reason_of
from study.errors import SkipError, counted, few
from study.record import Finding, Metric, Record, Verdict
from study.runtime import Runtime, to_numpy
from study.subject import InputSpec, Precision
from study.task import ROWS, VALUES, Task

if TYPE_CHECKING:
    from numpy.typing import NDArray

BATCHES = (1, 2, 5)
SIZES = 3
"""Of each free axis, besides the example's own."""
TOLERANCE = {"float64": 1e-9, "float32": 1e-4, "float16": 2e-2}
"""Of the largest output: a thousand roundings, more where numbers are short."""
FLOOR = 1e-7
"""Differences below it are none, however small the outputs."""


@dataclass(frozen=True, slots=True)
class Case:
    """One batch to compare on; ``axes`` are those that it has at another size than the examples."""

    name: str
    batch: Batch
    axes: Axes = ()
    spare: bool = False
    """Only where the reference takes too few of the other sizes."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How far apart the two models are on one case.

    ``error`` is the largest absolute difference over all outputs, ``share`` the largest one relative to what
    is tolerated; ``fault`` says what is wrong, ``refused`` why the reference itself does not take the case.
    """

    case: Case
    error: float = 0.0
    share: float = 0.0
    decisions: int = 0
    agreeing: int = 0
    fault: str = ""
    refused: str = ""


@dataclass(frozen=True, slots=True)
class Verification:
    """The outcomes of all cases."""

    outcomes: tuple[Outcome, ...]
    origin: str

    @property
    def faults(self) -> tuple[Outcome, ...]:
        """The cases where the two models differ."""
        return tuple(one for one in self.outcomes if one.fault)

    @property
    def judged(self) -> tuple[Outcome, ...]:
        """The cases that the reference takes."""
        return tuple(one for one in self.outcomes if not one.refused)


def cases_of(examples: Examples, inputs: tuple[InputSpec, ...], fixed: tuple[Axes, ...] = ()) -> list[Case]:
    """Batch 1, 2 and 5; then every free axis at three other sizes, at batch 2, and spare ones below those."""
    cases = [Case(f"batch={count}", examples.take(count)) for count in BATCHES]
    pair = examples.take(2)
    for axes in free_axes(inputs, examples.batch):
        if axes in fixed:
            continue
        name, axis = axes[0]
        size = examples.batch[name].shape[axis]
        others = sorted({size + 1, 2 * size - 1, size // 2 + 1} - {size})
        spare = sorted({size - 1, size - 2, size // 3 + 1, 3, 2, 1} - {size, *others}, reverse=True)
        for other in (*others, *(fewer for fewer in spare if 0 < fewer < size)):
            name_of = f"{name}.{axis}={other}"
            cases.append(Case(name_of, resized(pair, axes, other), axes, spare=other not in others))
    return cases


def verify(
    reference: Runtime,
    candidate: Runtime,
    cases: list[Case],
    origin: str,
    *,
    precision: Precision = "fp32",
    task: Task | None = None,
) -> Verification:
    """Run both models on every case and compare all outputs.

    Raises:
        SkipError: the reference itself runs on none of the batches.
    """
    outcomes: list[Outcome] = []
    for case in cases:
        tried = [one for one in outcomes if case.axes and one.case.axes == case.axes and not one.refused]
        if not case.spare or len(tried) < SIZES:
            outcomes.append(_compare(reference, candidate, case, precision, task))
    verification = Verification(tuple(outcomes), origin)
    if not verification.judged:
        raise SkipError(f"the model itself does not run on {origin}: {outcomes[0].refused}")
    return verification


def _compare(
    reference: Runtime, candidate: Runtime, case: Case, precision: Precision, task: Task | None
) -> Outcome:
    expected, refused = _run(reference, case.batch)
    if refused:
        return Outcome(case, refused=refused)
    given, fault = _run(candidate, case.batch)
    if fault:
        return Outcome(case, fault=f"it does not run: {fault}")
    if len(expected) != len(given):
        return Outcome(case, fault=f"it has {len(given)} outputs instead of {len(expected)}")
    error, share = 0.0, 0.0
    for (name, wanted), got in zip(expected.items(), given.values(), strict=True):
        fault = mismatch(wanted, got)
        if fault:
            return Outcome(case, fault=f"the output '{name}' {fault}")
        far, tolerated = distance(wanted, got, precision)
        error, share = max(error, far), max(share, far / tolerated)
    decisions, agreeing = _decisions(expected, given, task)
    fault = f"outputs differ by {error:.2g}" if share > 1 else ""
    return Outcome(case, error, share, decisions, agreeing, fault)


def _run(runtime: Runtime, batch: Batch) -> "tuple[dict[str, NDArray[Any]], str]":
    """The outputs, or why there are none."""
    try:
        with quiet("a model"):
            outputs = runtime(typed(batch, runtime.inputs))
    except Exception as error:  # noqa: BLE001 -- a forward may raise anything; it is what we ask
        return {}, reason_of(error)
    return {name: to_numpy(array) for name, array in outputs.items()}, ""


def mismatch(wanted: "NDArray[Any]", got: "NDArray[Any]") -> str:
    """What is wrong with an output besides its numbers; empty: nothing."""
    if wanted.shape != got.shape:
        return f"has the shape {list(got.shape)} instead of {list(wanted.shape)}"
    if wanted.dtype.kind != "f":
        return "" if np.array_equal(wanted, got) else "differs"
    if not np.array_equal(np.isfinite(wanted), np.isfinite(got)):
        return "is not finite where the model's is, or the other way round"
    return ""


def distance(wanted: "NDArray[Any]", got: "NDArray[Any]", precision: Precision) -> tuple[float, float]:
    """The largest absolute difference, and the one that is tolerated."""
    finite = np.isfinite(wanted)
    if wanted.dtype.kind != "f" or not finite.any():
        return 0.0, 1.0
    tolerance = max(TOLERANCE.get(str(wanted.dtype), TOLERANCE["float16"]), TOLERANCE["float32"])
    if wanted.dtype == np.float64 and got.dtype == np.float64:
        tolerance = TOLERANCE["float64"]
    if precision == "fp16":
        tolerance = TOLERANCE["float16"]
    wide, narrow = wanted[finite].astype(np.float64), got[finite].astype(np.float64)
    return float(np.abs(wide - narrow).max()), tolerance * float(np.abs(wide).max()) + FLOOR


def _decisions(
    expected: "Mapping[str, NDArray[Any]]", given: "Mapping[str, NDArray[Any]]", task: Task | None
) -> tuple[int, int]:
    """How many rows there are, and on how many both models decide the same."""
    if task is None or task.kind not in ROWS or task.kind in VALUES:
        return 0, 0
    from study.task import decisions, scored

    renamed = dict(zip(expected, given.values(), strict=True))
    first = np.asarray(decisions(task, scored(task, expected)))
    second = np.asarray(decisions(task, scored(task, renamed)))
    same = (first == second).reshape(len(first), -1).all(axis=1)
    return len(same), int(same.sum())


def verification_record(verification: Verification, than: str) -> Record:
    """What was compared, and how far apart the two models are; ``than`` names the reference."""
    judged, faults = verification.judged, verification.faults
    metrics = {
        f"max_abs_error@{one.case.name}": Metric.exact(
            one.error, len(next(iter(one.case.batch.values()))), better="lower"
        )
        for one in judged
        if not one.fault and math.isfinite(one.error)
    }
    rows = sum(one.decisions for one in judged)
    if rows:
        agreeing = sum(one.agreeing for one in judged)
        metrics["agreement@verification"] = Metric.exact(agreeing / rows, rows, better="higher")
    if faults:
        findings = tuple(Finding(what=one.fault, where=one.case.name, do="Do not ship it.") for one in faults)
        summary = f"It differs from {than} at {few(one.case.name for one in faults)}."
        return Record("verification", Verdict.BAD, summary, metrics=metrics, findings=findings)
    worst = max(one.error for one in judged)
    refused = len(verification.outcomes) - len(judged)
    summary = (
        f"The same outputs as {than} at {len(judged)} sizes of {verification.origin}: "
        f"they differ by at most {worst:.2g}."
        + (f" The model itself takes no input of {counted(refused, 'other size')}." if refused else "")
    )
    findings = _untried(verification)
    verdict = Verdict.NOTED if findings else Verdict.GOOD
    return Record("verification", verdict, summary, metrics=metrics, findings=findings)


def _untried(verification: Verification) -> tuple[Finding, ...]:
    """The axes that were said to be free, and of which the model takes no size but the example's."""
    taken = {one.case.axes for one in verification.judged}
    refused = {one.case.axes: one.refused for one in verification.outcomes if one.case.axes not in taken}
    return tuple(
        Finding(
            what="The model takes no other size of this axis, so it is free in name alone.",
            where=few(f"{name}.{axis}" for name, axis in axes),
            cause=reason,
        )
        for axes, reason in refused.items()
    )
