"""What outputs mean: labels, losses, and the columns of a prediction table. numpy only."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from study.boxes import BoxLayout
from study.errors import InputError, did_you_mean, few
from study.host import to_numpy

Kind: TypeAlias = Literal[
    "binary",
    "multiclass",
    "multilabel",
    "regression",
    "language",
    "tokens",
    "segmentation",
    "forecasting",
    "detection",
]
Output: TypeAlias = Literal["logits", "probabilities", "log-probabilities", "value"]
Floats: TypeAlias = NDArray[np.float64]

ROWS: frozenset[Kind] = frozenset({"binary", "multiclass", "multilabel", "regression", "forecasting"})
"""Kinds with one answer a row."""
VALUES: frozenset[Kind] = frozenset({"regression", "forecasting"})
"""Of these, the kinds whose answers are values: one, or several (targets, steps ahead)."""
PARTS: frozenset[Kind] = frozenset({"language", "tokens", "segmentation"})
"""Kinds with one answer a part of a row (token, pixel): a row is the unit, with the sums of its parts."""
EVERY: frozenset[Kind] = frozenset(get_args(Kind))
IGNORED = -1
"""The label of a part that does not count; of several labels a row, one that is missing."""
WIDEST_OUTPUT_KEPT = 1000
"""Outputs that are wider than this stay out of the prediction table."""


@dataclass(frozen=True, slots=True)
class Task:
    """What the scored output means.

    ``binary`` has one score a row (a logit or a probability of the second class); a two-column output is
    ``multiclass``. ``output_name`` is the model's output that is scored. Where rows have parts, ``width`` is
    the number of scores of one part and ``class_axis`` the axis of the output that they lie in; a part whose
    label is ``ignore``, or negative, does not count. ``boxes`` is how a detector's outputs hold what it
    found. ``target_shape`` is (steps,) or (steps, targets) of a forecast; ``quantiles``, where it gives some,
    lie on a last axis, and the median is its value.
    """

    kind: Kind
    output: Output
    classes: tuple[str, ...] = ()
    output_name: str = ""
    width: int = 0
    class_axis: int = -1
    ignore: int = IGNORED
    boxes: BoxLayout | None = None
    target_shape: tuple[int, ...] = ()
    quantiles: tuple[float, ...] = ()

    @property
    def steps(self) -> tuple[str, ...]:
        """The columns of a forecast: ``h=1`` is one step ahead, ``h=1:0`` its first target, ``h=1:q0.5``."""
        steps, targets = (*self.target_shape, 0, 0)[:2]
        whose = tuple(f":{target}" for target in range(targets)) or ("",)
        levels = tuple(f":q{level:g}" for level in self.quantiles) or ("",)
        ahead = range(1, 1 + steps)
        return tuple(f"h={step}{target}{level}" for step in ahead for target in whose for level in levels)

    @property
    def median(self) -> int:
        """Which quantile of a forecast is its value: the one nearest to a half."""
        return min(range(len(self.quantiles)), key=lambda at: abs(self.quantiles[at] - 0.5), default=0)

    @property
    def name(self) -> str:
        """What ``report.json`` calls it: classification, or the kind itself."""
        return "classification" if self.kind in ("binary", "multiclass") else self.kind


def scored(task: Task, outputs: Mapping[str, Any]) -> NDArray[Any]:
    """The output that is scored, on the host, as (rows, columns); the steps of a forecast are columns.

    Raises:
        InputError: the model has no output of that name, or it is no table of scores.
    """
    output = scored_output(task, outputs)
    if task.kind != "forecasting":
        return as_table(output)
    forecasts = to_numpy(output)
    return forecasts.reshape(len(forecasts), -1)


def scored_output(task: Task, outputs: Mapping[str, Any]) -> Any:
    """The output that is scored, as the model gave it.

    Raises:
        InputError: the model has no output of that name.
    """
    name = task.output_name or next(iter(outputs), "")
    if name not in outputs:
        # An artifact may have renamed its only output; a wrong one of several must not be taken silently.
        if len(outputs) != 1:
            raise InputError(f"The model has no output '{name}'.{did_you_mean(name, outputs)}")
        name = next(iter(outputs))
    return outputs[name]


def as_table(output: Any) -> NDArray[Any]:
    """An output as (rows, columns): one number a row is one column, trailing axes of size one are dropped.

    Raises:
        InputError: there is more than one score axis.
    """
    table = to_numpy(output)
    while table.ndim > 2 and table.shape[-1] == 1:  # noqa: PLR2004 - rows and columns
        table = table[..., 0]
    if table.ndim == 1:
        table = table[:, None]
    if table.ndim != 2:  # noqa: PLR2004 - rows and columns
        raise InputError(
            f"An output of shape {tuple(table.shape)} is not one score a class: "
            "the model must give one row of scores for each row of data."
        )
    return table


def probabilities(task: Task, output: NDArray[Any]) -> Floats:
    """Probabilities of the classes; of a binary task (rows, 2), of a multi-label one each for itself.

    A row that is not finite stays so. Probabilities that the model gave are only clipped to [0, 1].
    """
    scores = np.asarray(output, dtype=np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        if task.output == "probabilities":
            chances = np.clip(scores, 0.0, 1.0)
        elif task.output == "log-probabilities":
            chances = np.clip(np.exp(scores), 0.0, 1.0)
        elif task.kind == "multiclass":
            chances = np.exp(_log_softmax(scores))
        else:
            chances = np.exp(-np.logaddexp(0.0, -scores))
    return np.hstack([1.0 - chances, chances]) if task.kind == "binary" else chances


def decisions(task: Task, output: NDArray[Any]) -> NDArray[Any]:
    """What the model says: class indices, 0/1 a label (int8), or values (several targets stay 2-D).

    Decided on the scores themselves, as a deployed model would: the first of equal scores wins, and a NaN
    among the scores of a row is what ``argmax`` takes.
    """
    scores = np.asarray(output)
    if task.kind == "multiclass":
        best: NDArray[np.int64] = scores.argmax(axis=1).astype(np.int64)
        return best
    if task.kind in VALUES:
        return _one_or_more(_values(task, scores).astype(np.float64))
    with np.errstate(invalid="ignore"):
        said = scores > (0.5 if task.output == "probabilities" else 0.0)
    return said[:, 0].astype(np.int64) if task.kind == "binary" else said.astype(np.int8)


def losses(task: Task, output: NDArray[Any], encoded: NDArray[Any]) -> Floats:
    """A row: negative log-likelihood (natural), mean binary cross-entropy, or mean squared error.

    Labels of a multi-label row that are missing have no part in the mean.
    """
    scores = np.asarray(output, dtype=np.float64)
    if task.kind in VALUES:
        told = _values(task, scores)
        truth = np.asarray(encoded, dtype=np.float64).reshape(told.shape)
        errors: Floats = np.square(told - truth).mean(axis=1)
        return errors
    if task.kind == "multiclass":
        rows = np.arange(len(scores))
        if task.output == "log-probabilities":
            likelihood = scores[rows, encoded]
        elif task.output == "probabilities":
            likelihood = _log(scores[rows, encoded], output)
        else:
            likelihood = _log_softmax(scores)[rows, encoded]
        unlikely: Floats = np.maximum(-likelihood, 0.0)
        return unlikely
    truth = np.asarray(encoded, dtype=np.float64).reshape(scores.shape)
    if task.output == "probabilities":
        each = -(truth * _log(scores, output) + (1 - truth) * _log(1 - scores, output))
    else:
        with np.errstate(invalid="ignore"):
            each = np.logaddexp(0.0, np.where(truth > 0, -scores, scores))
    known = truth >= 0
    mean: Floats = np.where(known, each, 0.0).sum(axis=1) / np.maximum(known.sum(axis=1), 1)
    return mean


def encode(task: Task, labels: NDArray[Any]) -> NDArray[Any]:
    """Labels as given -> class indices (int64), 0/1 a label (int8), or values (float64).

    A missing label of several a row is ``IGNORED``.

    Raises:
        InputError: a label is no class of the task.
    """
    given = np.asarray(labels)
    if task.kind in VALUES:
        return _one_or_more(given.astype(np.float64).reshape(len(given), -1))
    if task.kind == "multilabel":
        flags = given.reshape(len(given), -1)
        return (np.where(np.isnan(flags), IGNORED, flags) if flags.dtype.kind == "f" else flags).astype(
            np.int8
        )
    if given.ndim == 2 and given.shape[1] == len(task.classes) > 1:  # noqa: PLR2004 - one-hot rows
        hot: NDArray[np.int64] = given.astype(np.float64).argmax(axis=1).astype(np.int64)
        return hot
    given = given.reshape(len(given))
    if given.dtype.kind not in "OUS":
        return _in_range(given.astype(np.int64), len(task.classes))
    index = {name: number for number, name in enumerate(task.classes)}
    unknown = sorted({str(label) for label in given} - set(index))
    if unknown:
        more = did_you_mean(unknown[0], index) if len(unknown) == 1 else f" The classes are {few(index)}."
        raise InputError(f"The labels {few(unknown)} are no classes of this model.{more}")
    return np.array([index[str(label)] for label in given], dtype=np.int64)


def read(
    task: Task, outputs: Mapping[str, Any], encoded: NDArray[Any] | None
) -> dict[str, NDArray[Any] | None]:
    """The columns of a prediction table that come from outputs; None where the task has no such column.

    ``label``, ``prediction``, ``confidence``, ``loss``, ``margin`` (between the two most likely classes),
    ``entropy`` (nats; of a multi-label row the mean over its labels), ``output``. In a multi-label row
    ``confidence`` and ``margin`` are those of its least certain label.
    """
    output = scored(task, outputs)
    columns: dict[str, NDArray[Any] | None] = {
        "label": encoded,
        "prediction": decisions(task, output),
        "confidence": None,
        "loss": None if encoded is None else losses(task, output, encoded).astype(np.float32),
        "margin": None,
        "entropy": None,
        "output": output.astype(np.float32) if output.shape[1] <= WIDEST_OUTPUT_KEPT else None,
    }
    if task.kind in VALUES:
        return columns
    chances = probabilities(task, output)
    if task.kind == "multilabel":
        sure = np.maximum(chances, 1.0 - chances)
        confidence, margin = sure.min(axis=1), (2 * sure - 1).min(axis=1)
        entropy = (_plogp(chances) + _plogp(1.0 - chances)).mean(axis=1)
    else:
        top = np.partition(chances, -2, axis=1)[:, -2:]
        confidence, margin, entropy = top[:, 1], top[:, 1] - top[:, 0], _plogp(chances).sum(axis=1)
        lost = np.isnan(chances).any(axis=1)
        confidence, margin = np.where(lost, np.nan, confidence), np.where(lost, np.nan, margin)
    columns["confidence"] = confidence.astype(np.float32)
    columns["margin"] = margin.astype(np.float32)
    columns["entropy"] = entropy.astype(np.float32)
    return columns


def _log_softmax(scores: Floats) -> Floats:
    """Shifted by the row's maximum, so that no exponential overflows (float16 logits reach 65504)."""
    with np.errstate(invalid="ignore"):
        shifted = scores - scores.max(axis=1, keepdims=True)
        logs: Floats = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return logs


def _log(chances: Floats, given: NDArray[Any]) -> Floats:
    """The log of probabilities, clipped as scikit-learn does.

    float16 is clipped as float32 is: it holds smaller numbers than its own epsilon, and a step from one to
    the other must not look like a change of the loss.
    """
    kind = np.float64 if np.asarray(given).dtype == np.float64 else np.float32
    return np.log(np.clip(chances, float(np.finfo(kind).eps), 1.0))


def _plogp(chances: Floats) -> Floats:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(chances > 0, -chances * np.log(chances), np.where(np.isnan(chances), np.nan, 0.0))


def _values(task: Task, scores: NDArray[Any]) -> NDArray[Any]:
    """The values of (rows, columns): of quantiles, the median."""
    levels = len(task.quantiles)
    return scores.reshape(len(scores), -1, levels)[:, :, task.median] if levels else scores


def _one_or_more(values: Floats) -> Floats:
    return values[:, 0] if values.shape[1] == 1 else values


def _in_range(indices: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    wrong = indices[(indices < 0) | (indices >= classes)]
    if wrong.size:
        raise InputError(
            f"The label {int(wrong[0])} is no output of this model: "
            f"its {classes} outputs are counted from 0 to {classes - 1}."
        )
    return indices
