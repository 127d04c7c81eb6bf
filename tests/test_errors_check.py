"""What is said of single rows and classes: the data, the confusion and the worst errors."""

import numpy as np
import polars as pl
import pytest
from sklearn import metrics as oracle

from study.record import Verdict, record_to_json
from study.statistics import wilson
from study.task import Task
from tests.prediction_tables import checked, table_of, view_of

PETS = Task("multiclass", "logits", ("cat", "dog", "<b>鸟</b>"))


def pets() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 300)
    return rng.normal(2.5 * np.eye(3)[labels], 1).astype(np.float32), labels


def test_the_worst_errors_come_first_by_name(tmp_path) -> None:
    logits, labels = pets()
    table = table_of(PETS, logits, labels)
    record = checked("errors", view_of(tmp_path, PETS, table))
    wrong = table.filter(pl.col("label") != pl.col("prediction")).sort("loss", descending=True)
    shown = record.tables[0]
    assert shown.columns == ("row", "label", "prediction", "confidence", "loss")
    assert [row[0] for row in shown.rows] == wrong["id"].to_list()[:100]
    assert [row[4] for row in shown.rows] == wrong["loss"].to_list()[:100]
    assert [row[1] for row in shown.rows] == [PETS.classes[label] for label in wrong["label"]][:100]
    assert record.verdict is Verdict.NOTED
    record_to_json(record)


def test_confident_errors_are_found_with_rows_to_look_at(tmp_path) -> None:
    logits, labels = pets()
    table = table_of(PETS, 4 * logits, labels)
    finding = checked("errors", view_of(tmp_path, PETS, table)).findings[0]
    sure = table.filter((pl.col("label") != pl.col("prediction")) & (pl.col("confidence") >= 0.9))
    assert finding.rows == len(sure) > 5
    first = sure.sort("loss", descending=True)["position"].to_list()[:5]
    assert finding.show.endswith("--rows " + ",".join(map(str, first)))
    assert finding.effect is not None
    assert finding.effect.value == len(sure) / 300


def test_at_most_a_hundred_errors_are_shown(tmp_path) -> None:
    labels = np.zeros(500, dtype=np.int64)
    table = table_of(PETS, np.random.default_rng(0).normal(size=(500, 3)), labels)
    record = checked("errors", view_of(tmp_path, PETS, table))
    assert len(record.tables[0].rows) == 100
    assert "the worst 100 are shown" in record.summary


def test_no_errors_are_good(tmp_path) -> None:
    labels = np.arange(30) % 3
    table = table_of(PETS, 5 * np.eye(3)[labels], labels)
    assert checked("errors", view_of(tmp_path / "errors", PETS, table)).verdict is Verdict.GOOD
    assert checked("confusion", view_of(tmp_path / "confusion", PETS, table)).verdict is Verdict.GOOD


def test_outputs_that_are_not_finite_are_the_worst_errors(tmp_path) -> None:
    logits, labels = pets()
    logits[7] = np.nan
    record = checked("errors", view_of(tmp_path, PETS, table_of(PETS, logits, labels)))
    row = record.tables[0].rows[0]
    assert row[0] == "row 7"
    assert row[2:] == ("not finite", None, None)
    record_to_json(record)


def test_errors_of_several_labels_are_named(tmp_path) -> None:
    task = Task("multilabel", "logits", ("red", "green", "blue"))
    labels = np.array([[1, 0, 1], [0, 0, 0], [0, 1, 0]], dtype=np.int8)
    logits = np.array([[5, -5, -5], [-5, -5, -5], [5, 5, -5]], dtype=np.float32)
    record = checked("errors", view_of(tmp_path, task, table_of(task, logits, labels)))
    told = [row[:3] for row in record.tables[0].rows]
    assert sorted(map(str, told)) == sorted(
        map(str, [("row 0", "red, blue", "red"), ("row 2", "green", "red, green")])
    )


@pytest.mark.parametrize("targets", [1, 2])
def test_the_largest_residuals_of_a_regression(tmp_path, targets) -> None:
    task = Task("regression", "value")
    rng = np.random.default_rng(0)
    labels = rng.normal(size=(50, targets))
    said = labels + rng.normal(0, 0.1, (50, targets))
    said[17] += 9
    view = view_of(tmp_path, task, table_of(task, said, labels[:, 0] if targets == 1 else labels))
    record = checked("errors", view)
    assert record.tables[0].rows[0][0] == "row 17"
    assert record.tables[0].columns == ("row", "label", "prediction", "loss")
    assert "'row 17'" in record.summary
    record_to_json(record)


def test_the_confusion_is_scikit_learns(tmp_path) -> None:
    logits, labels = pets()
    record = checked("confusion", view_of(tmp_path, PETS, table_of(PETS, logits, labels)))
    said = logits.argmax(axis=1)
    classes, matrix = record.tables
    expected = oracle.confusion_matrix(labels, said)
    assert [list(row[1:]) for row in matrix.rows] == expected.tolist()
    assert matrix.columns[1:] == PETS.classes
    scores = oracle.precision_recall_fscore_support(labels, said)
    for row in classes.rows:
        index = PETS.classes.index(str(row[0]))
        told = (row[2], row[5], row[8], row[1])
        assert told == pytest.approx(tuple(float(score[index]) for score in scores))
        assert row[6:8] == wilson(expected[index, index], expected[index].sum())
        assert row[3:5] == wilson(expected[index, index], expected[:, index].sum())
    f1 = [row[8] for row in classes.rows]
    assert f1 == sorted(f1, key=lambda value: value or 0.0)
    assert [picture.kind for picture in record.pictures] == ["heatmap"]


