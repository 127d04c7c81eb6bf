"""What is wrong with a file is one sentence."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import helper
from torch import nn

from study.errors import InputError
from study.loading import identify, tensors
from tests.onnx_models import W, onnx_model
from tests.user_nets import ROWS, user_net


@pytest.fixture
def net(tmp_path, monkeypatch):
    return user_net(tmp_path, monkeypatch)


def whole_file(net: nn.Module, kind: str) -> bytes:
    stream = io.BytesIO()
    if kind == "safetensors":
        from safetensors.torch import save

        return save(net.state_dict())
    if kind == "onnx":
        return onnx_model([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": W}).SerializeToString()
    if kind == "torchscript":
        torch.jit.save(torch.jit.script(net), stream)
    elif kind == "exported":
        torch.export.save(torch.export.export(net, (ROWS,)), stream)
    else:
        torch.save(net.state_dict(), stream, _use_new_zipfile_serialization=kind == "zip")
    return stream.getvalue()


@pytest.mark.parametrize("share", [0.1, 0.6, 0.99])
@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors", "torchscript", "exported", "onnx"])
def test_a_cut_off_file_is_refused(net, tmp_path, kind, share):
    data = whole_file(net, kind)
    path = tmp_path / "cut.onnx"
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(InputError, match=r"cut off|not a model"):
        dict(tensors(identify(path)))


def test_other_bad_files(tmp_path):
    (tmp_path / "model.pt").write_bytes(b"")
    (tmp_path / "notes.onnx").write_text("these are notes")
    (tmp_path / "text").write_text("hello " * 100)
    with zipfile.ZipFile(tmp_path / "photos.pt", "w") as archive:
        archive.writestr("a.txt", "hello")
    np.savez(tmp_path / "data.npz", x=np.ones(3))
    torch.save(torch.ones(3), tmp_path / "tensor.pt")
    torch.save({"epoch": 3}, tmp_path / "none.pt")
    for name, said in {
        "model.pt": "is empty",
        "modle.pt": "Did you mean 'model.pt'",
        "nowhere/at/all.pt": "There is no file",
        ".": "is a folder: .* 'model.pt'",
        "notes.onnx": "no ONNX model",
        "text": "is not a model",
        "photos.pt": "a zip that holds no model",
        "data.npz": "--data",
        "tensor.pt": "not of a state dict",
    }.items():
        with pytest.raises(InputError, match=said) as caught:
            identify(tmp_path / name)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="holds no tensors"):
        list(tensors(identify(tmp_path / "none.pt")))


def test_a_safetensors_file_of_unknown_numbers_is_refused(tmp_path):
    header = b'{"w":{"dtype":"X7","shape":[1],"data_offsets":[0,4]}}'
    (tmp_path / "w.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"0000")
    with pytest.raises(InputError, match="damaged") as caught:
        dict(tensors(identify(tmp_path / "w.safetensors")))
    assert "\n" not in str(caught.value)


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    (tmp_path / "m.pt").write_bytes(b"x")

    def refuse(self, *_args, **_kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(InputError, match="Permission denied"):
        identify(tmp_path / "m.pt")
