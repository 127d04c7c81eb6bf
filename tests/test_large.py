"""Models that do not fit one file: tensors beside the graph, hashed with it, copied with it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from diag.cli import main
from export.graphs.files import bytes_of, files_of, read_graph, write_model
from study.loading import identify
from study.loading.adopted import adopt
from study.runtime import open_runtime, to_numpy
from study.subject import Machine
from tests.export_subjects import exported
from tests.tiny import Files


@pytest.fixture
def low(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a file could hold hardly anything."""
    exported("cnn")  # kept for all tests of this process, so it is made before anything is changed
    monkeypatch.setattr("export.graphs.files.ONE_FILE", 2000)
    monkeypatch.setattr("export.graphs.files.SMALL", 100)
    monkeypatch.setattr("export.graphs.files.LIGHT", 1000)


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


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(8, 4)
        self.head = nn.Linear(4, 8, bias=False)
        self.head.weight = self.embed.weight
        self.other = nn.Linear(4, 4)
        self.register_buffer("table", torch.zeros(4, 4))


def test_weights_are_taken_as_they_lie_only_where_a_copy_would_be_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("study.loading.adopted.LARGE", 0)
    saved = {name: torch.randn_like(value) for name, value in Tied().state_dict().items()}
    saved["head.weight"] = saved["embed.weight"]
    net = Tied()
    assert adopt(net, saved) == set(saved)
    assert net.head.weight is net.embed.weight
    assert net.other.weight.data_ptr() == saved["other.weight"].data_ptr()

    saved["other.weight"] = saved["other.weight"].double()
    saved["table"] = saved["table"].T
    saved["other.bias"] = saved["embed.weight"][0]  # four numbers inside another tensor, at its beginning
    assert adopt(Tied(), saved) == {"embed.weight", "head.weight"}

    hooked = Tied()
    hooked.register_load_state_dict_pre_hook(lambda *_: None)
    assert adopt(hooked, saved) == set()


LOADS = """
import resource, sys
from pathlib import Path
import torch
from study.loading import identify, load_module, tensors
def peak():
    return int(next(l for l in open("/proc/self/status") if l.startswith("VmHWM")).split()[1]) * 1024
model = identify(Path("big.pt"), arch="big_net:build")
torch.ones(4, 4) @ torch.ones(4, 4)
before = peak()
total = sum(float(array[:1].sum()) for _, array in tensors(model))
module = load_module(model)
touched = sum(float(p.sum()) for p in module.parameters())
print((peak() - before) / model.bytes)
"""


@pytest.mark.parametrize("kind", ["pt", "safetensors"])
def test_a_large_checkpoint_is_mapped_and_not_copied(kind: str, tmp_path: Path) -> None:
    net = "nn.Sequential(*[nn.Linear(2048, 2048) for _ in range(12)])"
    (tmp_path / "big_net.py").write_text(f"from torch import nn\ndef build():\n    return {net}\n")
    state = {
        f"{at}.{name}": torch.full(shape, 0.5)
        for at in range(12)
        for name, shape in (("weight", (2048, 2048)), ("bias", (2048,)))
    }
    save = torch.save if kind == "pt" else save_file
    save(state, tmp_path / "big.pt")
    done = subprocess.run(
        [sys.executable, "-c", LOADS],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{Path(__file__).parents[1]}:{tmp_path}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert 0.5 < float(done.stdout) < 1.3, "once for what is read; a copy would make it two"
