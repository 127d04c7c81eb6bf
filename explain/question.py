"""The question that every method is asked at every step: which rows, which score, and absent means what."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from explain.choice import choose, targets
from explain.continuation import Continuation, absent_id, continuations
from explain.method import Explained
from explain.region import regions_asked
from explain.tagged import words_asked
from explain.words import Words, absent_token, words_of
from study.errors import InputError, SkipError, few
from study.feed import Feed, Piece
from study.show import show_rows
from study.task import VALUES, Output, Task
from study.view import View

if TYPE_CHECKING:
    from numpy.typing import NDArray

SCORES: Mapping[Output, str] = {
    "logits": "logit",
    "probabilities": "probability",
    "log-probabilities": "log-probability",
    "value": "value",
}
TABLE = 2
"""Axes of a batch of flat rows."""
SERIES = 3
"""Axes of a batch of series: rows, steps, features."""
BACKGROUND = 256
"""The mean of a table's features is taken over as many judged rows."""
MEAN = "the mean of the judged rows"


@dataclass(frozen=True, slots=True)
class Question:
    """The rows with what is shown of them; everything has one entry a row."""

    rows: Explained
    positions: tuple[int, ...]
    titles: tuple[str, ...]
    """``row 5, predicted cat, labelled dog``."""
    score: str
    """What is explained, in words: ``logit``."""
    features: Mapping[str, tuple[str, ...]]
    """Of each input that is a table's row, the names of its columns, or numbers."""
    encoded: frozenset[str]
    """Inputs that were made from a text."""
    pictured: Mapping[str, "NDArray[Any]"]
    """Inputs that can be drawn, with the shape in which they were given where the model takes them flat."""
    shows: tuple[str, ...]
    """The command that shows the row again; empty where model or data live in this process alone."""
    parts: tuple[int, ...] = ()
    """Of a tagger, which of the words of each row is explained."""
    regions: "tuple[NDArray[np.int64], ...]" = ()
    """Of a segmentation, which of the pixels of each row are explained."""
    spans: tuple[Continuation, ...] = ()
    """Of a language model, what of each text is explained by the words before it."""


def ask(view: View, which: str = "", target: str = "") -> Question:
    """The question about these rows, from the predictions of the model as it came.

    Raises:
        InputError: there are no such rows, or there is no such class.
        SkipError: there is no data, or there are no predictions.
    """
    origin = view.origin or view
    predictions, task = origin.table("predictions"), view.task
    chosen = choose(predictions, task, which, view.machine.seed)
    if not chosen:
        raise SkipError("there are no judged rows to explain")
    if task.kind == "tokens":
        return _of_words(view, chosen, target)
    if task.kind == "language":
        return _of_continuations(view, chosen, target)
    if task.kind == "segmentation":
        return _of_regions(view, chosen, target)
    table = _in_order(predictions, chosen)
    feed = view.judged()
    piece, order, batch = _read(feed, chosen)
    words = words_of(piece, batch, order)
    series = task.kind == "forecasting"
    means = _means(feed, batch, predictions, view.machine.seed, (TABLE, SERIES) if series else (TABLE,))
    baseline, absent = _absent(feed, words, means, batch)
    rows = Explained(
        ids=tuple(piece.rows.ids[at] for at in order),
        batch=batch,
        targets=targets(table, task, _width(table, task), target),
        output_name=task.output_name,
        baseline=baseline,
        baseline_name=absent,
        flattened=len(task.target_shape) > 1 or bool(task.quantiles),
        words=words,
    )
    score = SCORES[task.output]
    if task.kind == "forecasting":
        score += f" at {task.steps[rows.targets[0]]}"
    return Question(
        rows=rows,
        positions=chosen,
        titles=tuple(_title(row, task) for row in table.iter_rows(named=True)),
        score=score,
        features=_features(piece, batch),
        encoded=frozenset(piece.encoded),
        pictured=_pictured(piece, batch, order),
        shows=tuple(show_rows(view, [position]) for position in chosen),
    )


