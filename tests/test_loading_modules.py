"""Whole modules, pickled and live, and modules that a step changed and saved."""

import copy

import pytest
import torch
from torch import nn

from study.errors import InputError, SkipError
from study.loading import identify, load_module, save_module
from study.loading.live import digest, held, live_model, release
from tests.user_nets import same, user_net


@pytest.fixture
def net(tmp_path, monkeypatch):
    return user_net(tmp_path, monkeypatch)


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
