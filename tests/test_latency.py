"""The race: verdicts that know noise, percentiles that n allows, and one plain twin."""

import numpy as np
import pytest

from export.timing.disturbance import Usage, disturbed
from export.timing.inputs import tokens_of
from export.timing.race import Contender, Raced, Runner
from export.timing.record import compare
from export.timing.seats import Started, Warm
from export.timing.verdicts import LEAST_FLOOR, differs, noise_floor, own_metrics, ratio
from study.record import Metric

ROUNDS = 25


def times(generator: np.random.Generator, base_ms: float, noise: float, drift: np.ndarray) -> np.ndarray:
    """Nanoseconds of rounds x calls, with the machine's own drift that all contenders of a round share."""
    calls = generator.lognormal(0.0, noise, (ROUNDS, 20))
    return (base_ms * 1e6 * drift[:, None] * calls).astype(np.int64)


def verdict(seed: int, factor: float, noise: float = 0.05) -> str:
    """The verdict on a model that takes ``factor`` times as long."""
    generator = np.random.default_rng(seed)
    drift = generator.lognormal(0.0, 0.2, ROUNDS)
    first, again, other = (np.median(times(generator, ms, noise, drift), axis=1) for ms in (1.0, 1.0, factor))
    return differs(ratio(first, other, seed), noise_floor(first, again, seed))


def test_a_model_differs_from_itself_in_at_most_1_of_40_races() -> None:
    assert sum(verdict(seed, 1.0) != "no measurable difference" for seed in range(40)) <= 1


@pytest.mark.parametrize(("factor", "word"), [(1.1, "slower"), (0.9, "faster")])
def test_a_tenth_is_seen_in_spite_of_the_drift_of_the_machine(factor: float, word: str) -> None:
    assert sum(verdict(seed, factor) == word for seed in range(40)) >= 38


def test_high_noise_is_not_called_faster() -> None:
    assert sum(verdict(seed, 0.99, noise=1.0) == "faster" for seed in range(40)) <= 1


def test_identical_times_are_no_difference_and_the_ratio_is_one() -> None:
    same = np.full(ROUNDS, 2.0)
    metric = ratio(same, same, 0)
    assert (metric.value, metric.low, metric.high) == (1.0, 1.0, 1.0)
    assert noise_floor(same, same, 0) == LEAST_FLOOR
    assert differs(metric, LEAST_FLOOR) == "no measurable difference"


def test_the_ratio_is_the_median_of_the_paired_ratios() -> None:
    generator = np.random.default_rng(1)
    slow, fast = generator.uniform(2, 3, ROUNDS), generator.uniform(1, 2, ROUNDS)
    metric = ratio(slow, fast, 0)
    assert metric.value == sorted(a / b for a, b in zip(slow, fast, strict=True))[ROUNDS // 2]
    assert metric.low <= metric.value <= metric.high


@pytest.mark.parametrize(
    ("calls", "told"),
    [(2, {"p50"}), (4, {"p50", "p90"}), (40, {"p50", "p90", "p99"})],
)
def test_a_percentile_needs_its_calls(calls: int, told: set[str]) -> None:
    nanoseconds = np.random.default_rng(0).integers(1_000_000, 2_000_000, (ROUNDS, calls))
    metrics = own_metrics(nanoseconds, batch=8)
    assert {f"latency_{name}_ms" for name in told} == {name for name in metrics if name.startswith("latency")}
    p50 = metrics["latency_p50_ms"]
    assert p50.value == pytest.approx(np.median(nanoseconds) / 1e6)
    assert p50.low <= p50.value <= p50.high
    assert p50.n == ROUNDS * calls
    rate = metrics["throughput_per_s"]
    by_hand = sorted(8 * calls / (row.sum() / 1e9) for row in nanoseconds)[ROUNDS // 2]
    assert rate.value == pytest.approx(by_hand)


def test_the_words_and_the_bare_speedup_against_torch_eager() -> None:
    from pathlib import Path

    from study.subject import Model, Subject
    from study.worker import Inline

    eager, onnx = (Model(Path(name), form) for name, form in (("m.pt", "pytorch"), ("m.onnx", "onnx")))
    contenders = [Contender(m.path.name, m, Subject(m), Inline()) for m in (eager, onnx)]
    start, warmed = Started(None, None, None, "cpu", 0), Warm(0.1, 0.004, 5, stable=True)
    slow, fast = (Runner((start,), (warmed,), np.full((1, ROUNDS, 3), ns)) for ns in (4_000_000, 1_000_000))
    raced = Raced(1, (slow, fast), np.full((ROUNDS, 3), 4_000_000))
    sentences, ratios, _ = compare(contenders, raced, 0)
    assert ratios == {"speedup": Metric(4.0, 4.0, 4.0, ROUNDS, "x", "higher")}
    assert "m.onnx: faster than m.pt (4x" in sentences[0]
    three = [*contenders, contenders[1]]
    sentences, ratios, _ = compare(three, Raced(1, (slow, fast, fast), raced.control), 0)
    assert set(ratios) == {"speedup@m.pt", "speedup@m.onnx"}
    assert "no measurable difference from m.onnx" in sentences[1]


def test_others_that_use_the_machine_are_named() -> None:
    idle, ours, others = Usage(0.0, 10.0, 4.0), Usage(10.0, 20.0, 13.5), Usage(10.0, 20.0, 5.0)
    assert disturbed(idle, ours, cores=2) == ()
    (found,) = disturbed(idle, others, cores=2)
    assert "45 %" in found.what
    now = Usage.now()
    assert now.busy > 0
    assert now.ours > 0


def test_tokens_are_those_that_the_mask_shows() -> None:
    ids, mask = np.ones((2, 5), np.int64), np.array([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])
    assert tokens_of({"input_ids": ids, "attention_mask": mask}) == 7
    assert tokens_of({"idx": ids}) == 10
    assert tokens_of({"x": np.ones((2, 5), np.float32)}) == 0
