"""Integrated gradients of a text: on what its embedding gives, summed over each word's tokens."""

from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from explain.completing import missed
from explain.method import Attribution, Explained
from explain.score import rows_a_call, torch_scores
from explain.words import WORDS, Words
from study.errors import SkipError
from study.runtime import Runtime

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor
    from torch.nn import Module


def words_integrated(
    run: Runtime, rows: Explained, words: Words, steps: tuple[int, ...], tolerance: float
) -> Attribution:
    """Integrated Gradients on the embedding that receives the token ids, by Captum's layer method.

    The line leads from the text with every word replaced by the absent token, separators and padding as they
    are, to the text; a row that misses its sum by more than ``tolerance`` is done again with more steps.

    Raises:
        SkipError: the model is no eager module, or its ids go into no ``nn.Embedding``.
    """
    from study.runtimes.pytorch import PyTorch

    if not isinstance(run, PyTorch) or run.model.format != "pytorch":
        raise SkipError("it needs the embedding of an eager module")
    layer = embedding_of(run.module, run, rows, words)
    values, error = words.empty(), np.full(len(rows), np.inf)
    size = rows_a_call(run, rows)
    for count in steps:
        still = np.flatnonzero(~(error <= tolerance))
        for at in range(0, len(still), size):
            which = still[at : at + size]
            tokens, error[which] = _integrated(run, rows, words, which, layer, count)
            every = np.zeros(rows.batch[words.input].shape)
            every[which] = tokens
            values[which] = words.summed(every)[which]
    if not np.isfinite(error).all():
        raise SkipError("the gradients of its score are not finite")
    return Attribution("integrated-gradients", rows.ids, {WORDS: values}, error, rows.baseline_name)


def embedding_of(module: "Module", run: Runtime, rows: Explained, words: Words) -> "Module":
    """The ``nn.Embedding`` that is given the token ids in a call of the first row."""
    from torch import nn

    from explain.score import scores

    found: list[Module] = []
    ids = rows.batch[words.input][:1]

    def seen(layer: "Module", fed: "tuple[Tensor, ...]", _gave: object) -> None:
        if fed and tuple(fed[0].shape) == ids.shape and np.array_equal(fed[0].cpu().numpy(), ids):
            found.append(layer)

    with ExitStack() as stack:
        for layer in module.modules():
            if isinstance(layer, nn.Embedding):
                stack.callback(layer.register_forward_hook(seen).remove)
        scores(run, rows.first(1), ((0, ()),))
    if not found:
        raise SkipError("no nn.Embedding of the model is given the token ids as they are")
    return found[0]


def _integrated(
    run: Runtime, rows: Explained, words: Words, which: "NDArray[Any]", layer: "Module", steps: int
) -> "tuple[NDArray[Any], NDArray[Any]]":
    """The attributions of the tokens of some rows, and each row's relative error of their sum."""
    import torch
    from captum.attr import LayerIntegratedGradients

    device = torch.device(run.machine.device)
    score, order = torch_scores(run, rows)
    place = order.index(words.input)
    given = rows.batch[words.input]
    bare = words.without(given, rows.baseline[words.input])
    inputs = torch.from_numpy(given[which]).to(device)
    absent = torch.from_numpy(bare[which]).to(device)
    others = [torch.from_numpy(rows.batch[name][which]).to(device) for name in order if name != words.input]
    forward = partial(_placed, score, place)
    with torch.no_grad():
        present, without = forward(inputs, *others), forward(absent, *others)
    target = torch.from_numpy(rows.targets[which]).to(device) if present.ndim > 1 else None
    try:
        with torch.enable_grad():
            found = LayerIntegratedGradients(forward, layer).attribute(
                inputs,
                baselines=absent,
                target=target,
                additional_forward_args=tuple(others) or None,
                n_steps=steps,
                method="gausslegendre",
                internal_batch_size=max(rows_a_call(run, rows), len(which)),
            )
    except (RuntimeError, NotImplementedError) as error:
        raise SkipError(f"torch cannot differentiate this model: {str(error).splitlines()[0]}") from error
    tokens = found.detach().double().sum(dim=-1)
    return tokens.cpu().numpy(), missed(tokens.sum(dim=1), present, without, target)


def _placed(score: Any, place: int, ids: "Tensor", *others: "Tensor") -> "Tensor":
    """The score, with the ids at their place among the inputs."""
    answer: Tensor = score(*others[:place], ids, *others[place:])
    return answer
