"""What the maps of one method say over all explained rows, in a sentence and a table."""

from typing import TYPE_CHECKING, Any

import numpy as np

from explain.layout import surface
from explain.method import Attribution
from explain.question import Question
from study.record import Picture, Table

if TYPE_CHECKING:
    from numpy.typing import NDArray

BARS = 20
NAMED = 3
FEATURES_TABLE = "Mean |attribution| of each feature"


def sentence(found: Attribution, question: Question) -> str:
    """What the model looks at, by this method, and which score was explained against which baseline."""
    rows = f"{len(found.ids)} rows" if len(found.ids) > 1 else "one row"
    asked = f"score: the {question.score} as the model gives it"
    asked += f"; absent: {found.baseline}" if found.baseline else ""
    shares = [_share(values) for values in found.values.values()]
    if not any(share.any() for share in shares):
        return f"By {found.by}, nothing in the input of {rows} speaks for or against the score ({asked})"
    if question.features and not question.pictured:
        share = shares[0]
        strongest = np.argsort(-share, kind="stable")[:NAMED]
        named = ", ".join(f"{question.features[at]} ({100 * share[at]:.0f} %)" for at in strongest)
        return f"By {found.by}, most of |attribution| in {rows} goes to {named} ({asked})"
    halves = [_half(surface(row)) for values in found.values.values() for row in values if row.any()]
    part = 100 * float(np.median(halves))
    return (
        f"By {found.by}, half of |attribution| lies in {part:.0f} % of the input (median of {rows}; {asked})"
    )


def features(found: Attribution, question: Question) -> tuple[tuple[Table, ...], tuple[Picture, ...]]:
    """The mean |attribution| of a table's features, the largest first, and its bars."""
    if not question.features or question.pictured:
        return (), ()
    values = next(iter(found.values.values()))
    mean = np.abs(values).mean(axis=0)
    order = np.argsort(-mean, kind="stable")[:BARS]
    table = Table(
        FEATURES_TABLE,
        ("feature", "mean |attribution|", "mean attribution"),
        tuple((question.features[at], float(mean[at]), float(values[:, at].mean())) for at in order),
    )
    text = f"How much each feature speaks for or against the score by {found.by}, the largest first"
    return (table,), (Picture(FEATURES_TABLE, "bars", FEATURES_TABLE, text),)


def _share(values: "NDArray[Any]") -> "NDArray[Any]":
    """Each cell's share of a row's |attribution|, averaged over the rows that have any."""
    size = np.abs(values.reshape(len(values), -1)).astype(np.float64)
    total = size.sum(axis=1)
    heard = total > 0
    if not heard.any():
        return np.zeros(size.shape[1])
    return np.asarray((size[heard] / total[heard, None]).mean(axis=0))


def _half(map_: "NDArray[Any]") -> float:
    """The smallest share of the cells that holds half of |attribution|."""
    size = np.sort(np.abs(map_).astype(np.float64).ravel())[::-1]
    return float((np.searchsorted(np.cumsum(size), size.sum() / 2) + 1) / size.size)
