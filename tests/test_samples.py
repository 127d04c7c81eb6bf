"""Each sample trains and reaches its accuracy; the command that it prints finds the same one."""

import json
import os
import shlex
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from scipy.spatial import KDTree
from sklearn.datasets import load_digits

from diag.demo import Digits, digits_cnn, enlarged_digits, make_demo

ROOT = Path(__file__).resolve().parents[1]
SAMPLES = ROOT / "samples"
FLOORS = {
    "breast_cancer": ("classifier", "accuracy", 0.9),
    "diabetes_regressor": ("regressor", "r2", 0.25),
    "digits_cnn": ("digits_cnn", "accuracy", 0.92),
    "digits_lstm": ("row_reader", "accuracy", 0.93),
    "digits_mlp": ("mlp", "accuracy", 0.92),
    "digits_resnet": ("resnet18", "accuracy", 0.75),
    "keras_cnn": ("keras_cnn", "accuracy", 0.92),
    "multimodal": ("fusion", "accuracy", 0.9),
}
"""The factory, the metric, and the least that it should reach."""
TEXTS = {"text_bert": 0.6}
"""Samples that write a folder of transformers: the least accuracy."""


def sample(name: str) -> ModuleType:
    spec = spec_from_file_location(f"sample_{name}", SAMPLES / name / "train.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def scored(folder: Path, name: str) -> float:
    """The metric of the written model on the written rows; of the sample's code only the factory runs."""
    factory, metric, _ = FLOORS[name]
    if (folder / "model.keras").exists():
        import keras

        arrays = np.load(folder / "test.npz")
        answers = keras.models.load_model(folder / "model.keras").predict(arrays["x"], verbose=0)
        return float((answers.argmax(1) == arrays["y"]).mean())
    model = getattr(sample(name), factory)().eval()
    model.load_state_dict(torch.load(folder / "model.pt", weights_only=True))
    if (folder / "test.npz").exists():
        arrays = np.load(folder / "test.npz")
        x, y = [arrays[input_] for input_ in ("x", "image", "cells") if input_ in arrays], arrays["y"]
    else:
        table = pl.read_csv(folder / "test.csv")
        x = [table.to_numpy()[:, :10].astype(np.float32)]
        y = table[table.columns[-1]].to_numpy()
    with torch.no_grad():
        output = model(*map(torch.from_numpy, x)).numpy()
    if metric == "r2":
        return float(1 - ((y - output[:, 0]) ** 2).sum() / ((y - y.mean()) ** 2).sum())
    decided = output.argmax(1) if output.shape[1] > 1 else np.where(output[:, 0] > 0, "malignant", "benign")
    return float((decided == y).mean())


def shared_rows(folder: Path) -> set[Any]:
    if (folder / "test.npz").exists():
        judged, train = (
            next(array for array in np.load(folder / f"{part}.npz").values() if array.ndim > 1)
            for part in ("test", "train")
        )
        return {row.tobytes() for row in judged} & {row.tobytes() for row in train}
    return set(pl.read_csv(folder / "test.csv").rows()) & set(pl.read_csv(folder / "train.csv").rows())


def test_every_sample_is_tested_and_explained() -> None:
    folders = {path.parent.name for path in SAMPLES.glob("*/train.py")}
    assert folders == {*FLOORS, *TEXTS}
    for name in folders:
        readme = (SAMPLES / name / "README.md").read_text("utf-8")
        assert f"python samples/{name}/train.py" in readme
        factory = "diag run bert" if name in TEXTS else f"train:{FLOORS[name][0]}"
        assert factory in readme or "diag run model.keras" in readme


def report_of_next(printed: str, out: Path) -> dict[str, Any]:
    """The report of the command that a sample printed last."""
    place, _, command = printed.splitlines()[-1].removeprefix("Next: ").rpartition(" && ")
    words = shlex.split(command)
    home = Path.cwd() / shlex.split(place)[1]
    assert words[:2] == ["diag", "run"]
    # -P: like the installed command, Python itself does not put the current folder on the path.
    done = subprocess.run(
        [sys.executable, "-P", "-m", "diag.cli", *words[1:], "--out", str(out)],
        cwd=home,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads((out / "report.json").read_text("utf-8"))
    return found


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", FLOORS)
def test_a_sample_trains_and_its_command_completes(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reached = sample(name).main(tmp_path / "files")
    own = reached[0] if isinstance(reached, tuple) else reached
    _, metric, floor = FLOORS[name]
    assert own >= floor
    assert scored(tmp_path / "files", name) == pytest.approx(own, abs=1e-6)
    assert shared_rows(tmp_path / "files") == set()

    if name == "multimodal":
        assert reached[0] - max(reached[1:]) >= 0.05, "neither input is enough"

    report = report_of_next(capsys.readouterr().out, tmp_path / "run")
    assert [step["name"] for step in report["steps"]] == ["as_it_came", "onnx", "int8"]
    for step in report["steps"]:
        (value,) = (
            record["metrics"][metric]["value"] for record in step["records"] if metric in record["metrics"]
        )
        # 8 bits cost little here; the first two are the same function.
        assert value == pytest.approx(own, abs=0.03 if step["name"] == "int8" else 1e-4)
    assert (tmp_path / "run" / "report.html").is_file()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_bert_trains_and_its_command_completes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    transformers = pytest.importorskip("transformers")
    monkeypatch.syspath_prepend(str(SAMPLES / "text_bert"))
    files = tmp_path / "files"
    reached, kept = sample("text_bert").main(files)
    assert min(reached, kept) >= TEXTS["text_bert"]
    assert transformers.AutoConfig.from_pretrained(str(files / "distilled")).num_hidden_layers == 2
    judged, train = (pl.read_csv(files / f"{part}.csv") for part in ("test", "train"))
    assert not set(judged["text"]) & set(train["text"])
    assert not judged["text"].str.contains(r"(?i)\b(numpy|scipy|sklearn|torch|pytorch)\b").any()
    report = report_of_next(capsys.readouterr().out, tmp_path / "run")
    assert [step["name"] for step in report["steps"]] == ["as_it_came", "onnx", "int8"]
    values = [
        next(one["metrics"]["accuracy"]["value"] for one in step["records"] if "accuracy" in one["metrics"])
        for step in report["steps"]
    ]
    assert values[:2] == pytest.approx([reached, reached], abs=1e-6)
    assert values[2] == pytest.approx(reached, abs=0.05)


def test_the_demo_writes_files_that_fit_each_other(tmp_path: Path) -> None:
    files = make_demo(tmp_path, epochs=0)
    model = digits_cnn()
    model.load_state_dict(torch.load(files.model, weights_only=True))
    data = np.load(files.data)
    assert set(data.files) == {"x", "y", "ink"}
    assert data["x"].shape == (360, 1, 64, 64)
    assert data["x"].dtype == np.float32
    assert model(torch.from_numpy(data["x"][:2])).shape == (2, 10)
    assert np.allclose(data["ink"], data["x"].mean(axis=(1, 2, 3)), atol=6e-4)
    assert len(np.load(files.train)["y"]) == 1797 - 360
    assert files.arch == "diag.demo:digits_cnn"


def test_the_cnn_is_the_one_that_was_asked_for() -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in digits_cnn().state_dict().items()}
    assert shapes["conv1.weight"] == (32, 1, 3, 3)
    assert shapes["conv2.weight"] == (64, 32, 3, 3)
    assert shapes["hidden.weight"] == (128, 64 * 16 * 16)
    assert shapes["head.weight"] == (10, 128)


def test_enlarged_digits_are_the_digits_with_their_labels() -> None:
    def enlarged(lines: Any, size: int) -> Any:
        """Bilinear by hand, along the last axis: pixels have their values in their middles."""
        middles = (np.arange(size) + 0.5) * lines.shape[-1] / size - 0.5
        return np.apply_along_axis(lambda line: np.interp(middles, np.arange(len(line)), line), -1, lines)

    digits = load_digits()
    plain = np.swapaxes(enlarged(np.swapaxes(enlarged(digits.images / 16, 24), 1, 2), 16), 1, 2)
    train, test = enlarged_digits(16, 24)
    found = set()
    for part in (train, test):
        distance, nearest = KDTree(plain.reshape(len(plain), -1)).query(part.images.reshape(len(part), -1))
        assert np.max(distance) < 1e-4
        assert (digits.target[nearest] == part.labels).all()
        found |= set(np.asarray(nearest).tolist())
    assert found == set(range(len(plain)))
    counts = np.bincount(test.labels)
    assert counts.min() >= 34
    assert counts.max() <= 38


def test_training_again_gives_the_same_model(tmp_path: Path) -> None:
    mlp = sample("digits_mlp")
    for folder in ("first", "second"):
        mlp.main(tmp_path / folder, epochs=1)
    first, second = (
        torch.load(tmp_path / folder / "model.pt", weights_only=True) for folder in ("first", "second")
    )
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_sample_is_a_script(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            sys.executable,
            str(SAMPLES / "breast_cancer" / "train.py"),
            "--out",
            str(tmp_path),
            "--epochs",
            "1",
        ],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=SAMPLES / "breast_cancer",
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1].startswith("Next: diag run ")
    assert {path.name for path in tmp_path.iterdir()} == {"model.pt", "test.csv", "train.csv"}


def test_data_cut_off_while_written_leave_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cut_off(stream, **_arrays):
        stream.write(b"PK")
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez_compressed", cut_off)
    digits = Digits(np.zeros((2, 1, 8, 8), np.float32), np.zeros(2, np.int64))
    with pytest.raises(KeyboardInterrupt):
        digits.save(tmp_path / "test.npz")
    assert not list(tmp_path.iterdir())
