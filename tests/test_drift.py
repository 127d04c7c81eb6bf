"""Drift of explanations: rank correlations against scipy, overlaps against a plain twin, verdicts."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from explain.drift import Drift, Pair, flat, rank_correlation, top_overlap
from explain.method import Attribution
from study.errors import SkipError
from study.record import Verdict

maps = st.lists(st.integers(-20, 20), min_size=2, max_size=60)


def attribution(values, by="occlusion", baseline="zero"):
    array = np.asarray(values, np.float32)
    return Attribution(by, tuple(str(at) for at in range(len(array))), {"x": array}, None, baseline)


def drift_of(origin, artifact, unchanged=None, **settings):
    pair = Pair(attribution(origin), attribution(artifact))
    rows = len(pair.origin.ids)
    return Drift(**settings).record(
        {"occlusion": pair}, unchanged or [True] * rows, [f"diag explain m --rows {at}" for at in range(rows)]
    )


@given(maps, st.integers(0, 99))
def test_rank_correlation_is_scipys(values, seed):
    a = np.array(values, float)
    b = a + np.random.default_rng(seed).integers(-10, 10, len(a))
    if np.ptp(a) and np.ptp(b):
        assert rank_correlation(a, b) == pytest.approx(spearmanr(a, b).statistic, abs=1e-12)


@given(maps)
def test_a_map_agrees_with_itself_exactly(values):
    a = np.array(values, float)
    assert rank_correlation(a, a) == 1.0
    assert rank_correlation(a, 3 * a) == 1.0
    assert top_overlap(a, a) == 1.0
    assert top_overlap(a, -a) == 1.0


def test_maps_that_say_nothing():
    silent, speaking = np.zeros(6), np.arange(6.0)
    assert rank_correlation(silent, silent) == top_overlap(silent, silent) == 1.0
    assert rank_correlation(silent, speaking) == top_overlap(silent, speaking) == 0.0


def test_the_noise_of_arithmetic_is_no_rank():
    rng = np.random.default_rng(0)
    a = np.zeros(100)
    a[:5] = [5, 4, 3, 2, 1]
    noisy = a + rng.normal(0, 1e-6, 100)
    assert rank_correlation(a, noisy) == 1.0
    assert top_overlap(a, noisy) == 1.0


def test_sign_counts():
    a = np.array([3.0, -3, 1, -1])
    assert rank_correlation(a, -a) == pytest.approx(-1)


@pytest.mark.parametrize(("cells", "strongest"), [(4, 2), (12, 5), (100, 5), (400, 20)])
def test_overlap_is_that_of_the_strongest_sets(cells, strongest):
    rng = np.random.default_rng(cells)
    a, b = rng.normal(size=cells), rng.normal(size=cells)
    sets = [set(np.argsort(-np.abs(map_))[:strongest]) for map_ in (a, b)]
    assert top_overlap(a, b) == pytest.approx(len(sets[0] & sets[1]) / strongest)


def test_patches_are_shared_at_the_edge():
    """A patch of four equal cells at the edge of the strongest counts as a patch, wherever it lies."""
    a = np.repeat([4.0, 3, 2, 1, 0.5, 0.2, 0.1, 0.05], 4)
    b = np.repeat([4.0, 2, 3, 1, 0.5, 0.2, 0.1, 0.05], 4)
    assert top_overlap(a, b) == pytest.approx((4 + 0) / 5)


def test_channels_and_inputs_are_one_line():
    both = Attribution("m", ("0",), {"b": np.ones((1, 2)), "a": np.zeros((1, 1, 2, 1))})
    np.testing.assert_array_equal(flat(both), [[0, 0, 1, 1]])


def test_an_artifact_compared_with_itself_does_not_drift():
    values = np.random.default_rng(0).normal(size=(12, 3, 8, 8))
    record = drift_of(values, values)
    assert record.verdict is Verdict.GOOD
    assert record.by == "drift"
    for name in (
        "attribution_rank_correlation",
        "attribution_rank_correlation_p05",
        "attribution_top_overlap",
    ):
        metric = record.metrics[name]
        assert (metric.value, metric.low, metric.high, metric.n) == (1.0, 1.0, 1.0, 12)
    assert not record.findings


def test_metrics_are_mean_and_tail_of_the_rows():
    rng = np.random.default_rng(1)
    origin = rng.normal(size=(16, 40))
    artifact = origin + rng.normal(size=origin.shape) * rng.uniform(0, 2, (16, 1))
    expected = [spearmanr(a, b).statistic for a, b in zip(origin, artifact, strict=True)]
    metrics = drift_of(origin, artifact).metrics
    assert metrics["attribution_rank_correlation"].value == pytest.approx(np.mean(expected), abs=1e-6)
    tail = metrics["attribution_rank_correlation_p05"]
    assert tail.value == pytest.approx(np.quantile(expected, 0.05), abs=1e-6)
    assert tail.low <= tail.value <= tail.high
    assert tail.low >= min(expected) - 1e-9


def test_verdicts():
    rng = np.random.default_rng(2)
    origin = rng.normal(size=(16, 50))
    one_off = origin.copy()
    one_off[3] = rng.normal(size=50)
    one_off[4] = rng.normal(size=50)
    assert drift_of(origin, origin * 2).verdict is Verdict.GOOD
    assert drift_of(origin, one_off).verdict is Verdict.NOTED
    assert drift_of(origin, rng.normal(size=(16, 50))).verdict is Verdict.BAD
    assert drift_of(origin[:3], rng.normal(size=(3, 50))).verdict is Verdict.NOTED


def test_findings_are_the_rows_that_keep_their_prediction_for_other_reasons():
    rng = np.random.default_rng(3)
    origin = rng.normal(size=(10, 50))
    artifact = origin.copy()
    artifact[[2, 7]] = -origin[[2, 7]]
    record = drift_of(origin, artifact, unchanged=[at != 7 for at in range(10)])
    assert [finding.show for finding in record.findings] == ["diag explain m --rows 2"]
    assert record.findings[0].effect is not None
    assert record.findings[0].effect.value == pytest.approx(-1)
    assert record.tables[0].rows[0][3] in ("changed", "the same")
    assert [row[1] for row in record.tables[0].rows[:2]] == ["2", "7"]


def test_other_methods_have_qualified_names():
    pair = Pair(attribution(np.eye(4), "gradcam"), attribution(np.eye(4), "gradcam"))
    bare = Pair(attribution(np.eye(4)), attribution(np.eye(4)))
    names = set(Drift().record({"occlusion": bare, "gradcam": pair}, [True] * 4, [""] * 4).metrics)
    stems = {"attribution_rank_correlation", "attribution_rank_correlation_p05", "attribution_top_overlap"}
    assert names == stems | {f"{stem}@gradcam" for stem in stems}


def test_what_cannot_be_compared_is_refused():
    one = attribution(np.eye(3))
    for other in (
        attribution(np.eye(4)),
        attribution(np.eye(3), baseline="the mean of the judged rows"),
        attribution(np.ones((3, 5))),
    ):
        with pytest.raises(SkipError):
            Pair(one, other).correlations()
    with pytest.raises(SkipError, match="no method"):
        Drift().record({}, [], [])


def test_one_row_has_no_interval():
    metric = drift_of(np.ones((1, 4)), np.ones((1, 4))).metrics["attribution_rank_correlation"]
    assert (metric.value, metric.low, metric.high, metric.n) == (1.0, 1.0, 1.0, 1)
