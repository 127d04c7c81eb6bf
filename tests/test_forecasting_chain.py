"""Forecasters through the whole chain: look, ONNX, int8, look again, report."""

import json
from pathlib import Path

import numpy as np
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
        assert horizons["verdict"] == "good"
        assert horizons["metrics"]["skill_naive@all"]["low"] > 0.3
        assert "overlap: intervals are over blocks of 12" in horizons["summary"]
        assert horizons["pictures"][0]["kind"] == "lines"
        assert records["slices"]["verdict"] == "skipped"
        assert records["occlusion"]["verdict"] in ("good", "noted")
    assert abs(steps["onnx"]["horizons"]["metrics"]["mae_change@h=6"]["value"]) < 1e-4
    assert "of 2 targets" in Path("run/log.txt").read_text() or name == "Lstm"
    assert steps["onnx"]["agreement"]["metrics"]["max_abs_error"]["value"] < 1e-4
