"""What a fit minimises, for each kind of task, against torch's own losses on the parts that count."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from study.augmentation import mixed, must_fit, varied
from study.errors import InputError, SkipError
from study.features import Hints, Pair, pairs_of, recorded
from study.feed import Feed
from study.losses import agreeing, answers, must_be_fitted, task_loss, teacher_loss
from study.optimising import Learner, rate_at
from study.renormalised import renormalise
from study.subject import Data, InputSpec, Split
from study.task import Task
from tests.export_subjects import Block, Cnn, Residual, digits

RANDOM = np.random.default_rng(0)
ROWS, STEPS, WIDTH = 6, 9, 5


def piece_of(path, inputs, **arrays):
    np.savez(path, **arrays)
    feed = Feed.open(Split(Data(str(path), label="y" if "y" in arrays else "")), inputs)
    return feed.at(np.arange(ROWS))


def parts_of(kind, path):
    """A task, rows of it, an output, and its scores (parts, classes) and labels where they count."""
    lengths = np.arange(ROWS) + 3
    there = np.arange(STEPS) < lengths[:, None]
    ids = RANDOM.integers(0, WIDTH, (ROWS, STEPS))
    if kind == "segmentation":
        masks = RANDOM.integers(0, WIDTH, (ROWS, 4, 4))
        masks[:, 0] = 255
        images = RANDOM.standard_normal((ROWS, 1, 4, 4)).astype("f4")
        piece = piece_of(path, (InputSpec("x", (None, 1, 4, 4), "float32"),), x=images, y=masks)
        output = torch.randn(ROWS, WIDTH, 4, 4)
        task = Task(kind, "logits", tuple("abcde"), "output", WIDTH, 1, 255)
        return task, piece, output, output.movedim(1, -1)[torch.from_numpy(masks != 255)], masks[masks != 255]
    output = torch.randn(ROWS, STEPS, WIDTH)
    if kind == "tokens":
        tags = np.where(there, ids, -100)
        piece = piece_of(path, (InputSpec("x", (None, STEPS), "int64"),), x=ids, y=tags)
        task = Task(kind, "logits", tuple("abcde"), "output", WIDTH, -1)
        return task, piece, output, output[torch.from_numpy(there)], ids[there]
    names = ("ids", "attention_mask")
    specs = tuple(InputSpec(name, (None, STEPS), "int64") for name in names)
    piece = piece_of(path, specs, ids=ids, attention_mask=there.astype(np.int64))
    counted = there[:, 1:]
    scores = output[:, :-1][torch.from_numpy(counted)]
    return Task(kind, "logits", (), "output", WIDTH), piece, output, scores, ids[:, 1:][counted]


@pytest.mark.parametrize("kind", ["tokens", "language", "segmentation"])
def test_parts_that_do_not_count_have_no_part_in_the_loss(kind, tmp_path):
    torch.manual_seed(0)
    task, piece, output, scores, labels = parts_of(kind, tmp_path / "rows.npz")
    found = answers(task, output, piece)
    assert found.counts.sum() == len(found) == len(labels)
    assert found.truth.tolist() == labels.tolist()
    wanted = functional.cross_entropy(scores, torch.from_numpy(labels))
    assert float(task_loss(task, found.logits, found.truth)) == pytest.approx(float(wanted), rel=1e-5)
    other = answers(task, output + torch.randn_like(output), piece).logits
    heat = 3.0
    divergence = functional.kl_div(
        (scores / heat).log_softmax(1), (other / heat).softmax(1), reduction="batchmean"
    )
    got = float(teacher_loss(task, found.logits, other, heat))
    assert got == pytest.approx(heat**2 * float(divergence), rel=1e-4)
    assert agreeing(task, found.logits, other).tolist() == (scores.argmax(1) == other.argmax(1)).tolist()


def test_one_score_a_pixel_is_the_binary_cross_entropy(tmp_path):
    masks = RANDOM.integers(0, 2, (ROWS, 4, 4))
    images = RANDOM.standard_normal((ROWS, 1, 4, 4)).astype("f4")
    piece = piece_of(tmp_path / "a.npz", (InputSpec("x", (None, 1, 4, 4), "float32"),), x=images, y=masks)
    output = torch.randn(ROWS, 4, 4)
    task = Task("segmentation", "logits", ("a", "b"), "output", 1, 0)
    found = answers(task, output, piece)
    wanted = functional.binary_cross_entropy_with_logits(output, torch.from_numpy(masks).float())
    assert float(task_loss(task, found.logits, found.truth)) == pytest.approx(float(wanted), rel=1e-5)


def test_a_detector_has_no_loss_here():
    with pytest.raises(SkipError, match="a detector gives as many boxes as it finds"):
        must_be_fitted(Task("detection", "logits"))


def test_decisions_agree_by_sign_or_by_the_largest_score():
    a, b = torch.tensor([[1.0, -1.0], [0.5, 2.0]]), torch.tensor([[3.0, -2.0], [-0.5, 2.0]])
    assert agreeing(Task("multilabel", "logits", ("a", "b")), a, b).tolist() == [True, False]
    assert agreeing(Task("multiclass", "logits", ("a", "b")), a, b).tolist() == [True, True]
    assert agreeing(Task("regression", "value"), a, b) is None


# --- hidden layers ---------------------------------------------------------------------------------------


def shown(module, x):
    with torch.no_grad(), recorded(module.eval()) as kept:
        module(x)
    return kept


def test_hints_of_a_student_that_is_the_teacher_cost_nothing():
    torch.manual_seed(0)
    module, x = Residual().eval(), torch.from_numpy(digits()[0][:4])
    kept = shown(module, x)
    hints = Hints(pairs_of(kept, kept), x)
    assert hints.names == ["one", "two"]  # the blocks, not what is in them
    assert float(hints.loss(kept, kept)) == 0
    other = {name: one + torch.randn_like(one) * one.std() for name, one in kept.items()}
    assert float(hints.loss(other, kept)) == pytest.approx(1, rel=0.2)  # as much noise as there is signal
    assert not module._forward_hooks
    assert not any(layer._forward_hooks for layer in module.modules())


def test_a_narrower_layer_is_seen_through_a_learnt_map():
    torch.manual_seed(0)
    x = torch.randn(8, 16, 6, 6)
    wide, narrow = Named(16), Named(8)
    pairs = pairs_of(shown(wide, x), shown(narrow, x[:, :8]))
    assert Pair("block", 1, 8, 16) in pairs
    hints = Hints([Pair("block", 1, 8, 16)], x)
    own = {"block": torch.randn(8, 8, 6, 6)}
    mix = torch.randn(16, 8)
    wanted = {"block": torch.einsum("nchw,dc->ndhw", own["block"], mix)}
    with torch.no_grad():
        hints.maps[0].weight.copy_(mix)
        hints.maps[0].bias.zero_()
        assert float(hints.loss(own, wanted)) == pytest.approx(0, abs=1e-9)
    assert not torch.equal(hints.fresh(0)[0].weight, mix)


class Named(torch.nn.Module):
    def __init__(self, width):
        super().__init__()
        self.block = Block(width)

    def forward(self, x):
        return self.block(x).mean((2, 3))


def test_layers_whose_outputs_differ_twice_are_no_pair():
    one = {"a": torch.zeros(2, 3, 4), "b": torch.zeros(2, 3), "c": torch.zeros(2, 5)}
    other = {"a": torch.zeros(2, 4, 5), "b": torch.zeros(2, 6), "d": torch.zeros(2, 5)}
    assert pairs_of(one, other) == [Pair("b", 1, 6, 3)]


# --- rows drawn anew -------------------------------------------------------------------------------------


def test_images_are_mirrored_and_moved_each_for_itself():
    images = {"x": torch.arange(3 * 1 * 8 * 16.0).reshape(3, 1, 8, 16).repeat(20, 1, 1, 1)}
    drawn = torch.Generator().manual_seed(0)
    flipped = varied(("flip",), images, drawn)["x"]
    same = [bool(torch.equal(a, b)) for a, b in zip(flipped, images["x"], strict=True)]
    turned = [bool(torch.equal(a.flip(2), b)) for a, b in zip(flipped, images["x"], strict=True)]
    assert all(one != other for one, other in zip(same, turned, strict=True))
    assert 15 < sum(same) < 45
    moved = varied(("shift",), images, drawn)["x"]
    assert moved.shape == images["x"].shape
    steps = set((moved - images["x"])[:, 0, 3, 8].tolist())  # a pixel far from the rim, numbered by its place
    assert steps <= {float(16 * down + right) for down in (-1, 0, 1) for right in (-2, -1, 0, 1, 2)}
    assert len(steps) > 5


def test_mixed_rows_are_means_of_two():
    rows = {"x": torch.eye(6)}
    made = mixed(rows, torch.Generator().manual_seed(0))["x"]
    assert made.sum(1).tolist() == pytest.approx([1.0] * 6)
    assert all(int((row > 0).sum()) <= 2 for row in made)


def test_what_cannot_be_drawn_anew_is_told():
    task = Task("multiclass", "logits")
    with pytest.raises(InputError, match="have no mean"):
        must_fit(("mix",), task, {"ids": torch.zeros(2, 3, dtype=torch.int64)})
    with pytest.raises(InputError, match="for images alone"):
        must_fit(("flip",), task, {"x": torch.zeros(2, 3)})
    with pytest.raises(InputError, match="a label a part"):
        must_fit(("flip",), Task("segmentation", "logits"), {"x": torch.zeros(2, 1, 4, 4)})


# --- batch normalisation, and the rate -------------------------------------------------------------------


def test_the_statistics_taken_anew_are_the_means_over_the_batches():
    torch.manual_seed(0)
    module, x = Cnn(), torch.from_numpy(digits()[0][:96])
    module.norm.running_mean.fill_(7.0)
    renormalise(module, [lambda at=at: module(x[at : at + 32]) for at in (0, 32, 64)])
    with torch.no_grad():
        seen = module.one(x)
    means = torch.stack([seen[at : at + 32].mean((0, 2, 3)) for at in (0, 32, 64)]).mean(0)
    spreads = torch.stack([seen[at : at + 32].var((0, 2, 3)) for at in (0, 32, 64)]).mean(0)
    assert torch.allclose(module.norm.running_mean, means, atol=1e-5)
    assert torch.allclose(module.norm.running_var, spreads, atol=1e-5)
    assert module.norm.momentum == 0.1
    assert not any(layer.training for layer in module.modules())


def test_a_loss_that_is_not_finite_moves_nothing():
    layer = torch.nn.Linear(2, 1)
    learner = Learner(layer, torch.nn.ModuleList(), 0.1, 10, math.inf)
    before = layer.weight.detach().clone()
    learner.step(layer(torch.tensor([[math.nan, 1.0]])).sum())
    assert torch.equal(layer.weight, before)
    learner.step(layer(torch.ones(1, 2)).sum())
    assert (layer.weight < before).all()


def test_the_rate_rises_and_falls_to_nothing():
    rates = [rate_at(step, 200) for step in range(201)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == rates[10] == 1
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[105] == pytest.approx(0.5)
    assert rates[200] == pytest.approx(0)
