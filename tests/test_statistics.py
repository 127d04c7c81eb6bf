"""Intervals and tests against scipy, textbook values, and simulations of what they promise."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.sparse import csr_array

from study import bootstrap as resampling
from study.bootstrap import bootstrap, bootstrap_sums
from study.statistics import (
    benjamini_hochberg,
    count_units,
    effective_units,
    from_influence,
    mcnemar_exact,
    mean_interval,
    mean_of,
    paired_difference,
    proportion,
    ratio_of,
    share_of,
    wilson,
)


def test_wilson_of_nothing_in_ten() -> None:
    low, high = wilson(0, 10)
    assert low == 0
    assert high == pytest.approx(0.2775, abs=5e-5)


@given(st.integers(1, 10_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_is_scipys(counts) -> None:
    successes, n = counts
    expected = stats.binomtest(successes, n).proportion_ci(method="wilson")
    assert wilson(successes, n) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_of_no_rows_is_everything() -> None:
    assert wilson(0, 0) == (0, 1)
    with pytest.raises(ValueError, match="no units"):
        proportion(0, 0)


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_the_exact_binomial_test(lost, won) -> None:
    least = min(lost, won)
    twin = min(1.0, 2 * stats.binom.cdf(least, lost + won, 0.5)) if lost + won else 1.0
    assert mcnemar_exact(lost, won) == pytest.approx(twin)


@given(st.lists(st.floats(0, 1), max_size=50))
def test_benjamini_hochberg_is_scipys(p) -> None:
    values = np.array(p)
    expected = stats.false_discovery_control(values) if len(values) else values
    assert benjamini_hochberg(values) == pytest.approx(expected)


def test_benjamini_hochberg_keeps_false_reports_down() -> None:
    rng = np.random.default_rng(0)
    false = [(benjamini_hochberg(rng.random(20)) <= 0.1).any() for _ in range(2000)]
    assert 0.07 <= np.mean(false) <= 0.13


def test_mean_interval_is_students() -> None:
    values = np.random.default_rng(0).exponential(size=30)
    expected = stats.t.interval(0.95, 29, values.mean(), stats.sem(values))
    assert mean_interval(values) == pytest.approx(expected)
    assert mean_interval(values, np.arange(30)) == pytest.approx(expected)
    assert mean_interval(values[:1]) == (-np.inf, np.inf)


def test_bootstrap_of_a_mean_agrees_with_scipy() -> None:
    values = np.random.default_rng(1).exponential(size=200)
    ours = mean_of(values)
    theirs = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=5000, rng=0)
    assert (ours.low, ours.high) == pytest.approx(tuple(theirs.confidence_interval), abs=0.02)
    assert ours.value == values.mean()
    with pytest.raises(ValueError, match="one unit"):
        mean_of(values[:1])
    with pytest.raises(ValueError, match="one unit"):
        mean_of(values, groups=np.zeros(200))


def test_replicates_are_weighted_sums() -> None:
    """The twin resamples the rows that the generator draws, one by one."""
    values = np.random.default_rng(2).normal(size=(50, 3))
    drawn = bootstrap_sums(values, lambda sums: sums, replicates=7, seed=5)
    rows = np.random.default_rng(5).integers(0, 50, size=(7, 50))
    twin = [values[chosen].sum(axis=0) for chosen in rows]
    assert drawn == pytest.approx(np.array(twin))


@pytest.mark.parametrize("groups", [None, np.arange(50) % 9])
def test_sparse_dense_and_chunked_sums_are_the_same(monkeypatch, groups) -> None:
    values = np.random.default_rng(3).random((50, 4)) * (np.random.default_rng(4).random((50, 4)) < 0.3)
    dense = bootstrap_sums(values, lambda sums: sums, groups=groups, replicates=20)
    assert bootstrap_sums(
        csr_array(values), lambda sums: sums, groups=groups, replicates=20
    ) == pytest.approx(dense)
    monkeypatch.setattr(resampling, "CHUNK_NUMBERS", 300)
    assert bootstrap_sums(values, lambda sums: sums, groups=groups, replicates=20) == pytest.approx(dense)


def test_blocks_of_very_many_units_spread_as_the_units_do(monkeypatch) -> None:
    values = np.random.default_rng(5).exponential(size=4000)
    exact = mean_of(values)
    monkeypatch.setattr(resampling, "BLOCKS", 800)
    blocked = mean_of(values)
    grouped = mean_of(values, groups=np.arange(4000))
    for other in (blocked, grouped):
        assert other.high - other.low == pytest.approx(exact.high - exact.low, rel=0.1)


def test_replicates_that_are_undefined_do_not_count() -> None:
    def inverse(sums: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore"):
            return 1 / sums

    low, high = bootstrap(np.array([[1.0], [0.0]]), inverse)
    assert (low[0], high[0]) == (0.5, 1.0)
    low, high = bootstrap(np.zeros((3, 1)), inverse)
    assert np.isnan([low[0], high[0]]).all()


def test_the_bootstrap_is_seeded() -> None:
    values = np.random.default_rng(6).normal(size=80)
    assert mean_of(values) == mean_of(values)
    assert mean_of(values) != mean_of(values, seed=1)


def macro(sums: np.ndarray) -> np.ndarray:
    """A ratio of sums less another one: a paired difference of two models."""
    return sums[:, 0] / sums[:, 2] - sums[:, 1] / sums[:, 2]


def coverage(interval, truth: float, rounds: int = 300) -> float:
    hits = 0
    for seed in range(rounds):
        low, high = interval(np.random.default_rng(seed))
        hits += low <= truth <= high
    return hits / rounds


def test_a_mean_is_covered() -> None:
    def interval(rng: np.random.Generator) -> tuple[float, float]:
        metric = mean_of(rng.exponential(size=150))
        return metric.low, metric.high

    assert 0.92 <= coverage(interval, 1.0) <= 0.98


def test_a_paired_difference_of_means_is_covered() -> None:
    def interval(rng: np.random.Generator) -> tuple[float, float]:
        shared = rng.normal(size=100)
        first, second = shared + rng.normal(0, 0.3, 100), shared + rng.normal(0.2, 0.3, 100)
        low, high = bootstrap(np.column_stack([first, second, np.ones(100)]), macro)
        assert high[0] - low[0] < 0.3  # unpaired it would be about .57
        return low[0], high[0]

    assert 0.92 <= coverage(interval, -0.2) <= 0.98


def clustered(rng: np.random.Generator, share: float) -> tuple[np.ndarray, np.ndarray]:
    """40 groups of 1 to 9 rows whose own shares differ widely."""
    sizes = rng.integers(1, 10, 40)
    own = rng.beta(share * 2, (1 - share) * 2, 40)
    groups = np.repeat(np.arange(40), sizes)
    return rng.random(len(groups)) < own[groups], groups


@pytest.mark.parametrize("share", [0.5, 0.85])
def test_a_share_of_rows_in_groups_is_covered(share) -> None:
    def interval(rng: np.random.Generator) -> tuple[float, float]:
        hits, groups = clustered(rng, share)
        metric = share_of(hits, groups=groups)
        return metric.low, metric.high

    def blind(rng: np.random.Generator) -> tuple[float, float]:
        metric = share_of(clustered(rng, share)[0])
        return metric.low, metric.high

    assert 0.92 <= coverage(interval, share) <= 0.99
    assert coverage(blind, share) < 0.88


def test_the_bootstrap_of_groups_is_covered() -> None:
    def interval(rng: np.random.Generator) -> tuple[float, float]:
        hits, groups = clustered(rng, 0.5)
        metric = mean_of(hits, groups=groups)
        return metric.low, metric.high

    assert 0.91 <= coverage(interval, 0.5) <= 0.98


def test_effective_units() -> None:
    rng = np.random.default_rng(7)
    alone = (rng.random(1000) < 0.5).astype(float)
    assert effective_units(alone, np.arange(1000)) == pytest.approx(1000, rel=0.01)
    copies = np.repeat(alone[:50], 20)
    assert effective_units(copies, np.arange(1000) // 20) == pytest.approx(50, rel=0.1)
    assert effective_units(np.ones(1000), np.arange(1000) // 20) == 50
    assert effective_units(alone, np.zeros(1000)) == 1
    assert count_units(1000, None) == 1000
    assert count_units(1000, np.arange(1000) // 20) == 50


@pytest.mark.parametrize(("flip", "won"), [(0.05, 0.2), (0.3, 0.5), (0.02, 0.0)])
def test_a_paired_difference_of_shares_is_covered(flip, won) -> None:
    def interval(rng: np.random.Generator) -> tuple[float, float]:
        flipped = rng.random(200) < flip
        to_right = rng.random(200) < won
        before = np.where(flipped, ~to_right, rng.random(200) < 0.8)
        metric = paired_difference(before, before ^ flipped)
        return metric.low, metric.high

    assert 0.92 <= coverage(interval, flip * (2 * won - 1)) <= 0.99


@pytest.mark.parametrize(("won", "lost", "n"), [(3, 9, 60), (0, 4, 50), (12, 1, 40)])
def test_a_paired_differences_ends_are_just_rejected(won, lost, n) -> None:
    """The twin finds the likeliest shares under each end by search, and the score statistic from them."""
    before = np.arange(n) < lost
    after = (np.arange(n) >= lost) & (np.arange(n) < lost + won)
    metric = paired_difference(before, after)
    for change in (metric.low, metric.high):
        shares = np.linspace(max(0, -change), (1 - change) / 2, 400_001)[1:-1]  # of losses

        def logs(count: int, share: np.ndarray) -> np.ndarray:
            return count * np.log(share) if count else np.zeros_like(share)

        both = logs(won, shares + change) + logs(lost, shares)
        likeliest = shares[np.argmax(both + logs(n - won - lost, 1 - change - 2 * shares))]
        variance = n * (2 * likeliest + change * (1 - change))
        score = (won - lost - n * change) / np.sqrt(variance)
        assert abs(score) == pytest.approx(1.95996, abs=2e-3)


def test_no_flips_are_no_certainty() -> None:
    same = np.ones(100, dtype=bool)
    metric = paired_difference(same, same)
    assert metric.value == 0
    assert metric.high == -metric.low == pytest.approx(1.95996**2 / (100 + 1.95996**2), abs=1e-5)
    grouped = paired_difference(same, same, groups=np.arange(100) // 10)
    assert grouped.low < metric.low


def test_influence_of_a_mean_is_its_standard_error() -> None:
    hits = np.random.default_rng(8).random(300) < 0.6
    value = float(hits.mean())
    metric = from_influence(value, (hits - value) / 300)
    half = 1.968 * np.sqrt(value * (1 - value) / 299)
    assert (metric.high - metric.low) / 2 == pytest.approx(half, rel=0.01)
    certain = from_influence(1.0, np.zeros(300))
    assert (certain.low, certain.high) == pytest.approx(wilson(300, 300))
    grouped = from_influence(value, (hits - value) / 300, groups=np.arange(300) // 30)
    assert grouped.n == 300
    assert grouped.low < grouped.value < grouped.high


@settings(max_examples=60)
@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, 5)), min_size=1, max_size=40))
def test_intervals_hold_their_value(rows) -> None:
    before, after, groups = (np.array(column) for column in zip(*rows, strict=True))
    for clusters in (None, groups):
        share = share_of(after, groups=clusters)
        assert 0 <= share.low <= share.value <= share.high <= 1
        change = paired_difference(before, after, groups=clusters)
        assert -1 <= change.low <= change.value <= change.high <= 1
        if count_units(len(rows), clusters) > 1:
            mean = mean_of(after, groups=clusters)
            assert mean.low <= mean.value <= mean.high


def test_a_ratio_of_which_some_draws_have_nothing_below():
    one = ratio_of(np.array([1.5, 0, 0]), np.array([2, 0, 0]))
    assert (one.value, one.low, one.high) == (0.75, 0.75, 0.75)