def _of_words(view: View, chosen: tuple[int, ...], target: str) -> Question:
    """The question of a tagger: why one word of each sentence is tagged as it is."""
    table = _in_order((view.origin or view).table("predictions"), chosen).filter(pl.col("parts") > 0)
    chosen = tuple(table["position"].to_list())
    if not chosen:
        raise SkipError("no word of these rows has a tag that counts")
    task, feed = view.task, view.judged()
    piece, order, batch = _read(feed, chosen)
    words = words_of(piece, batch, order)
    if words is None:
        raise SkipError("its rows are no texts: nothing says what stands for an absent word")
    baseline, absent = _absent(feed, words, {}, batch)
    asked = words_asked(piece, order, table, task, batch[words.input].shape[1])
    named = targets(table, task, task.width, target) if target else asked.classes
    return Question(
        rows=Explained(
            ids=tuple(piece.rows.ids[at] for at in order),
            batch=batch,
            targets=np.zeros(len(order), np.int64) if task.width == 1 else named,
            output_name=task.output_name,
            baseline=baseline,
            baseline_name=absent,
            words=words,
            steps=asked.steps,
            class_axis=task.class_axis,
        ),
        positions=chosen,
        titles=asked.titles,
        score=f"{SCORES[task.output]} of the tag of one word a row (a wrong one where there is one)",
        features={},
        encoded=frozenset(piece.encoded),
        pictured={},
        shows=tuple(show_rows(view, [position]) for position in chosen),
        parts=asked.parts,
    )


def _of_regions(view: View, chosen: tuple[int, ...], target: str) -> Question:
    """The question of a segmentation: why one region of each image is taken for what it is."""
    table = _in_order((view.origin or view).table("predictions"), chosen).filter(pl.col("parts") > 0)
    chosen = tuple(table["position"].to_list())
    if not chosen:
        raise SkipError("no pixel of these rows counts")
    task, feed = view.task, view.judged()
    piece, order, batch = _read(feed, chosen)
    wanted = int(targets(table, task, task.width, target)[0]) if target else None
    asked = regions_asked(table, task, wanted)
    return Question(
        rows=Explained(
            ids=tuple(piece.rows.ids[at] for at in order),
            batch=batch,
            targets=np.zeros(len(order), np.int64) if task.width == 1 else asked.classes,
            output_name=task.output_name,
            region=asked.region,
        ),
        positions=chosen,
        titles=asked.titles,
        score=f"{SCORES[task.output]} of one class, averaged over a region of each image (where there is "
        "such, what is wrongly taken for it),",
        features={},
        encoded=frozenset(piece.encoded),
        pictured=_pictured(piece, batch, order),
        shows=tuple(show_rows(view, [position]) for position in chosen),
        regions=asked.parts,
    )


def _of_continuations(view: View, chosen: tuple[int, ...], target: str) -> Question:
    """The question of a language model: why the most surprising span of each text was as likely as it was."""
    if target:
        raise InputError("What is explained of a language model is a span of each text: leave --target out.")
    origin, task, feed = view.origin or view, view.task, view.judged()
    table = _in_order(origin.table("predictions"), chosen)
    piece, order, batch = _read(feed, chosen)
    tokenizer = feed.preparation.tokenizer
    asked = continuations(piece, order, table, task, tokenizer)
    identity, absent = absent_id(tokenizer, batch[asked.words.input])
    return Question(
        rows=Explained(
            ids=tuple(piece.rows.ids[at] for at in order),
            batch=batch,
            targets=np.zeros(len(order), np.int64),
            output_name=task.output_name,
            baseline={asked.words.input: np.full_like(batch[asked.words.input][0], identity)},
            baseline_name=absent,
            words=asked.words,
            summed=asked.summed,
        ),
        positions=chosen,
        titles=tuple(
            f"row {piece.rows.ids[at]}, what goes before '{span.text.strip()}'"
            for at, span in zip(order, asked.spans, strict=True)
        ),
        score="log-probability of a span of each text given what goes before it, in nats,",
        features={},
        encoded=frozenset(batch),
        pictured={},
        shows=tuple(show_rows(view, [position]) for position in chosen),
        spans=asked.spans,
    )


def said(value: object, task: Task) -> str:
    """A label or a prediction in words: its class, or the number."""
    if isinstance(value, int) and value < len(task.classes):
        return task.classes[value]
    if isinstance(value, list) and task.kind == "multilabel":
        names = [said(at, task) for at, on in enumerate(value) if on == 1]
        return " + ".join(names) or "none"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _read(feed: Feed, chosen: tuple[int, ...]) -> "tuple[Piece, list[int], dict[str, NDArray[Any]]]":
    """The chosen rows as the source gives them, where in it each stands, and their inputs in this order."""
    piece = feed.at(np.sort(np.array(chosen)))
    order = [list(piece.rows.positions).index(at) for at in chosen]
    return piece, order, {name: array[order] for name, array in piece.batch.items()}


