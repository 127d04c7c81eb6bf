"""Forecasts: how they are read, their errors by step against slow twins, and what the rows depend on."""

import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from sklearn.metrics import mean_absolute_error, mean_pinball_loss, mean_squared_error

from diagnose.forecasts import means, read_forecasts, step_metrics
from diagnose.judged import read_judged
from diagnose.probe import PROBES
from study.errors import InputError, SkipError
from study.guess import guess_task
from study.losses import task_loss
from study.progress import Progress
from study.record import Verdict
from study.runtime import Runtimes
from study.statistics import share_of
from study.subject import Artifact, Data, InputSpec, Machine, Model, Split, Subject
from study.task import Task, encode
from study.view import View
from tests.prediction_tables import checked, table_of
from tests.tiny_series import series, windows


@pytest.fixture
def random() -> np.random.Generator:
    """The same numbers for each test, whatever runs before it."""
    return np.random.default_rng(0)


def view_of_windows(
    folder: Path, x, y, said, *, origin=None, positions=None, groups=None, quantiles=()
) -> View:
    """A view of these windows with the tables that its probes would have written of these forecasts."""
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "rows.npz", x=x, y=y)
    shape = y.shape[1:-1] if y.ndim == 3 and y.shape[2] == 1 else y.shape[1:]
    task = Task("forecasting", "value", (), "output", target_shape=shape, quantiles=quantiles)
    model = Model(folder / "never-opened.pt", "pytorch")
    rows = np.arange(len(y)) if positions is None else np.asarray(positions)
    split = Split(Data(str(folder / "rows.npz")), None if positions is None else tuple(rows.tolist()))
    inputs = (InputSpec("x", (None, *x.shape[1:]), "float32"),)
    view = View(
        Artifact(folder.name, folder, model),
        Subject(model, split, inputs=inputs, task=task),
        Machine(),
        Runtimes(),
        origin=origin,
    )
    table = table_of(task, said[rows], encode(task, y[rows]), groups)
    table.with_columns(position=pl.Series(rows)).write_parquet(folder / "predictions.parquet")
    PROBES.get("history")(rows=50).run(view, Progress())
    return view


def two_series(random, length: int = 200):
    """Two series on different scales, their windows, and forecasts with errors that grow with the steps."""
    first = series(length, 1)
    x, y = windows(np.column_stack([first, 50 + 10 * series(length, 2)]), history=30, horizon=4)
    return x, y, y + (random.normal(size=y.shape) * np.arange(1, 5)[:, None] * 0.2).astype(np.float32)


def test_errors_by_step_are_those_of_scikit_learn_and_of_slow_twins(tmp_path, random):
    x, y, said = two_series(random)
    found = step_metrics(read_forecasts(view_of_windows(tmp_path, x, y, said)))
    for step in range(4):
        name = f"h={step + 1}"
        wanted, told = y[:, step].astype(float), said[:, step].astype(float)
        error = mean_absolute_error(wanted, told)
        assert found[f"mae@{name}"].value == pytest.approx(error)
        assert found[f"rmse@{name}"].value == pytest.approx(math.sqrt(mean_squared_error(wanted, told)))
        assert found[f"bias@{name}"].value == pytest.approx((told - wanted).mean())
        naive = mean_absolute_error(wanted, x[:, -1].astype(float))
        assert found[f"skill_naive@{name}"].value == pytest.approx(1 - error / naive, abs=1e-6)
        relative, scaled = [], []
        for row in range(len(y)):
            for target in range(2):
                gap = abs(told[row, target] - wanted[row, target])
                relative.append(2 * gap / (abs(told[row, target]) + abs(wanted[row, target])))
                past = x[row, :, target].astype(float)
                moved = [abs(past[at] - past[at - 1]) for at in range(1, len(past))]
                scaled.append(gap / (sum(moved) / len(moved)))
        assert found[f"smape@{name}"].value == pytest.approx(100 * sum(relative) / len(relative))
        assert found[f"mase@{name}"].value == pytest.approx(sum(scaled) / len(scaled), rel=1e-5)
    every = [found[f"mase@h={step}"].value for step in (1, 2, 3, 4)]
    assert found["mase@all"].value == pytest.approx(np.mean(every))
    assert {metric.n for metric in found.values()} == {len(y)}
    assert "mae@all" not in found  # it is the bare mae of the accuracy


