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
