"""Recurrent layers lose units, and what is left is the model in which those are silent."""

import numpy as np
import pytest
import torch
from torch import nn

from export.passes.onnx import Onnx
from export.passes.prune import Prune
from export.pruning.narrowing import pruned
from study.loading import load_module
from study.loading.live import live_model
from study.progress import Progress
from study.subject import InputSpec, Subject
from tests.export_subjects import MACHINE, outputs_of, subject_of, trained

pytestmark = pytest.mark.usefixtures("untimed")

WIDTH = 12


class Reader(nn.Module):
    """Two layers, read in one of several ways; its initial states are made at the width that it knows."""

    def __init__(self, kind, read, *, both=False):
        super().__init__()
        self.first = kind(6, WIDTH, 2, batch_first=True, bidirectional=both)
        wide = 2 * WIDTH if both else WIDTH
        self.second = kind(wide + 3, 5, batch_first=True) if read == "stacked" else None
        self.head = nn.Linear({"stacked": 5, "cells": 4 * wide}.get(read, wide), 7)
        self.read = read

    def forward(self, x):
        layers = self.first.num_layers * (2 if self.first.bidirectional else 1)
        start = torch.zeros(layers, len(x), WIDTH)
        steps, last = self.first(x, (start, start) if isinstance(self.first, nn.LSTM) else start)
        hidden, cells = last if isinstance(last, tuple) else (last, last)
        if self.read == "stacked":
            joined = torch.cat([x[..., :3], steps], -1)
            return self.head(self.second(joined)[0].mean(1))
        if self.read == "cells":
            return self.head(torch.cat([*hidden.flip(0), *cells], -1))
        if self.read == "attended":
            return self.head(
                (torch.softmax(steps.tanh().sum(-1, keepdim=True).detach() * 0, 1) * steps).sum(1)
            )
        return self.head(torch.relu(steps[:, -1]))


def silenced(module, left, gates):
    """Its units that are not left are zero at every step: nothing feeds their candidate."""
    layer = module.first
    with torch.no_grad():
        for part, units in enumerate(left):
            depth, back = divmod(part, 2) if layer.bidirectional else (part, 0)
            for unit in set(range(WIDTH)) - set(units):
                for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                    weight = getattr(layer, f"{name}_l{depth}{'_reverse' * back}")
                    weight[(2 * WIDTH if gates > 1 else 0) + unit] = 0
    return module


@pytest.mark.parametrize("read", ["last", "stacked", "cells", "attended"])
@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize(("kind", "gates"), [(nn.LSTM, 4), (nn.GRU, 3), (nn.RNN, 1)])
def test_a_model_without_units_is_the_one_in_which_they_are_silent(kind, gates, both, read):
    torch.manual_seed(0)
    module = Reader(kind, read, both=both).eval()
    rows = torch.randn(2, 4, 6)
    made, cut = pruned(module, {"x": rows}, 0.4, {})
    assert cut.units["first"] == (WIDTH, 8)
    assert made.first.hidden_size == 8
    left = np.reshape(made.first.units_kept, (-1, 8))
    twin = silenced(module, left, gates)
    if read == "stacked":  # it is narrower itself
        assert cut.units["second"] == (5, 3)
        steps, states = (one.first(rows)[0] for one in (twin, made))
        directions = 2 if both else 1
        kept = np.concatenate([WIDTH * at + units for at, units in enumerate(left[-directions:])])
        torch.testing.assert_close(steps[..., kept], states)
        return
    with torch.no_grad():
        torch.testing.assert_close(made(rows), twin(rows))


def test_initial_states_of_the_old_width_are_those_of_the_units_left():
    torch.manual_seed(0)
    module = nn.Sequential(nn.LSTM(6, WIDTH, 2), nn.Identity())

    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn, self.head = module[0], nn.Linear(WIDTH, 3)

        def forward(self, x):
            return self.head(self.rnn(x)[0])

    made, _ = pruned(Last().eval(), {"x": torch.randn(4, 2, 6)}, 0.4, {})
    rows, start = torch.randn(4, 2, 6), torch.randn(2, 2, WIDTH)
    left = np.reshape(made.rnn.units_kept, (2, 8))
    sliced = torch.stack([start[at][:, left[at]] for at in (0, 1)])
    torch.testing.assert_close(made.rnn(rows, (start, start))[0], made.rnn(rows, (sliced, sliced))[0])


