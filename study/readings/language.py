"""Language models: every token is predicted from those before it."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from study.errors import InputError, few
from study.feed import Piece
from study.host import to_numpy
from study.parts import lines, reduced
from study.reading import Reading
from study.task import Task, scored_output

if TYPE_CHECKING:
    from torch import Tensor

IDS = ("input_ids", "ids", "tokens", "x")
STEPS = 2


@final
class Language(Reading):
    """A row is a text; its parts are its tokens but the first, each scored by the logits before it."""

    @classmethod
    def columns(cls, task: Task, piece: Piece, outputs: Mapping[str, Any]) -> dict[str, pl.Series]:
        """Sums over the tokens; ``label``, ``prediction`` and ``part_loss`` have one entry a token."""
        ids, there = tokens_of(piece)
        scores = by_step(scored_output(task, outputs), ids.shape)
        rows = [
            reduced(task, scores[row, :-1], ids[row, 1:], there[row, 1:] & there[row, :-1])
            for row in range(len(ids))
        ]
        return lines(rows, each=True)


def tokens_of(piece: Piece) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The token ids that were fed, (rows, steps), and which of them are no filling.

    Raises:
        InputError: no input holds token ids.
    """
    whole = {
        name: array for name, array in piece.batch.items() if array.dtype.kind in "iu" and array.ndim == STEPS
    }
    name = next((name for name in (*IDS, *whole) if name in whole), "")
    if not name:
        raise InputError(
            f"A language model is fed token ids, and the inputs are {few(piece.batch)}: give texts and "
            "--tokenizer, or arrays of integers (rows, steps)."
        )
    ids = whole[name].astype(np.int64)
    if piece.tokens:
        lengths = np.array([len(one) for one in piece.tokens])
        return ids, np.arange(ids.shape[1]) < lengths[:, None]
    mask = next((array for other, array in piece.batch.items() if "mask" in other), None)
    return ids, np.ones(ids.shape, dtype=bool) if mask is None else np.asarray(mask, dtype=bool)


def by_step(output: Any, shape: tuple[int, ...]) -> "Tensor":
    """The scores as (rows, steps, width), where they are; flat ones (rows x steps, width) are folded.

    Raises:
        InputError: they are not one line a token.
    """
    import torch

    scores = output if isinstance(output, torch.Tensor) else torch.from_numpy(to_numpy(output))
    if scores.ndim == STEPS and len(scores) == shape[0] * shape[1]:
        scores = scores.reshape(*shape, -1)
    if tuple(scores.shape[:-1]) != tuple(shape):
        raise InputError(
            f"A language model gives a score a token and step, and the output has the shape "
            f"{tuple(scores.shape)} for {shape[0]} rows of {shape[1]} tokens: name another with --output."
        )
    return scores
