"""Models that do not fit one file: tensors beside the graph, hashed with it, copied with it."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from diag.cli import main
from export.onnx_file import bytes_of, files_of, read_graph, write_model
from study.loading import identify
from study.runtime import open_runtime, to_numpy
from study.subject import Machine
from tests.export_subjects import exported
from tests.tiny import Files


@pytest.fixture
def low(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a file could hold hardly anything."""
    monkeypatch.setattr("export.onnx_file.ONE_FILE", 2000)
    monkeypatch.setattr("export.onnx_file.SMALL", 100)


def outputs(path: Path, rows: np.ndarray) -> np.ndarray:
    with open_runtime(identify(path), Machine(threads=1)) as run:
        return to_numpy(next(iter(run({"x": rows}).values())))


@pytest.mark.parametrize("name", ["cnn", "recurrent", "encoder"])
def test_a_file_written_in_pieces_is_the_message(name: str, tmp_path: Path) -> None:
    graph = read_graph(exported(name).model.path)
    model = write_model(graph, tmp_path, "fp32")
    assert onnx.load(model.path) == graph
    assert identify(model.path) == model
    assert model.bytes == model.path.stat().st_size == bytes_of(model.path)


@pytest.mark.usefixtures("low")
def test_tensors_that_one_file_cannot_hold_lie_beside_it_and_count(tmp_path: Path) -> None:
    whole = exported("cnn").model
    graph = read_graph(whole.path)
    graph.graph.initializer[0].CopyFrom(  # as old files have it: numbers in a field of their own
        onnx.helper.make_tensor(
            graph.graph.initializer[0].name,
            1,
            graph.graph.initializer[0].dims,
            onnx.numpy_helper.to_array(graph.graph.initializer[0]).reshape(-1).tolist(),
        )
    )
    model = write_model(graph, tmp_path / "out", "fp32")
    beside = tmp_path / "out" / "model.onnx.data"
    assert files_of(model.path) == [model.path, beside]
    assert model.path.stat().st_size < whole.bytes / 2
    assert model.bytes == bytes_of(model.path) == model.path.stat().st_size + beside.stat().st_size
    assert identify(model.path) == model
    places = [
        int(entry.value)
        for tensor in onnx.load(model.path, load_external_data=False).graph.initializer
        for entry in tensor.external_data
        if entry.key == "offset"
    ]
    assert len(places) > 3
    assert all(place % 4096 == 0 for place in places)
    rows = np.random.default_rng(0).normal(size=(3, 1, 8, 8)).astype(np.float32)
    np.testing.assert_array_equal(outputs(model.path, rows), outputs(whole.path, rows))

    changed = bytearray(beside.read_bytes())
    changed[places[-1]] ^= 1
    beside.write_bytes(changed)
    assert identify(model.path).sha256 != model.sha256


@pytest.mark.usefixtures("in_process", "low")
def test_the_chain_of_a_model_with_its_tensors_beside_it(tiny_cnn: Files, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = [
        "export", tiny_cnn.model, "--arch", tiny_cnn.arch, "--data", tiny_cnn.data, "--out", out,
        "--steps", "onnx,(fp16|fuse|int8-dynamic|int8)", "--threads", "1", "--quiet",
    ]  # fmt: skip
    assert main([str(word) for word in words]) == 0
    report = json.loads((out / "report.json").read_text())
    for step in report["steps"][1:]:
        path = out / step["model"]["path"]
        assert (path.parent / "model.onnx.data").is_file(), step["name"]
        found = identify(path)
        assert (step["model"]["sha256"], step["model"]["bytes"]) == (found.sha256, found.bytes)
        (size,) = (one for one in step["records"] if one["by"] == "size")
        assert size["metrics"]["size_bytes"]["value"] == found.bytes
        left = sorted(entry.name for entry in path.parent.iterdir() if entry.name.startswith("."))
        assert not left
    last = out / report["steps"][-1]["model"]["path"]
    assert identify(out / "model.onnx").sha256 == identify(last).sha256
    last.unlink()
    (last.parent / "model.onnx.data").unlink()
    rows = np.zeros((2, 1, 8, 8), np.float32)
    assert np.isfinite(outputs(out / "model.onnx", rows)).all()

    assert main([str(word) for word in [*words, "--force", "--steps", "prune:0.3"]]) == 0
    assert not (out / "model.onnx.data").exists()
