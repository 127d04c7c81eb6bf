"""Pruning until a latency or a size is reached, and what is said of a model that got smaller only."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from export.passes.int8 import Int8
from export.passes.onnx import Onnx
from export.passes.prune import Prune
from export.pruning.targets import Bench, Exported, Goal, Then, Trial, reach
from export.settings import make_pass
from export.timing.paired import Paired
from study.errors import InputError, SkipError
from study.loading import load_module
from study.loading.live import live_model
from study.progress import Progress
from study.record import Metric
from study.subject import InputSpec, Model, Subject
from tests.export_subjects import MACHINE, subject_of, trained


def paired(before, after, floor=0.02, spread=0.0):
    def metric(value):
        return Metric(value, value * (1 - spread), value * (1 + spread), 20, "ms", "lower")

    return Paired(metric(before), metric(after), metric(before / after), floor)


class Imagined:
    """A bench on which a ratio takes (1 - ratio)² of 10 ms and of 4 MB."""

    def __init__(self, least=0.0):
        self.trials, self.least = [], least

    def try_out(self, ratio, module):
        part = max(self.least, (1 - ratio) ** 2)
        sizes = [Exported(SimpleNamespace(bytes=int(4e6 * share)), 0) for share in (part, 1)]
        self.trials.append(Trial(ratio, 0, *sizes, paired(10, 10 * part, spread=0.01)))
        return self.trials[-1]


def narrowed(ratio):
    return nn.Identity(), SimpleNamespace(widths={"a": (1000, round(1000 * (1 - ratio)))}, units={}, heads={})


@pytest.mark.parametrize(
    ("latency", "size", "least"),
    [("5ms", "", 1 - 0.5**0.5), ("25%", "", 0.5), ("", "1MB", 0.5), ("", "25%", 0.5), ("8ms", "1MB", 0.5)],
)
def test_the_smallest_ratio_that_reaches_it_is_taken(latency, size, least):
    bench = Imagined()
    trial, _, cut = reach(Goal.of(latency, size), bench, narrowed, Progress())
    assert least <= trial.ratio < least + 0.04
    assert cut.widths["a"][1] == round(1000 * (1 - trial.ratio))
    assert [one.ratio for one in bench.trials][:2] == [0.9, 0.45]
    assert len(bench.trials) <= 6


def test_what_cannot_be_reached_is_refused_with_what_the_most_gives():
    with pytest.raises(SkipError, match=r"5 ms cannot be reached: at the ratio 0.9, .* 6 ms \[5.94, 6.06\]"):
        reach(Goal.of("5ms", ""), Imagined(least=0.6), narrowed, Progress())


def test_the_interval_and_not_its_middle_must_lie_within():
    sizes = [Exported(SimpleNamespace(bytes=1), 0)] * 2
    within, beyond = (Trial(0.5, 0, *sizes, paired(10, 4.9, spread=spread)) for spread in (0.01, 0.05))
    goal = Goal.of("5ms", "")
    assert goal.reached_by(within)
    assert not goal.reached_by(beyond)


@pytest.mark.parametrize(
    ("after", "gain"), [(5, "smaller and faster"), (9.9, "smaller, not faster"), (12, "smaller, but slower")]
)
def test_smaller_is_not_called_faster(after, gain):
    sizes = [Exported(SimpleNamespace(bytes=size), 0) for size in (1, 2)]
    assert Trial(0.05, 0, *sizes, paired(10, after, floor=0.03)).gain == gain


@pytest.mark.parametrize("typed", ["prune:latency=5", "prune:latency=5MB", "prune:size=5ms", "prune:size=0%"])
def test_what_is_no_goal_is_refused_at_once(typed):
    with pytest.raises(InputError, match="type for example"):
        make_pass(typed)


def test_a_ratio_and_a_goal_are_one_too_many():
    with pytest.raises(InputError, match="says its ratio"):
        Prune(0.3, latency="5ms")


def test_a_residual_net_is_measured_beside_the_unpruned_one(tmp_path):
    change = Prune(0.05).apply(subject_of(live_model(trained("residual"))), tmp_path, MACHINE, Progress())
    (record,) = change.records
    figures = record.metrics
    faster = figures["speedup@pruning_alone"]
    assert any(word in record.summary for word in ("maller, not faster", "maller and faster", "but slower"))
    assert ("and faster" in record.summary) <= (faster.low > 1)
    assert figures["size_bytes@onnx_after_pruning"].value < figures["size_bytes@onnx_before_pruning"].value
    assert figures["macs@after_pruning"].value < figures["macs@before_pruning"].value
    # by hand: 3x3 kernels over 64 pixels, a stem of one channel, and the last layer
    assert figures["macs@before_pruning"].value == 64 * 9 * (16 + 4 * 16 * 16) + 160
    assert [file.name for file in tmp_path.iterdir()] == ["model.pt"]


def test_a_size_is_reached_by_the_file_that_onnx_writes(tmp_path):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(20, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 3))
    subject = Subject(live_model(module.eval()), inputs=(InputSpec("input", (None, 20), "float32"),))
    change = Prune(size="50%").apply(subject, tmp_path, MACHINE, Progress())
    (record,) = change.records
    before, after = (record.metrics[f"size_bytes@onnx_{when}_pruning"].value for when in ("before", "after"))
    assert 0.35 * before < after <= 0.5 * before
    tried = record.tables[-1]
    assert tried.title == "Ratios tried"
    assert [row[-1] for row in tried.rows].count("kept") == 1
    pruned = load_module(change.model)
    assert sum(one.numel() for one in pruned.parameters()) == record.metrics["parameters@after_pruning"].value


def test_a_size_may_be_meant_after_int8(tmp_path):
    subject = subject_of(live_model(trained("residual")))
    change = Prune(size="17kB", then=("int8",)).apply(subject, tmp_path / "prune", MACHINE, Progress())
    (record,) = change.records
    assert "as int8 ONNX" in record.summary
    after = record.metrics["size_bytes@onnx_after_pruning"].value
    plain = Onnx().apply(subject_of(change.model), tmp_path / "onnx", MACHINE, Progress())
    assert plain.model.bytes > 17_000, "in float it is larger than that"
    quantized = Int8().apply(subject_of(plain.model), tmp_path / "int8", MACHINE, Progress())
    assert after <= 17_000
    assert quantized.model.bytes == pytest.approx(after, abs=3000), "torch's newer exporter writes more names"


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("prune:latency=5ms:then=int9", "There is no step 'int9'"),
        ("prune:latency=5ms:then=onnx", "take"),
        ("prune:0.3:then=int8", "of: give one"),
    ],
)
def test_steps_that_cannot_follow_are_refused_at_once(typed, told):
    with pytest.raises(InputError, match=told):
        make_pass(typed)


def test_a_model_that_no_exporter_takes_is_pruned_all_the_same(tmp_path, monkeypatch):
    def refuse(*_):
        raise SkipError("no exporter knows bessel_j0")

    monkeypatch.setattr("export.pruning.targets.exported", refuse)
    module = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 3)).eval()
    subject = Subject(live_model(module), inputs=(InputSpec("input", (None, 20), "float32"),))
    (record,) = Prune(0.5).apply(subject, tmp_path / "a", MACHINE, Progress()).records
    assert "Whether it is faster as ONNX was not measured: no exporter knows" in record.summary
    with pytest.raises(SkipError, match="bessel_j0"):
        Prune(latency="50%").apply(subject, tmp_path / "b", MACHINE, Progress())


def test_paired_times_are_of_the_models_asked_for(tmp_path):
    """The same file beside itself shows no difference; what takes many times as long is slower."""
    torch.manual_seed(0)
    modules = [nn.Linear(64, width, bias=False).eval() for width in (8, 8192)]
    row = {"input": np.zeros((1, 64), "f4")}
    example = {"input": torch.zeros(2, 64)}
    nothing = Then(Subject(live_model(modules[0])))
    small, large = (
        Bench.of(module, example, ("output",), row, MACHINE, tmp_path / str(at), nothing).unpruned
        for at, module in enumerate(modules)
    )
    assert (small.macs, large.macs) == (512, 64 * 8192)
    assert isinstance(small.model, Model)
    assert Paired.of(small.model, large.model, row, MACHINE).word == "slower"
