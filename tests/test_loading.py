"""Every format is recognised by its content, loads to the same numbers, and what is wrong is one sentence."""

import copy
import io
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import save_file
from torch import nn

from study.errors import InputError, SkipError
from study.loading import identify, load_module, save_module, tensors
from study.loading.live import digest, held, live_model, release
from study.subject import Model

NET = """
import torch
from torch import nn

class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv = nn.Conv2d(1, width, 3)
        self.norm = nn.BatchNorm2d(width)
        self.head = nn.Linear(width, 3)

    def forward(self, x):
        return self.head(torch.relu(self.norm(self.conv(x))).mean((2, 3)))

def build(width=4):
    return Block(width)

def broken():
    return nothing_of_that_name

def text():
    return "no module"

live = Block(2)
"""


@pytest.fixture
def net(tmp_path, monkeypatch):
    """A module of the user in the folder where they stand, and its weights trained a little."""
    (tmp_path / "user_net.py").write_text(NET)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    import sys

    sys.modules.pop("user_net", None)
    import user_net

    torch.manual_seed(1)
    module = user_net.build()
    module(torch.randn(8, 1, 6, 6))
    return module.eval()


ROWS = torch.randn(5, 1, 6, 6, generator=torch.Generator().manual_seed(0))


def same(module: nn.Module, other: nn.Module) -> bool:
    with torch.no_grad():
        return torch.equal(module(ROWS), other(ROWS))


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


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_a_whole_module_needs_trust_or_arch_and_both_commands_work(net, tmp_path, legacy):
    path = tmp_path / "whole.pt"
    torch.save(net, path, _use_new_zipfile_serialization=not legacy)

    with pytest.raises(InputError) as refused:
        identify(path)
    text = str(refused.value)
    assert f"diag analyze {path} --trust" in text
    assert f"diag analyze {'weights.pt' if legacy else path} --arch module:factory" in text
    assert "user_net.Block" in text

    trusted = identify(path, trust=True)
    assert trusted.format == "pytorch"
    assert same(load_module(trusted), net)
    if legacy:
        torch.save(net.state_dict(), tmp_path / "weights.pt")
        path = tmp_path / "weights.pt"
    without = identify(path, arch="user_net:build")
    assert same(load_module(without), net)
    assert not without.trust


