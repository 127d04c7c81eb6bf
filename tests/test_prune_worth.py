"""What weights are worth is learnt from training rows, and taken where it loses less than their size does."""

import numpy as np
import pytest
import torch
from torch import nn

from export.passes.prune import Prune
from export.pruning.worth import Scales
from study.errors import SkipError
from study.loading import load_module
from study.loading.live import live_model
from study.progress import Progress
from study.subject import Data, InputSpec, Split, Subject
from study.task import Task
from tests.export_subjects import MACHINE

pytestmark = pytest.mark.usefixtures("untimed")
ROWS, WIDTH = 96, 32


@pytest.fixture
def subject(tmp_path):
    """Half of the hidden units have large weights that nobody reads: a norm keeps those, and only those."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, WIDTH), nn.Tanh(), nn.Linear(WIDTH, 3)).eval()
    with torch.no_grad():
        module[0].weight[: WIDTH // 2] *= 30
        module[2].weight[:, : WIDTH // 2] = 0
        module[2].weight *= 10
    rows = torch.randn(ROWS, 6)
    np.savez(tmp_path / "train.npz", x=rows.numpy(), y=module(rows).argmax(1).numpy())
    return Subject(
        live_model(module),
        training=Split(Data(source=str(tmp_path / "train.npz"), label="y")),
        task=Task("multiclass", "logits", ("a", "b", "c"), "output"),
        inputs=(InputSpec("input", (None, 6), "float32"),),
    )


def test_slopes_are_the_squared_products_of_weight_and_gradient_summed_over_batches(subject):
    module, scales = load_module(subject.model), Scales.of(subject, 0)
    assert sum(len(piece) for piece in scales.weighing) == scales.rows == ROWS // 2
    seen = [
        set(np.concatenate([p.rows.positions for p in part])) for part in (scales.weighing, scales.judging)
    ]
    assert not seen[0] & seen[1]
    wanted = torch.zeros(3, WIDTH)
    for piece in scales.weighing:
        hidden = torch.tanh(module[0](torch.from_numpy(piece.batch["input"])))
        wrong = module[2](hidden).softmax(1) - nn.functional.one_hot(torch.from_numpy(piece.rows.labels), 3)
        wanted += (module[2].weight * (wrong.T @ hidden) / len(piece)) ** 2
    torch.testing.assert_close(scales.slopes(module)["2.weight"], wanted.detach())
    assert all(one.grad is None for one in module.parameters())


def test_what_loses_less_is_taken_and_said(subject, tmp_path):
    change = Prune(0.5, epochs=1).apply(subject, tmp_path / "out", MACHINE, Progress())
    (record,) = change.records
    assert change.provenance["importance"] == "the first-order Taylor estimate of the loss"
    losses = {name: record.metrics[f"loss@{name}"].value for name in ("unpruned", "taylor", "l2")}
    assert losses["taylor"] == pytest.approx(losses["unpruned"], rel=1e-4)
    assert losses["l2"] > losses["taylor"] + 0.1
    assert "training rows" in record.summary
    blind = Subject(subject.model, inputs=subject.inputs)
    change = Prune(0.5).apply(blind, tmp_path / "blind", MACHINE, Progress())
    assert change.provenance["importance"] == "the group's L2 norm"
    assert "no training rows were given" in change.records[0].summary


def test_a_task_without_a_loss_has_no_scales(subject):
    found = Subject(
        subject.model, training=subject.training, task=Task("detection", "logits", ("a",), "output")
    )
    with pytest.raises(SkipError):
        Scales.of(found, 0)
