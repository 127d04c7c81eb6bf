"""One course of gradient steps: AdamW, a short warm-up, a cosine to zero, gradients that are clipped."""

import copy
import math
import time
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import torch
    from torch import nn

WARM_UP: Final = 0.05
"""Of all steps: the rate rises (Goyal et al. 2017)."""
LARGEST_GRADIENT: Final = 1.0
DECAY: Final = 1e-4
LOOK_AHEAD: Final = 10
"""Steps after which it is asked again how many there is time for."""


def rate_at(step: int, steps: int) -> float:
    """The share of the rate at a step, counted from 0: a linear rise, then a cosine that ends near zero."""
    rising = max(1, round(WARM_UP * steps))
    if step < rising:
        return (step + 1) / rising
    along = min(1.0, (step - rising) / max(1, steps - rising))
    return 0.5 * (1 + math.cos(math.pi * along))


class Learner:
    """Takes the steps of a module; the rate falls to zero at the last one for which there is time."""

    def __init__(self, module: "nn.Module", maps: "nn.Module", rate: float, steps: int, until: float) -> None:
        """``maps`` learn too and are no part of the module; ``until`` is on the clock of ``perf_counter``."""
        import torch

        self._parameters = [one for part in (module, maps) for one in part.parameters() if one.requires_grad]
        self._optimizer = torch.optim.AdamW(self._parameters, lr=rate, weight_decay=DECAY)
        self._rate, self._all, self._steps, self._until = rate, steps, steps, until
        self._began, self._done = time.perf_counter(), 0

    def is_over(self) -> bool:
        """Whether all steps are done, or there is no time for another."""
        return self._done >= self._steps or time.perf_counter() >= self._until

    def step(self, loss: "torch.Tensor | None") -> None:
        """Follow the gradient of a loss; without one that is finite, the step alone is counted."""
        from torch import isfinite
        from torch.nn.utils import clip_grad_norm_

        if loss is not None:
            for group in self._optimizer.param_groups:
                group["lr"] = self._rate * rate_at(self._done, self._steps)
            self._optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            if isfinite(clip_grad_norm_(self._parameters, LARGEST_GRADIENT)):
                self._optimizer.step()
        self._done += 1
        if self._done % LOOK_AHEAD == 0:
            now = time.perf_counter()
            each = (now - self._began) / self._done
            left = max(0.0, self._until - now) / each if each else math.inf
            self._steps = int(min(self._all, self._done + left))


def weights_of(module: "nn.Module") -> dict[str, Any]:
    """A copy of all that a state dict holds."""
    return copy.deepcopy(module.state_dict())
