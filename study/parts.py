"""Scores of the parts of a row (tokens, pixels), reduced where they are to what a prediction table keeps.

A table has one line a row with the sums over its parts, since parts of one row depend on each other. Never
more than ``AT_ONCE`` scores are worked on at a time, so a vocabulary of 50,000 tokens costs no memory.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from study.task import Task

if TYPE_CHECKING:
    from torch import Tensor

AT_ONCE: Final = 8_000_000
SCORES_A_BATCH: Final = 2**25
"""Of rows with parts: 128 MB of outputs."""
BINS: Final = 15
"""Of equal width, closed on the right, as ``diagnose.calibrated.equal_width_bins`` has them."""
TOP: Final = 5
BIN_SUMS: Final = 3
"""Of each bin: parts, sum of confidences, hits."""


@dataclass(frozen=True, slots=True, eq=False)
class Reduced:
    """What is kept of each part of one row: arrays of one length, for the parts that count alone.

    ``loss`` is the negative log-likelihood in nats, NaN where there is no label; ``rank`` the number of
    scores above that of the label.
    """

    label: NDArray[np.int32]
    prediction: NDArray[np.int32]
    loss: NDArray[np.float32]
    confidence: NDArray[np.float32]
    margin: NDArray[np.float32]
    entropy: NDArray[np.float32]
    rank: NDArray[np.int32]


def reduced(task: Task, scores: "Tensor", labels: NDArray[np.int64], counted: NDArray[np.bool_]) -> Reduced:
    """The parts of one row: ``scores`` (parts, width), ``labels`` and ``counted`` (parts,).

    Only the parts that count are looked at. The scores may lie on any device; what is kept is small.
    """
    import torch

    places = np.flatnonzero(counted)
    at_once = max(1, AT_ONCE // max(1, scores.shape[-1]))
    pieces = []
    for start in range(0, len(places), at_once):
        chosen = places[start : start + at_once]
        where = torch.from_numpy(chosen).to(scores.device)
        told = torch.from_numpy(labels[chosen]).to(scores.device)
        pieces.append([one.cpu().numpy() for one in _piece(task, scores[where], told)])
    if not pieces:
        whole, floats = np.zeros(0, np.int32), np.zeros(0, np.float32)
        return Reduced(whole, whole, floats, floats, floats, floats, whole)
    prediction, loss, confidence, margin, entropy, rank = (
        np.concatenate(parts) for parts in zip(*pieces, strict=True)
    )
    return Reduced(
        label=labels[places].astype(np.int32),
        prediction=prediction.astype(np.int32),
        loss=loss.astype(np.float32),
        confidence=confidence.astype(np.float32),
        margin=margin.astype(np.float32),
        entropy=entropy.astype(np.float32),
        rank=rank.astype(np.int32),
    )


def _piece(task: Task, given: "Tensor", labels: "Tensor") -> "tuple[Tensor, ...]":
    import torch

    scores = given.float()
    if scores.shape[-1] == 1:  # one score: that of the second of two classes
        scores = two_scores(task, scores)
    logs = log_probabilities(task, scores)
    best = scores.argmax(dim=-1)
    most = logs.topk(min(2, logs.shape[-1]), dim=-1).values.exp()
    chances = logs.exp()
    entropy = -torch.where(chances > 0, chances * logs, chances).sum(dim=-1)
    known = labels >= 0
    own = logs.gather(-1, labels.clamp_min(0)[:, None])
    loss = torch.where(known, -own[:, 0], torch.nan)
    rank = torch.where(known, (logs > own).sum(dim=-1), -1)
    return best, loss, most[:, 0], most[:, 0] - most[:, -1], entropy, rank


def two_scores(task: Task, scores: "Tensor") -> "Tensor":
    """The scores of both of two classes, where the output has that of the second alone."""
    import torch

    if task.output == "logits":
        return torch.cat([torch.zeros_like(scores), scores], dim=-1)
    chances = scores.exp() if task.output == "log-probabilities" else scores
    both = torch.cat([1 - chances, chances], dim=-1)
    return both.log() if task.output == "log-probabilities" else both


def log_probabilities(task: Task, scores: "Tensor") -> "Tensor":
    """The logarithms of the probabilities of the classes, in the last axis."""
    import torch

    if task.output == "log-probabilities":
        return scores.clamp_max(0.0)
    if task.output == "probabilities":
        return scores.clamp(torch.finfo(torch.float32).eps, 1.0).log()
    return scores.log_softmax(dim=-1)


def bin_sums(one: Reduced) -> NDArray[np.float32]:
    """(bins x 3,): of each confidence bin its parts, their confidences and their hits."""
    edges = np.linspace(0, 1, BINS + 1).astype(np.float32)
    at = np.clip(np.searchsorted(edges, one.confidence) - 1, 0, BINS - 1)
    hits = (one.prediction == one.label).astype(np.float64)
    sums = [np.bincount(at, weights=weights, minlength=BINS) for weights in (None, one.confidence, hits)]
    return np.stack(sums, axis=1).astype(np.float32).ravel()


def class_sums(one: Reduced, classes: int) -> NDArray[np.int32]:
    """(3 x classes,): parts of each class, parts that are predicted as it, and both."""
    told = one.label[one.label >= 0]
    hit = one.label[one.label == one.prediction]
    counts = [np.bincount(part, minlength=classes)[:classes] for part in (told, one.prediction, hit)]
    return np.concatenate(counts).astype(np.int32)


def lines(rows: Sequence[Reduced], *, each: bool, classes: int = 0) -> dict[str, pl.Series]:
    """The columns of a table: ``parts``, ``hits``, ``top5``, means over the parts, and ``bins``.

    ``each`` keeps the label, prediction, loss and confidence of each part too; with ``classes``,
    ``class_sums`` of so many are kept.
    """
    hits = [int((one.prediction == one.label).sum()) for one in rows]
    columns: dict[str, pl.Series] = {
        "parts": pl.Series([len(one.label) for one in rows], dtype=pl.Int64),
        "hits": pl.Series(hits, dtype=pl.Int64),
        "top5": pl.Series([int(((one.rank >= 0) & (one.rank < TOP)).sum()) for one in rows], dtype=pl.Int64),
        "bins": as_lists([bin_sums(one) for one in rows], pl.Float32),
    }
    for name in ("loss", "confidence", "margin", "entropy"):
        columns[name] = pl.Series([_mean(getattr(one, name)) for one in rows], dtype=pl.Float64)
    if classes:
        columns["class_sums"] = as_lists([class_sums(one, classes) for one in rows], pl.Int32)
    if each:
        columns["label"] = as_lists([one.label for one in rows], pl.Int32)
        columns["prediction"] = as_lists([one.prediction for one in rows], pl.Int32)
        columns["part_loss"] = as_lists([one.loss for one in rows], pl.Float32)
        columns["part_confidence"] = as_lists([one.confidence for one in rows], pl.Float32)
    return columns


def _mean(values: NDArray[np.float32]) -> float | None:
    return float(values.mean(dtype=np.float64)) if len(values) else None


def as_lists(rows: Sequence[NDArray[Any]], inner: Any) -> pl.Series:
    """Arrays of any lengths as one column of lists, without a Python object a number."""
    flat = pl.Series(np.concatenate(rows) if rows else [], dtype=inner)
    owner = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    frame = pl.DataFrame({"owner": pl.Series(owner, dtype=pl.Int64), "value": flat})
    grouped = frame.group_by("owner", maintain_order=True).agg("value")
    every = pl.DataFrame({"owner": pl.Series(np.arange(len(rows)), dtype=pl.Int64)})
    empty = pl.lit([], dtype=pl.List(inner))
    return every.join(grouped, on="owner", how="left", maintain_order="left").select(
        pl.col("value").fill_null(empty)
    )["value"]


def pair_counts(rows: Sequence[Reduced], classes: int) -> dict[str, pl.Series]:
    """``pairs`` (label x classes + prediction) that occur in each row, and ``pair_counts``, how often."""
    found = [
        np.unique(one.label.astype(np.int64) * classes + one.prediction, return_counts=True) for one in rows
    ]
    return {
        "pairs": as_lists([pairs for pairs, _ in found], pl.Int32),
        "pair_counts": as_lists([counts for _, counts in found], pl.Int32),
    }


def counted_labels(task: Task, labels: NDArray[Any]) -> NDArray[np.bool_]:
    """Which parts count: those whose label is neither negative nor what the task ignores."""
    return np.asarray((labels >= 0) & (labels != task.ignore))
