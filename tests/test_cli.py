"""How the command line behaves: what it prints where, its exit codes, and each command once."""

import json
import os
import pty
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import numpy as np
import onnx
import polars as pl
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import diag.commands
import diag.doctor
import diag.flow
import diag.init
from diag.cli import main
from study.worker import Inline
from tests.tiny import Files

ESCAPE = "\x1b"
PAIRS = ("faster", "slower", "no measurable difference")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to stand in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])  # commands append the folder that one stands in
    return tmp_path


@pytest.fixture(scope="module")
def as_onnx(tiny_mlp: Files, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The MLP written as ONNX by hand: no exporter is waited for."""
    state = torch.load(tiny_mlp.model)
    weights = [numpy_helper.from_array(value.numpy(), name) for name, value in state.items()]
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["x"], ["flat"]),
            helper.make_node("Gemm", ["flat", "1.weight", "1.bias"], ["hidden"], transB=1),
            helper.make_node("Relu", ["hidden"], ["active"]),
            helper.make_node("Gemm", ["active", "3.weight", "3.bias"], ["y"], transB=1),
        ],
        "mlp",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 1, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 10])],
        weights,
    )
    path = tmp_path_factory.mktemp("onnx") / "mlp.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


def judged(files: Files) -> list[str]:
    return [str(files.model), "--arch", files.arch, "--data", str(files.data)]


def report_of(folder: Path) -> dict:
    return json.loads((folder / "report.json").read_text(encoding="utf-8"))


def summaries(report: dict, by: str) -> list[str]:
    return [r["summary"] for step in report["steps"] for r in step["records"] if r["by"] == by]


# --- what is printed where --------------------------------------------------------------------------------


@pytest.mark.usefixtures("in_process")
def test_json_is_the_report_and_nothing_else(tiny_mlp: Files, here: Path, capfd) -> None:
    assert main(["analyze", *judged(tiny_mlp), "--json", "--out", "run"]) == 0
    said = capfd.readouterr()
    assert json.loads(said.out) == report_of(here / "run")
    assert "as_it_came: done in " in said.err
    assert "The task is classification of 10 classes" in said.err


@pytest.mark.usefixtures("in_process")
def test_quiet_says_nothing(tiny_mlp: Files, here: Path, capfd) -> None:
    assert main(["analyze", *judged(tiny_mlp), "--quiet", "--out", "run"]) == 0
    assert capfd.readouterr() == ("", "")
    assert report_of(here / "run")["verdict"] == "good"


@pytest.mark.usefixtures("in_process")
def test_dry_run_shows_the_plan_and_writes_nothing(tiny_mlp: Files, here: Path, capfd) -> None:
    assert main(["run", *judged(tiny_mlp), "--steps", "prune:0.3,int8", "--dry-run"]) == 0
    said = capfd.readouterr().out
    assert said.startswith("diag run: 4 steps into diag-runs/model-")
    for line in ("  01_prune_0_3: prune:0.3 of as_it_came; ", "  03_int8: int8 of onnx; "):
        assert line in said
    assert "The step onnx was put in before int8, which needs it." in said
    assert "give --train to keep them" in said
    assert re.search(r"It would take about \d+ (s|minutes)\.", said)
    assert not list(here.iterdir())


def test_a_dry_demo_trains_nothing(here: Path, capfd) -> None:
    assert main(["demo", "--dry-run", "--steps", "int8"]) == 0
    assert "through onnx, int8 into diag-runs/demo" in capfd.readouterr().out
    assert not list(here.iterdir())


@pytest.mark.usefixtures("in_process")
def test_the_result_goes_to_stdout_and_says_where_it_lies(tiny_mlp: Files, here: Path, capfd) -> None:
    assert main(["analyze", *judged(tiny_mlp), "--out", "run"]) == 0
    out = capfd.readouterr().out
    assert out.startswith("✓ No fault found: model.pt\n")
    assert "Report: run/report.html\n" in out
    assert (here / "run" / "report.html").exists()


@pytest.mark.usefixtures("in_process")
def test_labels_of_any_script_come_out_right(tiny_mlp: Files, here: Path, capfd) -> None:
    names = ["零", "واحد", "🦊", "ثلاثة", "四", "cinq", "שש", "七", "👩‍🔬", "नौ"]
    assert main(["analyze", *judged(tiny_mlp), "--classes", ",".join(names), "--out", "run"]) == 0
    said = capfd.readouterr()
    run = here / "run"
    assert report_of(run)["subject"]["classes"] == names
    page = (run / "report.html").read_text(encoding="utf-8")
    text = (run / "report.md").read_text(encoding="utf-8")
    for name in names:
        assert name in page
        assert name in text
    assert any(name in said.out for name in names), "the worst findings name classes"
    assert "\\u" not in (run / "report.json").read_text(encoding="utf-8")


def test_nothing_is_coloured_where_nobody_watches(tiny_mlp: Files, here: Path) -> None:
    command = [sys.executable, "-m", "diag.cli", "analyze", str(tiny_mlp.model)]
    environment = {**os.environ, "PYTHONPATH": str(Path(diag.flow.__file__).parents[1]), "TERM": "xterm"}
    done = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert done.returncode == 0
    assert ESCAPE.encode() not in done.stdout + done.stderr
    assert (
        done.stderr.decode().splitlines()[0].endswith("give --arch module:factory (and --data) for the rest.")
    )
    assert "2,410 parameters in 4 tensors" in done.stdout.decode()


def watched(command: list[str], environment: dict[str, str]) -> tuple[str, str]:
    """What a command says on stdout (a pipe) and on stderr (a terminal)."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=theirs)
    os.close(theirs)
    shown = b""
    try:
        while piece := os.read(ours, 1 << 16):
            shown += piece
    except OSError:  # how Linux says that nobody holds the terminal any more
        pass
    finally:
        os.close(ours)
    out, _ = process.communicate()
    assert process.returncode == 0
    return out.decode(), shown.decode()


def test_a_terminal_shows_a_bar_with_the_time_left(tiny_mlp: Files, here: Path, as_onnx: Path) -> None:
    command = [sys.executable, "-m", "diag.cli", "analyze", str(as_onnx), "--data", str(tiny_mlp.data)]
    environment = {**os.environ, "PYTHONPATH": str(Path(diag.flow.__file__).parents[1]), "TERM": "xterm"}
    environment |= {"COLUMNS": "100", "NO_COLOR": "1"}
    environment.pop("CI", None)
    out, shown = watched(command, environment)
    assert ESCAPE not in out
    assert "✓ No fault found: mlp.onnx" in out
    assert not re.search(r"\x1b\[[\d;]*m", shown.replace("\x1b[0m", "").replace("\x1b[1m", "")), "NO_COLOR"
    plain = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", shown)
    assert re.search(r"1/1 as_it_came: checking \w+ ━+╸? +\d/\d, \d:\d\d left", plain)
    assert re.search(r"as_it_came: done in \d+\.\d s", plain)


def test_no_arguments_show_what_there_is(here: Path, capfd) -> None:
    assert main([]) == 0
    out = capfd.readouterr().out
    for command in (
        "analyze",
        "explain",
        "export",
        "benchmark",
        "run",
        "compare",
        "report",
        "init",
        "doctor",
    ):
        assert f" {command} " in out


def test_a_reader_who_leaves_is_no_fault(here: Path) -> None:
    reads, writes = os.pipe()
    os.close(reads)
    environment = {**os.environ, "PYTHONPATH": str(Path(diag.flow.__file__).parents[1])}
    command = [sys.executable, "-m", "diag.cli", "--help"]
    done = subprocess.run(command, env=environment, stdout=writes, stderr=subprocess.PIPE, check=False)
    os.close(writes)
    assert (done.returncode, done.stderr) == (0, b"")


# --- exit codes -------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("in_process")
def test_our_fault_is_3_with_the_traceback_and_where_the_log_lies(
    tiny_mlp: Files, here: Path, capfd, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stumble(*_: object) -> NoReturn:
        raise RuntimeError("we stumbled")

    monkeypatch.setattr(diag.flow, "take", stumble)
    assert main(["analyze", *judged(tiny_mlp), "--out", "run"]) == 3
    said = capfd.readouterr()
    assert "RuntimeError: we stumbled" in said.err
    assert "The log of this run is run/log.txt." in said.err
    assert "this is our fault" in said.err
    assert said.out == ""


@pytest.mark.usefixtures("in_process")
def test_interrupted_is_130(tiny_mlp: Files, here: Path, capfd, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr(diag.flow, "take", interrupt)
    assert main(["analyze", *judged(tiny_mlp), "--out", "run"]) == 130
    assert capfd.readouterr().err == "diag: interrupted; the same command goes on from the last whole step.\n"


# --- each command -----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("in_process")
def test_a_state_dict_alone_has_its_health_and_says_what_it_needs(tiny_mlp: Files, here: Path, capfd) -> None:
    assert main(["analyze", str(tiny_mlp.model), "--out", "bare"]) == 0
    assert "give --arch module:factory (and --data) for the rest." in capfd.readouterr().err
    report = report_of(here / "bare")
    assert [record["by"] for record in report["steps"][0]["records"]] == ["weights", "size"]
    assert any("--arch module:factory" in note for note in report["environment"]["notes"])
    with_data = ["--data", str(tiny_mlp.data), "--out", "data"]
    assert main(["analyze", str(tiny_mlp.model), *with_data]) == 0
    told = " ".join(capfd.readouterr().out.split())  # however wide the terminal is
    assert "(a state dict alone cannot be run: give --arch module:factory): accuracy, " in told


@pytest.mark.usefixtures("in_process")
def test_without_data_there_is_health_alone(tiny_mlp: Files, here: Path, capfd) -> None:
    assert main(["analyze", str(tiny_mlp.model), "--arch", tiny_mlp.arch, "--out", "run"]) == 0
    assert "2,410 parameters in 4 tensors" in capfd.readouterr().out
    assert [record["by"] for record in report_of(here / "run")["steps"][0]["records"]] == ["weights", "size"]


@pytest.mark.usefixtures("in_process")
def test_explain_takes_rows_a_class_and_a_method(tiny_mlp: Files, here: Path, capfd) -> None:
    asked = ["--rows", "0,5,9", "--target", "3", "--method", "occlusion", "--out", "run"]
    assert main(["explain", *judged(tiny_mlp), *asked]) == 0
    assert "By occlusion, half of |attribution| lies in" in capfd.readouterr().out
    folder = here / "run" / "00_as_it_came"
    saved = np.load(folder / "attributions.npz")
    targets = next(saved[name] for name in saved.files if name.endswith("targets"))
    assert targets.tolist() == [3, 3, 3]
    assert {int(path.stem.split("-")[1]) for path in folder.rglob("row-*.png")} == {0, 5, 9}
    assert [r["by"] for r in report_of(here / "run")["steps"][0]["records"]] == ["occlusion", "size"]


@pytest.mark.usefixtures("in_process")
def test_export_needs_no_data_where_a_shape_is_said(tiny_mlp: Files, here: Path, capfd) -> None:
    import onnxruntime

    command = ["export", str(tiny_mlp.model), "--arch", tiny_mlp.arch, "--shape", "1x1x8x8", "--out", "run"]
    assert main(command) == 0
    assert "Model: run/model.onnx\n" in capfd.readouterr().out
    model = here / "run" / "model.onnx"
    assert model.read_bytes() == (here / "run" / "01_onnx" / "model.onnx").read_bytes()
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    data = np.load(tiny_mlp.data)
    decided = session.run(None, {session.get_inputs()[0].name: data["x"]})[0].argmax(axis=1)
    assert (decided == data["y"]).mean() > 0.85
    assert [path for path in model.parent.iterdir() if path.name.startswith(".")] == [model.parent / ".lock"]


@pytest.mark.usefixtures("in_process")
def test_export_hands_over_the_last_artifact(
    tiny_mlp: Files, here: Path, as_onnx: Path, capfd, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["export", str(as_onnx), "--data", str(tiny_mlp.data), "--steps", "(int8-dynamic|fp16)"]
    assert main([*command, "--out", "run"]) == 0
    assert "run/model.onnx is the artifact of step fp16." in capfd.readouterr().err
    run = here / "run"
    assert (run / "model.onnx").read_bytes() == (run / "02_fp16" / "model.onnx").read_bytes()
    assert main(["export", str(as_onnx), "--steps", "onnx", "--out", "same"]) == 0
    assert (here / "same" / "model.onnx").read_bytes() == as_onnx.read_bytes()

    def full(*_: object) -> NoReturn:
        raise OSError(28, "No space left on device")

    (run / "model.onnx").unlink()
    monkeypatch.setattr(shutil, "copyfile", full)
    assert main([*command, "--out", "run"]) == 2
    assert "No space left on device" in capfd.readouterr().err
    assert not list(run.glob("*model.onnx*"))


@pytest.mark.usefixtures("in_process")
def test_a_chain_that_breaks_is_no_good_news(
    tiny_mlp: Files, here: Path, as_onnx: Path, capfd, monkeypatch: pytest.MonkeyPatch
) -> None:
    from export.passes.fuse import Fuse
    from study.errors import WorkerError

    def crash(*_: object) -> NoReturn:
        raise WorkerError("RuntimeError: the converter broke")

    monkeypatch.setattr(Fuse, "apply", crash)
    command = ["export", str(as_onnx), "--data", str(tiny_mlp.data), "--steps", "fuse,fp16", "--out", "run"]
    assert main(command) == 0
    report = report_of(here / "run")
    assert [step["records"][0]["verdict"] for step in report["steps"][1:]] == ["bad", "skipped"]
    assert report["verdict"] == "bad"
    assert "Act before shipping" in capfd.readouterr().out


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("fed", ["--data", "--shape"])
def test_benchmark_says_of_each_pair_which_is_faster(
    tiny_mlp: Files, here: Path, as_onnx: Path, fed: str, capfd
) -> None:
    shutil.copy(as_onnx, "a.onnx")
    shutil.copy(as_onnx, "b.onnx")
    words = ["a.onnx", "b.onnx", str(tiny_mlp.model), "--arch", tiny_mlp.arch]
    assert main(["benchmark", *words, fed, "1x1x8x8" if fed == "--shape" else str(tiny_mlp.data)]) == 0
    (run,) = (here / "diag-runs").iterdir()
    report = report_of(run)
    assert [step["name"] for step in report["steps"]] == ["a", "b", "model"]
    first, second, third = summaries(report, "latency")
    assert not any(word in first for word in PAIRS)
    assert any(f"b: {word} " in second for word in PAIRS)
    assert third.count("model: ") == 2
    assert "latency p50" in capfd.readouterr().out


@pytest.mark.usefixtures("in_process")
def test_the_same_file_twice_differs_in_nothing(tiny_mlp: Files, here: Path, as_onnx: Path) -> None:
    words = [str(as_onnx), str(as_onnx), "--data", str(tiny_mlp.data), "--out", "run", "--quiet"]
    assert main(["compare", *words]) == 0
    flips = pl.read_parquet(here / "run" / "01_mlp_2" / "predictions.parquet")["prediction"]
    came = pl.read_parquet(here / "run" / "00_mlp" / "predictions.parquet")["prediction"]
    assert flips.to_list() == came.to_list()
    assert "no measurable difference" in summaries(report_of(here / "run"), "latency")[1]


@pytest.mark.usefixtures("in_process")
def test_report_renders_again_what_is_asked(tiny_mlp: Files, here: Path, capfd) -> None:
    assert main(["analyze", *judged(tiny_mlp), "--out", "run", "--quiet"]) == 0
    texts = {form: (here / "run" / f"report.{form}").read_text() for form in ("md", "html", "json")}
    (here / "run" / "report.md").unlink()
    (here / "run" / "report.html").unlink()
    assert main(["report", "run", "--format", "md"]) == 0
    assert capfd.readouterr().out == "run/report.md\n"
    assert (here / "run" / "report.md").read_text() == texts["md"]
    assert not (here / "run" / "report.html").exists()
    assert main(["report", "run"]) == 0
    assert {form: (here / "run" / f"report.{form}").read_text() for form in texts} == texts


def test_doctor_tells_facts_and_ailments(here: Path, capfd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diag.doctor, "Child", lambda _name, _log: Inline())
    assert main(["doctor", "--json"]) == 0
    told = json.loads(capfd.readouterr().out)
    assert told["facts"]["torch"] == torch.__version__
    assert "CPUExecutionProvider" in told["facts"]["ONNX Runtime runs on"]
    monkeypatch.setattr(diag.doctor, "installed_runtimes", lambda: ["onnxruntime", "onnxruntime-gpu"])
    assert main(["doctor"]) == 0
    out = capfd.readouterr().out
    assert re.search(r"^cores +\d+$", out, re.MULTILINE)
    assert "! onnxruntime and onnxruntime-gpu are both installed" in out
    assert "pip uninstall -y onnxruntime onnxruntime-gpu" in out
    assert not list(here.iterdir())
