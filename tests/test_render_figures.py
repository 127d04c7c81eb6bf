"""Numbers as text."""

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diag.render.figures import MINUS, TIMES, cell, certainty, count, figure, measure, number, plain
from study.record import Metric


def ascii_of(text: str) -> str:
    return text.replace(MINUS, "-").replace(TIMES, "x").replace("\N{NO-BREAK SPACE}", " ")


@pytest.mark.parametrize(
    ("name", "metric", "full"),
    [
        ("accuracy", Metric(0.98333, 0.97083, 0.99041, 360), "98.3 % [97.1, 99.0], n 360"),
        ("accuracy", Metric(0.98333, 0.98283, 0.98383, 100_000), "98.33 % [98.28, 98.38], n 100,000"),
        ("accuracy", Metric(1.0, 1.0, 1.0, 360), "100.0 %"),
        ("auroc", Metric(0.99931, 0.99852, 0.99976, 360), "0.9993 [0.9985, 0.9998], n 360"),
        ("latency_p50_ms", Metric(0.1331, 0.1294, 0.1382, 200, "ms"), "0.133 ms [0.129, 0.138], n 200"),
        ("latency_p50_ms", Metric(12_345.0, 12_000, 12_600, 9, "ms"), "12.3 s [12.0, 12.6], n 9"),
        ("speedup", Metric(3.0977, 2.94, 3.28, 200, "x"), "3.1x [2.9, 3.3], n 200"),
        ("throughput_per_s", Metric(2427.2, 2330.1, 2524.3, 200, "rows/s"), "2,427/s [2,330, 2,524], n 200"),
        ("size_bytes", Metric.exact(1_742_331, 1, "bytes"), "1.74 MB"),
        ("size_bytes", Metric.exact(512, 1, "bytes"), "512 B"),
        ("parameters", Metric.exact(421_642, 1), "421,642"),
        ("max_abs_error", Metric.exact(3.1e-6, 360), "3.1e-6"),
        ("sqnr_db", Metric(31.42, 30.9, 32.0, 9, "dB"), "31.4 dB [30.9, 32.0], n 9"),
        ("rmse", Metric(53.2, 49.0, 58.1, 88), "53 [49, 58], n 88"),
        ("something", Metric(2.5, 2.0, 3.0, 4, "nats"), "2.5 nats [2.0, 3.0], n 4"),
        ("brier", Metric(0.0, 0.0, 0.0, 4), "0.000"),
        ("parameters", Metric.exact(0, 4), "0"),
    ],
)
def test_a_figure_has_its_interval_its_unit_and_no_more_digits_than_it_deserves(
    name: str, metric: Metric, full: str
) -> None:
    assert ascii_of(figure(name, metric).full) == full


def test_a_difference_has_its_sign() -> None:
    def shown(value: float) -> str:
        return ascii_of(figure("", Metric.exact(value, 9, "points"), signed=True).text)

    assert [shown(-0.0167), shown(0.0028), shown(0.0), shown(-0.00001)] == [
        "-1.7 points", "+0.3 points", "0.0 points", "0.0 points",
    ]  # fmt: skip


@given(
    st.sampled_from(["accuracy", "latency_p50_ms", "size_bytes", "speedup", "auroc", "anything", "r2"]),
    st.floats(-1e15, 1e15),
    st.floats(0, 1e6),
    st.integers(1, 10**6),
)
def test_any_metric_can_be_shown_and_is_near_its_value(name: str, value: float, half: float, n: int) -> None:
    shown = figure(name, Metric(value, value - half, value + half, n))
    digits = re.fullmatch(r"(-?[\d,.]+(?:e-?\d+)?)[\sx/]?.*", ascii_of(shown.text))
    assert digits
    read = float(digits[1].replace(",", ""))
    unit = {"MB": 1e6, "kB": 1e3, "GB": 1e9, "s": 1e3, "%": 0.01}.get(shown.text.split("\xa0")[-1], 1)
    assert math.isclose(read * unit, value, rel_tol=0.06, abs_tol=max(half, 0.002))


@pytest.mark.parametrize("value", [0.95, 0.9501, 0.991, 0.99, 0.9999, 1.0, 0.5])
def test_a_certainty_is_never_rounded_up(value: float) -> None:
    shown = certainty(value)
    if value == 1:
        assert shown == "certain"
        return
    said = re.search(r"[\d.]+", shown)
    assert said
    assert float(said[0]) / 100 <= value + 1e-12


def test_cells_are_read_by_the_name_of_their_column() -> None:
    assert [cell(0.125, "error_rate"), cell(0.125, "recall"), cell(0.125, "anything")] == [
        "12.5\xa0%", "12.5\xa0%", "0.1250",
    ]  # fmt: skip
    assert [cell(None, "x"), cell(True, "x"), cell(3, "rows"), cell("text", "x")] == ["", "yes", "3", "text"]
    assert cell(float("nan"), "recall") == "nan"
    assert number(-1234567.0) == f"{MINUS}1,234,567"
    assert [count(1, "row"), count(1234, "row")] == ["1 row", "1,234 rows"]


def test_a_qualified_name_keeps_its_qualifier() -> None:
    assert measure("latency_p50_ms@batch=8").label == "latency p50, batch=8"
    assert measure("accuracy@gaussian_noise:3").kind == "percent"


@given(st.text())
def test_plain_text_has_nothing_that_acts_and_keeps_the_rest(text: str) -> None:
    shown = plain(text)
    assert len(shown) == len(text)
    assert not re.search("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", shown)
    assert all(a == b or b in " \ufffd" for a, b in zip(text, shown, strict=True))
    shown.encode("utf-8")
