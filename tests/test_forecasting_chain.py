"""Forecasters through the whole chain: look, ONNX, int8, look again, report."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from diag.cli import main
from tests.tiny_series import write


@pytest.mark.slow
@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("name", ["Lstm", "Linear"])
def test_a_forecaster_goes_through_the_chain(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    write(tmp_path, name)
    typed = f"run model.pt --arch series_nets:{name} --data test.npz --train train.npz --task forecasting"
    step = "int8-dynamic" if name == "Lstm" else "int8"
    assert main([*typed.split(), "--steps", f"onnx,{step}", "--out", "run"]) in (0, 1)
    report = json.loads(Path("run/report.json").read_text())
    assert report["subject"]["task"] == "forecasting"
    steps = {step["name"]: {record["by"]: record for record in step["records"]} for step in report["steps"]}
    assert list(steps) == ["as_it_came", "onnx", step.replace("-", "_")]
    with np.load("test.npz") as data:
        spread = float(np.abs(data["y"] - data["y"].mean(axis=(0, 1))).mean())
    for records in steps.values():
        assert records["accuracy"]["metrics"]["mae"]["value"] < 0.6 * spread
        horizons = records["horizons"]
        assert horizons["verdict"] == "noted"
        assert not horizons["findings"]
        assert horizons["metrics"]["skill_naive@all"]["low"] > 0.3
        assert "overlap: intervals are over blocks of 12" in horizons["summary"]
        assert horizons["pictures"][0]["kind"] == "lines"
        assert records["slices"]["verdict"] == "skipped"
        assert records["occlusion"]["verdict"] in ("good", "noted")
    assert abs(steps["onnx"]["horizons"]["metrics"]["mae_change@h=6"]["value"]) < 1e-4
    assert steps["onnx"]["agreement"]["metrics"]["max_abs_error"]["value"] < 1e-4


@pytest.fixture(scope="module")
def flat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A linear forecaster of flat windows."""
    folder = tmp_path_factory.mktemp("flat")
    write(folder, "Flat")
    return folder


def analyzed(folder: Path, monkeypatch: pytest.MonkeyPatch, rows: Path, *words: str) -> tuple[int, Path]:
    """The exit code of ``diag analyze`` on these rows, and its folder."""
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    out = rows.with_suffix(f"{rows.suffix}.out")
    typed = ["analyze", "model.pt", "--arch", "series_nets:Flat", "--data", str(rows), "--out", str(out)]
    return main([*typed, *words]), out


def saved(path: Path, x: np.ndarray, y: np.ndarray) -> Path:
    np.savez(path, x=x, y=y)
    return path


@pytest.mark.usefixtures("in_process")
def test_forecasting_is_guessed_where_targets_come_back_as_history_alone(
    flat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with np.load(flat / "test.npz") as data:
        x, y = data["x"], data["y"]
    frame = pl.DataFrame({f"lag{at}": x[:, at] for at in range(36)} | {f"y{at}": y[:, at] for at in range(6)})
    frame.write_csv(tmp_path / "rows.csv")
    pl.DataFrame({"x": x.tolist(), "y": y.tolist()}).write_parquet(tmp_path / "rows.parquet")
    shuffled = np.random.default_rng(0).permutation(len(x))
    for rows, words, task in (
        (saved(tmp_path / "rows.npz", x, y), (), "forecasting"),
        (tmp_path / "rows.csv", ("--label", ",".join(f"y{at}" for at in range(6))), "forecasting"),
        (tmp_path / "rows.parquet", (), "forecasting"),
        (saved(tmp_path / "scaled.npz", x, 1000 * y), (), "forecasting"),
        (saved(tmp_path / "asked.npz", x, y), ("--task", "regression"), "regression"),
        (saved(tmp_path / "shuffled.npz", x[shuffled], y[shuffled]), (), "regression"),
        (saved(tmp_path / "others.npz", x, np.roll(y, 100, axis=0) * x[:, :6]), (), "regression"),
    ):
        code, out = analyzed(flat, monkeypatch, rows, *words)
        assert code in (0, 1)
        assert json.loads((out / "report.json").read_text())["subject"]["task"] == task, rows.name
        said = " ".join(capsys.readouterr().err.split())
        assert ("is the history of later rows" in said) == (task == "forecasting")


@pytest.mark.usefixtures("in_process")
def test_quantiles_go_through_the_chain(
    flat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(flat)
    monkeypatch.syspath_prepend(str(flat))
    typed = "run model.pt --arch series_nets:Quantiles --data test.npz --task forecasting"
    typed = f"{typed} --steps onnx --method occlusion --out {tmp_path / 'run'}"
    assert main(typed.split()) == 2
    assert "where these are quantiles, give --classes" in " ".join(capsys.readouterr().err.split())
    assert main([*typed.split(), "--classes", "0.1,0.5,0.9"]) in (0, 1)
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    for step in report["steps"]:
        records = {one["by"]: one for one in step["records"]}
        assert 0.5 < records["quantiles"]["metrics"]["coverage@0.1-0.9"]["value"] < 0.95
        assert "the value at h=1:q0.5" in records["occlusion"]["summary"]
        assert records["horizons"]["metrics"]["skill_naive@all"]["low"] > 0.3


@pytest.mark.usefixtures("in_process")
def test_rows_that_do_not_fit_a_forecast_end_in_a_sentence(
    flat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with np.load(flat / "test.npz") as data:
        x, y = data["x"], data["y"]
    for rows, words, why in (
        (saved(tmp_path / "short.npz", x, y[:, :4]), ("--task", "forecasting"), "they have 4 a row"),
        (saved(tmp_path / "words.npz", x, y.astype(str)), ("--task", "forecasting"), "Words cannot be"),
        (saved(tmp_path / "three.npz", x, y[..., None] * [1, 2]), (), "The labels are 6 x 2 numbers a row"),
    ):
        assert analyzed(flat, monkeypatch, rows, *words)[0] == 2
        assert why in " ".join(capsys.readouterr().err.split())


@pytest.mark.usefixtures("in_process")
def test_rows_with_a_hole_in_their_targets_are_left_out(
    flat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with np.load(flat / "test.npz") as data:
        x, y = data["x"], data["y"]
    y[5, 2] = np.nan
    code, out = analyzed(flat, monkeypatch, saved(tmp_path / "rows.npz", x, y), "--task", "forecasting")
    assert code == 0
    records = {one["by"]: one for one in json.loads((out / "report.json").read_text())["steps"][0]["records"]}
    assert records["horizons"]["metrics"]["mae@h=1"]["n"] == len(y) - 1
    assert "'5'" in records["data"]["findings"][0]["where"]
