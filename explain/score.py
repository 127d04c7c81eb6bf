"""The number that is explained: one column of the scored output, as the model gives it."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from explain.layout import Part
from explain.method import Explained
from explain.summed import Summed, cut
from study.errors import SkipError
from study.host import to_numpy
from study.runtime import Batch, Runtime

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

Hidden: TypeAlias = tuple[int, Sequence[tuple[str, Part]]]
"""A row, and the parts of its inputs that are hidden."""
CALL_BYTES = 32 * 2**20
"""Inputs of one call: more are slower on a CPU, and take memory for nothing."""
CALL_ROWS = 64
PER_CLASS = 2
"""Axes of an output with a score a class."""
NO_SCORE = "its output '{name}' has {rank} axes: only one score a row, or one a class, can be explained"


def scores(run: Runtime, rows: Explained, hidden: Sequence[Hidden]) -> "NDArray[Any]":
    """The target scores in float64 of rows with some parts replaced by the baseline, in bounded memory.

    Logits or probabilities are taken as the model gives them.
    """
    return scores_and_sizes(run, rows, hidden)[0]


def scores_and_sizes(
    run: Runtime, rows: Explained, hidden: Sequence[Hidden]
) -> "tuple[NDArray[Any], NDArray[Any]]":
    """The target scores, and of each row its largest output's size, which its rounding errors go by."""
    size = rows_a_call(run, rows)
    found = []
    for at in range(0, len(hidden), size):
        chosen = hidden[at : at + size]
        which = np.array([row for row, _ in chosen])
        batch = {name: array[which] for name, array in rows.batch.items()}
        for place, (_, gone) in enumerate(chosen):
            for name, part in gone:
                region: tuple[int | slice, ...] = (place, *part)
                batch[name][region] = baseline_row(rows, name)[part]
        if rows.summed:
            found.append(_sums(run, rows, rows.summed, batch, which))
        else:
            found.append(_column(run(batch), rows, which))
    pair = np.concatenate(found, axis=1) if found else np.zeros((2, 0))
    return pair[0], pair[1]


def scored(outputs: tuple[str, ...], wanted: str) -> str:
    """The output that is scored: of that name, or the only one, which an artifact may have renamed.

    Raises:
        SkipError: the model has several, and none of that name.
    """
    if wanted in outputs:
        return wanted
    if len(outputs) > 1 and wanted:
        raise SkipError(f"the model has no output '{wanted}'")
    return outputs[0]


def rows_a_call(run: Runtime, rows: Explained) -> int:
    """How many rows go into one call: what was asked for, or what is quick."""
    if run.machine.batch_size:
        return run.machine.batch_size
    row = sum(array[:1].nbytes for array in rows.batch.values())
    most = min(CALL_ROWS, rows.summed.rows_a_batch()) if rows.summed else CALL_ROWS
    return int(np.clip(CALL_BYTES // max(row, 1), 1, most))


def baseline_row(rows: Explained, name: str) -> "NDArray[Any]":
    """What stands for absence in this input: one row."""
    array = rows.batch[name]
    given = rows.baseline.get(name)
    return np.zeros_like(array[0]) if given is None else np.asarray(given, array.dtype)


def torch_scores(run: Runtime, rows: Explained) -> "tuple[Callable[..., Tensor], tuple[str, ...]]":
    """The scored output of the torch model, and the order in which it takes its inputs.

    The callable gives (n, k), or (n,) where the output is a single number. Where a region is explained, it
    takes the region's shares (``Region.shares``) behind the inputs.
    """
    order = tuple(spec.name for spec in run.inputs)
    names = order if set(order) == set(rows.batch) else tuple(rows.batch)
    model = run.as_torch(names if len(names) > 1 else ())

    def score(*inputs: "Tensor") -> "Tensor":
        given = model(*inputs[: len(names)])
        several = tuple(given) if isinstance(given, (tuple, list)) else (given,)
        outputs = dict(zip(run.outputs, several, strict=True))
        name = scored(tuple(outputs), rows.output_name)
        output: Tensor = outputs[name]
        if rows.region:
            output = rows.region.means(output, inputs[-1])
        if output.ndim > 1 and output.shape[1:].numel() == 1:
            return output.reshape(-1)
        while output.ndim > PER_CLASS and output.shape[-1] == 1:
            output = output[..., 0]
        if rows.flattened:
            return output.flatten(1)
        if output.ndim > PER_CLASS:
            raise SkipError(NO_SCORE.format(name=name, rank=output.ndim))
        return output

    return score, names


def _sums(
    run: Runtime, rows: Explained, summed: Summed, batch: "dict[str, NDArray[Any]]", which: "NDArray[Any]"
) -> "NDArray[Any]":
    """The target scores and the largest sizes, (2, n), of scores that are sums over parts."""
    whole = summed.weights.shape[1]
    fixed = any((spec.shape or (None, None))[1:2] == (whole,) for spec in run.inputs)
    steps = whole if fixed else summed.steps(which)
    outputs = run(cut(batch, whole, steps))
    return summed.read(outputs[scored(tuple(outputs), rows.output_name)], which, steps)


def _column(outputs: Batch, rows: Explained, which: "NDArray[Any]") -> "NDArray[Any]":
    """The target scores and the largest sizes, (2, n)."""
    name = scored(tuple(outputs), rows.output_name)
    output = to_numpy(outputs[name]).astype(np.float64)
    if rows.region:
        output = rows.region.means(output, rows.region.shares(which)).double().numpy()
    if rows.steps is not None:
        last = np.moveaxis(output if rows.class_axis else output[..., None], rows.class_axis or -1, -1)
        output = last[np.arange(len(which)), rows.steps[which]]
    while output.ndim > 1 and output.shape[-1] == 1:
        output = output[..., 0]
    if rows.flattened:
        output = output.reshape(len(output), -1)
    if output.ndim == 1:
        return np.stack([output, np.abs(output)])
    if output.ndim > PER_CLASS:
        raise SkipError(NO_SCORE.format(name=name, rank=output.ndim))
    target = np.take_along_axis(output, rows.targets[which][:, None], axis=1)[:, 0]
    return np.stack([target, np.abs(output).max(axis=1)])
