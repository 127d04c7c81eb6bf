"""Forecasts: what steps and targets an output holds, from the shape of the labels."""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from study.errors import InputError, counted, few
from study.feed import Piece
from study.scored_output import scored_name
from study.series import proves_forecast
from study.task import Task

STEPS: Final = 2
"""Axes of labels that hold one target: rows, steps."""
CONTINUES: Final = (
    "What a row is to forecast is the history of later rows: the targets are taken for steps ahead "
    "(--task regression where they are not)."
)
TARGETS: Final = 3
"""Axes of labels that hold several: rows, steps, targets."""


def guess_forecast(
    labels: NDArray[Any] | None,
    outputs: Mapping[str, Any],
    output_name: str = "",
    levels: tuple[str, ...] = (),
) -> tuple[Task, tuple[str, ...]]:
    """The task, and in sentences what was guessed; ``levels`` are those of quantiles (``--classes``).

    Raises:
        InputError: labels are no values, or no output has their shape.
    """
    if labels is not None and labels.dtype.kind not in "fiub":
        raise InputError("Words cannot be the targets of a forecast: give --task or another --label.")
    quantiles = _quantiles(levels)
    wanted = None if labels is None else _shape(np.shape(labels))
    last = () if wanted is None else (*wanted, len(quantiles)) if quantiles else wanted
    fit = {name: output for name, output in outputs.items() if _shape(np.shape(output)) == last}
    pool = fit if fit and not output_name else outputs
    name, notes = scored_name(pool, output_name, None)
    if len(fit) < len(outputs) and pool is fit:
        notes = (f"'{name}' is scored, which has the labels' shape (--output names another).", *notes)
    shape = _shape(np.shape(outputs[name]))
    if quantiles:
        shape = _without(shape, quantiles)
    if wanted is not None and shape != wanted:
        raise InputError(_misfit(wanted, shape))
    if len(shape) + 1 > TARGETS:
        raise InputError(
            f"A forecast has steps, or steps and targets, a row; the output has {_said(shape)}: "
            "name another with --output."
        )
    task = Task("forecasting", "value", (), name, target_shape=shape, quantiles=quantiles)
    said = f"The task is forecasting: {_in_words(shape)}"
    if quantiles:
        said += f", {len(quantiles)} quantiles of each, of which {quantiles[task.median]:g} is the value"
    return task, (*notes, f"{said}.")


def _quantiles(levels: tuple[str, ...]) -> tuple[float, ...]:
    """Their levels as numbers that rise from 0 to 1.

    Raises:
        InputError: they are no such numbers.
    """
    try:
        found = tuple(float(level) for level in levels)
    except ValueError:
        found = (0.0,)
    if levels and (not all(0 < level < 1 for level in found) or list(found) != sorted(set(found))):
        raise InputError(
            f"{few(levels)} are no levels of quantiles: --classes of a forecast names these, as 0.1,0.5,0.9."
        )
    return found


def _without(shape: tuple[int, ...], quantiles: tuple[float, ...]) -> tuple[int, ...]:
    """(steps,) or (steps, targets) without the last axis of quantiles."""
    if len(shape) < STEPS or shape[-1] != len(quantiles):
        raise InputError(
            f"{len(quantiles)} quantiles are named and the output has {_said(shape)} values a row: "
            "its last axis must be the quantiles, in their order."
        )
    return shape[:-1]


def may_be_forecast(labels: NDArray[Any] | None, outputs: Mapping[str, Any]) -> bool:
    """Whether labels are several floats a row, of the shape of an output: several targets, or steps ahead."""
    if labels is None or labels.dtype.kind != "f" or labels.ndim not in (STEPS, TARGETS):
        return False
    shape = _shape(labels.shape)
    return shape[0] > 1 and any(_shape(np.shape(output)) == shape for output in outputs.values())


def is_forecast(piece: Piece) -> bool:
    """Whether what some rows have as targets is what later rows have as their history."""
    labels = piece.rows.labels
    if labels is None or not len(piece):
        return False
    batch = {name: array for name, array in piece.batch.items() if name not in piece.ragged}
    targets = labels.astype(np.float64).reshape(len(labels), labels.shape[1], -1)
    return proves_forecast(batch, targets, np.asarray(piece.rows.positions, dtype=np.int64))


def _shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Without the rows, and without a last axis of one target: (steps,) or (steps, targets)."""
    if len(shape) < STEPS:
        return (1,)
    return shape[1:-1] if len(shape) == TARGETS and shape[-1] == 1 else shape[1:]


def _misfit(wanted: tuple[int, ...], shape: tuple[int, ...]) -> str:
    said = "A forecast has the shape of its labels: "
    said += f"they have {_said(wanted)} a row and the output {_said(shape)}"
    if shape == wanted[::-1]:
        return f"{said}; let the model give the steps before the targets."
    if len(shape) == STEPS and shape[:1] == wanted:
        return f"{said}; where these are quantiles, give --classes 0.1,0.5,0.9."
    return f"{said}; cut the labels to the steps that are forecast, or name another output with --output."


def _said(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _in_words(shape: tuple[int, ...]) -> str:
    steps = counted(shape[0], "step")
    return f"{steps} ahead" + (f" of {counted(shape[1], 'target')}" if len(shape) + 1 == TARGETS else "")
