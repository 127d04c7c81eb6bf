"""TIDE's error types and costs against loops that anyone can read, and by hand."""

import numpy as np
import pytest

from diagnose.tide import TYPES
from study.boxes import Truth, shared
from study.record import Verdict
from tests.prediction_tables import checked, view_of
from tests.test_detection import TASK, images_of, table_of


def untied(count: int, seed: int) -> tuple[list[Truth], list[np.ndarray]]:
    """Images without crowds, whose finds all have scores of their own."""
    truths, finds = images_of(count, seed)
    scores = np.random.default_rng(seed).permutation(sum(map(len, finds)))
    for one, own in zip(finds, np.split(scores, np.cumsum([len(one) for one in finds])[:-1]), strict=True):
        one[:, 4] = (own + 1) / (len(scores) + 1)
    return [Truth.of(one.boxes, one.numbers) for one in truths], finds


def average_precision(finds: list[tuple[int, float, bool]], objects: dict[int, int]) -> float:
    """The mean over classes of the mean precision at 101 recalls, of (class, score, right)."""
    every = []
    for number, count in objects.items():
        right, precision, recall = 0, [], []
        for place, (_, _, is_right) in enumerate(sorted(f for f in finds if f[0] == number)[::-1]):
            right += is_right
            precision.append(right / (place + 1))
            recall.append(right / count)
        reached = [
            max((p for p, r in zip(precision, recall, strict=True) if r >= wanted), default=0.0)
            for wanted in np.linspace(0, 1, 101)
        ]
        every.append(np.mean(reached))
    return float(np.mean(every))


def type_of(number: int, share: np.ndarray, truth: Truth, used: set[int]) -> tuple[str, int | None]:
    """The type of one find (empty: it is right), and the object that it takes or was meant for."""
    same = {at: one for at, one in enumerate(share) if truth.numbers[at] == number}
    other = {at: one for at, one in enumerate(share) if truth.numbers[at] != number}
    hits = {at: one for at, one in same.items() if one >= 0.5 and at not in used}
    best, foreign = max(same.values(), default=0), max(other.values(), default=0)
    if hits:
        return "", max(hits, key=hits.get)
    if 0.1 <= best < 0.5:
        return "loc", max(same, key=same.get)
    if foreign >= 0.5:
        return "cls", max(other, key=other.get)
    if best >= 0.5:
        return "dupe", None
    return ("bkg" if max(best, foreign) < 0.1 else "both"), None


def by_loops(truths: list[Truth], finds: list[np.ndarray]) -> tuple[dict[str, int], dict[str, float]]:
    """How many errors of each type there are, and what each type costs."""
    told, free = [], {}
    for image, (truth, lines) in enumerate(zip(truths, finds, strict=True)):
        used: set[int] = set()
        for line in sorted(lines, key=lambda line: -line[4]):
            box = np.tile(line[:4].astype(float), (len(truth.boxes), 1))
            share = shared(box, truth.boxes, np.zeros(len(truth.boxes), bool))
            name, at = type_of(int(line[5]), share, truth, used)
            if not name:
                used.add(at)
            told.append((-float(line[4]), int(line[5]), name, (image, at)))
        free |= {(image, at): int(n) for at, n in enumerate(truth.numbers) if at not in used}
    missed = free.keys() - {place for *_, name, place in told if name}
    every = [(int(n), (i, at)) for i, truth in enumerate(truths) for at, n in enumerate(truth.numbers)]

    def score(fixed: str) -> float:
        taken, lines = set(), []
        for minus, number, name, place in sorted(told):
            if name != fixed:
                lines.append((number, -minus, not name))
            elif place in free and place not in taken:
                taken.add(place)
                lines.append((free[place], -minus, True))
        left = [number for number, place in every if fixed != "missed" or place not in missed]
        return average_precision(lines, {number: left.count(number) for number in set(left)})

    counts = {name: sum(one[2] == name for one in told) for name in TYPES} | {"missed": len(missed)}
    return counts, {name: score(name) - score("none") for name in TYPES}


@pytest.mark.parametrize("seed", range(3))
def test_types_and_costs_are_those_of_loops(tmp_path, seed):
    truths, finds = untied(60, seed)
    record = checked("detection-errors", view_of(tmp_path, TASK, table_of(truths, finds)))
    counts, costs = by_loops(truths, finds)
    assert {row[0]: row[4] for row in record.tables[0].rows} == counts
    assert all(counts.values())
    for name, cost in costs.items():
        metric = record.metrics[f"dap@{name}"]
        assert metric.value == pytest.approx(cost, abs=1e-9), name
        assert metric.low <= metric.value <= metric.high
    assert record.verdict is Verdict.NOTED
    assert record.findings[0].where == max(costs, key=costs.get)


def test_one_error_of_each_type(tmp_path):
    box = [0.0, 0.0, 100.0, 100.0]
    truth = Truth.of(np.array([box]), np.array([0]))
    cases = {
        "cls": [[*box, 0.9, 1]],
        "loc": [[0, 0, 100, 40, 0.9, 0]],
        "both": [[0, 0, 100, 40, 0.9, 1]],
        "dupe": [[*box, 0.9, 0], [0, 0, 100, 99, 0.8, 0]],
        "bkg": [[500, 500, 600, 600, 0.9, 0]],
        "missed": [[*box, 0.9, 9]],
    }
    for name, lines in cases.items():
        finds = [np.array([lines[at % len(lines)] for at in range(2)][: len(lines)], np.float32)] * 3
        record = checked("detection-errors", view_of(tmp_path / name, TASK, table_of([truth] * 3, finds)))
        found = {row[0]: row[4] for row in record.tables[0].rows}
        assert found[name] == 3, name
        assert found["missed"] == (3 if name in ("both", "bkg", "missed") else 0)
