"""The whole chain: against a loop written by hand, killed and resumed, and a model beside itself."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import psutil
import pytest

import diag
from diag.cli import main
from diag.events import Watcher
from diag.options import Options
from study.errors import WorkerError
from tests.tiny import Files

CLOCKS = ("latency_", "throughput_", "speedup", "memory_", "peak_memory", "time_")


def words(files: Files, out: Path, *more: str) -> list[str]:
    return [
        *("run", str(files.model), "--arch", files.arch, "--data", str(files.data)),
        *("--train", str(files.train), "--out", str(out), "--quiet", *more),
    ]


def report_of(folder: Path) -> dict:
    return json.loads((folder / "report.json").read_text())


def without_clocks(folder: Path) -> dict:
    """The report of a folder but for what is read from a clock, and where it was written."""
    report = json.loads((folder / "report.json").read_text().replace(str(folder), "RUN"))
    report["environment"] = {}
    for step in report["steps"]:
        step["records"] = [record for record in step["records"] if record["by"] != "latency"]
        for record in step["records"]:
            if record["by"] == "prune":  # it tells in words too how fast what is left is
                record["summary"] = record["summary"].partition(" Smaller")[0]
            record["metrics"] = {n: m for n, m in record["metrics"].items() if not n.startswith(CLOCKS)}
    return report


def metrics(report: dict, step: str) -> dict:
    found = next(one for one in report["steps"] if one["name"] == step)
    return {name: metric for record in found["records"] for name, metric in record["metrics"].items()}


@pytest.fixture(scope="module")
def whole(tiny_cnn: Files, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One whole run with real workers, for several tests."""
    out = tmp_path_factory.mktemp("whole") / "run"
    assert main(words(tiny_cnn, out, "--steps", "(onnx,int8|prune:0.3)")) == 0
    return out


def test_the_chain_equals_a_loop_written_by_hand(tiny_cnn: Files, whole: Path) -> None:
    import onnxruntime
    import torch

    from tests.tiny import cnn

    data = np.load(tiny_cnn.data)
    net = cnn()
    net.load_state_dict(torch.load(tiny_cnn.model))
    net.eval()
    with torch.inference_mode():
        expected = {"as_it_came": net(torch.from_numpy(data["x"])).numpy()}
    for folder, name in (("01_onnx", "onnx"), ("02_int8", "int8")):
        session = onnxruntime.InferenceSession(
            whole / folder / "model.onnx", providers=["CPUExecutionProvider"]
        )
        expected[name] = session.run(None, {session.get_inputs()[0].name: data["x"]})[0]
    report = report_of(whole)
    for folder in ("00_as_it_came", "01_onnx", "02_int8"):
        name = folder[3:]
        table = pl.read_parquet(whole / folder / "predictions.parquet")
        decided = expected[name].argmax(axis=1)
        assert table["prediction"].to_list() == decided.tolist()
        assert table["label"].to_list() == data["y"].tolist()
        accuracy = float((decided == data["y"]).mean())
        assert metrics(report, name)["accuracy"]["value"] == accuracy
        assert metrics(report, name)["accuracy"]["n"] == 500
    flips = (expected["as_it_came"].argmax(1) == data["y"]) & (expected["int8"].argmax(1) != data["y"])
    assert metrics(report, "int8")["negative_flip_rate"]["value"] == pytest.approx(flips.mean())


def test_the_report_has_all_that_others_rely_on(whole: Path) -> None:
    report = report_of(whole)
    assert set(report) == {"format", "verdict", "subject", "environment", "steps"}
    assert set(report["subject"]) == {"model", "sha256", "task", "classes", "rows"}
    assert report["subject"]["task"] == "classification"
    assert report["subject"]["rows"] == 500
    assert [(step["name"], step["from"]) for step in report["steps"]] == [
        ("as_it_came", None), ("onnx", "as_it_came"), ("int8", "onnx"), ("prune_0_3", "as_it_came"),
    ]  # fmt: skip
    for step in report["steps"]:
        assert set(step) == {"name", "from", "model", "records"}
        assert set(step["model"]) == {"path", "format", "sha256", "bytes"}
        names = [name for record in step["records"] for name in record["metrics"]]
        bare = [name for name in names if "@" not in name]
        assert len(bare) == len(set(bare)), "a bare metric name stands in exactly one record of a step"
        for record in step["records"]:
            assert set(record) == {
                "by", "verdict", "summary", "reason", "metrics", "findings", "tables", "pictures",
            }  # fmt: skip
            for metric in record["metrics"].values():
                assert set(metric) == {"value", "low", "high", "n", "unit", "better", "level"}
                assert metric["low"] <= metric["value"] <= metric["high"]
    int8 = metrics(report, "int8")
    assert {
        "accuracy",
        "ece",
        "agreement",
        "attribution_rank_correlation",
        "latency_p50_ms",
        "speedup",
    } <= set(int8)
    assert {"size_bytes", "parameters", "worst_slice_drop", "nll", "brier", "macro_f1"} <= set(int8)
    pruned = metrics(report, "prune_0_3")
    assert pruned["parameters"]["value"] < metrics(report, "as_it_came")["parameters"]["value"]
    for name in ("report.html", "report.md", "run.json"):
        assert (whole / name).stat().st_size > 0


