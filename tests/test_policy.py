"""Budgets judged on metrics: each kind, its direction and unit, its interval, and what is missing."""

import pytest

from diag.budgets import budgets_of, said_of
from diag.options import Options
from diag.policy import Budget, Figures, budgets_record, drop, judged
from study.errors import InputError
from study.record import Metric, Verdict


def exact(value: float, better: str = "higher") -> Metric:
    return Metric.exact(value, 500, better=better)  # type: ignore[arg-type]


def figures(after: dict[str, Metric], before: dict[str, Metric], task: str = "classification") -> Figures:
    return Figures(after, before, task)


@pytest.mark.parametrize(
    ("low", "value", "high", "state"),
    [
        (0.0, 0.002, 0.009, "within"),
        (0.0, 0.010, 0.010, "within"),
        (0.0, 0.008, 0.030, "within, the interval reaches beyond"),
        (0.005, 0.012, 0.030, "beyond"),
        (0.011, 0.020, 0.030, "surely beyond"),
    ],
)
def test_the_value_decides_and_the_interval_says_how_sure(low: float, value: float, high: float, state: str):
    found = figures({"negative_flip_rate": Metric(value, low, high, 500)}, {})
    (reading,) = judged([Budget("flips", 0.01)], found)
    assert reading.state == state
    assert reading.passed == state.startswith("within")


@pytest.mark.parametrize("kind", ["drop", "flips", "slice", "latency", "size"])
def test_a_missing_metric_fails_every_budget(kind) -> None:
    (reading,) = judged([Budget(kind, 1e9)], figures({"nll": exact(1.0)}, {"accuracy": exact(0.9)}))
    assert reading.state == "missing"
    assert not reading.passed
    assert budgets_record("budgets", [reading], gate=True).verdict is Verdict.BAD


@pytest.mark.parametrize(
    ("task", "name", "before", "after", "lost", "unit"),
    [
        ("classification", "accuracy", 0.90, 0.88, 0.02, "points"),
        ("classification", "accuracy", 0.88, 0.90, -0.02, "points"),
        ("segmentation", "miou", 0.50, 0.49, 0.01, "points"),
        ("regression", "mae", 2.0, 2.5, 0.25, "%"),
        ("language", "perplexity", 10.0, 9.0, -0.1, "%"),
    ],
)
def test_what_is_lost_is_points_of_a_share_and_percent_of_anything_else(
    task, name, before, after, lost, unit
):
    better = "higher" if unit == "points" else "lower"
    found = drop(figures({name: exact(after, better)}, {name: exact(before, better)}, task))
    assert found is not None
    assert (found.value, found.unit) == (pytest.approx(lost), unit)
    change = Metric(after - before, after - before - 0.1, after - before + 0.3, 500)
    paired = drop(
        figures({name: exact(after), f"{name}@change": change}, {name: exact(before, better)}, task)
    )
    assert paired is not None
    scale = 1 if unit == "points" else before
    sign = -1 if better == "higher" else 1
    ends = sorted(sign * (after - before + end) / scale for end in (-0.1, 0.3))
    assert (paired.low, paired.high) == pytest.approx(tuple(ends))


def test_a_share_without_its_paired_change_has_the_wider_interval() -> None:
    before, after = (Metric(value, value - 0.02, value + 0.01, 500, better="higher") for value in (0.9, 0.88))
    found = drop(figures({"accuracy": after}, {"accuracy": before}))
    assert found is not None
    assert (found.low, found.value, found.high) == pytest.approx((-0.01, 0.02, 0.05))


def test_where_answers_are_not_right_or_wrong_those_that_changed_are_counted() -> None:
    same = figures({"agreement": Metric(0.97, 0.95, 0.98, 500)}, {})
    (reading,) = judged([Budget("flips", 0.01)], same)
    assert reading.metric is not None
    assert (reading.metric.low, reading.metric.value, reading.metric.high) == pytest.approx(
        (0.02, 0.03, 0.05)
    )
    assert "answers changed" in reading.words
    both = figures({"agreement": exact(0.9), "negative_flip_rate": exact(0.0)}, {})
    assert judged([Budget("flips", 0.01)], both)[0].passed


