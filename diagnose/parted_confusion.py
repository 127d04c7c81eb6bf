"""Which classes the parts of rows are taken for."""

import numpy as np
import polars as pl
from numpy.typing import NDArray

from diagnose.judged import class_name
from diagnose.parted import NOUNS, Parted, read_parted
from study.bootstrap import Floats
from study.errors import SkipError, are
from study.record import Cell, Finding, Picture, Record, Table, Verdict
from study.show import show_rows
from study.statistics import count_units, share_of_parts
from study.task import Task
from study.view import View

TWO = 2
"""Units that an interval needs."""


def pairs_of(view: View, classes: int) -> NDArray[np.int64]:
    """(classes, classes): how many parts of each class are predicted as each, from the table's ``pairs``."""
    table = view.table("predictions").filter(pl.col("pairs").list.len() > 0)
    summed = (
        table.select("pairs", "pair_counts")
        .explode("pairs", "pair_counts")
        .group_by("pairs")
        .agg(pl.col("pair_counts").cast(pl.Int64).sum())
        .collect()
    )
    cells = np.zeros(classes * classes, dtype=np.int64)
    cells[summed["pairs"].to_numpy()] = summed["pair_counts"].to_numpy()
    return cells.reshape(classes, classes)


def confusion_of_parts(view: View, classes: int, shown: int) -> Table:
    """The share of each class's parts that are taken for each class, of the ``shown`` most confused ones."""
    return shares(view.task, pairs_of(view, classes), shown)


def shares(task: Task, matrix: NDArray[np.int64], shown: int) -> Table:
    """Counts as shares of their row."""
    count = len(matrix)
    wrong = matrix.sum(axis=0) + matrix.sum(axis=1) - 2 * np.diag(matrix)
    every = np.arange(count)
    if count > shown:
        every = np.sort(np.argsort(-wrong, kind="stable")[:shown])
    part = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    names = [class_name(task, index) for index in every.tolist()]
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (name, *part[index][every].tolist()) for name, index in zip(names, every.tolist(), strict=True)
    )
    noun = NOUNS.get(task.kind, "part")
    return Table(f"Confusion of {noun}s", ("label \\ prediction", *names), rows)


def record_of_parts(view: View, shown: int, listed: int, told: int) -> Record:
    """Each class with its precision and recall, the most frequent confusions, and the shares of all.

    Raises:
        SkipError: no part has a label, or there is one row alone.
    """
    parted = read_parted(view)
    if parted.units < TWO:
        raise SkipError("an interval needs two rows (or groups)")
    assert parted.class_sums is not None
    matrix = pairs_of(view, parted.class_sums.shape[1] // 3)
    classes, table = _classes(parted, listed), shares(view.task, matrix, shown)
    findings = _worst_pairs(view, parted, matrix, told)
    picture = Picture(
        table.title,
        "heatmap",
        table.title,
        f"Rows are what the {parted.noun}s are, columns what they are taken for, as shares of the row.",
    )
    return Record(
        "confusion",
        Verdict.NOTED if findings else Verdict.GOOD,
        findings[0].what if findings else "No class is taken for another.",
        findings=findings,
        tables=(classes, table),
        pictures=(picture,),
    )


def _classes(parted: Parted, listed: int) -> Table:
    """A line a class that occurs, the lowest F1 first; intervals are over rows."""
    assert parted.class_sums is not None
    support, predicted, both = np.split(parted.class_sums, 3, axis=1)
    whole = (support + predicted).sum(axis=0)
    f1 = np.divide(2 * both.sum(axis=0), whole, out=np.full(len(whole), np.inf), where=whole > 0)
    rows: list[tuple[Cell, ...]] = []
    for index in np.argsort(f1, kind="stable")[:listed].tolist():
        if not whole[index]:
            continue
        ends = [_share(parted, both[:, index], of[:, index]) for of in (predicted, support)]
        name = class_name(parted.task, index)
        rows.append((name, int(support[:, index].sum()), *ends[0], *ends[1], float(f1[index])))
    columns = [f"{name}{end}" for name in ("precision", "recall") for end in ("", " low", " high")]
    return Table("Classes", ("class", f"{parted.noun}s", *columns, "f1"), tuple(rows))


def _share(parted: Parted, hits: Floats, parts: Floats) -> tuple[float | None, float | None, float | None]:
    """The share of some parts with its ends; nothing where there are none."""
    some = parts > 0
    groups = None if parted.groups is None else parted.groups[some]
    if count_units(int(some.sum()), groups) < TWO:
        return (float(hits.sum() / parts.sum()) if some.any() else None), None, None
    share = share_of_parts(hits[some], parts[some], groups=groups)
    return share.value, share.low, share.high


def _worst_pairs(view: View, parted: Parted, matrix: NDArray[np.int64], told: int) -> tuple[Finding, ...]:
    classes = len(matrix)
    wrong = np.where(np.eye(classes, dtype=bool), 0, matrix).ravel()
    assert parted.class_sums is not None
    findings = []
    for pair in np.argsort(-wrong, kind="stable")[:told].tolist():
        if not wrong[pair]:
            continue
        here, count, noun = pair // classes, int(wrong[pair]), f"{parted.noun}s"
        found = _rows_of_pair(view, pair)
        _, place, at = np.intersect1d(parted.position, found["position"].to_numpy(), return_indices=True)
        hits = np.zeros(len(parted))
        hits[place] = found["count"].to_numpy()[at]
        support = parted.class_sums[:, here]
        some = support > 0
        groups = None if parted.groups is None else parted.groups[some]
        if count_units(int(some.sum()), groups) < TWO:
            continue
        truth, said = class_name(parted.task, here), class_name(parted.task, pair % classes)
        findings.append(
            Finding(
                f"{count} of {int(support.sum())} {noun} of '{truth}' {are(count)} taken for '{said}'.",
                where=f"label = {truth} & prediction = {said}",
                rows=len(place),
                effect=share_of_parts(hits[some], support[some], groups=groups, better="lower"),
                do="Look at these rows: the two may look alike, or be labelled wrongly.",
                show=show_rows(view, parted.position[np.argsort(-hits, kind="stable")][: len(place)]),
            )
        )
    return tuple(findings)


def _rows_of_pair(view: View, pair: int) -> pl.DataFrame:
    """``position`` and ``count`` of the rows in which it occurs."""
    table = view.table("predictions").filter(pl.col("pairs").list.contains(pair))
    flat = table.select("position", "pairs", "pair_counts").explode("pairs", "pair_counts")
    return flat.filter(pl.col("pairs") == pair).select("position", count="pair_counts").collect()
