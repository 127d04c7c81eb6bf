"""Tasks whose answers have parts: the reduction, the table, and what the checks say, against plain twins."""

import numpy as np
import polars as pl
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score

from diagnose.calibrated import binned_gap, equal_width_bins
from diagnose.parted import calibration_error, hit_metrics, mean_loss, read_parted
from diagnose.slice_columns import sliceable_parts
from study.compare_parts import join_parts
from study.errors import SkipError
from study.parts import BINS, lines, reduced
from study.record import Verdict
from study.statistics import change_of_parts, ratio_of, share_of_parts
from study.task import Task
from tests.prediction_tables import checked, view_of

CLASSES = 4
TASK = Task("tokens", "logits", tuple("abcd"), width=CLASSES)


def scores_of(rows: int, seed: int = 0) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Logits and labels of rows with 3 to 12 parts; about a tenth of the parts does not count."""
    random = np.random.default_rng(seed)
    scores, labels = [], []
    for _ in range(rows):
        parts = int(random.integers(3, 13))
        label = random.integers(0, CLASSES, parts)
        logits = random.standard_normal((parts, CLASSES)) * 1.5
        logits[np.arange(parts), label] += 1.0
        label[random.random(parts) < 0.1] = -1
        scores.append(logits.astype(np.float32))
        labels.append(label)
    return scores, labels


def table_of(scores: list[np.ndarray], labels: list[np.ndarray], **columns: list) -> pl.DataFrame:
    rows = [
        reduced(TASK, torch.from_numpy(one), label, label >= 0)
        for one, label in zip(scores, labels, strict=True)
    ]
    made = lines(rows, each=True, classes=CLASSES)
    ids = {
        "position": pl.Series(range(len(rows)), dtype=pl.Int64),
        "id": [f"r{at}" for at in range(len(rows))],
    }
    return pl.DataFrame({**ids, **made, **columns})


def flat(scores: list[np.ndarray], labels: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    every, label = np.concatenate(scores), np.concatenate(labels)
    return every[label >= 0], label[label >= 0]


@pytest.mark.parametrize("output", ["logits", "probabilities", "log-probabilities"])
def test_parts_are_reduced_as_torch_says(output):
    scores, labels = scores_of(1)
    logs = torch.from_numpy(scores[0]).log_softmax(-1)
    given = {"logits": torch.from_numpy(scores[0]), "probabilities": logs.exp(), "log-probabilities": logs}[
        output
    ]
    one = reduced(Task("tokens", output, width=CLASSES), given, labels[0], labels[0] >= 0)
    known = labels[0] >= 0
    wanted = torch.nn.functional.cross_entropy(
        torch.from_numpy(scores[0][known]), torch.from_numpy(labels[0][known]), reduction="none"
    )
    assert np.allclose(one.loss, wanted.numpy(), atol=1e-5)
    chances = logs.exp().numpy()[known]
    assert np.allclose(one.confidence, chances.max(axis=1), atol=1e-5)
    assert np.allclose(one.entropy, -(chances * np.log(chances)).sum(axis=1), atol=1e-5)
    top = np.sort(chances, axis=1)
    assert np.allclose(one.margin, top[:, -1] - top[:, -2], atol=1e-5)
    assert one.prediction.tolist() == scores[0][known].argmax(axis=1).tolist()
    own = chances[np.arange(known.sum()), labels[0][known]]
    assert one.rank.tolist() == (chances > own[:, None]).sum(axis=1).tolist()


def test_one_score_is_that_of_the_second_class():
    logits = torch.tensor([[2.0], [-1.0], [0.5]])
    labels = np.array([1, 1, 0])
    one = reduced(Task("segmentation", "logits", width=1), logits, labels, labels >= 0)
    wanted = torch.nn.functional.binary_cross_entropy_with_logits(
        logits[:, 0], torch.from_numpy(labels).float(), reduction="none"
    )
    assert np.allclose(one.loss, wanted.numpy(), atol=1e-6)
    assert one.prediction.tolist() == [1, 0, 1]
    same = reduced(Task("segmentation", "probabilities", width=1), logits.sigmoid(), labels, labels >= 0)
    assert np.allclose(same.loss, wanted.numpy(), atol=1e-5)


def test_a_row_without_parts_that_count_is_a_line_all_the_same():
    made = lines(
        [reduced(TASK, torch.zeros(3, 4), np.full(3, -1), np.zeros(3, dtype=bool))], each=True, classes=4
    )
    assert made["parts"].to_list() == [0]
    assert made["loss"].to_list() == [None]
    assert made["prediction"].to_list() == [[]]


def test_metrics_are_scikit_learns_over_all_parts(tmp_path):
    scores, labels = scores_of(200)
    view = view_of(tmp_path / "v", TASK, table_of(scores, labels))
    every, label = flat(scores, labels)
    parted = read_parted(view)
    metrics = hit_metrics(parted)
    assert metrics["accuracy"].value == pytest.approx(accuracy_score(label, every.argmax(axis=1)))
    assert metrics["macro_f1"].value == pytest.approx(f1_score(label, every.argmax(axis=1), average="macro"))
    assert metrics["accuracy"].n == 200
    wanted = torch.nn.functional.cross_entropy(torch.from_numpy(every), torch.from_numpy(label)).item()
    assert mean_loss(parted).value == pytest.approx(wanted, abs=1e-5)
    chances = torch.from_numpy(every).softmax(-1).numpy()
    confidence, right = chances.max(axis=1), every.argmax(axis=1) == label
    twin = binned_gap(confidence, right, equal_width_bins(confidence, BINS))
    assert calibration_error(parted).value == pytest.approx(twin.value, abs=1e-5)


def test_intervals_are_over_rows_and_not_over_parts():
    random = np.random.default_rng(0)
    parts = np.full(60, 50)
    hits = np.where(random.random(60) < 0.5, 50, 0)  # all parts of a row are right, or none
    clustered = share_of_parts(hits, parts)
    assert clustered.high - clustered.low > 0.2
    mean = ratio_of(hits, parts)
    assert mean.low == pytest.approx(clustered.low, abs=0.05)


def test_the_interval_of_a_ratio_covers_the_truth():
    random = np.random.default_rng(1)
    covered = 0
    for trial in range(200):
        parts = random.integers(1, 20, 80)
        hits = random.binomial(parts, random.beta(8, 4, 80))  # rows differ in how hard they are
        found = share_of_parts(hits, parts) if trial % 2 else ratio_of(hits, parts)
        covered += found.low <= 8 / 12 <= found.high
    assert covered >= 180


def test_no_change_is_not_certainty():
    change = change_of_parts(np.full(30, 4), np.full(30, 4), np.full(30, 5))
    assert change.value == 0
    assert change.low < 0 < change.high


def test_flips_are_counted_a_part(tmp_path):
    scores, labels = scores_of(50)
    moved = [one + np.random.default_rng(3).standard_normal(one.shape).astype(np.float32) for one in scores]
    before, after = table_of(scores, labels), table_of(moved, labels)
    both = join_parts(before.lazy(), after.lazy())
    for row in range(50):
        known = labels[row] >= 0
        was, now = (one[row][known].argmax(axis=1) for one in (scores, moved))
        truth = labels[row][known]
        assert both.same[row] == (was == now).sum()
        assert both.lost[row] == ((was == truth) & (now != truth)).sum()
        assert both.won[row] == ((was != truth) & (now == truth)).sum()
    origin = view_of(tmp_path / "a", TASK, before)
    record = checked("agreement", view_of(tmp_path / "b", TASK, after, origin))
    assert record.metrics["agreement"].value == pytest.approx(both.same.sum() / both.parts.sum())
    assert record.verdict in (Verdict.BAD, Verdict.NOTED)
    same = checked("agreement", view_of(tmp_path / "c", TASK, before, origin))
    assert same.verdict is Verdict.GOOD
    assert same.metrics["agreement"].value == 1


def test_many_parts_are_compared_in_pieces(monkeypatch):
    scores, labels = scores_of(40)
    table = table_of(scores, labels).lazy()
    whole = join_parts(table, table)
    monkeypatch.setattr("study.compare_parts.PARTS_AT_ONCE", 7)
    assert join_parts(table, table).same.tolist() == whole.same.tolist()


def test_the_checks_speak_of_parts(tmp_path):
    scores, labels = scores_of(120)
    site = ["bad" if row % 3 == 0 else "good" for row in range(120)]
    for row in range(0, 120, 3):
        scores[row] = -scores[row]
    view = view_of(tmp_path / "v", TASK, table_of(scores, labels, **{"meta.site": site}))
    accuracy = checked("accuracy", view)
    assert "words in 120 rows" in accuracy.summary
    assert {"ece", "nll"} <= set(checked("calibration", view).metrics)
    errors = checked("errors", view)
    assert int(errors.tables[0].rows[0][0].removeprefix("r")) % 3 == 0
    slices = checked("slices", view)
    assert slices.findings[0].where == "site = bad"
    assert sliceable_parts(view, read_parted(view)).measure == "share of wrong words"


def test_a_worse_artifact_is_bad(tmp_path):
    scores, labels = scores_of(120)
    origin = view_of(tmp_path / "a", TASK, table_of(scores, labels))
    worse = view_of(tmp_path / "b", TASK, table_of([-one for one in scores], labels), origin)
    assert checked("accuracy", worse).verdict is Verdict.BAD
    assert checked("agreement", worse).verdict is Verdict.BAD


def test_outputs_that_are_not_finite_are_a_fault(tmp_path):
    scores, labels = scores_of(30)
    scores[4][:] = np.nan
    record = checked("accuracy", view_of(tmp_path / "v", TASK, table_of(scores, labels)))
    assert record.verdict is Verdict.BAD
    assert record.findings[0].rows == 1


def test_without_labels_there_is_nothing_to_judge(tmp_path):
    scores, labels = scores_of(5)
    none = [np.full_like(label, -1) for label in labels]
    with pytest.raises(SkipError, match="no part of any row has a label"):
        read_parted(view_of(tmp_path / "v", TASK, table_of(scores, none)))
