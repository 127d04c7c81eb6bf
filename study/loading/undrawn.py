"""A module whose large weights will be loaded, made without drawing them at random first."""

from collections.abc import Callable
from typing import Any, Final

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from study.loading.adopted import LARGE

DRAWS: Final = frozenset(
    (
        *(torch.Tensor.uniform_, torch.Tensor.normal_, nn.init.uniform_, nn.init.normal_),
        *(nn.init.kaiming_uniform_, nn.init.kaiming_normal_),
    )
)
"""What layers draw weights with; the rest of ``nn.init`` calls these."""


def made_undrawn(make: Callable[[], object]) -> object:
    """What ``make`` gives, with large parameters left as the memory was, untouched and so not yet taken.

    Drawing them costs seconds and their size in memory, only to be loaded over. Where one of them is not in
    the state dict, or ``make`` fails on such values, it is called again and everything is drawn.
    """
    seed = torch.random.get_rng_state()
    mode = _Undrawn()
    try:
        with mode:
            made = make()
    except Exception:  # it is the second call that says what the user's mistake is
        if not mode.left:
            raise
    else:
        if not mode.left or mode.loaded_over(made):
            return made
    torch.random.set_rng_state(seed)
    return make()


class _Undrawn(TorchFunctionMode):
    """Leaves large parameters as they are."""

    def __init__(self) -> None:
        super().__init__()
        self.left: list[torch.Tensor] = []

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: tuple[type, ...],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Every call of torch passes here."""
        if func in DRAWS:
            drawn = args[0] if args else (kwargs or {})["tensor"]
            if isinstance(drawn, nn.Parameter) and drawn.nbytes >= LARGE:
                self.left.append(drawn)
                return drawn
        return func(*args, **(kwargs or {}))

    def loaded_over(self, made: object) -> bool:
        """Whether all that was left is what a state dict of the module fills."""
        if not isinstance(made, nn.Module):
            return False
        filled = {id(tensor) for tensor in made.state_dict(keep_vars=True).values()}
        return all(id(tensor) in filled for tensor in self.left)
