"""``diag optimize`` on a small net, in this process: from budgets to the artifact, broken off and resumed."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import diag
from diag.cli import main
from diag.events import Watcher
from diag.options import Options
from diag.render.summary import summarize
from diag.render.write import read_report
from export.timing.race import Rules
from study.worker import Inline
from tests.tiny import Files

CHEAP = ["as_it_came", "onnx", "fuse", "int8_dynamic", "int8"]


def words(files: Files, out: Path, *more: str) -> list[str]:
    return [
        *("optimize", str(files.model), "--arch", files.arch, "--data", str(files.data), "--threads", "1"),
        *("--sample", "150", "--out", str(out), "--quiet", *more),
    ]


def steps_of(folder: Path) -> dict[str, dict]:
    return {step["name"]: step for step in json.loads((folder / "report.json").read_text())["steps"]}


def record_of(step: dict, by: str) -> dict:
    return next(record for record in step["records"] if record["by"] == by)


@pytest.fixture(autouse=True, scope="module")
def short() -> Iterator[None]:
    """All in this process, and races of a few rounds: who wins them is no matter here."""
    quick = Rules(least_rounds=5, rounds=5, visit_s=0.001, warm_s=0.01, warm_at_most_s=0.05, windows=2)
    with pytest.MonkeyPatch.context() as patch:
        for module in ("diag.flow", "diag.racing", "diag.estimate"):
            patch.setattr(f"{module}.Child", lambda *_: Inline())
        patch.setattr("diag.racing.RULES", quick)
        yield


@pytest.fixture(scope="module")
def found(tiny_mlp: Files, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole search that ends with an artifact."""
    out = tmp_path_factory.mktemp("found") / "run"
    budgets = ("--max-drop", "5", "--max-size", "8kB")
    assert main(words(tiny_mlp, out, *budgets, "--bundle", str(out.parent / "bundle"))) == 0
    return out


def test_it_ends_with_an_artifact_within_all_budgets(found: Path) -> None:
    steps = steps_of(found)
    assert list(steps)[:5] == CHEAP
    chosen = steps["chosen"]
    taken = steps[chosen["from"]]
    assert (found / "model.onnx").read_bytes() == (found / taken["model"]["path"]).read_bytes()
    metrics = {name: one for record in chosen["records"] for name, one in record["metrics"].items()}
    assert metrics["size_bytes"]["value"] <= 8000
    assert "attribution_rank_correlation" in metrics, "what was chosen is looked at whole"
    bare = [name for record in chosen["records"] for name in record["metrics"] if "@" not in name]
    assert len(bare) == len(set(bare))
    assert record_of(chosen, "budgets")["verdict"] == "good"


def test_a_step_beyond_its_budgets_is_not_called_good(found: Path) -> None:
    words = {line.name: line.word for line in summarize(read_report(found)).lines}
    assert words["as_it_came"] == "good"
    assert words["onnx"] == "over budget", "10 kB where 8 are asked for; no fault, for the search went on"
    taken = steps_of(found)["chosen"]["from"]
    assert (words[taken], words["chosen"]) == ("good", "good")


def test_what_was_tried_and_why_it_lost_stands_in_the_report(found: Path) -> None:
    steps = steps_of(found)
    search = record_of(steps["chosen"], "search")
    table = search["tables"][0]
    became = {row[0]: row[1] for row in table["rows"]}
    assert list(became) == [name for name in steps if name != "chosen"]
    assert became[steps["chosen"]["from"]] == "chosen"
    assert "surely beyond" in became["onnx"]
    assert not any(record["by"] == "accuracy" for record in steps["onnx"]["records"]), "stopped early"
    assert "it changed nothing" in became["fuse"]
    page = (found / "report.html").read_text()
    assert page.index("The search") < page.index("What was tried") < page.index('id="findings"')
    assert "is chosen" in (found / "report.md").read_text()


