"""Headline metrics against scikit-learn, on a real model's outputs and on random ones."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sklearn import metrics as oracle
from sklearn.datasets import load_diabetes, load_digits
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.model_selection import train_test_split

from diagnose.ranking import auroc, average_precision, precision_recall_curve, roc_curve
from study.errors import SkipError
from study.record import Metric, Record, Verdict, record_to_json
from study.task import Task
from tests.prediction_tables import checked, table_of, view_of

DIGITS = Task("multiclass", "probabilities", tuple("0123456789"))


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    rows, labels = load_digits(return_X_y=True)
    fit, judged, fit_labels, judged_labels = train_test_split(
        rows, labels, test_size=0.4, random_state=0, stratify=labels
    )
    model = LogisticRegression(C=1e-3, max_iter=3000).fit(fit, fit_labels)
    return model.predict_proba(judged), judged_labels


def well_formed(record: Record, n: int) -> None:
    """Every metric lies inside of its interval, which has a width and stands on the rows."""
    for name, metric in record.metrics.items():
        assert metric.low <= metric.value <= metric.high, name
        assert metric.low < metric.high, name
        assert metric.n == n, name
        assert metric.better in ("higher", "lower"), name
    record_to_json(record)


def test_digits_have_the_metrics_of_scikit_learn(tmp_path, digits) -> None:
    chances, labels = digits
    record = checked("accuracy", view_of(tmp_path, DIGITS, table_of(DIGITS, chances, labels)))
    chances = chances.astype(np.float32).astype(np.float64)
    said = chances.argmax(axis=1)
    expected = {
        "accuracy": oracle.accuracy_score(labels, said),
        "balanced_accuracy": oracle.balanced_accuracy_score(labels, said),
        "macro_precision": oracle.precision_score(labels, said, average="macro"),
        "macro_recall": oracle.recall_score(labels, said, average="macro"),
        "macro_f1": oracle.f1_score(labels, said, average="macro"),
        "top5_accuracy": oracle.top_k_accuracy_score(labels, chances, k=5),
        "auroc": np.mean([oracle.roc_auc_score(labels == k, chances[:, k]) for k in range(10)]),
        "average_precision": np.mean(
            [oracle.average_precision_score(labels == k, chances[:, k]) for k in range(10)]
        ),
    }
    assert {name: metric.value for name, metric in record.metrics.items()} == pytest.approx(expected)
    well_formed(record, len(labels))
    assert record.verdict is Verdict.NOTED
    assert [table.title for table in record.tables] == ["ROC curve", "Precision-recall curve"]
    assert all(len(row) == 7 for table in record.tables for row in table.rows)
    assert [picture.kind for picture in record.pictures] == ["lines", "lines"]


def test_a_binary_model_of_one_column(tmp_path) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 300)
    logits = np.round(rng.normal(1.5 * labels - 0.7, 1)[:, None], 1).astype(np.float32)
    task = Task("binary", "logits", ("no", "yes"))
    record = checked("accuracy", view_of(tmp_path, task, table_of(task, logits, labels)))
    said = (logits[:, 0] > 0).astype(int)
    assert record.metrics["accuracy"].value == oracle.accuracy_score(labels, said)
    assert record.metrics["macro_f1"].value == pytest.approx(oracle.f1_score(labels, said, average="macro"))
    assert record.metrics["auroc"].value == pytest.approx(oracle.roc_auc_score(labels, logits[:, 0]))
    average = oracle.average_precision_score(labels, logits[:, 0])
    assert record.metrics["average_precision"].value == pytest.approx(average)
    assert "top5_accuracy" not in record.metrics
    well_formed(record, 300)
    assert record.tables[0].columns == ("false-positive rate", "yes")


def test_two_columns_are_the_same_model_as_one(tmp_path) -> None:
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 2, 200)
    logits = rng.normal(labels, 1)[:, None].astype(np.float32)
    one, two = Task("binary", "logits", ("a", "b")), Task("multiclass", "logits", ("a", "b"))
    first = checked("accuracy", view_of(tmp_path / "one", one, table_of(one, logits, labels)))
    both = np.hstack([np.zeros_like(logits), logits])
    second = checked("accuracy", view_of(tmp_path / "two", two, table_of(two, both, labels)))
    assert {name: metric.value for name, metric in first.metrics.items()} == pytest.approx(
        {name: metric.value for name, metric in second.metrics.items()}
    )


def test_a_multi_label_model(tmp_path) -> None:
    rng = np.random.default_rng(2)
    labels = (rng.random((250, 4)) < [0.5, 0.3, 0.7, 0.2]).astype(np.int8)
    logits = rng.normal(2.0 * labels - 1, 1).astype(np.float32)
    task = Task("multilabel", "logits", ("a", "b", "c", "d"))
    record = checked("accuracy", view_of(tmp_path, task, table_of(task, logits, labels)))
    said = (logits > 0).astype(np.int8)
    expected = {
        "accuracy": oracle.accuracy_score(labels, said),
        "accuracy@labels": 1 - oracle.hamming_loss(labels, said),
        "hamming_loss": oracle.hamming_loss(labels, said),
        "micro_f1": oracle.f1_score(labels, said, average="micro"),
        "macro_precision": oracle.precision_score(labels, said, average="macro"),
        "macro_recall": oracle.recall_score(labels, said, average="macro"),
        "macro_f1": oracle.f1_score(labels, said, average="macro"),
        "auroc": oracle.roc_auc_score(labels, logits, average="macro"),
        "average_precision": oracle.average_precision_score(labels, logits, average="macro"),
    }
    assert {name: metric.value for name, metric in record.metrics.items()} == pytest.approx(expected)
    assert "every label of a row" in record.summary
    well_formed(record, 250)


@pytest.mark.parametrize("targets", [1, 3])
def test_a_regression(tmp_path, targets) -> None:
    rows, labels = load_diabetes(return_X_y=True)
    labels = np.column_stack([labels * (place + 1) for place in range(targets)])
    said = LinearRegression().fit(rows[:300], labels[:300]).predict(rows[300:]).astype(np.float32)
    labels = labels[300:]
    task = Task("regression", "value")
    table = table_of(task, said, labels[:, 0] if targets == 1 else labels)
    record = checked("accuracy", view_of(tmp_path, task, table))
    expected = {
        "mae": oracle.mean_absolute_error(labels, said),
        "rmse": oracle.root_mean_squared_error(labels, said),
        "r2": oracle.r2_score(labels, said),
    }
    assert {name: metric.value for name, metric in record.metrics.items()} == pytest.approx(expected)
    well_formed(record, len(labels))
    assert record.verdict is Verdict.NOTED


def test_a_regression_of_a_constant_has_no_r2(tmp_path) -> None:
    task = Task("regression", "value")
    said = np.random.default_rng(0).normal(size=(20, 1))
    record = checked("accuracy", view_of(tmp_path, task, table_of(task, said, np.full(20, 0.1))))
    assert set(record.metrics) == {"mae", "rmse"}


def test_worse_than_the_mean_is_bad(tmp_path) -> None:
    task = Task("regression", "value")
    labels = np.random.default_rng(0).normal(size=100)
    record = checked("accuracy", view_of(tmp_path, task, table_of(task, -3 * labels[:, None], labels)))
    assert record.verdict is Verdict.BAD
    assert "worse than the mean" in record.findings[0].what


def test_classes_that_rows_lack_and_that_are_never_said(tmp_path) -> None:
    labels = np.array([0, 0, 1, 1, 1, 3] * 10)
    logits = np.eye(5)[np.array([0, 1, 1, 1, 4, 0] * 10)]
    task = Task("multiclass", "logits", tuple("abcde"))
    record = checked("accuracy", view_of(tmp_path, task, table_of(task, logits, labels)))
    said = logits.argmax(axis=1)
    f1 = oracle.f1_score(labels, said, average="macro", zero_division=0)
    assert record.metrics["macro_f1"].value == pytest.approx(f1)
    precision = oracle.precision_score(labels, said, average="macro", zero_division=0)
    assert record.metrics["macro_precision"].value == pytest.approx(precision)
    balanced = np.mean([(said[labels == k] == k).mean() for k in (0, 1, 3)])
    assert record.metrics["balanced_accuracy"].value == pytest.approx(balanced)
    present = np.mean([oracle.roc_auc_score(labels == k, logits[:, k]) for k in (0, 1, 3)])
    assert record.metrics["auroc"].value == pytest.approx(present)


def test_a_single_class_has_no_ranking(tmp_path) -> None:
    task = Task("binary", "logits", ("no", "yes"))
    logits = np.random.default_rng(0).normal(1, 1, size=(40, 1))
    record = checked("accuracy", view_of(tmp_path, task, table_of(task, logits, np.ones(40, dtype=np.int64))))
    assert "auroc" not in record.metrics
    assert not record.tables
    assert record.verdict is Verdict.NOTED  # nothing can beat guessing where there is one answer
    well_formed(record, 40)


def test_perfect_on_few_rows_is_not_certain(tmp_path) -> None:
    labels = np.arange(20) % 4
    task = Task("multiclass", "logits", tuple("abcd"))
    record = checked("accuracy", view_of(tmp_path, task, table_of(task, 9 * np.eye(4)[labels], labels)))
    assert all(metric.value == 1 and metric.low < 0.9 for metric in record.metrics.values())


def test_one_row(tmp_path) -> None:
    task = Task("multiclass", "logits", tuple("abc"))
    record = checked("accuracy", view_of(tmp_path, task, table_of(task, np.eye(3)[:1], np.array([0]))))
    accuracy = record.metrics["accuracy"]
    assert accuracy.value == 1
    assert accuracy.low < 0.3
    value = Task("regression", "value")
    with pytest.raises(SkipError, match="two rows"):
        checked("accuracy", view_of(tmp_path, value, table_of(value, np.ones((1, 1)), np.ones(1))))


def test_outputs_that_are_not_finite_count_as_wrong_and_are_found(tmp_path, digits) -> None:
    chances, labels = digits[0].copy(), digits[1]
    chances[[3, 50]] = np.nan
    record = checked("accuracy", view_of(tmp_path, DIGITS, table_of(DIGITS, chances, labels)))
    right = chances.argmax(axis=1) == labels
    right[[3, 50]] = False
    assert record.metrics["accuracy"].value == pytest.approx(right.mean())
    assert record.metrics["auroc"].n == len(labels) - 2
    assert record.verdict is Verdict.BAD
    assert record.findings[0].rows == 2
    assert "'3', '50'" in record.findings[0].where
    assert record.findings[0].show.startswith("diag analyze")


def test_nothing_but_nan(tmp_path) -> None:
    labels = np.arange(60) % 3
    task = Task("multiclass", "logits", tuple("abc"))
    table = table_of(task, np.full((60, 3), np.nan), labels)
    record = checked("accuracy", view_of(tmp_path, task, table))
    assert record.metrics["accuracy"].value == 0
    assert "auroc" not in record.metrics
    assert record.verdict is Verdict.BAD


def test_rows_of_one_group_count_less(tmp_path) -> None:
    rng = np.random.default_rng(3)
    labels = np.repeat(rng.integers(0, 3, 40), 20)
    right = np.repeat(rng.random(40) < 0.7, 20)
    logits = 4 * np.eye(3)[np.where(right, labels, (labels + 1) % 3)] + rng.normal(0, 0.1, (800, 3))
    task = Task("multiclass", "logits", tuple("abc"))
    groups = [f"patient {place // 20}" for place in range(800)]
    alone = checked("accuracy", view_of(tmp_path / "alone", task, table_of(task, logits, labels)))
    grouped = checked("accuracy", view_of(tmp_path / "grouped", task, table_of(task, logits, labels, groups)))
    for name, metric in alone.metrics.items():
        other = grouped.metrics[name]
        assert other.value == metric.value
        assert other.high - other.low > 2.5 * (metric.high - metric.low), name
    assert "in 40 groups" in grouped.summary


def test_labels_are_needed(tmp_path) -> None:
    view = view_of(tmp_path, DIGITS, table_of(DIGITS, np.eye(10), None))
    for name in ("accuracy", "confusion", "calibration", "errors"):
        with pytest.raises(SkipError, match="no labels"):
            checked(name, view)


def test_rows_without_a_label_do_not_count(tmp_path, digits) -> None:
    chances, labels = digits
    table = table_of(DIGITS, chances, labels)
    some = pl.when(pl.col("position") % 2 == 0).then(pl.col("label"))
    half = checked("accuracy", view_of(tmp_path, DIGITS, table.with_columns(some.alias("label"))))
    right = chances[::2].argmax(axis=1) == labels[::2]
    assert half.metrics["accuracy"].value == pytest.approx(right.mean())
    part = chances[::2].astype(np.float32)
    expected = np.mean([oracle.roc_auc_score(labels[::2] == k, part[:, k]) for k in range(10)])
    assert half.metrics["auroc"].value == pytest.approx(expected)
    assert f"{len(labels) // 2} rows have no label" in half.summary


def guessing(kind: str, rng: np.random.Generator, labels: np.ndarray) -> np.ndarray:
    if kind == "noise":
        return rng.normal(size=(len(labels), 4))
    if kind == "constant":
        return np.tile([1.0, 0, 0, 0], (len(labels), 1))
    return 5 * np.eye(4)[(labels + 1) % 4]  # labels shifted by one


@pytest.mark.parametrize("kind", ["noise", "constant", "shifted"])
def test_no_better_than_guessing_is_bad(tmp_path, kind) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 1000)
    task = Task("multiclass", "logits", tuple("abcd"))
    view = view_of(tmp_path, task, table_of(task, guessing(kind, rng, labels), labels))
    record = checked("accuracy", view)
    assert record.verdict is Verdict.BAD
    assert "no better than always answering" in record.findings[0].what


def test_rare_positives_that_are_ranked_well_are_no_fault(tmp_path) -> None:
    """99 % of rows are of one class: accuracy cannot beat guessing, and the model is healthy."""
    rng = np.random.default_rng(0)
    labels = (np.arange(5000) % 100 == 0).astype(np.int64)
    logits = rng.normal(3.0 * labels - 5, 1)[:, None]
    task = Task("binary", "logits", ("no", "yes"))
    assert (
        checked("accuracy", view_of(tmp_path, task, table_of(task, logits, labels))).verdict is Verdict.NOTED
    )


def test_too_few_rows_are_no_proof_of_guessing(tmp_path) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 12)
    task = Task("multiclass", "logits", tuple("abcd"))
    table = table_of(task, rng.normal(size=(12, 4)), labels)
    assert checked("accuracy", view_of(tmp_path, task, table)).verdict is Verdict.NOTED


def compared(folder: Path, lost: int, won: int, rows: int = 2000) -> Record:
    labels = np.arange(rows) % 2
    wrong = np.arange(rows) < rows // 20
    after = wrong.copy()
    after[:won] = False
    after[rows // 20 : rows // 20 + lost] = True
    task = Task("binary", "logits", ("no", "yes"))

    def outputs(missed: np.ndarray) -> np.ndarray:
        return np.where((labels == 1) ^ missed, 2.0, -2.0)[:, None]

    origin = view_of(folder / "as_it_came", task, table_of(task, outputs(wrong), labels))
    return checked("accuracy", view_of(folder / "int8", task, table_of(task, outputs(after), labels), origin))


def test_a_drop_that_matters_is_bad(tmp_path) -> None:
    record = compared(tmp_path, lost=60, won=10)
    assert record.verdict is Verdict.BAD
    finding = record.findings[0]
    assert "fell by 2.50 points" in finding.what
    assert finding.effect is not None
    assert finding.effect.high < 0
    assert "60 rows lost and 10 won" in record.summary


@pytest.mark.parametrize(("lost", "won"), [(10, 2), (0, 0), (4, 40)])
def test_a_drop_that_is_small_or_a_gain_is_good(tmp_path, lost, won) -> None:
    record = compared(tmp_path, lost, won)
    assert record.verdict is Verdict.GOOD
    assert not record.findings


def test_a_drop_that_is_not_sure_is_noted(tmp_path) -> None:
    record = compared(tmp_path, lost=4, won=1, rows=150)
    assert record.verdict is Verdict.NOTED
    assert "cannot be excluded" in record.summary


@pytest.mark.parametrize(("worse", "verdict"), [(1.3, Verdict.BAD), (1.0, Verdict.GOOD)])
def test_a_regression_is_compared_by_its_error(tmp_path, worse, verdict) -> None:
    rng = np.random.default_rng(0)
    labels, noise = rng.normal(size=500), rng.normal(0, 0.2, 500)
    task = Task("regression", "value")
    origin = view_of(tmp_path / "a", task, table_of(task, (labels + noise)[:, None], labels))
    table = table_of(task, (labels + worse * noise)[:, None], labels)
    assert checked("accuracy", view_of(tmp_path / "b", task, table, origin)).verdict is verdict


@pytest.mark.parametrize("tied", [False, True])
def test_areas_and_their_derivatives(tied) -> None:
    rng = np.random.default_rng(4)
    positive = rng.random(60) < 0.4
    score = rng.normal(positive, 1)
    score = np.round(score, 0 if tied else 9)
    step = 1e-6
    for of_class, twin in (
        (auroc, oracle.roc_auc_score),
        (average_precision, oracle.average_precision_score),
    ):
        value, influence = of_class(positive, score)
        assert value == pytest.approx(twin(positive, score))
        for row in range(0, 60, 7):
            weights = np.ones(60)
            weights[row] += step
            slope = (twin(positive, score, sample_weight=weights) - value) / step
            assert influence[row] == pytest.approx(slope, abs=1e-5)
        assert influence.sum() == pytest.approx(0, abs=1e-12)


def test_curves_pass_through_the_points_of_scikit_learn() -> None:
    rng = np.random.default_rng(5)
    positive = rng.random(2000) < 0.3
    score = np.round(rng.normal(positive, 1), 2)
    grid, caught = roc_curve(positive, score)
    false, true, _ = oracle.roc_curve(positive, score, drop_intermediate=False)
    assert caught.tolist() == [true[false <= x].max() for x in grid.tolist()]
    grid, precision = precision_recall_curve(positive, score)
    of_score, recall, _ = oracle.precision_recall_curve(positive, score)
    expected = [of_score[recall >= x - 1e-9][-1] for x in grid.tolist()]
    assert precision == pytest.approx(np.array(expected))


def test_intervals_of_areas_cover() -> None:
    from study.statistics import from_influence

    rng = np.random.default_rng(6)
    truth, hit, rounds = 0.7602499, 0, 400  # Phi(1 / sqrt 2)
    for _ in range(rounds):
        positive = rng.random(150) < 0.4
        metric = from_influence(*auroc(positive, rng.normal(positive, 1)))
        hit += metric.low <= truth <= metric.high
    assert 0.92 <= hit / rounds <= 0.98


def test_metrics_are_deterministic(tmp_path, digits) -> None:
    def once(name: str) -> dict[str, Metric]:
        view = view_of(tmp_path / name, DIGITS, table_of(DIGITS, *digits))
        return dict(checked("accuracy", view).metrics)

    assert once("first") == once("second")
