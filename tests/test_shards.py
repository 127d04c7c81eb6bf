"""Weights in folders of shards."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from diag.cli import main
from export.size import size_record
from study.errors import InputError
from study.loading import identify, load_module, tensors
from tests.tiny import cnn

KINDS = {"model.safetensors": ("safetensors", save_file), "pytorch_model.bin": ("bin", torch.save)}


def sharded(folder: Path, kind: str) -> tuple[Path, dict[str, torch.Tensor]]:
    """Every second tensor in the second file."""
    state = cnn().state_dict()
    ending, save = KINDS[kind]
    names = [f"{kind.partition('.')[0]}-0000{at}-of-00002.{ending}" for at in (1, 2)]
    where = {key: names[at % 2] for at, key in enumerate(state)}
    for file in names:
        save({key: value for key, value in state.items() if where[key] == file}, folder / file)
    (folder / f"{kind}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return folder, state


@pytest.mark.parametrize("kind", KINDS)
def test_shards_are_one_model(kind: str, tmp_path: Path) -> None:
    folder, state = sharded(tmp_path, kind)
    for path in (folder, folder / f"{kind}.index.json"):
        assert dict(tensors(identify(path))).keys() == state.keys()
        model = identify(path, arch="tests.tiny:cnn")
        for name, value in load_module(model).state_dict().items():
            assert torch.equal(value, state[name])
    assert model.bytes == sum(file.stat().st_size for file in folder.iterdir())
    assert size_record(model).metrics["size_bytes"].value == model.bytes
    before, last = model.sha256, max(folder.glob("*-00002.*"))
    last.write_bytes(last.read_bytes()[:-1] + bytes([last.read_bytes()[-1] ^ 1]))
    assert identify(folder).sha256 != before


def test_a_missing_shard_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, _ = sharded(tmp_path, "model.safetensors")
    (folder / "model-00002-of-00002.safetensors").unlink()
    assert main(["analyze", str(folder), "--out", str(tmp_path / "run")]) == 2
    assert "names 'model-00002-of-00002.safetensors', which is not there" in capsys.readouterr().err


def test_other_bad_shards(tmp_path: Path) -> None:
    folder, _ = sharded(tmp_path, "pytorch_model.bin")
    index = folder / "pytorch_model.bin.index.json"
    said = json.loads(index.read_text())
    index.write_text(json.dumps({"weight_map": {**said["weight_map"], "gone.weight": "../x.bin"}}))
    with pytest.raises(InputError, match=r"names '\.\./x\.bin' outside its folder"):
        identify(folder)
    first = next(iter(said["weight_map"].values()))
    index.write_text(json.dumps({"weight_map": {**said["weight_map"], "gone.weight": first}}))
    with pytest.raises(InputError, match=r"names 'gone\.weight', which no shard holds"):
        list(tensors(identify(folder)))
    torch.save({"7.weight": torch.ones(1), "code": cnn()}, folder / first)
    index.write_text(json.dumps(said))
    with pytest.raises(InputError, match="without running code"):
        list(tensors(identify(folder)))