def test_the_seasonal_forecast_is_the_value_of_the_last_season(tmp_path, random):
    season = np.tile([0.0, 1, 3, 2, 5, 4], 40)
    x, y = windows(season + random.normal(size=240) * 0.05, history=20, horizon=8)
    view = view_of_windows(tmp_path, x[..., None], y, np.zeros_like(y))
    told = read_forecasts(view)
    assert "a season of 6 steps shows" in " ".join(told.notes)
    twin = [[x[row, 20 - 6 + step % 6] for step in range(8)] for row in range(len(x))]
    assert told.naive["seasonal"][:, :, 0] == pytest.approx(np.array(twin))
    assert told.naive["naive"][:, :, 0] == pytest.approx(np.repeat(x[:, -1:], 8, axis=1))


def test_a_series_without_a_season_has_none(tmp_path, random):
    x, y = windows(np.cumsum(random.normal(size=300)), history=40, horizon=3)
    told = read_forecasts(view_of_windows(tmp_path, x, y, y))
    assert "it shows no season" in " ".join(told.notes)
    assert list(told.naive) == ["naive"]


def test_rows_of_a_constant_history_are_left_out_of_the_scaled_error(tmp_path):
    values = series(160, 3)
    values[40:90] = 2.0
    x, y = windows(values, history=12, horizon=3)
    said = y + np.float32(0.5)
    view = view_of_windows(tmp_path, x, y, said)
    constant = int((x.std(axis=1) == 0).sum())
    assert constant == 39
    record = checked("horizons", view)
    assert record.metrics["mase@h=1"].n == len(x) - constant
    assert np.isfinite(record.metrics["mase@all"].high)
    assert f"The history of {constant} rows are constant" in record.summary
    only = view_of_windows(tmp_path / "only", np.ones_like(x), y, said)
    flat = checked("horizons", only)
    assert "mase@all" not in flat.metrics


def test_windows_that_overlap_make_blocks_of_twice_the_horizon(tmp_path):
    x, y = windows(series(260, 4), history=24, horizon=5)
    judged = read_judged(view_of_windows(tmp_path, x, y, y))
    assert len(x) == 232
    assert judged.groups is not None
    assert np.unique(judged.groups, return_counts=True)[1].tolist() == [10] * 23 + [2]
    apart, far = windows(series(260, 4), history=8, horizon=3, stride=12)
    assert read_judged(view_of_windows(tmp_path / "apart", apart, far, far)).groups is None
    named = [f"site {row // 100}" for row in range(len(x))]
    grouped = view_of_windows(tmp_path / "named", x, y, y, groups=named)
    assert read_judged(grouped).units == 3
    assert "blocks" not in checked("horizons", grouped).summary


