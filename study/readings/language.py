"""Language models: every token is predicted from those before it."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from study.errors import InputError, few
from study.feed import Piece
from study.host import to_numpy
from study.parts import Reduced, lines, reduced
from study.reading import Reading
from study.task import Task, scored_output

if TYPE_CHECKING:
    from torch import Tensor

IDS = ("input_ids", "ids", "tokens", "x")
STEPS = 2
SPAN: Final = 8
"""Tokens of a span whose surprise is told (fewer in a shorter text)."""


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
        return {**lines(rows, each=True), **_spans(rows, there, piece)}


def tokens_of(piece: Piece) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The token ids that were fed, (rows, steps), and which of them are no filling.

    Raises:
        InputError: no input holds token ids.
    """
    ids = piece.batch[ids_input(piece)].astype(np.int64)
    if piece.tokens:
        lengths = np.array([len(one) for one in piece.tokens])
        return ids, np.arange(ids.shape[1]) < lengths[:, None]
    mask = next((array for other, array in piece.batch.items() if "mask" in other), None)
    return ids, np.ones(ids.shape, dtype=bool) if mask is None else np.asarray(mask, dtype=bool)


def ids_input(piece: Piece) -> str:
    """The name of the input that takes the token ids.

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
    return name


def by_step(output: Any, shape: tuple[int, ...]) -> "Tensor":
    """The scores as (rows, steps, width), where they are; flat ones (rows x steps, width) are folded.

    Raises:
        InputError: they are not one line a token.
    """
    import torch

    scores = output if isinstance(output, torch.Tensor) else torch.from_numpy(to_numpy(output))
    if scores.ndim == STEPS and len(scores) == shape[0] * shape[1]:
        scores = scores.reshape(*shape, -1)
    if scores.ndim > STEPS and tuple(scores.shape[:2]) == (shape[0], 1) != tuple(shape):
        raise InputError(
            "The model scores the last token alone, as forward(idx, targets=None) of nanoGPT does without "
            "targets: give --arch a factory whose forward returns those of every token."
        )
    if tuple(scores.shape[:-1]) != tuple(shape):
        raise InputError(
            f"A language model gives a score a token and step, and the output has the shape "
            f"{tuple(scores.shape)} for {shape[0]} rows of {shape[1]} tokens: name another with --output."
        )
    return scores


def _spans(rows: Sequence[Reduced], there: NDArray[np.bool_], piece: Piece) -> dict[str, pl.Series]:
    """The span of ``SPAN`` tokens that surprised most: first token, length, mean loss, text."""
    found = [most_surprising(one.loss) for one in rows]
    texts = [
        _text(piece, row, np.flatnonzero(there[row])[1:][start : start + size]) if size else ""
        for row, (start, size, _) in enumerate(found)
    ]
    return {
        "span_from": pl.Series([start + 1 for start, _, _ in found], dtype=pl.Int64),
        "span_tokens": pl.Series([size for _, size, _ in found], dtype=pl.Int64),
        "span_loss": pl.Series([loss for _, _, loss in found], dtype=pl.Float64),
        "span_text": pl.Series(texts, dtype=pl.String),
    }


def most_surprising(loss: NDArray[np.float32], size: int = SPAN) -> tuple[int, int, float]:
    """Where the window of ``size`` losses with the highest mean begins, its length, and that mean."""
    size = min(size, len(loss))
    if not size:
        return 0, 0, 0.0
    sums = np.concatenate([[0.0], np.cumsum(np.nan_to_num(loss.astype(np.float64), posinf=1e6))])
    means = (sums[size:] - sums[:-size]) / size
    start = int(means.argmax())
    return start, size, float(means[start])


def _text(piece: Piece, row: int, places: NDArray[np.int64]) -> str:
    """What these tokens stand for in the text that was given; their ids where there is none."""
    given = [column[row] for column in piece.rows.inputs.values()]
    text = next((one for one in given if isinstance(one, str)), "") if len(given) == 1 else ""
    if not piece.tokens or not text:
        ids, _ = tokens_of(piece)
        return " ".join(str(one) for one in ids[row, places].tolist())
    spans = piece.tokens[row].spans[places]
    return text[int(spans[:, 0].min()) : int(spans[:, 1].max())]
