"""What outputs mean: guessed, read, and measured as scikit-learn measures it."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss

from study.errors import InputError
from study.guess import guess_task
from study.task import Task, as_table, decisions, encode, losses, probabilities, read, scored


def softmax(logits):
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


def logits_of(rows=40, classes=4, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, classes)).astype(np.float32) * 3


LABELS = np.arange(40) % 4


@settings(max_examples=60)
@given(
    classes=st.integers(2, 200),
    scale=st.floats(0.1, 30),
    seed=st.integers(0, 10**6),
    kind=st.sampled_from(["logits", "probabilities", "log-probabilities"]),
    dtype=st.sampled_from([np.float16, np.float32, np.float64]),
)
def test_what_the_output_is_is_told_from_it(classes, scale, seed, kind, dtype):
    random = np.random.default_rng(seed)
    logits = random.normal(size=(32, classes)) * scale
    output = {"logits": logits, "probabilities": softmax(logits)}.get(kind)
    if output is None:
        output = np.log(np.maximum(softmax(logits), 1e-30))
    task, said = guess_task(random.integers(0, classes, 32), {"out": output.astype(dtype)})
    assert (task.kind, task.output, task.output_name) == ("multiclass", kind, "out")
    assert len(task.classes) == classes
    assert f"{classes} classes" in said[0]


def test_bfloat16_probabilities_are_recognised():
    output = torch.softmax(torch.from_numpy(logits_of(classes=4)), dim=1).bfloat16()
    task, _ = guess_task(LABELS, {"out": output})
    assert task.output == "probabilities"


def test_the_sentence_that_is_said_aloud():
    _, said = guess_task(np.arange(10), {"out": logits_of(10, 10)})
    assert len(said) == 1
    assert said[0] == (
        "The task is classification of 10 classes: labels are the integers 0 to 9 "
        "and the output has 10 columns of logits."
    )


@pytest.mark.parametrize(
    ("labels", "output", "kind", "reading"),
    [
        (np.arange(40) % 2, logits_of(40, 1), "binary", "logits"),
        (np.arange(40) % 2, 1 / (1 + np.exp(-logits_of(40, 1))), "binary", "probabilities"),
        (np.arange(40) % 2 == 1, logits_of(40, 1)[:, 0], "binary", "logits"),
        (np.arange(40) % 2, logits_of(40, 2), "multiclass", "logits"),
        (LABELS.astype(float), logits_of(), "multiclass", "logits"),
        (np.where(LABELS == 0, np.nan, LABELS), logits_of(), "multiclass", "logits"),
        (np.eye(4)[LABELS], logits_of(), "multiclass", "logits"),
        (np.arange(40), logits_of(40, 1), "regression", "value"),
        (np.linspace(0, 1, 40), logits_of(40, 1), "regression", "value"),
        (np.random.default_rng(1).normal(size=(40, 3)), logits_of(40, 3), "regression", "value"),
        (np.arange(80).reshape(40, 2) % 3 % 2, logits_of(40, 2), "multilabel", "logits"),
        (np.tile([1, 1, 0], (40, 1)), 1 / (1 + np.exp(-logits_of(40, 3))), "multilabel", "probabilities"),
        (None, logits_of(), "multiclass", "logits"),
        (None, logits_of(40, 1), "regression", "value"),
    ],
)
def test_the_kind_is_guessed(labels, output, kind, reading):
    task, said = guess_task(labels, {"out": output})
    assert (task.kind, task.output) == (kind, reading)
    assert said


def test_words_go_by_classes_own_names_or_sorted_order():
    labels = np.array(["狗", "猫", "🐟", None] * 5, dtype=object)
    output = {"out": logits_of(20, 3)}
    by_order, said = guess_task(labels, output)
    assert by_order.classes == tuple(sorted(["狗", "猫", "🐟"]))
    assert "sorted order" in said[-1]
    asked, _ = guess_task(labels, output, classes=("🐟", "猫", "狗"))
    assert encode(asked, labels[:3]).tolist() == [2, 1, 0]
    own, _ = guess_task(labels, output, source_classes=("狗", "猫", "🐟"))
    assert encode(own, labels[:3]).tolist() == [0, 1, 2]


def test_binary_words_have_the_second_of_them_as_positive():
    task, _ = guess_task(np.array(["نعم", "لا"] * 10, dtype=object), {"out": logits_of(20, 1)})
    assert task.kind == "binary"
    assert encode(task, np.array(["نعم", "لا"], dtype=object)).tolist() == [
        task.classes.index("نعم"),
        task.classes.index("لا"),
    ]


@pytest.mark.parametrize(
    ("labels", "output", "options", "needle"),
    [
        (np.arange(40) % 5, logits_of(), {}, "go up to 4"),
        (1 + LABELS, logits_of(), {}, "counted from 0"),
        (LABELS - 1, logits_of(), {}, "negative"),
        (np.array(["a", "b", "c"] * 10), logits_of(30), {}, "--classes"),
        (LABELS, logits_of(), {"classes": ("a", "b")}, "--classes"),
        (LABELS, logits_of(), {"classes": ("a", "b", "b", "c")}, "twice"),
        (LABELS, logits_of(), {"asked": "multiclas"}, "Did you mean 'multiclass'"),
        (LABELS, logits_of(40, 1), {"asked": "classification"}, "go up to 3"),
        (LABELS, logits_of(40, 1), {"asked": "multiclass"}, "single output"),
        (LABELS % 2, logits_of(), {"asked": "binary"}, "one or two outputs"),
        (LABELS, logits_of(), {"asked": "multilabel"}, "multilabel"),
        (LABELS, logits_of(), {"asked": "regression"}, "as many"),
        (np.linspace(0, 1, 40), logits_of(), {}, "fractions"),
        (np.array(["a", "b"] * 20), logits_of(40, 1), {"asked": "regression"}, "Words"),
        (LABELS, logits_of(), {"output_name": "lgits"}, "no output 'lgits'"),
        (np.array([1, 2] * 20), logits_of(40, 1), {}, "go up to 2"),
        (LABELS, np.zeros((40, 5, 4)), {}, "one score a class"),
    ],
)
def test_contradictions_are_said(labels, output, options, needle):
    with pytest.raises(InputError, match=needle):
        guess_task(labels, {"out": output}, **options)


def test_of_several_outputs_the_logits_are_scored():
    task, said = guess_task(LABELS, {"hidden": np.zeros((40, 9)), "logits": logits_of()})
    assert task.output_name == "logits"
    assert "'logits' is the one that is scored" in said[0]


def test_nan_outputs_do_not_hide_the_task():
    output = softmax(logits_of())
    output[3] = np.nan
    task, _ = guess_task(LABELS, {"out": output})
    assert task.output == "probabilities"
    all_nan, _ = guess_task(LABELS, {"out": np.full((40, 4), np.nan)})
    assert all_nan.kind == "multiclass"


@pytest.mark.parametrize("output", ["logits", "probabilities", "log-probabilities"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_multiclass_losses_are_those_of_sklearn(output, dtype):
    logits = logits_of().astype(np.float64)
    given_as = {
        "logits": logits,
        "probabilities": softmax(logits),
        "log-probabilities": np.log(softmax(logits)),
    }[output].astype(dtype)
    task = Task("multiclass", output, tuple("0123"))
    chances = probabilities(task, given_as)
    np.testing.assert_allclose(chances, softmax(logits), atol=2e-3 if dtype == np.float16 else 1e-6)
    expected = log_loss(LABELS, softmax(logits), labels=range(4))
    tolerance = 1e-2 if dtype == np.float16 else 1e-6
    assert losses(task, given_as, LABELS).mean() == pytest.approx(expected, rel=tolerance)
    assert (decisions(task, given_as) == logits.argmax(axis=1)).mean() == 1.0


@pytest.mark.parametrize("output", ["logits", "probabilities"])
def test_binary_losses_are_those_of_sklearn(output):
    logits = logits_of(40, 1).astype(np.float64)
    chance = 1 / (1 + np.exp(-logits))
    task = Task("binary", output, ("0", "1"))
    scores = logits if output == "logits" else chance
    truth = np.arange(40) % 2
    assert losses(task, scores, truth).mean() == pytest.approx(log_loss(truth, chance), rel=1e-9)
    np.testing.assert_allclose(probabilities(task, scores), np.hstack([1 - chance, chance]), atol=1e-12)
    assert (decisions(task, scores) == (logits[:, 0] > 0)).all()


def test_multilabel_losses_are_the_mean_over_labels():
    logits = logits_of(40, 3).astype(np.float64)
    truth = (np.arange(120).reshape(40, 3) % 5 < 2).astype(np.int8)
    chance = 1 / (1 + np.exp(-logits))
    expected = np.mean([log_loss(truth[:, label], chance[:, label]) for label in range(3)])
    assert losses(Task("multilabel", "logits"), logits, truth).mean() == pytest.approx(expected)
    assert losses(Task("multilabel", "probabilities"), chance, truth).mean() == pytest.approx(expected)


def test_extreme_logits_stay_numbers():
    task = Task("multiclass", "logits", ("0", "1"))
    output = np.array([[65504.0, -65504.0], [1e5, 1e5]], dtype=np.float32)
    assert np.isfinite(probabilities(task, output)).all()
    assert losses(task, output, np.array([1, 0])).tolist() == [131008.0, pytest.approx(np.log(2))]
    binary = Task("binary", "logits", ("0", "1"))
    assert losses(binary, np.array([[1e4], [-1e4]]), np.array([0, 0])).tolist() == [1e4, 0.0]


def test_a_certain_but_wrong_probability_costs_what_its_precision_allows():
    task = Task("multiclass", "probabilities", ("0", "1"))
    output = np.array([[1.0, 0.0]], dtype=np.float32)
    assert losses(task, output, np.array([1]))[0] == pytest.approx(-np.log(np.finfo(np.float32).eps))


def test_the_columns_of_a_prediction_table():
    logits = logits_of()
    columns = read(
        Task("multiclass", "logits", tuple("0123"), "out"), {"out": torch.from_numpy(logits)}, LABELS
    )
    chances = softmax(logits.astype(np.float64))
    top = np.sort(chances, axis=1)
    np.testing.assert_allclose(columns["confidence"], top[:, -1], rtol=1e-5)
    np.testing.assert_allclose(columns["margin"], top[:, -1] - top[:, -2], atol=1e-6)
    np.testing.assert_allclose(columns["entropy"], -(chances * np.log(chances)).sum(axis=1), rtol=1e-5)
    np.testing.assert_array_equal(columns["output"], logits)
    assert columns["loss"].dtype == np.float32
    assert columns["prediction"].dtype == np.int64
    assert read(Task("multiclass", "logits", ()), {"o": np.zeros((2, 1001))}, None)["output"] is None


def test_a_row_of_nan_is_no_confidence_and_no_loss():
    logits = logits_of()
    logits[5, 2] = np.nan
    columns = read(Task("multiclass", "logits", tuple("0123")), {"out": logits}, LABELS)
    for name in ("confidence", "loss", "margin", "entropy"):
        assert np.flatnonzero(np.isnan(columns[name])).tolist() == [5]


def test_regression_has_values_and_squared_errors():
    task = Task("regression", "value")
    columns = read(task, {"out": np.array([1.0, 3.0])}, np.array([1.5, 1.0]))
    assert columns["prediction"].tolist() == [1.0, 3.0]
    assert columns["loss"].tolist() == [0.25, 4.0]
    assert columns["confidence"] is None
    several = read(task, {"out": np.array([[1.0, 2.0]])}, np.array([[0.0, 0.0]]))
    assert several["loss"].tolist() == [2.5]
    assert several["prediction"].shape == (1, 2)


def test_labels_that_are_no_class_are_refused():
    task = Task("multiclass", "logits", ("cat", "dog"))
    with pytest.raises(InputError, match="Did you mean 'cat'"):
        encode(task, np.array(["cta"], dtype=object))
    with pytest.raises(InputError, match="counted from 0 to 1"):
        encode(task, np.array([2]))


def test_an_artifact_may_rename_its_only_output_but_not_one_of_several():
    task = Task("multiclass", "logits", ("0", "1"), "logits")
    assert scored(task, {"output_0": np.zeros((3, 2))}).shape == (3, 2)
    with pytest.raises(InputError, match="no output 'logits'"):
        scored(task, {"a": np.zeros((3, 2)), "b": np.zeros((3, 2))})
    assert as_table(np.zeros((3, 2, 1, 1))).shape == (3, 2)