def test_blocks_go_by_time_where_rows_are_left_out_and_end_with_a_series(tmp_path, random):
    one, two = (windows(series(120, seed), history=24, horizon=2) for seed in (5, 6))
    x, y = np.concatenate([one[0], two[0]]), np.concatenate([one[1], two[1]])
    kept = np.sort(random.permutation(len(x))[:160])
    judged = read_judged(view_of_windows(tmp_path, x, y, y, positions=kept))
    assert judged.groups is not None
    length = round(len(kept) ** (1 / 3))
    start = [kept[0] if row < len(one[0]) else kept[kept >= len(one[0])][0] for row in kept]
    twin = [(row >= len(one[0]), (row - first) // length) for row, first in zip(kept, start, strict=True)]
    assert len(set(twin)) == judged.units
    assert len(set(zip(twin, judged.groups.tolist(), strict=True))) == judged.units


def test_rows_out_of_order_are_said_to_depend_on_each_other(tmp_path, random):
    x, y = windows(series(200, 7), history=16, horizon=3)
    order = random.permutation(len(x))
    record = checked("horizons", view_of_windows(tmp_path, x[order], y[order], y[order] + 0.1))
    assert "makes the intervals too narrow; give --group" in record.summary
    assert "skill_naive@all" in record.metrics  # the only series is taken to be the target's own


def test_a_covariate_that_comes_again_does_not_make_rows_depend(tmp_path):
    hour = np.arange(5000) % 24.0
    x, y = windows(np.column_stack([hour, series(5000, 15)]), history=30, horizon=4, stride=50)
    record = checked("horizons", view_of_windows(tmp_path, x, y[..., 1], y[..., 1] + 0.1))
    assert "Rows share" not in record.summary
    assert "overlap" not in record.summary
    assert read_judged(view_of_windows(tmp_path, x, y[..., 1], y[..., 1])).groups is None


def test_intervals_over_blocks_hold_the_truth_more_often_than_over_rows(random):
    """Errors of a six-step forecast are a moving average: of 300 samples, how many intervals hold zero."""
    held = {"rows": 0, "blocks": 0}
    for _ in range(300):
        errors = np.convolve(random.normal(size=245), np.ones(6), "valid")[:, None]
        blocks = np.arange(len(errors)) // 12
        for name, groups in (("rows", None), ("blocks", blocks)):
            one = means(errors, groups, "neither")[0]
            held[name] += one.low <= 0 <= one.high
    assert held["rows"] < 0.7 * 300
    assert held["blocks"] > 0.85 * 300


def test_the_past_is_found_among_covariates_and_where_it_is_scaled(tmp_path):
    values = 100 + 20 * series(220, 8)
    hour = np.arange(220) % 24 / 24
    raw, _ = windows(np.column_stack([hour, (values - 100) / 20]), history=30, horizon=4)
    _, y = windows(values, history=30, horizon=4)
    told = read_forecasts(view_of_windows(tmp_path, raw, y, y))
    assert "column 1 of 'x', times 20 plus 100" in " ".join(told.notes)
    assert told.naive["naive"][:-1, 1, 0] == pytest.approx(y[:, 0][:-1] * 0 + (100 + 20 * raw[:-1, -1, 1]))
    across = np.ascontiguousarray(raw.transpose(0, 2, 1))
    assert "column 1 of 'x'" in " ".join(read_forecasts(view_of_windows(tmp_path / "b", across, y, y)).notes)


def test_many_series_and_a_long_horizon_are_found_whichever_axis_has_the_steps(tmp_path, random):
    values = np.cumsum(random.normal(size=(400, 7)), axis=0) * np.arange(1, 8)
    x, y = windows(values, history=96, horizon=96)
    told = read_forecasts(view_of_windows(tmp_path, x, y, y))
    assert "column 0 of 'x'" in " ".join(told.notes)
    assert told.naive["naive"][:, 5] == pytest.approx(x[:, -1])
    across = np.ascontiguousarray(x.transpose(0, 2, 1))
    same = read_forecasts(view_of_windows(tmp_path / "across", across, y, y))
    assert same.naive["naive"] == pytest.approx(told.naive["naive"])


def test_without_the_past_of_the_target_there_is_no_naive_forecast(tmp_path, random):
    x, _ = windows(series(200, 9), history=20, horizon=4)
    _, y = windows(100 * random.normal(size=200), history=20, horizon=4)
    record = checked("horizons", view_of_windows(tmp_path, x, y, y + 1))
    assert "There is no naive forecast: which input holds the past" in record.summary
    assert not any(name.startswith(("skill", "mase")) for name in record.metrics)


def test_a_model_that_is_worse_than_the_last_value_is_bad(tmp_path, random):
    x, y = windows(np.cumsum(random.normal(size=400)), history=20, horizon=4)
    good = checked("horizons", view_of_windows(tmp_path / "good", x, y, np.repeat(x[:, -1:], 4, axis=1)))
    assert good.verdict is Verdict.NOTED
    assert "at most 0.0 % better than to repeat the last value" in good.findings[0].what
    assert good.metrics["skill_naive@all"].value == 0
    bad = checked("horizons", view_of_windows(tmp_path / "bad", x, y, np.repeat(x[:, :1], 4, axis=1)))
    assert bad.verdict is Verdict.BAD
    assert "worse than to repeat the last value" in bad.findings[0].what
    assert bad.findings[0].effect.high < 0


def test_share_prices_are_forecast_no_better_than_by_their_last_value(tmp_path):
    """Real ones: Google's, which matplotlib ships; a linear forecaster that explains most of the variance."""
    matplotlib = pytest.importorskip("matplotlib")
    prices = np.load(Path(matplotlib.get_data_path()) / "sample_data" / "goog.npz")["price_data"]["close"]
    x, y = windows(prices / prices.std(), history=36, horizon=6)
    past, ahead = (one[:600].astype(np.float64) for one in (x - x[:, -1:], y - x[:, -1:]))
    weights = np.linalg.lstsq(past, ahead, rcond=None)[0]
    said = ((x - x[:, -1:]) @ weights + x[:, -1:]).astype(np.float32)
    view = view_of_windows(tmp_path, x[700:], y[700:], said[700:])
    assert checked("accuracy", view).metrics["r2"].low > 0.75
    record = checked("horizons", view)
    assert record.metrics["skill_naive@all"].low < 0
    assert "no season" in record.summary


def test_single_steps_that_are_worse_are_named(tmp_path, random):
    x, y = windows(np.cumsum(random.normal(size=500)), history=20, horizon=4)
    said = y + 0.1 * random.normal(size=y.shape).astype(np.float32)
    said[:, 1] = y[:, 1] + 3 * np.sign(random.normal(size=len(y)))
    record = checked("horizons", view_of_windows(tmp_path, x, y, said))
    worse = next(one for one in record.findings if one.where == "h=2")
    assert "forecasts better than the model at 1 step ahead (h=2)" in worse.what


def test_a_level_that_is_off_is_told(tmp_path):
    x, y = windows(series(300, 10), history=24, horizon=4)
    record = checked("horizons", view_of_windows(tmp_path, x, y, y + np.float32(0.3)))
    assert any("too high by 0.3 on average" in one.what for one in record.findings)


def test_the_change_of_each_step_is_paired(tmp_path, random):
    x, y = windows(series(400, 11), history=24, horizon=4)
    said = y + 0.2 * random.normal(size=y.shape).astype(np.float32)
    origin = view_of_windows(tmp_path / "a", x, y, said)
    later = said + np.float32(0)
    later[:, 2] += 0.3 * np.sign(said[:, 2] - y[:, 2])
    record = checked("horizons", view_of_windows(tmp_path / "b", x, y, later, origin=origin))
    old, new = (np.abs(one - y).astype(float).mean(axis=0) for one in (said, later))
    for step in range(4):
        change = record.metrics[f"mae_change@h={step + 1}"]
        assert change.value == pytest.approx(new[step] - old[step], abs=1e-6)
    assert "changed most at h=3" in record.summary
    assert "mae_change@all" not in record.metrics  # the accuracy has it, as mae@change
    rose = next(one for one in record.findings if "rose since" in one.what)
    assert rose.where == "h=3"
    assert record.verdict is Verdict.BAD
    same = checked("horizons", view_of_windows(tmp_path / "c", x, y, said, origin=origin))
    assert same.metrics["mae_change@h=1"].value == 0
    assert not [one for one in same.findings if "rose since" in one.what]


def test_agreement_too_stands_on_blocks(tmp_path):
    x, y = windows(series(400, 14), history=24, horizon=4)
    origin = view_of_windows(tmp_path / "a", x, y, y)
    later = y.copy()
    later[100:160] += 5
    found = checked("agreement", view_of_windows(tmp_path / "b", x, y, later, origin=origin))
    by_rows = share_of((later == y).all(axis=1))
    agreement = found.metrics["agreement"]
    assert agreement.value == by_rows.value
    assert agreement.high - agreement.low > 1.5 * (by_rows.high - by_rows.low)


def test_long_horizons_show_some_steps_with_the_first_and_the_last(tmp_path):
    x, y = windows(series(300, 12), history=20, horizon=96)
    record = checked("horizons", view_of_windows(tmp_path, x, y, y + 1))
    steps = [int(row[0]) for row in record.tables[0].rows]
    assert (steps[0], steps[-1], len(steps)) == (1, 96, 24)


def test_rows_that_are_not_finite_are_left_out_of_errors_by_step(tmp_path, random):
    x, y, said = two_series(random)
    said[3, 1, 0] = np.nan
    found = step_metrics(read_forecasts(view_of_windows(tmp_path, x, y, said)))
    assert found["mae@h=2"].n == len(y) - 1


def test_one_row_has_no_interval(tmp_path):
    x, y = windows(series(27, 1), history=24, horizon=3)
    with pytest.raises(SkipError, match="an interval needs two rows"):
        read_forecasts(view_of_windows(tmp_path, x, y, y))


LEVELS = (0.1, 0.5, 0.9)


def test_quantiles_are_judged_as_scikit_learn_judges_them(tmp_path, random):
    x, y, said = two_series(random)
    scale = np.std(said - y)
    told = said[..., None] + np.float32(scale) * np.array([-0.5, 0, 1.3], np.float32)
    told[::10, 0, 0, 0] += 9 * scale
    record = checked("quantiles", view_of_windows(tmp_path, x, y, told, quantiles=LEVELS))
    for step in range(4):
        wanted, given = y[:, step].astype(float), told[:, step].astype(float)
        losses = [mean_pinball_loss(wanted, given[..., at], alpha=level) for at, level in enumerate(LEVELS)]
        assert record.metrics[f"pinball@h={step + 1}"].value == pytest.approx(np.mean(losses), rel=1e-5)
    below = [(y <= told[..., at]).mean() for at in range(3)]
    assert [row[1] for row in record.tables[0].rows] == pytest.approx(below)
    between = ((y >= told[..., 0]) & (y <= told[..., 2])).mean()
    assert record.metrics["coverage@0.1-0.9"].value == pytest.approx(between)
    crossed = (np.diff(told, axis=3) < 0).any(axis=3).mean()
    effect = next(one.effect for one in record.findings if "below one of a lower level" in one.what)
    assert effect is not None
    assert effect.value == pytest.approx(crossed)
    narrow = next(one for one in record.findings if "which promise 80 %" in one.what)
    assert narrow.cause == "The model is surer than it should be."
    value = checked("horizons", view_of_windows(tmp_path, x, y, told, quantiles=LEVELS))
    assert value.metrics["mae@h=1"].value == pytest.approx(np.abs(said - y)[:, 0].mean(), rel=1e-5)


def test_quantiles_that_hold_are_good_and_rows_without_them_are_left_out(tmp_path, random):
    x, y = windows(series(2000, 13), history=24, horizon=3, stride=30)
    spread = np.float32(0.4)
    middle = y + spread * random.normal(size=y.shape).astype(np.float32)
    told = middle[..., None] + spread * np.array([-1.2816, 0, 1.2816], np.float32)
    told[2, 0, 0] = np.nan
    record = checked("quantiles", view_of_windows(tmp_path, x, y, told, quantiles=LEVELS))
    assert record.verdict is Verdict.NOTED
    assert not record.findings
    coverage = record.metrics["coverage@0.1-0.9"]
    assert (coverage.low, coverage.high) == (pytest.approx(0.8, abs=0.1), pytest.approx(0.8, abs=0.1))
    assert coverage.n == len(y) - 1
    with pytest.raises(SkipError, match="one value a step, and no quantiles"):
        checked("quantiles", view_of_windows(tmp_path / "one", x, y, middle))


def test_a_fit_lowers_the_pinball_loss_of_quantiles(random):
    truth, told = random.normal(size=(20, 8)), random.normal(size=(20, 4, 2, 3))
    task = Task("forecasting", "value", target_shape=(4, 2), quantiles=LEVELS)
    wanted = np.mean(
        [
            mean_pinball_loss(truth, told.reshape(20, 8, 3)[..., at], alpha=level)
            for at, level in enumerate(LEVELS)
        ]
    )
    assert float(task_loss(task, torch.from_numpy(told), truth)) == pytest.approx(wanted)


def test_the_levels_of_quantiles_are_asked_for():
    output = {"out": np.zeros((8, 6, 3))}
    task, notes = guess_task(LABELS, output, asked="forecasting", classes=("0.1", "0.5", "0.9"))
    assert (task.target_shape, task.quantiles, task.classes) == ((6,), LEVELS, ())
    assert "6 steps ahead, 3 quantiles of each, of which 0.5 is the value" in notes[-1]
    assert task.steps[:4] == ("h=1:q0.1", "h=1:q0.5", "h=1:q0.9", "h=2:q0.1")
    for classes, why in (
        (("0.5", "0.1", "0.9"), "are no levels of quantiles"),
        (("low", "mid", "high"), "are no levels of quantiles"),
        (("0.1", "0.9"), "2 quantiles are named and the output has 6 x 3"),
    ):
        with pytest.raises(InputError, match=why):
            guess_task(LABELS, output, asked="forecasting", classes=classes)


LABELS = np.random.default_rng(0).normal(size=(8, 6))


@pytest.mark.parametrize(
    ("labels", "shape", "said"),
    [
        (LABELS, (8, 6), (6,)),
        (LABELS, (8, 6, 1), (6,)),
        (LABELS[..., None], (8, 6), (6,)),
        (LABELS.reshape(8, 3, 2), (8, 3, 2), (3, 2)),
        (LABELS[:, 0], (8, 1), (1,)),
        (None, (8, 6), (6,)),
    ],
)
def test_a_forecast_has_the_shape_of_its_labels(labels, shape, said):
    task, notes = guess_task(labels, {"out": np.zeros(shape, np.float32)}, asked="forecasting")
    assert (task.kind, task.output, task.target_shape) == ("forecasting", "value", said)
    assert f"The task is forecasting: {said[0]} step" in notes[-1]


def test_of_several_outputs_the_one_of_the_labels_shape_is_scored():
    outputs = {"state": np.zeros((8, 24)), "out": np.zeros((8, 6))}
    task, notes = guess_task(LABELS, outputs, asked="forecasting")
    assert task.output_name == "out"
    assert "'out' is scored" in notes[0]


@pytest.mark.parametrize(
    ("labels", "shape", "why"),
    [
        (LABELS, (8, 4), "they have 6 a row and the output 4; cut the labels"),
        (LABELS.reshape(8, 3, 2), (8, 2, 3), "the steps before the targets"),
        (LABELS, (8, 6, 3), "where these are quantiles, give --classes"),
        (LABELS.astype(str), (8, 6), "Words cannot be the targets of a forecast"),
        (None, (8, 2, 3, 4), "steps, or steps and targets, a row"),
    ],
)
def test_what_is_no_forecast_is_refused(labels, shape, why):
    with pytest.raises(InputError, match=why):
        guess_task(labels, {"out": np.zeros(shape, np.float32)}, asked="forecasting")
