"""A score of a row that is a sum over parts of its output: the tokens of a continuation."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from study.parts import AT_ONCE, SCORES_A_BATCH, log_probabilities
from study.readings.language import by_step
from study.task import Task
from study.texts import is_lengths

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class Summed:
    """Which parts of each row's output are summed, with what weight, and what each part is scored for.

    The score of a row is the sum, over its parts, of the weight times the log-probability (in nats) of the
    part's label. The parts of a text are the steps of the output: step t scores the token at t + 1.
    """

    task: Task
    weights: "NDArray[np.float32]"
    """(rows, parts); 0: not summed."""
    labels: "NDArray[np.int64]"
    """(rows, parts): the output index that is read of each part."""

    def first(self, count: int) -> "Summed":
        """Those of the first so many rows."""
        return replace(self, weights=self.weights[:count], labels=self.labels[:count])

    def steps(self, which: "NDArray[Any]") -> int:
        """The steps up to the last one that is summed in any of these rows; at least one.

        What is fed behind it changes nothing in a model that reads from left to right.
        """
        heard = np.flatnonzero(self.weights[which].any(axis=0))
        return int(heard[-1]) + 1 if len(heard) else 1

    def rows_a_batch(self) -> int:
        """As many rows as have outputs of some 128 MB."""
        steps = self.steps(np.arange(len(self.weights)))
        return max(1, SCORES_A_BATCH // (steps * max(1, self.task.width)))

    def read(self, output: Any, which: "NDArray[Any]", steps: int) -> "NDArray[np.float64]":
        """The scores of these rows, of ``steps`` steps, and the largest sizes of their outputs: (2, n).

        Only the parts that are summed are looked at, ``AT_ONCE`` numbers at a time, where they are.
        """
        import torch

        scores = by_step(output, (len(which), steps))
        weights, labels = self.weights[which, :steps], self.labels[which, :steps]
        rows, places = np.nonzero(weights)
        found = np.zeros((2, len(which)))
        at_once = max(1, AT_ONCE // scores.shape[-1])
        for start in range(0, len(rows), at_once):
            at = rows[start : start + at_once], places[start : start + at_once]
            row, place, label = (torch.from_numpy(some).to(scores.device) for some in (*at, labels[at]))
            given = scores[row, place].float()
            logs = log_probabilities(self.task, given).gather(-1, label[:, None])[:, 0]
            np.add.at(found[0], at[0], weights[at] * logs.double().cpu().numpy())
            np.maximum.at(found[1], at[0], given.abs().amax(dim=-1).double().cpu().numpy())
        return found


def cut(batch: "Mapping[str, NDArray[Any]]", whole: int, steps: int) -> "dict[str, NDArray[Any]]":
    """Inputs with the first ``steps`` of ``whole`` steps alone; lengths are no longer than that."""
    return {
        name: array[:, :steps]
        if array.ndim > 1 and array.shape[1] == whole
        else np.minimum(array, steps)
        if array.ndim == 1 and is_lengths(name)
        else array
        for name, array in batch.items()
    }