def test_the_model_as_it_came_has_lost_nothing_and_costs_what_it_costs() -> None:
    came = Figures(
        {"latency_p50_ms": exact(9.0), "size_bytes": exact(5.0)}, {}, "classification", itself=True
    )
    kinds = ("drop", "flips", "slice", "latency", "size")
    readings = judged([Budget(kind, 6.0 if kind == "size" else 0.0) for kind in kinds], came)  # type: ignore[arg-type]
    assert [one.passed for one in readings] == [True, True, True, False, True]


def test_what_is_within_but_not_surely_is_told() -> None:
    near = judged([Budget("flips", 0.01)], figures({"negative_flip_rate": Metric(0.0, 0.0, 0.02, 90)}, {}))
    record = budgets_record("budgets", near, gate=True)
    assert record.verdict is Verdict.GOOD
    assert "not surely" in record.summary
    assert "--max-flips 1.0" in record.summary


def test_a_clock_that_is_read_again_fails_a_gate_only_surely() -> None:
    def verdict(low: float, value: float, *, gate: bool) -> Verdict:
        found = figures({"latency_p50_ms": Metric(value, low, 9.0, 90, "ms")}, {})
        return budgets_record("budgets", judged([Budget("latency", 5.0)], found), gate=gate).verdict

    assert verdict(4.8, 5.1, gate=True) is Verdict.GOOD
    assert verdict(5.05, 5.1, gate=True) is Verdict.BAD
    found = figures({"size_bytes": exact(6.0)}, {})
    assert budgets_record("budgets", judged([Budget("size", 5.0)], found), gate=True).verdict is Verdict.BAD


def test_options_are_read_in_their_units() -> None:
    options = Options(
        max_drop="0.5", max_flips="1%", max_slice_drop="2", max_latency="p90=300us", max_size="5MB"
    )
    assert budgets_of(options) == (
        Budget("drop", 0.005),
        Budget("flips", 0.01),
        Budget("slice", 0.02),
        Budget("latency", pytest.approx(0.3), "latency_p90_ms"),  # type: ignore[arg-type]
        Budget("size", 5e6),
    )
    assert said_of(budgets_of(options), options) == ()


def test_where_nobody_says_what_the_answers_may_lose_a_point_is_taken_and_said() -> None:
    options = Options(max_latency="5ms")
    assert budgets_of(options)[0] == Budget("drop", 0.01)
    assert "--max-drop 1 is taken" in said_of(budgets_of(options), options)[0]
    bare = Options(max_size="1MB", unlabelled=True)
    assert budgets_of(bare)[0] == Budget("flips", 0.01)
    assert "--max-flips 1% is taken" in said_of(budgets_of(bare), bare)[0]


@pytest.mark.parametrize(
    ("said", "names"),
    [
        ({}, "--max-drop 0.5"),
        ({"max_drop": "-1"}, "points from 0 to 100"),
        ({"max_drop": "little"}, "--max-drop is 'little'"),
        ({"max_flips": "1"}, "1% or 0.01"),
        ({"max_flips": "-1%"}, "1% or 0.01"),
        ({"max_slice_drop": "200"}, "--max-slice-drop is '200'"),
        ({"max_latency": "5"}, "5ms, 0.2s or p90=5ms"),
        ({"max_latency": "p95=5ms"}, "p90=5ms"),
        ({"max_latency": "0ms"}, "--max-latency is '0ms'"),
        ({"max_size": "5 apples"}, "5MB or 300kB"),
        ({"max_drop": "1", "unlabelled": True}, "--max-drop needs labels"),
    ],
)
def test_a_budget_that_makes_no_sense_is_one_sentence(said: dict, names: str) -> None:
    with pytest.raises(InputError) as wrong:
        budgets_of(Options(**said))
    assert names in str(wrong.value)
    assert "\n" not in str(wrong.value)
