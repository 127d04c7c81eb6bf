"""Every format is recognised by its content, and loads to the same numbers."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from study.errors import InputError
from study.loading import identify, load_module, tensors
from study.subject import Model
from tests.user_nets import ROWS, same, user_net


@pytest.fixture
def net(tmp_path, monkeypatch):
    return user_net(tmp_path, monkeypatch)


def prefixed(state, prefix):
    return {prefix + name: value for name, value in state.items()}


def in_the_middle(state):
    return {name.replace(".", "._orig_mod.", 1): value for name, value in state.items()}


LAYOUTS = {
    "plain": lambda s: s,
    "state_dict": lambda s: {"state_dict": s, "epoch": 3, "optimizer": {"state": {0: {"m": torch.ones(2)}}}},
    "model": lambda s: {"model": s, "optim": {"a": torch.ones(3)}},
    "model_state_dict": lambda s: {"model_state_dict": s, "loss": 0.5},
    "module.": lambda s: prefixed(s, "module."),
    "_orig_mod.": lambda s: prefixed(s, "_orig_mod."),
    "module._orig_mod.": lambda s: {"state_dict": prefixed(s, "module._orig_mod.")},
    "compiled parts": in_the_middle,
    "lightning": lambda s: {"state_dict": prefixed(s, "model."), "pytorch-lightning_version": "1.5.9"},
    "half": lambda s: {k: v.half() if v.is_floating_point() else v for k, v in s.items()},
    "bfloat16": lambda s: {k: v.bfloat16() if v.is_floating_point() else v for k, v in s.items()},
}


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_state_dicts_as_people_save_them(net, tmp_path, layout, legacy):
    path = tmp_path / "weights.ckpt"
    torch.save(LAYOUTS[layout](net.state_dict()), path, _use_new_zipfile_serialization=not legacy)

    bare = identify(path)
    model = identify(path, arch="user_net:build")
    module = load_module(model)

    assert bare.artifact == "weights/fp32"
    assert model.artifact == "pytorch/fp32"
    assert model.bytes == path.stat().st_size
    assert len(model.sha256) == 64
    assert not any(layer.training for layer in module.modules())
    if layout in ("half", "bfloat16"):
        rounded = copy.deepcopy(net)
        rounded.load_state_dict(LAYOUTS[layout](net.state_dict()))
        net = rounded
    assert same(module, net)
    assert all(p.dtype == torch.float32 for p in module.parameters())


def test_safetensors(net, tmp_path):
    path = tmp_path / "weights.bin"
    save_file(net.state_dict(), path)

    assert identify(path).format == "weights"
    assert same(load_module(identify(path, arch="user_net:build")), net)
    shown = dict(tensors(identify(path)))
    assert shown.keys() == net.state_dict().keys()
    for name, value in net.state_dict().items():
        np.testing.assert_array_equal(shown[name], value.numpy())


def test_a_factory_with_arguments_and_a_named_module(net, tmp_path):
    import user_net

    wide = user_net.build(width=7).eval()
    torch.save(wide.state_dict(), tmp_path / "wide.pt")
    torch.save(user_net.live.state_dict(), tmp_path / "two.pt")

    assert same(
        load_module(identify(tmp_path / "wide.pt", arch="user_net:build", arch_args='{"width": 7}')), wide
    )
    loaded = load_module(identify(tmp_path / "two.pt", arch="user_net:live"))
    assert loaded is not user_net.live
    assert same(loaded, user_net.live.eval())


def test_a_factory_leaves_the_callers_random_numbers_alone(net, tmp_path):
    torch.save(net.state_dict(), tmp_path / "w.pt")
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    load_module(identify(tmp_path / "w.pt", arch="user_net:build"))
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize(
    "make", [torch.jit.script, lambda m: torch.jit.trace(m, ROWS)], ids=["script", "trace"]
)
def test_torchscript(net, tmp_path, make):
    path = tmp_path / "net.bin"
    make(net).save(str(path))

    model = identify(path)

    assert model.artifact == "torchscript/fp32"
    assert same(load_module(model), net)
    shown = dict(tensors(model))
    assert shown.keys() == net.state_dict().keys()


@pytest.mark.parametrize("name", ["net.pt2", "net.pt"])
def test_torch_export(net, tmp_path, name):
    path = tmp_path / name
    torch.export.save(torch.export.export(net, (ROWS,), dynamic_shapes=({0: torch.export.Dim("b")},)), path)

    model = identify(path)

    assert model.artifact == "exported/fp32"
    assert same(load_module(model), net)
    np.testing.assert_array_equal(dict(tensors(model))["conv.weight"], net.conv.weight.detach().numpy())


class Attention(nn.Module):
    def forward(self, x):
        return nn.functional.scaled_dot_product_attention(x, x, x, dropout_p=0.1 if self.training else 0.0)


TRAINED = {
    "dropout": lambda: nn.Dropout(0.5),
    "batch norm": lambda: nn.BatchNorm1d(4),
    "lstm with dropout": lambda: nn.LSTM(4, 4, num_layers=2, dropout=0.2),
    "attention": Attention,
}
HARMLESS = {
    "dropout of nothing": lambda: nn.Dropout(0.0),
    "lstm without dropout": lambda: nn.LSTM(4, 4),
    "norm without statistics": lambda: nn.BatchNorm1d(4, track_running_stats=False),
}


LSTM_WEIGHTS = pytest.mark.filterwarnings("ignore:The tensor attributes self._flat_weights:UserWarning")


@LSTM_WEIGHTS
@pytest.mark.parametrize("layer", TRAINED)
def test_a_program_captured_in_train_mode_is_refused(tmp_path, layer):
    path = tmp_path / "trained.pt2"
    module, example = TRAINED[layer](), torch.randn(3, 4)
    torch.export.save(torch.export.export(module.train(), (example,)), path)
    with pytest.raises(InputError, match=r"captured in train mode .*model\.eval\(\)"):
        load_module(identify(path))

    torch.export.save(torch.export.export(module.eval(), (example,)), path)
    load_module(identify(path))


@LSTM_WEIGHTS
@pytest.mark.parametrize("layer", HARMLESS)
def test_train_mode_that_changes_nothing_is_taken(tmp_path, layer):
    path = tmp_path / "harmless.pt2"
    torch.export.save(torch.export.export(HARMLESS[layer]().train(), (torch.randn(3, 4),)), path)
    load_module(identify(path))


def test_tensors_of_odd_types(tmp_path):
    state = {
        "bf16": torch.tensor([1.5, -2], dtype=torch.bfloat16),
        "fp8": torch.tensor([1.5, -2]).to(torch.float8_e4m3fn),
        "complex": torch.tensor([1 + 2j]).conj(),
        "sparse": torch.eye(2).to_sparse(),
        "scalar": torch.tensor(3),
        "empty": torch.zeros(0, 4),
        "view": torch.arange(6.0).reshape(2, 3).T,
        "bool": torch.tensor([True]),
    }
    torch.save(state | {"note": "text"}, tmp_path / "w.pt")

    shown = dict(tensors(identify(tmp_path / "w.pt")))

    assert shown.keys() == state.keys()
    assert shown["bf16"].dtype == shown["fp8"].dtype == np.float32
    assert shown["bf16"].tolist() == shown["fp8"].tolist() == [1.5, -2]
    assert shown["complex"].tolist() == [1 - 2j]
    assert shown["sparse"].tolist() == [[1, 0], [0, 1]]
    assert shown["scalar"].shape == ()
    assert shown["empty"].shape == (0, 4)
    np.testing.assert_array_equal(shown["view"], state["view"].numpy())


@pytest.mark.filterwarnings("ignore:.*quantized tensor creation:UserWarning")
def test_quantized_torch_tensors_are_dequantized(tmp_path):
    whole = torch.quantize_per_tensor(torch.tensor([0.5, 1.0]), 0.5, 0, torch.qint8)
    torch.save({"q": whole}, tmp_path / "w.pt")
    assert dict(tensors(identify(tmp_path / "w.pt")))["q"].tolist() == [0.5, 1.0]


def test_a_weights_file_alone_cannot_run(net, tmp_path):
    torch.save(net.state_dict(), tmp_path / "w.pt")
    with pytest.raises(InputError, match="--arch module:factory"):
        load_module(identify(tmp_path / "w.pt"))


def test_nested_checkpoints_have_dotted_names(tmp_path):
    torch.save(
        {"net": {"a": {"weight": torch.ones(1)}}, "optimizer": {"m": torch.ones(2)}}, tmp_path / "c.pt"
    )
    assert [name for name, _ in tensors(identify(tmp_path / "c.pt"))] == ["net.a.weight"]


MISFITS = {
    "missing": (lambda s: {k: v for k, v in s.items() if k != "head.bias"}, r"'head\.bias' are missing"),
    "unexpected": (lambda s: s | {"tail.weight": torch.ones(1)}, r"'tail\.weight' are not known"),
    "mis-shaped": (lambda s: s | {"head.bias": torch.ones(9)}, r"head\.bias \(9,\) for \(3,\)"),
    "all": (
        lambda s: {"a": torch.ones(1), "b": torch.ones(1), "c": torch.ones(1), "d": torch.ones(1)},
        "and .* more",
    ),
}


@pytest.mark.parametrize("misfit", MISFITS)
def test_a_state_dict_that_does_not_fit_is_named(net, tmp_path, misfit):
    change, said = MISFITS[misfit]
    torch.save(change(dict(net.state_dict())), tmp_path / "w.pt")
    with pytest.raises(InputError, match=said) as caught:
        load_module(identify(tmp_path / "w.pt", arch="user_net:build"))
    assert str(caught.value).count("'") <= 6
    assert "user_net:build" in str(caught.value)


def test_counts_of_batches_and_tied_weights_may_be_missing(net, tmp_path):
    state = {k: v for k, v in net.state_dict().items() if "num_batches" not in k}
    torch.save(state, tmp_path / "old.pt")
    assert same(load_module(identify(tmp_path / "old.pt", arch="user_net:build")), net)

    (tmp_path / "tied.py").write_text(
        "from torch import nn\ndef build():\n    m = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))\n"
        "    m[1].weight = m[0].weight\n    return m\n"
    )
    torch.save(
        {"0.weight": torch.eye(2), "0.bias": torch.ones(2), "1.bias": torch.ones(2)}, tmp_path / "t.pt"
    )
    assert torch.equal(load_module(identify(tmp_path / "t.pt", arch="tied:build"))[1].weight, torch.eye(2))


def test_identify_imports_no_framework(net, tmp_path):
    import subprocess
    import sys

    torch.save(net.state_dict(), tmp_path / "w.pt")
    code = (
        "import sys; from pathlib import Path; from study.loading.sniff import identify\n"
        f"identify(Path({str(tmp_path / 'w.pt')!r}))\n"
        "print([m for m in ('torch', 'onnx', 'onnxruntime', 'safetensors') if m in sys.modules])"
    )
    root = Path(__file__).resolve().parents[1]
    told = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"


def test_the_format_of_a_model_is_kept_through_json(net, tmp_path):
    """A Model is plain data: what identify says survives being written down."""
    import dataclasses

    torch.save(net.state_dict(), tmp_path / "w.pt")
    model = identify(tmp_path / "w.pt", arch="user_net:build")
    assert Model(**dataclasses.asdict(model)) == model
