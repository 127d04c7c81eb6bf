"""What a fit minimises: how far outputs are from the labels, and from a teacher's, for each kind of task."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from study.errors import SkipError
from study.feed import Piece
from study.loading.calling import named_outputs
from study.parts import counted_labels, log_probabilities, two_scores
from study.readings import language, segmentation, tokens
from study.task import PARTS, VALUES, Kind, Task, encode, scored_output

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

TINY: Final = 1e-7
ONE_OF_SEVERAL: Final[frozenset[Kind]] = PARTS | {"multiclass"}
"""Kinds whose answers (a row's, or each part's) are one class of several."""
UNFITTED: Final = "a detector gives as many boxes as it finds, and no loss here compares such lists"


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """Logits (answers, width), the labels of these where known, and how many of them each row has."""

    logits: "torch.Tensor"
    truth: "NDArray[Any] | None"
    counts: "NDArray[np.int64]"

    def __len__(self) -> int:
        return len(self.logits)


def must_be_fitted(task: Task) -> None:
    """Whether there is a loss for a kind of task.

    Raises:
        SkipError: there is none; the message is the reason.
    """
    if task.kind == "detection":
        raise SkipError(UNFITTED)


def answers(task: Task, given: Any, piece: Piece) -> Answers:
    """What a module gave for some rows, with what is right where that is known.

    A row has one answer or, where it has parts (tokens, pixels), one for each part that counts: no filling,
    and nothing whose label is ignored.

    Raises:
        SkipError: the scored output is no tensor.
        InputError: outputs or labels do not fit the task.
    """
    output = scored_output(task, dict(named_outputs(given, "")))
    if task.kind not in PARTS:
        labels = piece.rows.labels
        truth = None if labels is None else encode(task, labels)
        return Answers(as_logits(task, as_table(output)), truth, np.ones(len(piece), dtype=np.int64))
    found = {"language": _tokens, "tokens": _words, "segmentation": _pixels}[task.kind](task, output, piece)
    scores = found.logits if found.logits.shape[-1] > 1 else two_scores(task, found.logits)
    return replace(found, logits=log_probabilities(task, scores))


def _tokens(task: Task, output: Any, piece: Piece) -> Answers:
    """Every token but the first of each text, scored by the logits before it."""
    del task
    import torch

    ids, there = language.tokens_of(piece)
    counted = there[:, 1:] & there[:, :-1]
    scores = language.by_step(output, ids.shape)[:, :-1]
    where = torch.from_numpy(counted).to(scores.device)
    return Answers(scores[where], ids[:, 1:][counted], counted.sum(axis=1))


def _words(task: Task, output: Any, piece: Piece) -> Answers:
    """The words that count, each at its first piece."""
    scores = tokens.by_step(task, output)
    found = [tokens.sentence(task, piece, row, int(scores.shape[1])) for row in range(len(piece))]
    counts = np.array([len(one.step) for one in found], dtype=np.int64)
    steps, labels = (np.concatenate([getattr(one, name) for one in found]) for name in ("step", "label"))
    chosen = scores[np.repeat(np.arange(len(found)), counts), steps]
    return Answers(chosen, None if piece.rows.labels is None else labels, counts)


def _pixels(task: Task, output: Any, piece: Piece) -> Answers:
    """The pixels that count."""
    import torch

    scores = segmentation.by_pixel(task, output)
    height, width = (int(size) for size in scores.shape[1:3])
    masks = segmentation.masks_of(task, piece, (height, width), max(task.width, 2))
    if masks is None:
        return Answers(scores.flatten(0, 2), None, np.full(len(piece), height * width))
    counted = counted_labels(task, masks)
    where = torch.from_numpy(counted).to(scores.device)
    return Answers(scores[where], masks[counted], counted.reshape(len(masks), -1).sum(axis=1))


def as_table(output: Any) -> "torch.Tensor":
    """A scored output with one number a row as one column; trailing axes of one are dropped.

    Raises:
        SkipError: it is no tensor.
    """
    import torch

    if not isinstance(output, torch.Tensor):
        raise SkipError(f"the scored output is no tensor but a {type(output).__name__}")
    while output.ndim > 2 and output.shape[-1] == 1:  # noqa: PLR2004 -- rows and columns, as study.task reads them
        output = output[..., 0]
    table: torch.Tensor = output[:, None] if output.ndim == 1 else output
    return table


def as_logits(task: Task, scores: "torch.Tensor") -> "torch.Tensor":
    """Scores whose softmax or sigmoid are the model's probabilities; values of a regression as they are."""
    import torch

    if task.output == "log-probabilities":
        scores = scores if task.kind == "multiclass" else torch.logit(scores.exp(), eps=TINY)
    elif task.output == "probabilities":
        several = task.kind == "multiclass"
        scores = scores.clamp_min(TINY).log() if several else torch.logit(scores, eps=TINY)
    return scores


def task_loss(task: Task, logits: "torch.Tensor", encoded: "NDArray[Any]") -> "torch.Tensor":
    """Cross-entropy, binary cross-entropy or squared error, the mean over answers (and labels)."""
    import torch
    from torch.nn import functional

    if task.kind in ONE_OF_SEVERAL:
        return functional.cross_entropy(logits, torch.as_tensor(encoded, device=logits.device).long())
    truth = torch.as_tensor(encoded, device=logits.device).to(logits.dtype)
    if task.quantiles:
        return pinball(logits, truth, task.quantiles)
    truth = truth.reshape(logits.shape)
    if task.kind in VALUES:
        return functional.mse_loss(logits, truth)
    known = truth >= 0  # of several labels a row some may be missing
    return functional.binary_cross_entropy_with_logits(logits[known], truth[known])


def pinball(logits: "torch.Tensor", truth: "torch.Tensor", levels: tuple[float, ...]) -> "torch.Tensor":
    """The loss whose least values are quantiles, the mean over all of them (Koenker and Bassett 1978)."""
    import torch

    gap = truth.reshape(*logits.shape[:-1], 1) - logits
    level = torch.tensor(levels, device=logits.device, dtype=logits.dtype)
    return torch.maximum(level * gap, (level - 1) * gap).mean()


def teacher_loss(task: Task, logits: "torch.Tensor", wanted: "torch.Tensor", heat: float) -> "torch.Tensor":
    """How far the outputs are from the teacher's, softened by a temperature and scaled back by its square.

    The Kullback-Leibler divergence of the probabilities (Hinton et al. 2015, arXiv 1503.02531), the mean over
    answers; of values the squared error.
    """
    from torch.nn import functional

    if task.kind in VALUES:
        return functional.mse_loss(logits, wanted)
    if task.kind in ONE_OF_SEVERAL:
        far = functional.kl_div(
            functional.log_softmax(logits / heat, dim=1),
            functional.log_softmax(wanted / heat, dim=1),
            reduction="batchmean",
            log_target=True,
        )
    else:
        soft = (wanted / heat).sigmoid()
        entropy = functional.binary_cross_entropy_with_logits(wanted / heat, soft)
        far = functional.binary_cross_entropy_with_logits(logits / heat, soft) - entropy
    return far * heat**2


def agreeing(task: Task, logits: "torch.Tensor", wanted: "torch.Tensor") -> "torch.Tensor | None":
    """Which answers decide as the teacher's (a boolean each); None of values, which decide nothing."""
    if task.kind in VALUES:
        return None
    if task.kind in ONE_OF_SEVERAL:
        return logits.argmax(dim=1) == wanted.argmax(dim=1)
    return ((logits > 0) == (wanted > 0)).all(dim=1)
