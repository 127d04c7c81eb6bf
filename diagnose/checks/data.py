"""Which rows were judged, and which were left out."""

from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from diagnose.check import Check
from diagnose.judged import Judged, class_name, read_judged
from diagnose.parted import NOUNS
from study.errors import SkipError, counted, few
from study.record import Finding, Metric, Picture, Record, Table, Verdict
from study.task import PARTS, ROWS, VALUES, Kind
from study.view import View


@final
@dataclass(frozen=True, slots=True)
class DataRows(Check):
    """How many rows judge the model, of which classes, and which rows were left out."""

    needs: ClassVar[tuple[str, ...]] = ("predictions",)
    kinds: ClassVar[frozenset[Kind]] = ROWS | PARTS | {"detection"}

    shown: int = 100

    def check(self, view: View) -> Record:
        rows = view.table("predictions").select(pl.len()).collect().item()
        findings, tables, pictures = [], [], []
        left_out = _broken(view)
        if len(left_out):
            findings.append(_left_out(left_out, rows))
            listed = left_out.head(self.shown).rows()
            tables.append(Table("Rows that were left out", ("row", "why"), tuple(listed)))
        unlabelled = False
        said = [f"{counted(rows, 'row')} {'judges' if rows == 1 else 'judge'} the model"]
        if view.task.kind not in ROWS:
            noun = NOUNS.get(view.task.kind, "part")
            parts, unscored = _parts(view)
            said.append(f"they have {counted(parts, noun)} that count")
            if unscored:
                said.append(
                    f"{counted(unscored, noun)} more could not be scored (cut off, or without a token)"
                )
            return Record(
                "data",
                Verdict.NOTED if findings else Verdict.GOOD,
                ", ".join(said) + ".",
                findings=tuple(findings),
                tables=tuple(tables),
            )
        try:
            judged = read_judged(view)
        except SkipError:
            unlabelled = True
            said.append("none of them has a label")
        else:
            if judged.unlabelled:
                findings.append(_unlabelled(judged))
            if view.task.kind == "multilabel" and not judged.known.all():
                said.append(
                    f"{100 * (1 - judged.known.mean()):.3g} % of their labels are missing and do not count"
                )
            if judged.groups is not None:
                said.append(f"they come in {judged.units} {_units(view)}")
            if view.task.kind not in VALUES:
                counts = self._classes(judged)
                tables.append(counts)
                drawn = Picture(counts.title, "bars", counts.title, "How many rows there are of each class.")
                pictures.append(drawn)
                findings += _empty_classes(judged)
        verdict = Verdict.NOTED if findings or unlabelled else Verdict.GOOD
        return Record(
            "data",
            verdict,
            ", ".join(said) + ".",
            findings=tuple(findings),
            tables=tuple(tables),
            pictures=tuple(pictures),
        )

    def _classes(self, judged: Judged) -> Table:
        """Rows of each class, the most frequent first."""
        counts = _counts(judged)
        order = np.argsort(-counts, kind="stable")[: self.shown]
        rows = tuple((class_name(judged.task, index), int(counts[index])) for index in order.tolist())
        return Table("Rows of each class", ("class", "rows"), rows)


def _units(view: View) -> str:
    split = view.subject.judged
    blocks = view.task.kind == "forecasting" and split is not None and not split.data.group
    return "blocks of windows that overlap" if blocks else "groups"


def _parts(view: View) -> tuple[int, int]:
    """How many parts count, and how many have a label and no score."""
    table = view.table("predictions")
    names = [name for name in ("parts", "unscored") if name in table.collect_schema().names()]
    parts, *unscored = table.select(pl.col(names).sum()).collect().row(0)
    return parts, next(iter(unscored), 0)


def _broken(view: View) -> pl.DataFrame:
    try:
        return view.table("broken").collect()
    except SkipError:
        return pl.DataFrame({"id": [], "why": []}, schema={"id": pl.String, "why": pl.String})


def _left_out(broken: pl.DataFrame, judged: int) -> Finding:
    n = len(broken) + judged
    holes = broken["why"].str.contains("is missing|NaN").any()
    return Finding(
        f"{len(broken)} of {n} rows {'was' if len(broken) == 1 else 'were'} left out: {broken['why'][0]}"
        + ("." if broken["why"].n_unique() == 1 else ", and other reasons."),
        where=f"rows {few(broken['id'])}",
        rows=len(broken),
        effect=Metric.exact(len(broken) / n, n, better="lower"),
        cause="They could not be read, or the model does not take them; why stands beside each in the table.",
        do="Mend them" + (", or fill missing values with --missing mean." if holes else "."),
    )


def _unlabelled(judged: Judged) -> Finding:
    n = len(judged) + judged.unlabelled
    return Finding(
        f"{judged.unlabelled} of {n} rows "
        f"{'has no label and does' if judged.unlabelled == 1 else 'have no label and do'} not count.",
        rows=judged.unlabelled,
        effect=Metric.exact(judged.unlabelled / n, n, better="lower"),
        do="Label them, or leave them out.",
    )


def _empty_classes(judged: Judged) -> list[Finding]:
    empty = np.flatnonzero(_counts(judged) == 0).tolist()
    if not empty:
        return []
    names = few(class_name(judged.task, index) for index in empty)
    return [
        Finding(
            f"{len(empty)} of {judged.classes} classes "
            f"{'has' if len(empty) == 1 else 'have'} no rows: {names}.",
            effect=Metric.exact(len(empty) / judged.classes, judged.classes, better="lower"),
            do="Add rows of these classes: nothing can be said about them.",
        )
    ]


def _counts(judged: Judged) -> NDArray[np.int64]:
    if judged.label.ndim > 1:
        return np.asarray((judged.label == 1).sum(axis=0), dtype=np.int64)
    return np.bincount(judged.label, minlength=judged.classes).astype(np.int64)