def test_reading_a_whole_modules_weights_imports_none_of_its_classes(tmp_path, monkeypatch):
    (tmp_path / "their_net.py").write_text(
        "from torch import nn\nclass Net(nn.Sequential):\n    pass\ndef act(x):\n    return x\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    import sys

    import their_net

    whole = their_net.Net(nn.Linear(3, 2), nn.BatchNorm1d(2)).eval()
    whole.act = their_net.act
    whole.register_buffer("scratch", torch.ones(1), persistent=False)
    torch.save(whole, tmp_path / "whole.pt")
    del sys.modules["their_net"]
    (tmp_path / "their_net.py").write_text("raise SystemExit('imported')\n")
    (tmp_path / "mine.py").write_text(
        "from torch import nn\ndef build():\n    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))\n"
    )

    module = load_module(identify(tmp_path / "whole.pt", arch="mine:build"))

    torch.testing.assert_close(module.state_dict(), whole.state_dict(), rtol=0, atol=0)
    assert "their_net" not in sys.modules


def test_a_trusted_module_whose_class_is_gone_says_so(net, tmp_path, monkeypatch):
    torch.save(net, tmp_path / "whole.pt")
    (tmp_path / "user_net.py").unlink()
    import sys

    del sys.modules["user_net"]
    with pytest.raises(InputError, match=r"No module named 'user_net': stand in the folder"):
        load_module(identify(tmp_path / "whole.pt", trust=True))


def test_a_module_by_plain_pickle_with_trust(net, tmp_path):
    import pickle

    (tmp_path / "raw.pkl").write_bytes(pickle.dumps(net))
    assert same(load_module(identify(tmp_path / "raw.pkl", trust=True)), net)


def test_a_live_module_is_copied_hashed_and_left_as_it_is(net):
    net.train()
    model = live_model(torch.nn.DataParallel(net))

    module = load_module(model)

    assert model.path.stem == "Block"
    assert held(model.live) is net
    assert net.training
    assert not module.training
    assert same(module, net.eval())
    assert live_model(net) == model
    assert digest(copy.deepcopy(net)) == model.sha256
    with torch.no_grad():
        net.conv.bias[0] += 1
    assert digest(net) != model.sha256
    release(model.live)
    with pytest.raises(InputError, match="another process"):
        load_module(model)


def narrowed(module: nn.Module) -> nn.Module:
    """The block with its second channel cut out, by hand."""
    module = copy.deepcopy(module)
    keep = torch.tensor([0, 2, 3])
    for layer, names in ((module.conv, ("weight", "bias")), (module.norm, ("weight", "bias"))):
        for name in names:
            setattr(layer, name, nn.Parameter(getattr(layer, name).detach()[keep]))
    module.norm.running_mean = module.norm.running_mean[keep]
    module.norm.running_var = module.norm.running_var[keep]
    module.head.weight = nn.Parameter(module.head.weight.detach()[:, keep])
    module.conv.out_channels = module.norm.num_features = module.head.in_features = 3
    return module


@pytest.mark.parametrize("origin", ["arch", "pickle", "live"])
def test_a_pruned_module_comes_back_bit_for_bit(net, tmp_path, origin):
    if origin == "arch":
        torch.save(net.state_dict(), tmp_path / "m.pt")
        model = identify(tmp_path / "m.pt", arch="user_net:build")
    elif origin == "pickle":
        torch.save(net, tmp_path / "m.pt")
        model = identify(tmp_path / "m.pt", trust=True)
    else:
        model = live_model(net)
    pruned = narrowed(net)

    saved = save_module(pruned, tmp_path / "pruned.pt", model)
    loaded = load_module(saved)

    assert same(loaded, pruned)
    assert loaded.conv.out_channels == 3
    assert saved.bytes == (tmp_path / "pruned.pt").stat().st_size
    assert saved.sha256 != model.sha256
    assert set(torch.load(saved.path, weights_only=True)) == {"state_dict", "widths"}
    again = save_module(loaded, tmp_path / "again.pt", saved)
    assert same(load_module(again), pruned)
    assert sorted(p.name for p in tmp_path.glob(".*")) == []


def test_shapes_in_tuples_and_heads_come_back(tmp_path):
    full = nn.Sequential(nn.LayerNorm([4, 6]), nn.MultiheadAttention(6, 2))
    small = nn.Sequential(nn.LayerNorm([4, 3]), nn.MultiheadAttention(3, 1)).eval()

    loaded = load_module(save_module(small, tmp_path / "small.pt", live_model(full)))

    rows = torch.randn(2, 4, 3)
    assert loaded[0].normalized_shape == (4, 3)
    assert torch.equal(loaded[0](rows), small[0](rows))
    assert torch.equal(loaded[1](rows, rows, rows)[0], small[1](rows, rows, rows)[0])


def test_a_module_with_other_layers_cannot_be_saved(net, tmp_path):
    changed = copy.deepcopy(net)
    changed.extra = nn.Linear(2, 2)
    with pytest.raises(SkipError, match=r"extra\.weight"):
        save_module(changed, tmp_path / "x.pt", live_model(net))
    assert list(tmp_path.glob("*.pt")) == []


def onnx_model(nodes, initializers, opset=21, shape=("b", 3)):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in initializers.items()],
    )
    made = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    )
    made.ir_version = 10
    return made


W = np.random.default_rng(0).normal(size=(3, 2)).astype(np.float32)