def test_a_projection_keeps_its_width():
    torch.manual_seed(0)

    class Projected(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.head = nn.LSTM(6, WIDTH, 2, proj_size=4, bidirectional=True), nn.Linear(8, 3)

        def forward(self, x):
            return self.head(self.first(x)[0])

    module, rows = Projected().eval(), torch.randn(4, 2, 6)
    made, cut = pruned(module, {"x": rows}, 0.4, {})
    assert cut.units == {"first": (WIDTH, 8)}
    twin = silenced(module, np.reshape(made.first.units_kept, (-1, 8)), 4)
    torch.testing.assert_close(made(rows), twin(rows))


def test_it_comes_back_from_its_file_and_exports(tmp_path):
    origin = live_model(trained("recurrent"))
    change = Prune(0.3).apply(subject_of(origin), tmp_path / "pruned", MACHINE, Progress())
    units = next(table for table in change.records[0].tables if table.title == "Recurrent units")
    assert units.rows == (("rnn", 24, 16),)
    assert load_module(change.model).rnn.weight_hh_l1.shape == (64, 16)
    again = Prune(0.3).apply(subject_of(change.model), tmp_path / "again", MACHINE, Progress())
    back = load_module(again.model).rnn
    assert (back.hidden_size, back.units_before) == (12, 24)
    assert set(back.units_kept) <= set(load_module(change.model).rnn.units_kept)
    exported = Onnx().apply(subject_of(change.model), tmp_path / "onnx", MACHINE, Progress())
    assert np.abs(outputs_of(exported.model) - outputs_of(change.model)).max() < 1e-3


class Mixed(nn.Module):
    def __init__(self, between):
        super().__init__()
        self.feed = nn.Linear(8, 32)
        self.rnn = nn.LSTM(32, 16, batch_first=True)
        self.between = between
        self.middle = nn.Linear(16, 24)
        self.head = nn.Linear(24, 10)

    def forward(self, x):
        steps = self.rnn(torch.relu(self.feed(x)))[0]
        return self.head(torch.relu(self.middle(self.between(steps[:, -1]))))


def test_what_feeds_a_recurrent_layer_keeps_its_width(tmp_path):
    subject = Subject(
        live_model(Mixed(nn.Identity()).eval()), inputs=(InputSpec("x", (None, 5, 8), "float32"),)
    )
    (record,) = Prune(0.5).apply(subject, tmp_path, MACHINE, Progress()).records
    assert [table.rows for table in record.tables] == [(("middle", 24, 12),), (("rnn", 16, 8),)]
    (found,) = [found for found in record.findings if "feed a recurrent" in found.what]
    assert found.where == "'feed'"


@pytest.mark.parametrize(
    ("between", "why"),
    [
        (nn.LayerNorm(16), "what it gives is read by 'between', a LayerNorm"),
        (nn.Softmax(-1), "what 'middle' reads of it is mixed beforehand"),
        (nn.Sigmoid(), "the model without them is not the model in which they are silent"),
    ],
)
def test_units_whose_readers_are_unclear_stay(between, why):
    made, cut = pruned(Mixed(between).eval(), {"x": torch.randn(2, 5, 8)}, 0.5, {})
    assert made.rnn.hidden_size == 16
    assert cut.left[f"are recurrent ({why})"] == ["rnn"]


def test_units_go_by_what_they_are_worth_where_that_is_known():
    module = Reader(nn.GRU, "last").eval()
    worth = {name: torch.ones_like(one) for name, one in module.named_parameters()}
    worth["first.weight_ih_l1"][:, 2:6] = worth["head.weight"][:, 4:8] = 0.5  # what layers 0 and 1 give
    made, _ = pruned(module, {"x": torch.randn(2, 4, 6)}, 0.4, worth)
    left = np.reshape(made.first.units_kept, (2, 8)).tolist()
    assert left == [[0, 1, 6, 7, 8, 9, 10, 11], [0, 1, 2, 3, 8, 9, 10, 11]]
