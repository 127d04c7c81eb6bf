import numpy as np
import pytest
import torch
from torch import nn

from study.errors import InputError, SkipError
from study.feed import Feed
from study.fits import Fit
from study.loading.live import digest
from study.losses import answers, as_logits, as_table, task_loss, teacher_loss
from study.progress import Progress
from study.subject import Data, InputSpec, Split
from study.task import Task, losses
from study.training import fit
from tests.export_subjects import CLASSES, TASK, Cnn, Mlp, digits, trained, training_split

GENERATOR = np.random.default_rng(0)


def feed_of(split=None):
    return Feed.open(split or training_split(), (InputSpec("x", (None, 1, 8, 8), "float32"),))


def test_a_fit_learns_and_is_the_same_twice():
    digests, results = [], []
    for _ in range(2):
        torch.manual_seed(3)
        module = Cnn().eval()
        results.append(
            fit(module, feed_of(), TASK, Fit(3, seed=7, learning_rate=5e-3, held_out=0.2), Progress())
        )
        digests.append(digest(module))
        assert not module.training
        torch.rand(1)
    assert digests[0] == digests[1]
    assert results[0] == results[1]
    assert (results[0].rows, results[0].held_out, results[0].epochs) == (800, 200, 3)
    assert results[0].after.loss < 0.7 * results[0].before.loss


def test_the_global_generator_is_left_alone():
    module = Mlp()
    torch.manual_seed(1)
    wanted = torch.rand(3)
    torch.manual_seed(1)
    fit(module, feed_of(), TASK, Fit(epochs=1), Progress())
    assert torch.equal(torch.rand(3), wanted)


def test_a_fit_that_only_harms_leaves_the_weights_and_stops_early():
    module = Mlp()
    module.load_state_dict(trained("mlp").state_dict())
    before = digest(module)
    result = fit(module, feed_of(), TASK, Fit(epochs=9, learning_rate=5.0, patience=2), Progress())
    assert digest(module) == before
    assert result.after == result.before
    assert result.epochs == 2
    assert "no longer better" in result.ended


def test_a_fit_ends_when_its_time_is_over():
    result = fit(Mlp(), feed_of(), TASK, Fit(epochs=500, seconds=0.0), Progress())
    assert (result.epochs, result.ended) == (1, "the time was over")


def test_a_teacher_draws_the_student_to_it():
    teacher = trained("cnn")

    def apart(module):
        x = torch.from_numpy(digits()[0][:500])
        with torch.no_grad():
            return float(teacher_loss(TASK, module(x), teacher(x), 1.0))

    torch.manual_seed(0)
    student = Cnn().eval()
    first = apart(student)
    fit(
        student,
        feed_of(),
        TASK,
        Fit(epochs=3, distillation=1.0, learning_rate=5e-3),
        Progress(),
        teacher,
    )
    assert apart(student) < 0.5 * first


@pytest.mark.parametrize(
    ("task", "encoded"),
    [
        (Task("multiclass", "logits", CLASSES), GENERATOR.integers(0, 10, 40)),
        (Task("multiclass", "probabilities", CLASSES), GENERATOR.integers(0, 10, 40)),
        (Task("multiclass", "log-probabilities", CLASSES), GENERATOR.integers(0, 10, 40)),
        (Task("binary", "logits", ("a", "b")), GENERATOR.integers(0, 2, 40)),
        (Task("binary", "probabilities", ("a", "b")), GENERATOR.integers(0, 2, 40)),
        (Task("multilabel", "logits", CLASSES), GENERATOR.integers(0, 2, (40, 10)).astype(np.int8)),
        (Task("multilabel", "probabilities", CLASSES), GENERATOR.integers(0, 2, (40, 10)).astype(np.int8)),
        (Task("regression", "value"), GENERATOR.standard_normal((40, 3))),
    ],
)
def test_the_loss_is_the_one_that_the_report_shows(task, encoded):
    width = {"multiclass": 10, "multilabel": 10, "binary": 1, "regression": 3}[task.kind]
    raw = torch.from_numpy(GENERATOR.standard_normal((40, width)))
    several = task.kind == "multiclass"
    shown = {
        "logits": lambda: raw,
        "value": lambda: raw,
        "probabilities": lambda: raw.softmax(1) if several else raw.sigmoid(),
        "log-probabilities": lambda: raw.log_softmax(1),
    }[task.output]()
    got = float(task_loss(task, as_logits(task, shown), encoded))
    assert got == pytest.approx(losses(task, shown.numpy(), encoded).mean(), rel=1e-5)


