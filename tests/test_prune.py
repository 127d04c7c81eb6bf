import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from export.passes.onnx import Onnx
from export.passes.prune import Prune
from export.pruning.channels import kept_of
from study.errors import InputError, SkipError
from study.loading import load_module
from study.loading.live import digest, live_model
from study.progress import Progress
from study.record import Verdict
from study.subject import Model
from tests.export_subjects import (
    MACHINE,
    accuracy_of,
    outputs_of,
    subject_of,
    trained,
    training_split,
)

pytestmark = pytest.mark.usefixtures("untimed")


def parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("name", ["cnn", "mlp", "residual", "encoder"])
def test_parameters_fall_and_the_model_comes_back_from_its_file(name, tmp_path):
    module = trained(name)
    before = digest(module)
    origin = live_model(module)
    change = Prune(0.3).apply(subject_of(origin), tmp_path, MACHINE, Progress())
    assert digest(module) == before
    assert all(parameter.requires_grad for parameter in module.parameters())
    assert change.model.artifact == "pytorch/fp32"
    assert [file.name for file in tmp_path.iterdir()] == ["model.pt"]
    pruned = load_module(change.model)
    assert not any(part.training for part in pruned.modules())
    (record,) = change.records
    assert record.by == "prune"
    assert record.metrics["parameters@before_pruning"].value == parameters(module)
    assert record.metrics["parameters@after_pruning"].value == parameters(pruned) < parameters(module)
    assert "no training rows were given" in record.summary
    layers = dict(pruned.named_modules())
    widths = {row[0]: row[2] for row in record.tables[0].rows}
    assert widths == {name: len(layers[name].weight) for name in widths}
    assert outputs_of(change.model).shape == outputs_of(origin).shape


def test_a_pruned_residual_net_recovers_and_exports(tmp_path):
    subject = subject_of(live_model(trained("residual")), training=training_split())
    change = Prune(0.3, epochs=3).apply(subject, tmp_path / "prune", MACHINE, Progress())
    (record,) = change.records
    assert record.metrics["loss@after_recovery"].value < record.metrics["loss@before_recovery"].value
    cut = Prune(0.3).apply(subject_of(subject.model), tmp_path / "bare", MACHINE, Progress())
    recovered, bare = accuracy_of(outputs_of(change.model)), accuracy_of(outputs_of(cut.model))
    assert recovered > bare
    assert recovered > 0.8
    exported = Onnx().apply(subject_of(change.model), tmp_path / "onnx", MACHINE, Progress())
    assert exported.records[0].verdict is Verdict.GOOD
    assert np.abs(outputs_of(exported.model) - outputs_of(change.model)).max() < 1e-3
    assert exported.model.bytes < 0.8 * 4 * parameters(trained("residual")) + 20_000
    onnxruntime.InferenceSession(exported.model.path, providers=["CPUExecutionProvider"])


def test_a_state_dict_with_its_factory_is_pruned(tmp_path):
    torch.save(trained("mlp").state_dict(), tmp_path / "m.pt")
    before = (tmp_path / "m.pt").read_bytes()
    model = Model(tmp_path / "m.pt", "pytorch", arch="tests.export_subjects:Mlp")
    change = Prune(0.5).apply(subject_of(model), tmp_path / "out", MACHINE, Progress())
    assert (tmp_path / "m.pt").read_bytes() == before
    pruned = load_module(change.model)
    assert [part.out_features for part in pruned.modules() if isinstance(part, nn.Linear)] == [32, 16, 10]


def test_nothing_prunable_is_a_reason(tmp_path):
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()
    with pytest.raises(SkipError, match="no parameter could be pruned"):
        Prune(0.3).apply(subject_of(live_model(module)), tmp_path, MACHINE, Progress())
    assert not list(tmp_path.iterdir())


class Sized(nn.Module):
    """Its forward holds a size as a number, as tutorials write it."""

    def __init__(self, *widths):
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Conv2d(*pair, 3, padding=1) for pair in zip((1, *widths), widths, strict=False))
        )
        self.head = nn.Linear(widths[-1] * 64, 10)

    def forward(self, x):
        return self.head(self.body(x).view(-1, 16 * 64))


def test_what_forward_reshapes_to_a_number_keeps_its_width(tmp_path):
    origin = live_model(Sized(32, 16).eval())
    change = Prune(0.3).apply(subject_of(origin), tmp_path, MACHINE, Progress())
    (record,) = change.records
    assert record.tables[0].rows == (("body.0", 32, 24),)
    (found,) = [found for found in record.findings if "reshaped" in found.what]
    assert found.where == "'body.1'"
    assert outputs_of(change.model).shape == outputs_of(origin).shape


def test_sizes_in_forward_are_a_reason_where_nothing_else_can_go(tmp_path):
    with pytest.raises(SkipError, match="reshaped to a size that forward holds as a number"):
        Prune(0.3).apply(subject_of(live_model(Sized(16).eval())), tmp_path, MACHINE, Progress())


def test_frozen_parameters_come_back_frozen(tmp_path):
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)).eval()
    module[1].weight.requires_grad_(False)
    change = Prune(0.5).apply(subject_of(live_model(module)), tmp_path, MACHINE, Progress())
    assert [parameter.requires_grad for parameter in load_module(change.model).parameters()] == [
        False,
        True,
        True,
        True,
    ]


@pytest.mark.parametrize("ratio", [-0.1, 0.0, 1.0, 1.5])
def test_a_ratio_outside_0_to_1_is_refused_at_once(ratio):
    with pytest.raises(InputError, match="between 0 and 1"):
        Prune(ratio)


@pytest.mark.parametrize(
    ("width", "ratio", "kept"),
    [
        (64, 0.3, 48),
        (128, 0.3, 96),
        (32, 0.3, 24),
        (16, 0.3, 12),
        (64, 0.05, 60),
        (64, 0.01, 63),
        (512, 0.05, 480),
        (10, 0.5, 4),
        (2, 0.9, 1),
        (1, 0.5, 1),
    ],
)
def test_widths_are_multiples_that_kernels_take_where_one_is_close(width, ratio, kept):
    assert kept_of(width, ratio) == kept
