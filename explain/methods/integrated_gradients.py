"""The gradient, integrated on the straight line from the baseline to the row."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, final

import numpy as np

from explain.completing import missed
from explain.method import Attribution, Explained, Method, Needs
from explain.score import baseline_row, rows_a_call, torch_scores
from study.errors import SkipError
from study.runtime import Runtime
from study.task import ROWS, Kind

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

SMALL = 1024
"""Elements of a row up to which it is small."""


@final
@dataclass(frozen=True, slots=True)
class IntegratedGradients(Method):
    """Integrated Gradients (Sundararajan et al. 2017), by Captum: Gauss-Legendre, refined where it must be.

    The attributions of a row should sum to f(x) - f(baseline). Rows in which they miss it by more than
    ``tolerance`` are done again with the next number of steps; Captum alone would not tell. Small inputs
    (tables) begin with the second number: it costs them nothing, and their maps are read as numbers.
    """

    needs: ClassVar[Needs] = "gradients"
    kinds: ClassVar[frozenset[Kind]] = ROWS | {"segmentation"}
    steps: tuple[int, ...] = (16, 50, 200, 800)
    tolerance: float = 0.05

    def attribute(self, run: Runtime, rows: Explained) -> Attribution:
        import torch

        if run.model.format == "onnx":
            raise SkipError("it needs gradients, which ONNX Runtime does not compute")
        if rows.words:
            from explain.embedded import words_integrated

            return words_integrated(run, rows, rows.words, self.steps, self.tolerance)
        real = tuple(name for name, array in rows.batch.items() if array.dtype.kind == "f")
        if not real:
            raise SkipError("its inputs are integers, which have no gradient")
        values = {name: np.zeros(rows.batch[name].shape, np.float32) for name in real}
        error = np.full(len(rows), np.inf)
        size = rows_a_call(run, rows)
        with torch.enable_grad(), _plain_recurrence(run):
            small = sum(array[0].size for array in rows.batch.values()) <= SMALL
            for steps in (self.steps[1:] if small else ()) or self.steps:
                open_rows = np.flatnonzero(~(error <= self.tolerance))
                for at in range(0, len(open_rows), size):
                    which = open_rows[at : at + size]
                    found, error[which] = _integrated(run, rows, which, real, steps)
                    for name, array in found.items():
                        values[name][which] = array
        if not np.isfinite(error).all():
            raise SkipError("the gradients of its score are not finite")
        return Attribution("integrated-gradients", rows.ids, values, error, rows.baseline_name)


def _plain_recurrence(run: Runtime) -> AbstractContextManager[None]:
    """Recurrent layers without cuDNN, which differentiates them in train mode alone."""
    import torch

    from study.runtimes.pytorch import PyTorch

    layers = run.module.modules() if isinstance(run, PyTorch) else ()
    names = {getattr(layer, "original_name", type(layer).__name__) for layer in layers}
    recurrent = not names.isdisjoint({"RNN", "LSTM", "GRU"})
    return torch.backends.cudnn.flags(enabled=False) if recurrent else nullcontext()


def _integrated(
    run: Runtime, rows: Explained, which: "NDArray[Any]", real: tuple[str, ...], steps: int
) -> "tuple[dict[str, NDArray[Any]], NDArray[Any]]":
    """The attributions of some rows with so many steps, and their relative completeness errors."""
    import torch
    from captum.attr import IntegratedGradients as Captum

    device = torch.device(run.machine.device)
    inputs = {name: torch.from_numpy(array[which]).to(device) for name, array in rows.batch.items()}
    absent = {
        name: torch.from_numpy(np.ascontiguousarray(baseline_row(rows, name))).to(device).expand_as(tensor)
        for name, tensor in inputs.items()
    }
    others = tuple(name for name in inputs if name not in real)
    score, order = torch_scores(run, rows)
    forward = _in_order(score, (*real, *others), order)
    kept = tuple(inputs[name] for name in others)
    if rows.region:
        kept = (*kept, rows.region.shares(which).to(device))
    with torch.no_grad():
        present = forward(*(inputs[name] for name in real), *kept)
        without = forward(*(absent[name] for name in real), *kept)
    target = torch.from_numpy(rows.targets[which]).to(device) if present.ndim > 1 else None
    try:
        found = Captum(forward, multiply_by_inputs=True).attribute(
            tuple(inputs[name] for name in real),
            baselines=tuple(absent[name].contiguous() for name in real),
            target=target,
            additional_forward_args=kept or None,
            n_steps=steps,
            method="gausslegendre",
            internal_batch_size=max(rows_a_call(run, rows), len(which)),
        )
    except (RuntimeError, NotImplementedError) as error:
        raise SkipError(f"torch cannot differentiate this model: {str(error).splitlines()[0]}") from error
    total = sum(array.double().reshape(len(array), -1).sum(dim=1) for array in found)
    arrays = (array.detach().float().cpu().numpy() for array in found)
    return dict(zip(real, arrays, strict=True)), missed(total, present, without, target)


def _in_order(
    score: "Callable[..., Tensor]", given: tuple[str, ...], order: tuple[str, ...]
) -> "Callable[..., Tensor]":
    """The same callable, with its inputs in the order in which Captum hands them over."""
    places = tuple(given.index(name) for name in order)

    def forward(*inputs: "Tensor") -> "Tensor":
        return score(*(inputs[place] for place in places), *inputs[len(given) :])

    return forward
