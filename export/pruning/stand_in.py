"""What stands in for recurrent layers while torch-pruning reads the graph of a model."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence


class _OneStep(torch.autograd.Function):
    """Outputs of given shapes that follow from the input in one step, which torch-pruning can follow.

    The graph of a real recurrent layer unrolls all steps, and what it gives beside them is lost in it.
    """

    @staticmethod
    def forward(_context: Any, given: Tensor, *shapes: tuple[int, ...]) -> tuple[Tensor, ...]:
        return tuple(given.new_ones(shape) for shape in shapes)

    @staticmethod
    def backward(_context: Any, *slopes: Tensor) -> Any:
        raise NotImplementedError  # the graph is read, and no slope is asked for


@contextmanager
def recurrence_in_one_step(module: nn.Module) -> Iterator[None]:
    """Inside, recurrent layers answer with numbers that mean nothing, of the shapes that they would have."""
    with ExitStack() as stack:
        for layer in module.modules():
            if isinstance(layer, nn.RNNBase):
                layer.forward = _answer_of(layer)
                stack.callback(layer.__dict__.pop, "forward")
        yield


def _answer_of(layer: nn.RNNBase) -> Any:
    directions = 2 if layer.bidirectional else 1
    width, states = layer.proj_size or layer.hidden_size, layer.num_layers * directions

    def answer(given: Any, hx: Any = None) -> Any:  # noqa: ARG001 - the initial states lead nowhere
        packed = isinstance(given, PackedSequence)
        data = given.data if packed else given
        rows = int(given.batch_sizes[0]) if packed else data.shape[0 if layer.batch_first else 1]
        batch = (rows,) if packed or data.ndim == 3 else ()  # noqa: PLR2004 - rows, steps, features
        follow: Any = _OneStep.apply  # untyped in torch
        steps, hidden, cells = follow(
            data,
            (*data.shape[:-1], width * directions),
            (states, *batch, width),
            (states, *batch, layer.hidden_size),
        )
        every = given._replace(data=steps) if packed else steps
        return every, (hidden, cells) if layer.mode == "LSTM" else hidden

    return answer
