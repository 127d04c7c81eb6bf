"""Each label of a multi-label task: against scikit-learn, plain loops, and what honest gains must be."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from sklearn import metrics as oracle
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from torch import nn

from diag.cli import main
from diagnose.judged import read_judged, read_scores
from diagnose.labels import LEAST, best_threshold, chosen_thresholds, f1
from explain.choice import choose
from study.compare import join
from study.feed import has_label
from study.guess import has_gaps
from study.losses import task_loss
from study.record import Record, Verdict, record_to_json
from study.task import Task, encode
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


def test_a_probability_of_nought_can_be_above_the_threshold():
    positive, score = np.array([True, True, False]), np.array([0.0, 0.0, 0.0])
    assert (score > best_threshold(positive, score)).all()


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


GAPPY = ("accuracy", "hamming_loss", "micro_f1", "macro_f1", "auroc", "average_precision")


def with_gaps(labels: np.ndarray, share: float = 0.3) -> np.ndarray:
    """Some labels missing, but never all of a row."""
    missing = np.random.default_rng(0).random(labels.shape) < share
    missing[missing.all(axis=1), 0] = False
    return np.where(missing, np.nan, labels)


def test_missing_labels_do_not_count(tmp_path, digits):
    chances, whole = digits
    labels = encode(TASK, with_gaps(whole))
    known = labels >= 0
    assert 0.2 < 1 - known.mean() < 0.3
    table = table_of(TASK, chances, labels)
    view = view_of(tmp_path, TASK, table)
    said = (chances > 0.5).astype(int)
    own = [(whole[known[:, at], at], said[known[:, at], at], chances[known[:, at], at]) for at in range(4)]
    expected = {
        "accuracy": ((said == whole) | ~known).all(axis=1).mean(),
        "hamming_loss": (said != whole)[known].mean(),
        "micro_f1": oracle.f1_score(whole[known], said[known]),
        "macro_f1": np.mean([oracle.f1_score(truth, answer) for truth, answer, _ in own]),
        "auroc": np.mean([oracle.roc_auc_score(truth, score) for truth, _, score in own]),
        "average_precision": np.mean(
            [oracle.average_precision_score(truth, score) for truth, _, score in own]
        ),
    }
    record = checked("accuracy", view)
    assert {name: record.metrics[name].value for name in GAPPY} == pytest.approx(expected)
    losses = [
        oracle.log_loss(w[k], c[k], labels=[0, 1]) for w, c, k in zip(whole, chances, known, strict=True)
    ]
    calibration = checked("calibration", view)
    assert calibration.metrics["nll"].value == pytest.approx(np.mean(losses), rel=1e-5)
    assert f"{100 * (1 - known.mean()):.3g} % of their labels are missing" in checked("data", view).summary
    squares = np.where(known, (chances - whole) ** 2, 0).sum(axis=1) / known.sum(axis=1)
    assert calibration.metrics["brier"].value == pytest.approx(squares.mean(), rel=1e-5)
    rows = {row[0]: row for row in checked("confusion", view).tables[0].rows}
    for name, (truth, answer, _) in zip(FLAGS, own, strict=True):
        assert rows[name][1] == truth.sum()
        assert rows[name][8] == pytest.approx(oracle.f1_score(truth, answer))
    wrong = (known & (said != whole)).any(axis=1)
    assert len(checked("errors", view).tables[0].rows) == min(100, wrong.sum())
    few = np.sort(np.flatnonzero(wrong)[:5])  # with no other rows beside them than right ones
    some = table.filter(pl.col("position").is_in([*few.tolist(), *np.flatnonzero(~wrong)[:200].tolist()]))
    assert sorted(choose(some.lazy(), TASK, "errors")) == few.tolist()
    both = join(table.lazy(), table.lazy(), "multilabel")
    np.testing.assert_array_equal(both.is_right, ~wrong)


def test_gaps_are_of_flags_alone():
    flag = np.array([[0, 1, np.nan], [1, 1, 0]])
    assert has_gaps(flag, "")
    assert not has_gaps(flag, "regression")
    assert not has_gaps(np.array([[0.5, np.nan], [1, 0]]), "")
    assert not has_gaps(np.array([[1.0, 0], [np.nan, np.nan]]), "")
    one_hot = np.array([[0, 1, 0], [1, 0, 0], [0, np.nan, 1]])
    assert not has_gaps(one_hot, "")
    assert has_gaps(one_hot, "multilabel")
    assert has_label(flag, gaps=True).all()
    assert not has_label(flag).all()


def test_a_fit_does_not_learn_missing_labels():
    logits = torch.tensor([[2.0, -1.0], [0.5, 3.0]], requires_grad=True)
    task_loss(TASK, logits, np.array([[1, -1], [-1, 0]], np.int8)).backward()
    assert logits.grad is not None
    assert (logits.grad == 0).tolist() == [[False, True], [True, False]]


@pytest.mark.usefixtures("in_process")
def test_labels_with_gaps_through_the_chain(tmp_path):
    rows, digit = load_digits(return_X_y=True)
    rows = (rows[:600] / 16).astype(np.float32)
    whole = flags(digit[:600])
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 4))
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.binary_cross_entropy_with_logits(
            net(torch.from_numpy(rows)), torch.from_numpy(whole).float()
        ).backward()
        optimizer.step()
    torch.save(net.eval(), tmp_path / "m.pt")
    labels = with_gaps(whole)
    columns = {f"p{at}": rows[:, at] for at in range(64)}
    columns |= {
        name: [None if np.isnan(one) else int(one) for one in labels[:, at]] for at, name in enumerate(FLAGS)
    }
    pl.DataFrame(columns).write_csv(tmp_path / "rows.csv", float_precision=9)
    words = ["--label", ",".join(FLAGS), "--classes", ",".join(FLAGS), "--steps", "onnx,int8"]
    words += ["--trust", "--out", str(tmp_path / "run"), "--quiet", "--threads", "1"]
    assert main(["run", str(tmp_path / "m.pt"), "--data", str(tmp_path / "rows.csv"), *words]) == 0
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["subject"]["task"] == "multilabel"
    assert any("% of the labels are missing" in note for note in report["environment"]["notes"])
    predictions = pl.read_parquet(tmp_path / "run" / "02_int8" / "predictions.parquet")
    known = predictions["label"].list.to_array(4).to_numpy()
    held = predictions["position"].to_numpy()
    np.testing.assert_array_equal(known, encode(TASK, labels[held]))
    for step in report["steps"]:
        records = {record["by"]: record for record in step["records"]}
        assert records["accuracy"]["metrics"]["micro_f1"]["value"] > 0.9
        assert {"confusion", "calibration", "slices", "errors"} <= {*records}
        assert "traceback" not in json.dumps(step).lower()
