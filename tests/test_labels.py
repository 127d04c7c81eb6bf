"""Each label of a multi-label task: against scikit-learn, plain loops, and what honest gains must be."""

from pathlib import Path

import numpy as np
import pytest
from sklearn import metrics as oracle
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier

from diagnose.judged import read_judged, read_scores
from diagnose.labels import LEAST, best_threshold, chosen_thresholds, f1
from study.record import Record, Verdict, record_to_json
from study.task import Task
from tests.prediction_tables import checked, table_of, view_of

FLAGS = ("odd", "large", "hole", "seven")
TASK = Task("multilabel", "probabilities", FLAGS)


def flags(digit: np.ndarray) -> np.ndarray:
    return np.stack([digit % 2, digit > 4, np.isin(digit, (0, 6, 8, 9)), digit == 7], axis=1).astype(np.int8)


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of four facts of each of 1297 digits, and whether they hold."""
    rows, digit = load_digits(return_X_y=True)
    model = OneVsRestClassifier(LogisticRegression(C=1e-4, max_iter=500)).fit(rows[:500], flags(digit[:500]))
    return model.predict_proba(rows[500:]).astype(np.float32), flags(digit[500:])


def record_of(tmp_path: Path, chances: np.ndarray, labels: np.ndarray, task: Task = TASK) -> Record:
    return checked("confusion", view_of(tmp_path, task, table_of(task, chances, labels)))


def test_the_labels_are_those_of_scikit_learn(tmp_path, digits):
    chances, labels = digits
    table = record_of(tmp_path, chances, labels).tables[0]
    assert table.title == "Labels"
    said = (chances > 0.5).astype(int)
    rows = {row[0]: dict(zip(table.columns, row, strict=True)) for row in table.rows}
    for place, name in enumerate(FLAGS):
        truth, own, score = labels[:, place], said[:, place], chances[:, place]
        expected = {
            "rows": truth.sum(),
            "precision": oracle.precision_score(truth, own, zero_division=0),
            "recall": oracle.recall_score(truth, own),
            "f1": oracle.f1_score(truth, own),
            "average precision": oracle.average_precision_score(truth, score),
        }
        assert {key: rows[name][key] for key in expected} == pytest.approx(expected), name
        for key in ("recall", "f1", "average precision"):
            assert rows[name][f"{key} low"] <= rows[name][key] <= rows[name][f"{key} high"]
    assert [row[8] for row in table.rows] == sorted(row[8] for row in table.rows)


def test_micro_f1_and_the_hamming_loss(tmp_path, digits):
    chances, labels = digits
    record = checked("accuracy", view_of(tmp_path, TASK, table_of(TASK, chances, labels)))
    said = (chances > 0.5).astype(int)
    assert record.metrics["micro_f1"].value == pytest.approx(oracle.f1_score(labels, said, average="micro"))
    assert record.metrics["hamming_loss"].value == pytest.approx(oracle.hamming_loss(labels, said))
    assert record.metrics["hamming_loss"].low < record.metrics["hamming_loss"].high
    assert record.metrics["accuracy"].value == oracle.accuracy_score(labels, said)


def test_the_influence_of_f1_is_its_derivative():
    rng = np.random.default_rng(0)
    positive, said = rng.random((2, 60)) < 0.4
    value, influence = f1(positive, said)
    assert value == pytest.approx(oracle.f1_score(positive, said))
    for row in range(60):
        weight = np.ones(60)
        weight[row] += 1e-6
        moved = oracle.f1_score(positive, said, sample_weight=weight)
        assert (moved - value) / 1e-6 == pytest.approx(influence[row], abs=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_the_best_threshold_is_that_of_a_loop(seed):
    rng = np.random.default_rng(seed)
    score = np.round(rng.random(80), 2)
    positive = rng.random(80) < score**2
    found = best_threshold(positive, score)
    every = [oracle.f1_score(positive, score > one) for one in np.linspace(0, 0.995, 200)]
    assert oracle.f1_score(positive, score > found) == pytest.approx(max(every))


def test_the_gain_is_that_of_a_loop_over_halves(tmp_path, digits):
    chances, labels = digits
    view = view_of(tmp_path, TASK, table_of(TASK, chances, labels))
    judged = read_judged(view)
    scores = read_scores(view, judged)
    assert scores is not None
    second = np.random.default_rng(0).permutation(len(labels)) % 2 == 1
    for one in chosen_thresholds(judged, scores):
        truth, score = labels[:, one.label] == 1, scores.probabilities[:, one.label]
        said = np.zeros(len(truth), dtype=bool)
        for own in (second, ~second):
            said[own] = score[own] > best_threshold(truth[~own], score[~own])
        before = oracle.f1_score(truth, score > 0.5)
        assert one.before == pytest.approx(before)
        assert one.gain.value == pytest.approx(oracle.f1_score(truth, said) - before)


def test_a_label_that_is_hardly_ever_said_has_a_finding(tmp_path, digits):
    chances, labels = digits
    record = record_of(tmp_path, chances, labels)
    assert record.verdict is Verdict.NOTED
    by_name = {found.where: found for found in record.findings}
    assert "seven" in by_name  # a tenth of the rows, and a model that shrinks towards that
    effect = by_name["seven"].effect
    assert effect is not None
    assert effect.low > 0
    assert "threshold of 0." in by_name["seven"].what
    record_to_json(record)


def test_chance_gains_nothing(tmp_path):
    """Scores that say nothing: the best threshold of one half says all rows, and F1 at a half is as good."""
    wrong = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        labels = (rng.random((300, 4)) < 0.9).astype(np.int8)
        chances = rng.uniform(0.51, 0.99, (300, 4)).astype(np.float32)
        wrong += bool(record_of(tmp_path / str(seed), chances, labels).findings)
    assert wrong <= 2


def test_few_rows_of_a_label_choose_no_threshold(tmp_path):
    rng = np.random.default_rng(0)
    labels = np.zeros((200, 2), np.int8)
    labels[: LEAST - 1, 0] = labels[:LEAST, 1] = 1
    task = Task("multilabel", "probabilities", ("rare", "seen"))
    record = record_of(tmp_path, rng.random((200, 2)).astype(np.float32), labels, task)
    assert [row[0] for row in record.tables[1].rows] == ["seen"]
    alone = record_of(tmp_path / "alone", rng.random((200, 1)).astype(np.float32), labels[:, :1], task)
    assert len(alone.tables) == 1
    assert "Thresholds were not looked at" in alone.summary


def test_long_lists_of_labels_are_cut_and_said(tmp_path):
    rng = np.random.default_rng(0)
    labels = (rng.random((120, 130)) < 0.4).astype(np.int8)
    task = Task("multilabel", "probabilities", tuple(f"l{place}" for place in range(130)))
    record = record_of(tmp_path, rng.random((120, 130)).astype(np.float32), labels, task)
    assert [len(table.rows) for table in record.tables] == [100, 100]
    assert record.tables[0].title == "Labels (100 of 130: those with the lowest F1)"
    assert "100 of 130" in record.tables[1].title


def test_groups_are_kept_together(tmp_path, digits):
    chances, labels = (np.repeat(one, 3, axis=0) for one in digits)
    alone = record_of(tmp_path / "a", *digits)
    groups = [f"g{place // 3}" for place in range(len(labels))]
    view = view_of(tmp_path / "b", TASK, table_of(TASK, chances, labels, groups))
    grouped = checked("confusion", view)
    for one, three in zip(alone.tables[0].rows, grouped.tables[0].rows, strict=True):
        assert three[8:11] == pytest.approx(one[8:11], rel=1e-6)