@pytest.mark.parametrize("kind", ["multiclass", "binary", "multilabel", "regression"])
def test_the_teacher_s_loss_is_zero_for_its_own_outputs_and_positive_else(kind):
    task = Task(kind, "value" if kind == "regression" else "logits")
    wanted = torch.from_numpy(GENERATOR.standard_normal((20, 1 if kind == "binary" else 4)))
    assert abs(float(teacher_loss(task, wanted, wanted, 2.0))) < 1e-12
    assert float(teacher_loss(task, wanted + torch.randn_like(wanted), wanted, 2.0)) > 1e-3


def test_the_softened_divergence_is_that_of_its_definition():
    heat, given, wanted = 2.0, GENERATOR.standard_normal((6, 4)), GENERATOR.standard_normal((6, 4))

    def soft(scores):
        exps = np.exp(scores / heat)
        return exps / exps.sum(1, keepdims=True)

    p, q = soft(wanted), soft(given)
    twin = heat**2 * (p * np.log(p / q)).sum(1).mean()
    task = Task("multiclass", "logits")
    assert float(
        teacher_loss(task, torch.from_numpy(given), torch.from_numpy(wanted), heat)
    ) == pytest.approx(twin)


def test_the_scored_output_is_found_by_name():
    first, second = torch.zeros(3), torch.ones(3, 2)
    piece = feed_of().at(np.arange(3))

    def found(outputs, name):
        return answers(Task("multiclass", "logits", CLASSES, name), outputs, piece).logits

    assert found({"a": first, "b": second}, "b") is second
    assert found((first, second), "output_1") is second
    assert found((first, second), "output_0").shape == (3, 1)
    with pytest.raises(InputError, match="no output 'c'"):
        found({"a": first, "b": second}, "c")
    with pytest.raises(SkipError, match="no tensor"):
        as_table("words")


def test_too_few_rows_and_missing_labels_are_reasons(tmp_path):
    few = Split(training_split().data, (0, 1, 2))
    with pytest.raises(SkipError, match="too few"):
        fit(Mlp(), feed_of(few), TASK, Fit(), Progress())
    np.savez(tmp_path / "bare.npz", x=digits()[0][:20])
    with pytest.raises(SkipError, match="no labels"):
        fit(Mlp(), feed_of(Split(Data(str(tmp_path / "bare.npz")))), TASK, Fit(), Progress())


def test_a_loss_that_is_not_finite_is_a_reason():
    module = Mlp()
    nn.init.constant_(module.head.weight, float("nan"))
    with pytest.raises(SkipError, match="not finite"):
        fit(module, feed_of(), TASK, Fit(epochs=1), Progress())


def test_small_batches_keep_the_statistics_of_batch_normalisation():
    module = Cnn()
    before = module.norm.running_mean.clone()
    fit(module, feed_of(), TASK, Fit(epochs=1, batch_size=4, seconds=1), Progress())
    assert torch.equal(module.norm.running_mean, before)
    fit(module, feed_of(), TASK, Fit(epochs=1), Progress())
    assert not torch.equal(module.norm.running_mean, before)


# --- rows with parts ---------------------------------------------------------------------------------------


class Guesser(nn.Module):
    """The next token from the one before."""

    def __init__(self):
        super().__init__()
        self.body = nn.Embedding(12, 16)
        self.head = nn.Linear(16, 12)

    def forward(self, ids, attention_mask=None):
        del attention_mask
        return self.head(self.body(ids))


class Painter(nn.Sequential):
    """A class a pixel."""

    def __init__(self):
        super().__init__(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 3, 1))


def rows_of(kind, path):
    """A feed of rows with parts, and their task."""
    random = np.random.default_rng(0)
    if kind == "segmentation":
        x = digits()[0][:120]
        np.savez(path, x=x, y=np.where(x[:, 0] > 0.6, 2, np.where(x[:, 0] > 0.1, 1, 0)))
        specs = (InputSpec("x", (None, 1, 8, 8), "float32"),)
        task = Task(kind, "logits", ("a", "b", "c"), "output", 3, 1)
    else:
        ids = (random.integers(0, 12, (120, 1)) + np.arange(10)) % 12  # each token is one more than the last
        there = np.arange(10) < random.integers(3, 11, (120, 1))
        arrays = {"ids": np.where(there, ids, 0), "attention_mask": there.astype(np.int64)}
        tags = {"y": np.where(there, (ids * 5) % 12, -1)} if kind == "tokens" else {}
        np.savez(path, **arrays, **tags)
        specs = tuple(InputSpec(name, (None, 10), "int64") for name in arrays)
        classes = tuple("abcdefghijkl") if kind == "tokens" else ()
        task = Task(kind, "logits", classes, "output", 12, -1)
    label = "" if kind == "language" else "y"
    return Feed.open(Split(Data(str(path), label=label)), specs), task


