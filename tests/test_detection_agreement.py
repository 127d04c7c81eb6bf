"""What became of a detector's finds against loops that anyone can read, and by hand."""

import numpy as np
import polars as pl
import pytest

from diagnose.detected import best_score, read_found
from diagnose.found_twice import join_finds
from study.boxes import Truth, shared
from study.record import Verdict
from tests.prediction_tables import checked, view_of
from tests.test_detection import TASK, images_of, table_of

BOX = (0.0, 0.0, 100.0, 100.0)
FAR = (200.0, 200.0, 260.0, 260.0)


def overlap(one: np.ndarray, two: np.ndarray) -> float:
    pair = np.array([one[:4]], float), np.array([two[:4]], float)
    return float(shared(*pair)[0])


def by_loops(
    before: np.ndarray, after: np.ndarray, score: float
) -> tuple[list[float], list[float], int, int]:
    """Overlaps and shifts of score of the finds that are kept; how many have another class, and are new."""
    one = [line for line in before if line[4] >= score]
    two = [line for line in after if line[4] >= score]
    overlaps, shifts, renamed = [], [], 0
    for same in (True, False):
        while True:
            near = [
                (overlap(a, b), i, j)
                for i, a in enumerate(one)
                for j, b in enumerate(two)
                if bool(a[5] == b[5]) is same
            ]
            best = max(near, default=(0.0, 0, 0), key=lambda pair: pair[0])
            if best[0] < 0.5:
                break
            first, second = one.pop(best[1]), two.pop(best[2])
            if same:
                overlaps.append(best[0])
                shifts.append(float(second[4]) - float(first[4]))
            renamed += not same
    return overlaps, shifts, renamed, len(two)


def moved(finds: list[np.ndarray], seed: int) -> list[np.ndarray]:
    """Some finds a little off, of another class, with another score, or gone."""
    random = np.random.default_rng(seed)
    told = []
    for lines in finds:
        one = lines[random.random(len(lines)) < 0.9].copy()
        one[:, :4] += random.normal(0, 3, (len(one), 4)).astype(np.float32)
        one[:, 2:4] = np.maximum(one[:, 2:4], one[:, :2] + 1)
        one[:, 4] = np.clip(one[:, 4] + random.normal(-0.05, 0.05, len(one)), 0.02, 1)
        other = random.random(len(one)) < 0.1
        one[other, 5] = random.integers(0, 4, other.sum())
        told.append(one)
    return told


@pytest.mark.parametrize("seed", range(3))
def test_finds_are_paired_as_loops_pair_them(tmp_path, seed):
    truths, finds = images_of(60, seed)
    other = moved(finds, seed)
    origin = view_of(tmp_path / "came", TASK, table_of(truths, finds))
    view = view_of(tmp_path / "now", TASK, table_of(truths, other), origin)
    score = best_score(read_found(origin))
    told = [by_loops(*pair, np.float32(score)) for pair in zip(finds, other, strict=True)]
    record = checked("detection-agreement", view)
    before = sum(int((lines[:, 4] >= np.float32(score)).sum()) for lines in finds)
    overlaps, shifts = ([one for image in told for one in image[at]] for at in (0, 1))
    new, renamed = (sum(image[at] for image in told) for at in (3, 2))
    wanted = {
        "kept_share@finds": len(overlaps) / before,
        "changed_class_share@finds": renamed / before,
        "lost_share@finds": 1 - (len(overlaps) + renamed) / before,
        "new_share@finds": new / (new + renamed + len(overlaps)),
        "iou@kept": np.mean(overlaps),
        "score_shift@kept": np.mean(shifts),
    }
    for name, value in wanted.items():
        metric = record.metrics[name]
        assert metric.value == pytest.approx(value, abs=1e-6), name
        assert metric.low < metric.value < metric.high, name
        assert metric.n == 60


def test_flips_are_objects_that_are_found_and_missed(tmp_path):
    truth = Truth.of(np.array([BOX, FAR]), np.array([0, 1]))
    both = np.array([[*BOX, 0.9, 0], [*FAR, 0.8, 1]], np.float32)
    first, second = both[:1], both[1:]
    unsure = both * np.array([1, 1, 1, 1, 0.2, 1], np.float32)
    before = [both] * 10 + [first] * 4
    after = [both] * 6 + [first] * 2 + [unsure] * 2 + [second] * 4
    origin = view_of(tmp_path / "came", TASK, table_of([truth] * 14, before))
    record = checked(
        "detection-agreement", view_of(tmp_path / "now", TASK, table_of([truth] * 14, after), origin)
    )
    # Lost: one each in 2, both in 2, the first in 4; won: the second in 4.
    assert record.metrics["negative_flip_rate@objects"].value == pytest.approx(10 / 28)
    assert record.metrics["positive_flip_rate@objects"].value == pytest.approx(4 / 28)
    assert record.metrics["recall@change"].value == pytest.approx(-6 / 28)
    assert "Objects that were found and are missed now: 10; the other way round: 4." in record.summary
    assert record.tables[1].rows[0][1:] == (2, 2, 0, 0, 2, 0)


def test_the_same_finds_are_good_and_fewer_are_a_fault(tmp_path):
    truths, finds = images_of(120, 2)
    origin = view_of(tmp_path / "came", TASK, table_of(truths, finds))
    same = checked("detection-agreement", view_of(tmp_path / "same", TASK, table_of(truths, finds), origin))
    assert same.verdict is Verdict.GOOD
    assert same.metrics["kept_share@finds"].value == same.metrics["iou@kept"].value == 1
    assert same.metrics["lost_share@finds"].high > 0
    lower = [lines * np.array([1, 1, 1, 1, 0.7, 1], np.float32) for lines in finds]
    fewer = checked("detection-agreement", view_of(tmp_path / "less", TASK, table_of(truths, lower), origin))
    assert fewer.verdict is Verdict.BAD
    assert "Choose the score from which finds count anew" in fewer.findings[0].do
    ranked = checked("detection", view_of(tmp_path / "less", TASK, table_of(truths, lower), origin))
    assert ranked.metrics["map@change"].value == pytest.approx(
        0, abs=1e-9
    )  # average precision does not see it


def test_without_labels_finds_are_compared_alone(tmp_path):
    truths, finds = images_of(30, 1)
    tables = []
    for one in (finds, moved(finds, 1)):
        table = table_of(truths, one)
        tables.append(table.with_columns(parts=pl.lit(None, pl.Int64)))
    origin = view_of(tmp_path / "came", TASK, tables[0])
    record = checked("detection-agreement", view_of(tmp_path / "now", TASK, tables[1], origin))
    assert "right cannot be told from wrong" in record.summary
    assert not any("@objects" in name for name in record.metrics)
    twice = join_finds(tables[0].lazy(), tables[1][5:].lazy(), 0.5)
    assert len(twice) == 25
    assert twice.apart == 5
