"""What the maps of one method say over all explained rows, in a sentence and a table."""

from typing import TYPE_CHECKING, Any

import numpy as np

from explain import texts
from explain.drift import over_rows
from explain.layout import surface
from explain.method import Attribution
from explain.question import Question
from explain.words import WORDS
from study.record import Metric, Picture, Table

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
    words = question.rows.words if WORDS in found.values else None
    asked += "; a part is a word" if words else ""
    shares = [_share(values) for values in found.values.values()]
    if not any(share.any() for share in shares):
        return f"By {found.by}, nothing in the input of {rows} speaks for or against the score ({asked})"
    if _several(found, question):
        held = sorted((-100 * float(share.mean()), name) for name, share in shares_of(found).items())
        said = ", ".join(f"{-part:.0f} % in '{name}'" for part, name in held)
        return f"By {found.by}, |attribution| in {rows} lies by {said} ({asked})"
    only = next(iter(found.values))
    if only in question.features and only not in question.pictured:
        share = shares[0]
        strongest = np.argsort(-share, kind="stable")[:NAMED]
        named = ", ".join(f"{question.features[only][at]} ({100 * share[at]:.0f} %)" for at in strongest)
        return f"By {found.by}, most of |attribution| in {rows} goes to {named} ({asked})"
    maps = [surface(row) for values in found.values.values() for row in values]
    halves = [_half(row[~np.isnan(row)]) for row in maps if np.nan_to_num(row).any()]
    part = 100 * float(np.median(halves))
    single = len(question.rows.batch) > 1 and len(found.values) == 1
    where = "the words" if words else f"'{only}'" if single else "the input"
    loudest = f", the loudest being {texts.strongest(found, words)}" if words else ""
    return (
        f"By {found.by}, half of |attribution| lies in {part:.0f} % of {where}{loudest} "
        f"(median of {rows}; {asked})"
    )


def shares_of(found: Attribution) -> "dict[str, NDArray[np.float64]]":
    """How much of a row's |attribution| each input holds, one number a row that has any; they sum to 1."""
    sums = {}
    for name, values in found.values.items():
        size = np.abs(np.nan_to_num(values).astype(np.float64)) * found.weights.get(name, 1.0)
        sums[name] = size.reshape(len(values), -1).sum(axis=1)
    total = np.sum(list(sums.values()), axis=0)
    return {name: held[total > 0] / total[total > 0] for name, held in sums.items()}


def share_metrics(found: Attribution, question: Question) -> dict[str, Metric]:
    """The mean share of each of several inputs, with its interval over the rows."""
    if not _several(found, question):
        return {}
    return {
        f"attribution_share@{found.by}:{name}": over_rows(share, better="neither")
        for name, share in shares_of(found).items()
        if len(share)
    }


def _several(found: Attribution, question: Question) -> bool:
    """Whether there are several inputs; those of one text (ids, mask) are one."""
    return len(found.values) > 1 and not question.encoded.issuperset(found.values)


def features(found: Attribution, question: Question) -> tuple[tuple[Table, ...], tuple[Picture, ...]]:
    """The mean |attribution| of the features of each input that is a table's row, and its bars."""
    of_words, coloured = texts.tables(found, question) if WORDS in found.values else ((), ())
    tables, pictures = [*of_words], [*coloured]
    for name, values in found.values.items():
        if name not in question.features or name in question.pictured:
            continue
        named, mean = question.features[name], np.abs(values).mean(axis=0)
        title = FEATURES_TABLE if len(found.values) == 1 else f"{FEATURES_TABLE} of '{name}'"
        order = np.argsort(-mean, kind="stable")[:BARS]
        lines = tuple((named[at], float(mean[at]), float(values[:, at].mean())) for at in order)
        tables.append(Table(title, ("feature", "mean |attribution|", "mean attribution"), lines))
        text = f"How much each feature speaks for or against the score by {found.by}, the largest first"
        pictures.append(Picture(title, "bars", title, text))
    return tuple(tables), tuple(pictures)


def _share(values: "NDArray[Any]") -> "NDArray[Any]":
    """Each cell's share of a row's |attribution|, averaged over the rows that have any."""
    size = np.abs(np.nan_to_num(values).reshape(len(values), -1)).astype(np.float64)
    total = size.sum(axis=1)
    heard = total > 0
    if not heard.any():
        return np.zeros(size.shape[1])
    return np.asarray((size[heard] / total[heard, None]).mean(axis=0))


def _half(map_: "NDArray[Any]") -> float:
    """The smallest share of the cells that holds half of |attribution|."""
    size = np.sort(np.abs(map_).astype(np.float64).ravel())[::-1]
    return float((np.searchsorted(np.cumsum(size), size.sum() / 2) + 1) / size.size)