@pytest.mark.parametrize("kind", ["tokens", "language", "segmentation"])
def test_parts_of_rows_teach_by_their_labels_and_by_a_teacher(kind, tmp_path):
    feed, task = rows_of(kind, tmp_path / "rows.npz")
    made = []
    for seed in range(2):
        torch.manual_seed(seed)
        made.append((Painter if kind == "segmentation" else Guesser)())
    teacher, student = made
    settings = Fit(epochs=8, learning_rate=3e-2, batch_size=16, distillation=1.0)
    learnt = fit(teacher, feed, task, settings, Progress())
    assert learnt.after.loss < 0.3 * learnt.before.loss
    assert learnt.after.agreement is None
    taught = fit(student, feed, task, settings, Progress(), teacher)
    assert taught.after.loss < 0.1 * taught.before.loss
    agreement = taught.after.agreement
    assert agreement.value > 0.9
    assert agreement.n == taught.held_out == 12  # texts and images, not what is in them
    assert agreement.low < agreement.value <= agreement.high


# --- the rate, hints, rows drawn anew -----------------------------------------------------------------------


def test_of_the_rates_that_are_tried_the_best_is_taken(monkeypatch):
    for rates in ((30.0, 1e-2), (1e-2, 1e-7)):
        monkeypatch.setattr("study.training.RATES", rates)
        torch.manual_seed(0)
        assert fit(Mlp(), feed_of(), TASK, Fit(epochs=2), Progress()).learning_rate == 1e-2


def test_a_trial_leaves_the_weights_as_they_were(monkeypatch):
    monkeypatch.setattr("study.training.RATES", (1e-2,))
    fitted = []
    for rate in (0.0, 1e-2):
        torch.manual_seed(0)
        module = Mlp()
        fit(module, feed_of(), TASK, Fit(epochs=2, learning_rate=rate), Progress())
        fitted.append(digest(module))
    assert fitted[0] == fitted[1]


def test_hints_bring_hidden_layers_together():
    teacher = trained("residual")
    x = torch.from_numpy(digits()[0][:300])

    def apart(module):
        with torch.no_grad():
            return float(
                (module.two(module.one(module.stem(x))) - teacher.two(teacher.one(teacher.stem(x))))
                .square()
                .mean()
            )

    far = {}
    for weight in (0.0, 20.0):
        torch.manual_seed(1)
        student = type(teacher)()
        settings = Fit(epochs=3, learning_rate=5e-3, features=weight)
        some = Split(training_split().data, tuple(range(300)))
        fitted = fit(student, feed_of(some), TASK, settings, Progress(), teacher)
        assert fitted.hints == (("one", "two") if weight else ())
        assert not student.two._forward_hooks
        assert not teacher.two._forward_hooks
        far[weight] = apart(student)
    assert far[20.0] < 0.75 * far[0.0]


def test_rows_drawn_anew_teach_and_are_the_same_twice():
    digests = []
    for _ in range(2):
        torch.manual_seed(0)
        module = Cnn()
        settings = Fit(epochs=2, learning_rate=5e-3, augment=("shift", "mix"))
        fitted = fit(module, feed_of(), TASK, settings, Progress(), trained("cnn"))
        assert fitted.after.loss < 0.8 * fitted.before.loss
        digests.append(digest(module))
    assert digests[0] == digests[1]


class Watched(Cnn):
    """Says whether its images came with the channels last; ``viewed`` takes the usual layout for granted."""

    def __init__(self, *, viewed: bool) -> None:
        super().__init__()
        self.viewed, self.seen = viewed, []

    def forward(self, x):
        self.seen.append(self.two.weight.is_contiguous(memory_format=torch.channels_last))
        x = self.pool(torch.relu(self.norm(self.one(x))))
        x = self.pool(torch.relu(self.two(x)))
        return self.head(x.view(len(x), -1) if self.viewed else x.flatten(1))


@pytest.mark.parametrize("viewed", [False, True])
def test_convolutions_train_with_channels_last_unless_the_module_forbids_it(viewed):
    torch.manual_seed(0)
    module, teacher = Watched(viewed=viewed), Watched(viewed=viewed)
    fitted = fit(module, feed_of(), TASK, Fit(epochs=1, learning_rate=5e-3), Progress(), teacher)
    assert fitted.after.loss < fitted.before.loss
    for part in (module, teacher):
        assert part.seen[-1] is not viewed
        assert all(one.is_contiguous() for one in part.parameters())
        assert all(one.grad is None for one in teacher.parameters())


def test_the_layout_changes_no_answer():
    outcomes = []
    for viewed in (False, True):
        torch.manual_seed(0)
        module = Watched(viewed=viewed)
        outcomes.append(
            fit(module, feed_of(), TASK, Fit(epochs=1, learning_rate=1e-3, held_out=0.2), Progress())
        )
    one, other = outcomes
    assert one.before.loss == pytest.approx(other.before.loss, rel=1e-4)
    assert one.after.loss == pytest.approx(other.after.loss, rel=0.02)