def test_onnx_with_weights_inside_and_beside(tmp_path):
    made = onnx_model([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": W})
    onnx.save(made, tmp_path / "in.bin")
    onnx.save_model(
        made, tmp_path / "out.onnx", save_as_external_data=True, location="out.data", size_threshold=0
    )

    inside, beside = identify(tmp_path / "in.bin"), identify(tmp_path / "out.onnx")

    assert inside.artifact == beside.artifact == "onnx/fp32"
    for model in (inside, beside):
        np.testing.assert_array_equal(dict(tensors(model))["w"], W.T)  # outputs first, as a module has them
    assert beside.bytes == (tmp_path / "out.onnx").stat().st_size + (tmp_path / "out.data").stat().st_size
    data = bytearray((tmp_path / "out.data").read_bytes())
    data[0] ^= 1
    (tmp_path / "out.data").write_bytes(data)
    assert identify(tmp_path / "out.onnx").sha256 != beside.sha256
    (tmp_path / "out.data").unlink()
    with pytest.raises(InputError, match=r"out\.data.*beside it"):
        identify(tmp_path / "out.onnx")
    with pytest.raises(SkipError, match="ONNX"):
        load_module(inside)


def test_onnx_data_outside_its_folder_is_refused(tmp_path):
    made = onnx_model([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": W})
    onnx.save_model(made, tmp_path / "m.onnx", save_as_external_data=True, location="abcd", size_threshold=0)
    (tmp_path / "m.onnx").write_bytes((tmp_path / "m.onnx").read_bytes().replace(b"abcd", b"../e"))
    with pytest.raises(InputError, match="outside its folder"):
        identify(tmp_path / "m.onnx")


@pytest.mark.parametrize("axis", [0, 1])
def test_quantized_onnx_weights_are_shown_dequantized(tmp_path, axis):
    scale = np.array([0.5, 0.25, 2.0][: W.shape[axis]], dtype=np.float32)
    zero = np.array([1, -2, 3][: W.shape[axis]], dtype=np.int8)
    whole = np.random.default_rng(1).integers(-50, 50, W.shape).astype(np.int8)
    nodes = [
        helper.make_node("DequantizeLinear", ["w_quantized", "s", "z"], ["w"], axis=axis),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    made = onnx_model(nodes, {"w_quantized": whole, "s": scale, "z": zero})
    onnx.save(made, tmp_path / "q.onnx")

    model = identify(tmp_path / "q.onnx")
    shown = dict(tensors(model))

    from onnx.reference import ReferenceEvaluator

    oracle = ReferenceEvaluator(made).run(None, {"x": np.eye(3, dtype=np.float32)})[0]
    assert model.artifact == "onnx/int8"
    assert shown.keys() == {"w"}
    np.testing.assert_allclose(shown["w"], oracle.T)


def nibbles(bits):
    return helper.make_node("MatMulNBits", ["x", "w"], ["y"], domain="com.microsoft", bits=bits, K=3, N=2)


@pytest.mark.parametrize(
    ("nodes", "weights", "precision"),
    [
        ([helper.make_node("MatMul", ["h", "w"], ["y"])], {"w": W.astype(np.float16)}, "fp16"),
        ([nibbles(bits=4)], {"w": W}, "int4"),
        ([nibbles(bits=8)], {"w": W}, "int8"),
        ([helper.make_node("DynamicQuantizeLinear", ["x"], ["a", "b", "c"])], {"w": W}, "int8"),
    ],
)  # fmt: skip
def test_onnx_precision(tmp_path, nodes, weights, precision):
    onnx.save(onnx_model(nodes, weights), tmp_path / "m.onnx")
    assert identify(tmp_path / "m.onnx").precision == precision


def test_onnx_precision_is_found_in_the_branches_of_an_if(tmp_path):
    inner = helper.make_graph(
        [helper.make_node("DynamicQuantizeLinear", ["x"], ["a", "b", "c"])],
        "then",
        [],
        [helper.make_tensor_value_info("b", TensorProto.FLOAT, [])],
    )
    node = helper.make_node("If", ["w"], ["y"], then_branch=inner, else_branch=inner)
    onnx.save(onnx_model([node], {"w": np.array([True])}), tmp_path / "m.onnx")
    assert identify(tmp_path / "m.onnx").precision == "int8"


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