def test_what_was_chosen_is_bundled_with_the_steps_that_led_to_it(found: Path) -> None:
    bundle, steps = found.parent / "bundle", steps_of(found)
    assert (bundle / "model.onnx").read_bytes() == (found / "model.onnx").read_bytes()
    told = json.loads((bundle / "provenance.json").read_text())
    line = ["chosen"]
    while (parent := steps[line[0]]["from"]) is not None:
        line.insert(0, parent)
    assert [step["name"] for step in told["steps"]] == line
    checked = subprocess.run(
        [sys.executable, bundle / "predict.py", "--check"], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stderr


def test_a_search_prunes_to_a_size_and_then_asks_the_student(tiny_cnn: Files, tmp_path: Path) -> None:
    out = tmp_path / "run"
    training = ("--train", str(tiny_cnn.train), "--recovery", "epochs=2:rate=0.01")
    student = ("--student", "tests.test_distill:small", "--student-args", '{"width": 24}')
    budgets = ("--max-drop", "90", "--max-size", "1kB")
    assert main(words(tiny_cnn, out, *training, *student, *budgets)) == 1
    steps = steps_of(out)
    (pruned,) = [step for name, step in steps.items() if name.startswith("prune_size")]
    assert "cannot be reached" in record_of(pruned, "prune")["reason"]
    taught = record_of(steps["distill"], "distill")
    assert "2 epochs of distillation" in taught["summary"]
    after = [name for name, step in steps.items() if step["from"] == "distill"]
    assert after == ["onnx_2"]
    assert list(steps)[-1] == "nearest"


def test_a_layer_that_eight_bits_cannot_hold_is_left_in_float(tmp_path: Path) -> None:
    import torch
    from torch import nn

    torch.manual_seed(0)
    net = nn.Sequential()
    net.add_module("reader", nn.Linear(16, 32, bias=False))
    net.add_module("norm", nn.LayerNorm(32))
    for place, (width, after) in enumerate([(32, 96), (96, 96), (96, 4)]):
        net.add_module(f"act{place}", nn.GELU())
        net.add_module(f"body{place}", nn.Linear(width, after))
    random = np.random.default_rng(0)
    # the reader's inputs are of any size, and no scale of a tensor or a channel fits them all
    x = (random.normal(size=(400, 16)) * np.exp(3 * random.normal(size=(400, 1)))).astype("f4")
    with torch.inference_mode():
        y = net.eval()(torch.from_numpy(x)).argmax(1).numpy()
    options = Options(out=tmp_path / "run", quiet=True, threads=1)
    result = diag.optimize(net, (x, y), max_flips="4%", max_size="28kB", options=options)
    steps = {step.name: step for step in result.report.steps}
    (again,) = [name for name in steps if name.startswith("int8_exclude")]
    assert "reader" in again
    assert "sensitivity" in {record.by for record in steps["int8"].records}
    table = record_of(steps_of(tmp_path / "run")["chosen"], "search")["tables"][0]
    became = {row[0]: row[1] for row in table["rows"]}
    assert "beyond" not in became[again], "it keeps the budgets"
    assert "--max-flips" in became["int8"]
    assert steps["chosen"].parent in (again, "int4"), "which of these is faster is a clock's to say"


def test_a_recovery_that_no_step_understands_is_refused(tiny_mlp: Files, tmp_path: Path, capsys) -> None:
    command = words(tiny_mlp, tmp_path / "run", "--max-drop", "1", "--recovery", "epoch=3")
    assert main(command) == 2
    assert "--train" in capsys.readouterr().err
    assert main([*command, "--train", str(tiny_mlp.train)]) == 2
    assert "has no setting 'epoch'. Did you mean 'epochs'?" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_options_for_a_search_are_no_matter_to_other_commands(tiny_mlp: Files, tmp_path: Path) -> None:
    options = Options(recovery="epochs=3", arch=(tiny_mlp.arch,), out=tmp_path / "run", quiet=True)
    assert diag.analyze(tiny_mlp.model, tiny_mlp.data, options=options).report.steps


def test_the_first_look_is_at_rows_that_do_not_judge(found: Path) -> None:
    held = set(json.loads((found / "run.json").read_text())["subject"]["calibration_ids"])
    import polars as pl

    for step in ("00_as_it_came", "04_int8"):
        glanced = set(pl.read_parquet(found / step / "glance" / "predictions.parquet")["id"])
        judged = set(pl.read_parquet(found / step / "predictions.parquet")["id"])
        assert glanced
        assert glanced <= held
        assert not judged & held
    glance = record_of(steps_of(found)["int8"], "glance")
    assert all(name.endswith("@glance") for name in glance["metrics"])


def test_the_same_command_again_asks_the_measurements_and_chooses_the_same(
    tiny_mlp: Files, found: Path, tmp_path: Path, capsys
) -> None:
    again = tmp_path / "again"
    shutil.copytree(found, again)
    command = words(tiny_mlp, again, "--max-drop", "5", "--max-size", "8kB")
    command.remove("--quiet")
    assert main(command) == 0
    assert capsys.readouterr().err.count("kept") == len(steps_of(found))
    assert list(steps_of(again)) == list(steps_of(found))
    assert steps_of(again)["chosen"]["from"] == steps_of(found)["chosen"]["from"]


def test_broken_off_it_goes_on_where_it_was(
    tiny_mlp: Files, found: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    out = tmp_path / "half"
    shutil.copytree(found, out)
    run = json.loads((out / "run.json").read_text())
    for part in ("plan", "steps"):
        run[part] = run[part][:4]  # as it was when the fifth step began
    (out / "run.json").write_text(json.dumps(run))
    for folder in out.glob("0[4-9]_*"):
        shutil.rmtree(folder)
    command = words(tiny_mlp, out, "--max-drop", "5", "--max-size", "8kB")
    begins = Watcher.begins
    begun: list[str] = []

    def stop_at_the_sixth(watcher: Watcher, step: str, number: int, count: int) -> None:
        begun.append(step)
        if number == 5:
            raise KeyboardInterrupt
        begins(watcher, step, number, count)

    monkeypatch.setattr(Watcher, "begins", stop_at_the_sixth)
    assert main(command) == 130
    assert begun[0] == "int8"
    assert "goes on from the last whole step" in capsys.readouterr().err
    monkeypatch.setattr(Watcher, "begins", begins)
    assert main(command) == 0
    assert list(steps_of(out))[:5] == CHEAP
    assert (out / "model.onnx").exists()


def test_where_nothing_keeps_the_budgets_the_command_fails_and_hands_over_nothing(
    tiny_mlp: Files, tmp_path: Path, capsys
) -> None:
    out = tmp_path / "none"
    assert main(words(tiny_mlp, out, "--max-drop", "0", "--max-size", "10B")) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "Nothing is chosen" in said
    assert "--max-size" in said
    assert not (out / "model.onnx").exists()
    assert json.loads((out / "report.json").read_text())["verdict"] == "bad"
    assert list(steps_of(out))[-1] == "nearest"


def test_python_takes_live_modules_and_budgets(tiny_mlp: Files, tmp_path: Path) -> None:
    import torch

    from tests.tiny import mlp

    data, net = np.load(tiny_mlp.data), mlp()
    net.load_state_dict(torch.load(tiny_mlp.model))
    result = diag.optimize(
        net.eval(),
        (data["x"][:80], data["y"][:80]),
        max_flips="5%",
        max_size="8kB",
        options=Options(out=tmp_path / "live", quiet=True, threads=1),
    )
    assert result.report.steps[-1].name == "chosen"
    assert (tmp_path / "live" / "model.onnx").stat().st_size <= 8000


@pytest.mark.parametrize(
    ("more", "names"),
    [
        ((), "--max-drop 0.5"),
        (("--max-latency", "fast"), "--max-latency is 'fast'"),
        (("--max-size", "-3MB"), "--max-size is '-3MB'"),
    ],
)
def test_budgets_that_make_no_sense_are_refused_before_anything_runs(
    tiny_mlp: Files, tmp_path: Path, capsys, more: tuple[str, ...], names: str
) -> None:
    out = tmp_path / "run"
    assert main(words(tiny_mlp, out, *more)) == 2
    said = capsys.readouterr().err
    assert names in said
    assert said.count("\n") == 1
    assert not out.exists()


def test_a_dry_run_shows_the_budgets_and_what_would_be_tried_first(
    tiny_mlp: Files, tmp_path: Path, capsys
) -> None:
    command = words(tiny_mlp, tmp_path / "run", "--max-latency", "5ms", "--dry-run")
    assert main(command) == 0
    said = capsys.readouterr().out
    for part in (
        "--max-latency 5",
        "onnx, fuse, int8-dynamic, int8",
        "--max-drop 1 is taken",
        "It would take",
    ):
        assert part in said
    assert not (tmp_path / "run").exists()
