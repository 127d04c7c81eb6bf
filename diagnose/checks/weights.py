"""Health of the weights."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, final

from diagnose.check import Check
from diagnose.tensor_facts import TensorFacts
from diagnose.weight_faults import FAULTS, Fault, Seen
from study.record import Finding, Metric, Record, Table, Verdict
from study.show import show_weights
from study.task import EVERY, Kind
from study.view import View

EACH = 10
"""The most findings of one kind; the others are counted in one more."""
LISTED = 100


@final
@dataclass(frozen=True, slots=True)
class Weights(Check):
    """Health of the weights: NaN, zeros, copies, outliers and batch-norm statistics, by tensor and index."""

    needs: ClassVar[tuple[str, ...]] = ("weights",)
    kinds: ClassVar[frozenset[Kind]] = EVERY

    def check(self, view: View) -> Record:
        lines = view.table("weights").collect().rows(named=True)
        seen = Seen(tuple(TensorFacts(**line) for line in lines))
        kinds = _faults(seen)
        bad = sum(fault.bad for kind in kinds for fault in kind)
        noted = sum(len(kind) for kind in kinds) - bad
        parameters = sum(tensor.size for tensor in seen.tensors if tensor.is_parameter)
        show = show_weights(view)
        return Record(
            by="weights",
            verdict=Verdict.BAD if bad else Verdict.NOTED if noted else Verdict.GOOD,
            summary=_summary(seen, parameters, bad, noted),
            metrics={"parameters": Metric.exact(parameters, len(seen.tensors), better="lower")},
            findings=tuple(
                found
                for severe in (True, False)
                for kind in kinds
                for found in _findings([fault for fault in kind if fault.bad is severe], show)
            ),
            tables=(_table(seen),),
        )


def _faults(seen: Seen) -> list[list[Fault]]:
    """By kind; what is bad about a tensor explains what later kinds would say of it."""
    kinds: list[list[Fault]] = []
    explained: set[str] = set()
    for look in FAULTS:
        found = [fault for fault in look(seen) if fault.tensor.name not in explained]
        explained |= {fault.tensor.name for fault in found if fault.bad}
        kinds.append(found)
    return kinds


def _findings(faults: list[Fault], show: str) -> Iterator[Finding]:
    for fault in faults[:EACH]:
        yield Finding(fault.what, where=fault.tensor.name, cause=fault.cause, do=fault.do, show=show)
    if len(faults) > EACH:
        rest = faults[EACH:]
        yield Finding(
            f"the same kind of thing in {len(rest)} more tensors, such as {rest[0].what}",
            where=rest[0].tensor.name,
            cause=rest[0].cause,
            do=rest[0].do,
            show=show,
        )


def _summary(seen: Seen, parameters: int, bad: int, noted: int) -> str:
    tied = sum(tensor.shared for tensor in seen.tensors)
    what = f"{parameters:,} parameters in {len(seen.tensors)} tensors" + (
        f", {tied} of them tied" if tied else ""
    )
    if not bad and not noted:
        return f"{what}: no NaN, no zero, copied or outlying weights"
    parts = [f"{bad} {'fault' if bad == 1 else 'faults'}"] if bad else []
    parts += [f"{noted} {'fact' if noted == 1 else 'facts'} worth knowing"] if noted else []
    return f"{what}: {' and '.join(parts)}"


def _table(seen: Seen) -> Table:
    largest = sorted(seen.tensors, key=lambda tensor: -tensor.size)[:LISTED]
    kept = {tensor.name for tensor in largest}
    title = (
        "Tensors"
        if len(kept) == len(seen.tensors)
        else f"The {LISTED} largest of {len(seen.tensors)} tensors"
    )
    columns = ("tensor", "shape", "type", "NaN or infinite", "zeros", "min", "max", "mean", "std", "same as")
    return Table(
        title,
        columns,
        tuple(
            (
                tensor.name,
                "x".join(map(str, tensor.shape)) or "1",
                tensor.dtype,
                tensor.nan + tensor.inf,
                tensor.zeros,
                tensor.low,
                tensor.high,
                tensor.mean,
                tensor.std,
                f"{tensor.same_as} (tied)" if tensor.shared else tensor.same_as,
            )
            for tensor in seen.tensors
            if tensor.name in kept
        ),
    )
