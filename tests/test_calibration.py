"""Calibration against scikit-learn, plain loops and planted truths."""

import numpy as np
import pytest
from sklearn import metrics as oracle
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from diagnose.calibrated import (
    binned_gap,
    brier_scores,
    equal_mass_bins,
    equal_width_bins,
    fitted_temperature,
)
from diagnose.check import CHECKS
from study.errors import SkipError
from study.record import Verdict, record_to_json
from study.task import Task
from tests.prediction_tables import checked, table_of, view_of

DIGITS = Task("multiclass", "probabilities", tuple("0123456789"))


def plain_error(confidence: np.ndarray, right: np.ndarray, bins: int) -> float:
    """The expected calibration error by its definition, bin by bin."""
    total = 0.0
    for place in range(bins):
        low, high = np.float32(place / bins), np.float32((place + 1) / bins)
        inside = (confidence > low) & (confidence <= high)
        if place == 0:
            inside |= confidence == 0
        if inside.any():
            total += abs(right[inside].mean() - confidence[inside].mean()) * inside.mean()
    return total


def softmax(logits: np.ndarray) -> np.ndarray:
    scaled = np.exp(logits - logits.max(axis=1, keepdims=True))
    return scaled / scaled.sum(axis=1, keepdims=True)


def drawn(rng: np.random.Generator, rows: int, temperature: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Logits and labels; the labels follow the logits over ``temperature``."""
    logits = rng.normal(0, 2, (rows, 4))
    chances = softmax(logits / temperature)
    labels = (rng.random((rows, 1)) > chances.cumsum(axis=1)).sum(axis=1)
    return logits, np.minimum(labels, 3)


def test_the_textbook_case() -> None:
    """Confidence .95 and right, 1.0 and wrong, ten bins; 1.0 lies in the last bin, not in one of its own."""
    confidence, right = np.array([0.95, 1.0]), np.array([1.0, 0.0])
    assert binned_gap(confidence, right, equal_width_bins(confidence, 10)).value == pytest.approx(0.475)


def test_bins_are_closed_on_the_right() -> None:
    confidence = np.array([0.0, 1 / 15, 0.067, 0.2, 0.2001, 14 / 15, 1.0])
    assert equal_width_bins(confidence, 15).tolist() == [0, 0, 1, 2, 3, 13, 14]
    assert equal_width_bins(confidence.astype(np.float32), 15).tolist() == [0, 0, 1, 2, 3, 13, 14]


def test_equal_mass_bins_hold_as_many_rows() -> None:
    rng = np.random.default_rng(0)
    assert np.bincount(equal_mass_bins(rng.random(1500), 15)).tolist() == [100] * 15
    tied = np.repeat([0.1, 0.9], [2, 98])
    assert len(np.unique(equal_mass_bins(tied, 15))) <= 2


def test_digits_against_scikit_learn_and_the_plain_loop(tmp_path) -> None:
    rows, labels = load_digits(return_X_y=True)
    model = LogisticRegression(C=1e-3, max_iter=3000).fit(rows[:1000], labels[:1000])
    chances, labels = model.predict_proba(rows[1000:]).astype(np.float32), labels[1000:]
    record = checked("calibration", view_of(tmp_path, DIGITS, table_of(DIGITS, chances, labels)))
    confidence, right = chances.max(axis=1), chances.argmax(axis=1) == labels
    assert record.metrics["ece"].value == pytest.approx(plain_error(confidence, right, 15))
    assert record.metrics["nll"].value == pytest.approx(oracle.log_loss(labels, chances), rel=1e-5)
    hot = np.eye(10)[labels]
    assert record.metrics["brier"].value == pytest.approx(((chances - hot) ** 2).sum(axis=1).mean(), rel=1e-5)
    brier = oracle.brier_score_loss(labels, chances, scale_by_half=False)
    assert record.metrics["brier"].value == pytest.approx(brier, rel=1e-5)
    for name in ("ece", "nll", "brier", "ece@adaptive"):
        metric = record.metrics[name]
        assert metric.low <= metric.value <= metric.high
        assert (metric.n, metric.better) == (len(labels), "lower")
    table = record.tables[0]
    assert table.columns == ("confidence", "accuracy", "low", "high", "rows")
    assert sum(int(row[4] or 0) for row in table.rows) == len(labels)
    assert [picture.kind for picture in record.pictures] == ["reliability"]
    record_to_json(record)


@pytest.mark.parametrize("kind", ["binary", "multiclass"])
def test_two_classes_have_the_binary_brier_score(tmp_path, kind) -> None:
    rng = np.random.default_rng(1)
    chance = rng.random((200, 1)).astype(np.float32)
    labels = (rng.random(200) < chance[:, 0]).astype(np.int64)
    task = Task(kind, "probabilities", ("no", "yes"))
    outputs = chance if kind == "binary" else np.hstack([1 - chance, chance])
    record = checked("calibration", view_of(tmp_path, task, table_of(task, outputs, labels)))
    assert record.metrics["brier"].value == pytest.approx(
        oracle.brier_score_loss(labels, chance[:, 0]), rel=1e-5
    )
    assert record.metrics["nll"].value == pytest.approx(oracle.log_loss(labels, chance[:, 0]), rel=1e-5)


def test_multi_label_probabilities(tmp_path) -> None:
    rng = np.random.default_rng(2)
    chance = rng.random((400, 3)).astype(np.float32)
    labels = (rng.random((400, 3)) < chance).astype(np.int8)
    task = Task("multilabel", "probabilities", ("a", "b", "c"))
    record = checked("calibration", view_of(tmp_path, task, table_of(task, chance, labels)))
    assert record.metrics["ece"].value == pytest.approx(plain_error(chance.ravel(), labels.ravel(), 15))
    assert record.metrics["brier"].value == pytest.approx(((chance - labels) ** 2).mean(), rel=1e-5)
    losses = [oracle.log_loss(labels[:, place], chance[:, place]) for place in range(3)]
    assert record.metrics["nll"].value == pytest.approx(np.mean(losses), rel=1e-5)
    assert record.metrics["ece"].n == 400


def test_a_calibrated_model_is_good_and_its_interval_starts_at_zero(tmp_path) -> None:
    task = Task("multiclass", "logits", tuple("abcd"))
    zero = 0
    for seed in range(20):
        logits, labels = drawn(np.random.default_rng(seed), 500)
        record = checked("calibration", view_of(tmp_path / str(seed), task, table_of(task, logits, labels)))
        zero += record.metrics["ece"].low == 0
        assert record.verdict is Verdict.GOOD or record.findings
    assert zero >= 17


@pytest.mark.parametrize(("temperature", "word"), [(3.0, "over-confident"), (0.4, "under-confident")])
def test_planted_temperatures_are_found(tmp_path, temperature, word) -> None:
    task = Task("multiclass", "logits", tuple("abcd"))
    logits, labels = drawn(np.random.default_rng(0), 6000, temperature)
    record = checked("calibration", view_of(tmp_path, task, table_of(task, logits, labels)))
    assert record.verdict is Verdict.NOTED
    assert word in record.findings[0].what
    assert record.metrics["temperature@fitted"].value == pytest.approx(temperature, rel=0.05)
    effect = record.findings[0].effect
    assert effect is not None
    assert effect.value > 0 if temperature > 1 else effect.value < 0
    assert record.metrics["ece"].low > 0.02


def test_the_interval_covers_the_true_error() -> None:
    """Confidence .8 everywhere, right with .7: the true error is .1."""
    hits = 0
    for seed in range(200):
        right = np.random.default_rng(seed).random(300) < 0.7
        confidence = np.full(300, 0.8)
        metric = binned_gap(confidence, right.astype(float), equal_width_bins(confidence, 15))
        hits += metric.low <= 0.1 <= metric.high
    assert hits / 200 >= 0.92


def test_groups_widen_the_interval() -> None:
    rng = np.random.default_rng(3)
    right = np.repeat(rng.random(30) < 0.7, 20).astype(float)
    confidence = np.full(600, 0.75)
    bins = equal_width_bins(confidence, 15)
    alone = binned_gap(confidence, right, bins)
    grouped = binned_gap(confidence, right, bins, np.repeat(np.arange(30), 20))
    assert grouped.high - grouped.low > 2 * (alone.high - alone.low)


def test_a_perfect_model_has_no_best_temperature() -> None:
    labels = np.arange(40) % 4
    assert fitted_temperature(softmax(3 * np.eye(4)[labels]), labels) is None


def test_brier_of_certain_answers() -> None:
    sure = np.eye(3)[[0, 1]]
    assert brier_scores(sure, np.array([0, 2]), "multiclass").tolist() == [0, 2]


def test_rows_that_are_not_finite_are_left_out(tmp_path) -> None:
    logits, labels = drawn(np.random.default_rng(4), 200)
    task = Task("multiclass", "logits", tuple("abcd"))
    whole = checked("calibration", view_of(tmp_path / "whole", task, table_of(task, logits[5:], labels[5:])))
    logits[:5] = np.nan
    part = checked("calibration", view_of(tmp_path / "part", task, table_of(task, logits, labels)))
    assert part.metrics["ece"].n == 195
    for name, metric in whole.metrics.items():
        assert part.metrics[name].value == pytest.approx(metric.value)


def test_what_has_no_probabilities_is_not_asked_and_one_row_is_skipped(tmp_path) -> None:
    assert "regression" not in CHECKS.get("calibration").kinds, "it gives none"
    classes = Task("multiclass", "logits", tuple("abcd"))
    one = table_of(classes, np.eye(4)[:1], np.array([0]))
    with pytest.raises(SkipError, match="two rows"):
        checked("calibration", view_of(tmp_path / "one", classes, one))


def test_an_infinite_loss_is_no_metric(tmp_path) -> None:
    task = Task("multiclass", "log-probabilities", tuple("ab"))
    outputs = np.array([[0.0, -np.inf]] * 4, dtype=np.float32)
    record = checked("calibration", view_of(tmp_path, task, table_of(task, outputs, np.array([0, 0, 0, 1]))))
    assert "nll" not in record.metrics
    assert "ece" in record.metrics
    assert "infinite" in record.summary
