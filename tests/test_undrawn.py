"""Modules whose weights will be loaded are not drawn at random first."""

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from study.loading.undrawn import made_undrawn

WIDE = 600
"""Squared, in float32, more than what is large."""


class Net(nn.Module):
    """Large and small layers, and a sixth of what a state dict does not hold."""

    def __init__(self, *, hidden: bool = False) -> None:
        super().__init__()
        self.large, self.small = nn.Linear(WIDE, WIDE), nn.Linear(WIDE, 3)
        self.words = nn.Embedding(1000, WIDE)
        self.held = [nn.Parameter(torch.empty(WIDE, WIDE))] if hidden else []
        for one in self.held:
            nn.init.xavier_normal_(one)


def counted(make: Callable[[], nn.Module] = Net) -> tuple[nn.Module, list[int]]:
    calls: list[int] = []

    def build() -> nn.Module:
        calls.append(1)
        return make()

    torch.manual_seed(0)
    made = made_undrawn(build)
    assert isinstance(made, nn.Module)
    return made, calls


def test_large_parameters_are_not_written_and_small_ones_are_drawn(monkeypatch):
    drawn: list[torch.Size] = []
    uniform, normal = torch.Tensor.uniform_, torch.Tensor.normal_

    def noted(function):
        def draw(tensor, *args, **kwargs):
            drawn.append(tensor.shape)
            return function(tensor, *args, **kwargs)

        return draw

    monkeypatch.setattr(torch.Tensor, "uniform_", noted(uniform))
    monkeypatch.setattr(torch.Tensor, "normal_", noted(normal))
    _, calls = counted()
    assert len(calls) == 1
    assert {tuple(shape) for shape in drawn} == {(WIDE,), (3, WIDE), (3,)}


def test_what_no_state_dict_holds_is_drawn_the_same_each_time():
    one, calls = counted(partial(Net, hidden=True))
    other, _ = counted(partial(Net, hidden=True))
    assert len(calls) == 2
    torch.testing.assert_close(one.held[0], other.held[0], rtol=0, atol=0)
    assert 0 < float(one.held[0].detach().std()) < 1
    torch.manual_seed(0)
    torch.testing.assert_close(one.held[0], Net(hidden=True).held[0], rtol=0, atol=0)


def test_a_factory_that_cannot_have_it_is_called_again():
    class Judged(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.large = nn.Parameter(torch.full((WIDE, WIDE), 7.0))
            nn.init.normal_(self.large)
            if float(self.large.detach().min()) == 7:
                raise ValueError("these are no weights")

    _, calls = counted(Judged)
    assert len(calls) == 2