def _in_order(predictions: pl.LazyFrame, chosen: tuple[int, ...]) -> pl.DataFrame:
    order = pl.LazyFrame({"position": chosen}, schema={"position": pl.Int64})
    return order.join(predictions, on="position", how="left", maintain_order="left").collect()


def _width(table: pl.DataFrame, task: Task) -> int:
    """The number of outputs of a row."""
    if task.kind == "binary":
        return 1
    if "output" in table.columns and table["output"][0] is not None:
        return len(table["output"][0])
    return 1 if task.kind in VALUES else max(len(task.classes), 2)


def _absent(
    feed: Feed, words: Words | None, means: "dict[str, NDArray[Any]]", batch: "Mapping[str, NDArray[Any]]"
) -> "tuple[dict[str, NDArray[Any]], str]":
    """What stands for absence: a token in a text, the mean in a table, else zero; and its name."""
    tokenizer = feed.preparation.tokenizer
    if not words or not tokenizer:
        return means, _baseline_name(tuple(means), tuple(batch))
    identity, token = absent_token(tokenizer)
    others = tuple(name for name in batch if name not in words.encoded)
    elsewhere = f", elsewhere {_baseline_name(tuple(means), others)}" if others else ""
    ids = np.full_like(batch[words.input][0], identity)
    return {**means, words.input: ids}, f"the token {token}{elsewhere}"


def _means(
    feed: Feed,
    batch: "Mapping[str, NDArray[Any]]",
    predictions: pl.LazyFrame,
    seed: int,
    axes: tuple[int, ...],
) -> "dict[str, NDArray[Any]]":
    """The mean of a table's features, of each input that is one; nothing, which is zero, of the others.

    Zero is black, silence or padding, and no age and no price: a table needs its mean, and a series, which
    have so many ``axes``.
    """
    tables = [name for name, array in batch.items() if array.ndim in axes and array.dtype.kind == "f"]
    if not tables:
        return {}
    positions = predictions.select("position").collect()["position"].to_numpy()
    drawn = np.random.default_rng(seed).permutation(positions)[:BACKGROUND]
    piece = feed.at(np.sort(drawn))
    return {name: piece.batch[name].mean(axis=0, dtype=np.float64) for name in tables}


def _baseline_name(tables: tuple[str, ...], every: tuple[str, ...]) -> str:
    """What stands for absence, in words."""
    if len(tables) == len(every):
        return MEAN
    return f"{MEAN} of {few(tables)}, else zero" if tables else "zero"


def _features(piece: Piece, batch: "Mapping[str, NDArray[Any]]") -> dict[str, tuple[str, ...]]:
    """The names of a table's columns, of each input that is one: the source's, or numbers."""
    raw, found = piece.rows, {}
    for name, array in batch.items():
        if array.ndim != TABLE or name in piece.encoded:
            continue
        only = next(iter(raw.features.values())) if len(raw.features) == len(raw.inputs) == 1 else ()
        named = raw.features.get(name, only)
        count = array.shape[1]
        found[name] = named if len(named) == count else tuple(f"feature {at}" for at in range(count))
    return found


def _pictured(
    piece: Piece, batch: "Mapping[str, NDArray[Any]]", order: list[int]
) -> "dict[str, NDArray[Any]]":
    """What can be drawn of the rows; a flat input in the shape of the one raw input that has its size."""
    from explain.picture import drawable

    found = {name: array for name, array in batch.items() if drawable(array.shape[1:])}
    raws = list(piece.rows.inputs.values())
    for name, array in batch.items():
        raw = raws[0] if len(raws) == 1 else None
        if isinstance(raw, np.ndarray) and array.ndim == TABLE < raw.ndim:
            shape = raw.shape[1:]
            if int(np.prod(shape)) == array.shape[1] and drawable(shape):
                found[name] = raw[order]
    return found


def _title(row: Mapping[str, object], task: Task) -> str:
    label = "" if row["label"] is None else f", labelled {said(row['label'], task)}"
    return f"row {row['id']}, predicted {said(row['prediction'], task)}{label}"