def test_the_worst_pair_is_told(tmp_path) -> None:
    labels = np.repeat([0, 1, 2], 40)
    said = labels.copy()
    said[:15], said[50:53] = 2, 0
    record = checked("confusion", view_of(tmp_path, PETS, table_of(PETS, 5.0 * np.eye(3)[said], labels)))
    first, second = record.findings
    assert "15 of 40 rows of 'cat' are taken for '<b>鸟</b>'" in first.what
    assert first.where == "label = cat & prediction = <b>鸟</b>"
    assert second.rows == 3
    assert first.show.endswith("--rows 0,1,2,3,4")


def test_of_many_classes_the_most_confused_are_drawn(tmp_path) -> None:
    task = Task("multiclass", "logits", tuple(f"class {index}" for index in range(60)))
    labels = np.repeat(np.arange(60), 5)
    said = labels.copy()
    said[labels == 33] = 44
    record = checked("confusion", view_of(tmp_path, task, table_of(task, np.eye(60)[said], labels)))
    classes, matrix = record.tables
    assert len(classes.rows) == 60
    assert len(matrix.rows) == 20
    names = [row[0] for row in matrix.rows]
    assert {"class 33", "class 44"} <= set(names)
    assert matrix.rows[names.index("class 33")][1 + names.index("class 44")] == 5


def test_labels_of_their_own_have_a_table_and_no_matrix(tmp_path) -> None:
    rng = np.random.default_rng(0)
    labels = (rng.random((80, 3)) < 0.4).astype(np.int8)
    logits = rng.normal(2.0 * labels - 1, 1)
    task = Task("multilabel", "logits", ("a", "b", "c"))
    record = checked("confusion", view_of(tmp_path, task, table_of(task, logits, labels)))
    precision, recall, f1, _ = oracle.precision_recall_fscore_support(labels, logits > 0)
    for row in record.tables[0].rows:
        index = "abc".index(str(row[0]))
        assert (row[2], row[5], row[8]) == pytest.approx((precision[index], recall[index], f1[index]))
    assert [table.title for table in record.tables] == ["Labels", "Thresholds with the highest F1"]
    assert record.pictures == ()


def test_groups_widen_the_intervals_of_classes(tmp_path) -> None:
    labels = np.repeat(np.arange(30) % 3, 10)
    said = np.repeat(np.where(np.arange(30) < 24, np.arange(30) % 3, 0), 10)
    outputs = np.eye(3)[said]
    groups = [str(place // 10) for place in range(300)]
    alone = checked("confusion", view_of(tmp_path / "a", PETS, table_of(PETS, outputs, labels)))
    grouped = checked("confusion", view_of(tmp_path / "b", PETS, table_of(PETS, outputs, labels, groups)))
    for one, other in zip(alone.tables[0].rows, grouped.tables[0].rows, strict=True):
        assert one[:3] == other[:3]
        assert one[5] == other[5]
        if one[5] != 1:
            assert float(other[7] or 0) - float(other[6] or 0) > float(one[7] or 0) - float(one[6] or 0)


def test_residuals_are_quantiles(tmp_path) -> None:
    task = Task("regression", "value")
    rng = np.random.default_rng(0)
    labels, noise = rng.normal(size=400), rng.normal(1, 2, 400)
    record = checked("confusion", view_of(tmp_path, task, table_of(task, (labels + noise)[:, None], labels)))
    values = [row[0] for row in record.tables[0].rows]
    assert values == pytest.approx(np.quantile(noise, np.linspace(0, 1, 101)), abs=1e-5)
    assert record.pictures[0].kind == "ecdf"


def test_the_data_are_counted(tmp_path) -> None:
    logits, labels = pets()
    groups = [f"shop {place % 7}" for place in range(299)] + [None]
    record = checked("data", view_of(tmp_path, PETS, table_of(PETS, logits, labels, groups)))
    assert record.verdict is Verdict.GOOD
    assert record.summary == "300 rows judge the model, they come in 8 groups."
    counts = {row[0]: row[1] for row in record.tables[0].rows}
    assert counts == {name: int((labels == index).sum()) for index, name in enumerate(PETS.classes)}
    assert record.pictures[0].kind == "bars"


def test_rows_that_were_left_out_are_listed(tmp_path) -> None:
    view = view_of(tmp_path, PETS, table_of(PETS, *pets()))
    broken = {"id": [f"bad {place}" for place in range(120)], "why": ["is cut off"] * 120}
    pl.DataFrame(broken).write_parquet(tmp_path / "broken.parquet")
    record = checked("data", view)
    assert record.verdict is Verdict.NOTED
    assert record.findings[0].what == "120 of 420 rows were left out: is cut off."
    assert record.findings[0].where == "rows 'bad 0', 'bad 1', 'bad 2' and 117 more"
    assert len(record.tables[0].rows) == 100
    record_to_json(record)


def test_missing_labels_and_empty_classes_are_said(tmp_path) -> None:
    logits, labels = pets()
    unlabelled = checked("data", view_of(tmp_path / "none", PETS, table_of(PETS, logits, None)))
    assert unlabelled.verdict is Verdict.NOTED
    assert "none of them has a label" in unlabelled.summary
    table = table_of(PETS, logits, np.minimum(labels, 1))
    lacking = checked("data", view_of(tmp_path / "two", PETS, table))
    assert lacking.findings[0].what == "1 of 3 classes has no rows: '<b>鸟</b>'."
