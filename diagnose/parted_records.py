"""What the checks say of a task whose answers have parts: accuracy, calibration, the worst rows."""

import numpy as np

from diagnose.fallen import points_fallen
from diagnose.parted import Parted, calibration_error, hit_metrics, mean_loss, read_parted
from diagnose.worded import shown_texts
from study.errors import SkipError, counted, few
from study.record import Cell, Finding, Metric, Picture, Record, Table, Verdict
from study.show import show_figures, show_rows
from study.statistics import change_of_parts, ratio_of, share_of_parts
from study.view import View

TWO = 2


def accuracy_of_parts(view: View, drop: float) -> Record:
    """How many parts are right, and what changed since the model as it came; ``drop`` is what matters.

    Raises:
        SkipError: no part has a label, or there is one row alone.
    """
    parted = read_parted(view)
    if parted.units < TWO:
        raise SkipError("an interval needs two rows (or groups)")
    metrics = hit_metrics(parted)
    accuracy = metrics["accuracy"]
    total = int(parted.parts.sum())
    summary = f"{100 * accuracy.value:.2f} % of {counted(total, parted.noun)} in {len(parted)} rows are right"
    summary += f" [{100 * accuracy.low:.2f}, {100 * accuracy.high:.2f}]."
    findings = _not_finite(view, parted)
    verdict = Verdict.BAD if findings else Verdict.NOTED
    if view.origin is not None:
        said, change = _compared(view, parted, read_parted(view.origin))
        summary = f"{summary} {said}"
        if change is not None and change.high < 0 and change.value <= -drop:
            figure = f"The accuracy over {parted.noun}s"
            findings.append(points_fallen(view, figure, change, len(parted)))
        elif verdict is Verdict.NOTED and change is not None and change.low > -drop:
            verdict = Verdict.GOOD
        verdict = Verdict.BAD if findings else verdict
    return Record("accuracy", verdict, summary, metrics=metrics, findings=tuple(findings))


def calibration_of_parts(view: View) -> Record:
    """Whether parts are right as often as their probabilities say.

    Raises:
        SkipError: no part has a label, or there is one row alone.
    """
    parted = read_parted(view)
    parted = parted.only(parted.finite)
    if parted.units < TWO:
        raise SkipError("an interval needs two rows (or groups) with finite outputs and labels")
    error = calibration_error(parted)
    sums = parted.bins.sum(axis=0)
    rows: list[tuple[Cell, ...]] = []
    for place, (parts, confidence, hits) in enumerate(sums.tolist()):
        if parts:
            of_bin = parted.bins[:, place]
            right = share_of_parts(of_bin[:, 2], of_bin[:, 0], groups=parted.groups)
            rows.append((confidence / parts, hits / parts, right.low, right.high, int(parts)))
    table = Table("Reliability", ("confidence", "accuracy", "low", "high", f"{parted.noun}s"), tuple(rows))
    gap = ratio_of(sums_of(parted, 1) - sums_of(parted, 2), parted.parts, groups=parted.groups)
    side = "above" if gap.value > 0 else "below"
    said = f"The expected calibration error over {parted.noun}s is {100 * error.value:.2f} points "
    said += f"[{100 * error.low:.2f}, {100 * error.high:.2f}]; on average the confidence is "
    said += f"{100 * abs(gap.value):.2f} points {side} the accuracy."
    # of a language model the mean loss is its headline, and stands in the record of that
    own = {} if view.task.kind == "language" else {"nll": mean_loss(parted)}
    picture = Picture(
        table.title,
        "reliability",
        table.title,
        "Accuracy over confidence in each bin; on the diagonal the confidence can be believed.",
    )
    return Record(
        "calibration",
        Verdict.NOTED,
        said,
        metrics={"ece": error, **own, "confidence_gap@parts": gap},
        tables=(table,),
        pictures=(picture,),
    )


def errors_of_parts(view: View, shown: int) -> Record:
    """The rows with the highest mean loss.

    Raises:
        SkipError: no part has a label.
    """
    parted = read_parted(view)
    badness = np.where(parted.finite, parted.loss, np.inf)
    worst = np.argsort(-badness, kind="stable")[:shown]
    names = dict(view.table("predictions").select("position", "id").collect().iter_rows())
    rows: list[tuple[Cell, ...]] = [
        (
            names[int(parted.position[place])],
            int(parted.parts[place]),
            int(parted.parts[place] - parted.hits[place]),
            float(parted.loss[place]) if parted.finite[place] else None,
        )
        for place in worst.tolist()
    ]
    noun = parted.noun
    columns = ["row", f"{noun}s", f"wrong {noun}s", "mean loss"]
    texts = shown_texts(view, parted.position[worst].tolist())
    if texts:
        columns.append("text")
        rows = [
            (*row, texts.get(int(parted.position[place]), ""))
            for row, place in zip(rows, worst.tolist(), strict=True)
        ]
    table = Table("Worst rows", tuple(columns), tuple(rows))
    wrong = int((parted.parts - parted.hits).sum())
    summary = f"{wrong} of {counted(int(parted.parts.sum()), noun)} are wrong; "
    summary += f"row '{rows[0][0]}' has the highest mean loss."
    finding = Finding(
        f"Row '{rows[0][0]}' is the worst: {rows[0][2]} of {counted(int(parted.parts[worst[0]]), noun)} "
        "are wrong.",
        rows=1,
        do="Look at the worst rows first: wrong labels are found here.",
        show=show_rows(view, parted.position[worst]),
    )
    return Record(
        "errors",
        Verdict.NOTED if wrong else Verdict.GOOD,
        summary,
        findings=(finding,) if wrong else (),
        tables=(table,),
    )


def sums_of(parted: Parted, column: int) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    """One of the sums of the bins, over all bins, a row."""
    total: np.ndarray[tuple[int], np.dtype[np.float64]] = parted.bins[:, :, column].sum(axis=1)
    return total


def _compared(view: View, now: Parted, came: Parted) -> tuple[str, Metric | None]:
    _, mine, theirs = np.intersect1d(now.position, came.position, return_indices=True)
    after, before = now.only(mine), came.only(theirs)
    if after.units < TWO:
        return "The model as it came has no rows in common with it.", None
    change = change_of_parts(before.hits, after.hits, after.parts, groups=after.groups)
    said = f"Against the model as it came: {100 * change.value:+.2f} points"
    said += f" [{100 * change.low:+.2f}, {100 * change.high:+.2f}]."
    assert view.origin is not None
    return said, change


def _not_finite(view: View, parted: Parted) -> list[Finding]:
    lost = parted.position[~parted.finite]
    if not len(lost):
        return []
    return [
        Finding(
            f"The outputs of {counted(len(lost), 'row')} hold NaN or an infinity.",
            where=f"rows {few(lost)}",
            rows=len(lost),
            effect=Metric.exact(len(lost) / len(parted), len(parted), better="lower"),
            cause="NaN or overflow in the weights or on the way to the output.",
            do="Look at the health of the weights; in half precision, at what exceeds 65504.",
            show=show_figures(view),
        )
    ]