def test_the_same_command_again_keeps_everything(tiny_cnn: Files, whole: Path, capsys) -> None:
    before = without_clocks(whole)
    command = words(tiny_cnn, whole, "--steps", "(onnx,int8|prune:0.3)")
    command.remove("--quiet")
    assert main(command) == 0
    assert capsys.readouterr().err.count("kept") == 4
    assert without_clocks(whole) == before


def test_a_folder_of_another_plan_is_refused(tiny_cnn: Files, whole: Path, capsys) -> None:
    assert main(words(tiny_cnn, whole, "--steps", "onnx")) == 2
    assert "--force" in capsys.readouterr().err


def test_killed_at_any_moment_it_goes_on_to_the_same_report(
    tiny_cnn: Files, whole: Path, tmp_path: Path
) -> None:
    out = tmp_path / "killed"
    command = [sys.executable, "-m", "diag.cli", *words(tiny_cnn, out, "--steps", "(onnx,int8|prune:0.3)")]
    for wait_for in ("00_as_it_came/predictions.parquet", "01_onnx/model.onnx", "02_int8/records.json"):
        process = subprocess.Popen(command)
        deadline = time.monotonic() + 120
        while not (out / wait_for).exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGKILL)
        process.wait()
        _, alive = psutil.wait_procs(children, timeout=10)
        assert not alive, "child processes die with their parent"
    assert subprocess.run(command, check=False).returncode == 0
    assert without_clocks(out) == without_clocks(whole)
    assert not [path for path in out.rglob(".*") if path.name != ".lock"]


@pytest.mark.usefixtures("in_process")
def test_a_model_beside_itself_shows_no_difference(tiny_cnn: Files, whole: Path, tmp_path: Path) -> None:
    model = str(whole / "02_int8" / "model.onnx")
    out = tmp_path / "same"
    assert main(["compare", model, model, "--data", str(tiny_cnn.data), "--out", str(out), "--quiet"]) == 0
    report = report_of(out)
    assert [step["name"] for step in report["steps"]] == ["model", "model_2"]
    found = metrics(report, "model_2")
    assert found["agreement"]["value"] == 1
    assert found["negative_flip_rate"]["value"] == found["positive_flip_rate"]["value"] == 0
    assert found["max_abs_error"]["value"] == 0
    assert found["attribution_rank_correlation"]["value"] == 1
    latency = next(r for r in report["steps"][1]["records"] if r["by"] == "latency")
    assert "no measurable difference" in latency["summary"]
    assert report["verdict"] == "good"


@pytest.mark.usefixtures("in_process")
def test_a_failed_step_is_a_record_and_other_branches_go_on(
    tiny_mlp: Files, tmp_path: Path, monkeypatch
) -> None:
    from export.passes.fp16 import Fp16

    def crash(*_arguments):
        raise WorkerError("RuntimeError: the converter broke")  # as a worker tells it

    monkeypatch.setattr(Fp16, "apply", crash)
    out = tmp_path / "run"
    steps = "(onnx,fp16|distill:init=teacher|int8-dynamic)"
    student = ("--student", "tests.export_subjects:Recurrent")  # it has no tensor of the teacher's
    assert main(words(tiny_mlp, out, "--steps", steps, *student)) == 0
    report = {step["name"]: step for step in report_of(out)["steps"]}
    assert report["fp16"]["model"] is None
    assert report["fp16"]["records"][0]["verdict"] == "bad"
    assert "the converter broke" in report["fp16"]["records"][0]["reason"]
    assert report["distill_init_teacher"]["records"][0]["verdict"] == "skipped"
    assert report["int8_dynamic"]["model"] is not None
    assert report_of(out)["verdict"] == "bad"


def test_interrupted_it_ends_with_130(tiny_mlp: Files, tmp_path: Path, monkeypatch, capsys) -> None:
    def interrupt(*_arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(Watcher, "begins", interrupt)
    assert main(words(tiny_mlp, tmp_path / "run")) == 130
    assert "goes on from the last whole step" in capsys.readouterr().err


def test_calibration_rows_are_held_back_and_named(tiny_mlp: Files, tmp_path: Path, monkeypatch) -> None:
    out = tmp_path / "run"
    command = words(tiny_mlp, out, "--steps", "int8")
    at = command.index("--train")
    del command[at : at + 2]
    assert main(command) == 0
    state = json.loads((out / "run.json").read_text())
    held = set(state["subject"]["calibration_ids"])
    assert len(held) == 100
    judged = pl.read_parquet(out / "00_as_it_came" / "predictions.parquet")["id"].to_list()
    assert len(judged) == 400
    assert not held & set(judged)
    assert report_of(out)["subject"]["rows"] == 400


def test_python_takes_live_modules_and_arrays(tiny_cnn: Files, tmp_path: Path) -> None:
    import torch

    from tests.tiny import cnn

    data = np.load(tiny_cnn.data)
    net = cnn()
    net.load_state_dict(torch.load(tiny_cnn.model))
    net.train()
    result = diag.run(
        net,
        (data["x"][:200], data["y"][:200]),
        steps=["onnx"],
        options=Options(out=tmp_path / "live", quiet=True),
    )
    assert net.training, "what was handed over is left as it was"
    assert result.report.subject.rows == 200
    page = result._repr_html_()
    assert "as_it_came" in page
    assert "<svg" in page
    again = diag.report(tmp_path / "live")
    assert again.report.subject == result.report.subject


def test_unlabelled_rows_are_looked_at_where_they_are_allowed(
    tiny_mlp: Files, tmp_path: Path, capsys
) -> None:
    bare = tmp_path / "bare.npz"
    np.savez(bare, x=np.load(tiny_mlp.data)["x"][:50])
    command = ["run", str(tiny_mlp.model), "--arch", tiny_mlp.arch, "--data", str(bare), "--steps", "onnx"]
    command += ["--quiet", "--out", str(tmp_path / "run")]
    assert main(command) == 2
    assert "--unlabelled" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert main([*command, "--unlabelled"]) == 0
    report = report_of(tmp_path / "run")
    assert metrics(report, "onnx")["agreement"]["value"] == 1
    assert "accuracy" not in metrics(report, "onnx")


def test_a_process_a_framework_looks_and_one_a_step_changes(
    tiny_mlp: Files, tmp_path: Path, monkeypatch
) -> None:
    from study.worker import Child

    started = []
    start = Child._start

    def counted(self):
        started.append(self.name)
        return start(self)

    monkeypatch.setattr(Child, "_start", counted)
    assert main(words(tiny_mlp, tmp_path / "run", "--steps", "onnx,(int8|int8-dynamic)")) == 0
    looking, changing = ["onnxruntime", "pytorch"], ["pytorch", "onnxruntime", "onnxruntime"]
    timed = [f"{step} timing" for step in ("as_it_came", "onnx", "int8", "int8_dynamic") for _ in range(2)]
    assert sorted(started) == sorted(looking + changing + timed)


def test_training_rows_alone_recover_and_calibrate(tiny_cnn: Files, tmp_path: Path) -> None:
    """Without rows to judge, an export prunes, recovers and quantizes all the same."""
    typed = ["export", str(tiny_cnn.model), "--arch", tiny_cnn.arch, "--train", str(tiny_cnn.train)]
    steps = "prune:0.3:epochs=1,onnx,int8"
    assert main([*typed, "--steps", steps, "--out", str(tmp_path / "run"), "--quiet"]) == 0
    report = report_of(tmp_path / "run")
    pruned, exported, quantized = (
        next(record for record in step["records"] if record["by"] == by)
        for step, by in zip(report["steps"][1:], ("prune", "verification", "audit"), strict=True)
    )
    assert "1 epoch of recovery" in pruned["summary"]
    assert "rows" in exported["summary"]
    assert "int8" in quantized["summary"]
    assert "accuracy" not in metrics(report, "int8"), "nothing was judged"
