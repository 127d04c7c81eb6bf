"""Checkpoints with several sets of weights, and weights that were saved in parts."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm

from diag.cli import main
from study.errors import InputError
from study.loading import identify, load_module, tensors
from study.loading.states import said_of_weights

pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
PARTED = """
from torch import nn
from torch.nn.utils import weight_norm


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.up = nn.ConvTranspose2d(4, 4, 2)
        self.rnn = nn.Linear(4, 4)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.rnn(self.up(self.conv(x)).mean((2, 3))))


def old():
    net = Net()
    net.conv = weight_norm(net.conv)
    return net
"""
ROWS = torch.randn(5, 1, 6, 6, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., nn.Module]:
    """Seeded networks of a user's folder."""
    (tmp_path / "parted_net.py").write_text(PARTED)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(__import__("sys").modules, "parted_net", raising=False)

    def of(seed: int, name: str = "Net") -> nn.Module:
        import parted_net

        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return getattr(parted_net, name)().eval()

    return of


def computes(module: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return module(ROWS)


def ema_of(state: dict) -> dict:
    """As ``AveragedModel`` saves it."""
    return {**{f"module.{name}": value for name, value in state.items()}, "n_averaged": torch.tensor(7)}


@pytest.mark.parametrize(
    ("layout", "default", "keys"),
    [
        (lambda a, b: {"state_dict": a, "state_dict_ema": b, "epoch": 1}, 0, {"state_dict_ema": 1}),
        (lambda a, b: {"ema": ema_of(b), "net": a}, 0, {"ema": 1, "net": 0}),
        (lambda a, b: {"params_ema": b, "params": a}, 0, {"params_ema": 1}),
        (lambda a, b: {"state": {"model": a, "ema": b}}, 0, {"state.ema": 1, "state.model": 0}),
        (lambda a, b: [a, b], 0, {"1": 1, "0": 0}),
        (lambda a, b: {"models": [a, b]}, 0, {"models.1": 1}),
        (lambda a, b: {"generator": a, "discriminator": {"w": torch.ones(3)}}, 0, {"generator": 0}),
        (lambda a, b: {**prefixed(a, "on."), **prefixed(b, "ema.net.")}, None, {"on": 0, "ema.net": 1}),
        (lambda a, b: {"model": a, "ema": {**prefixed(b, "shadow."), "step": 3}}, 0, {"ema.shadow": 1}),
        (lambda a, b: {"a.b": {"c": a}, "a": b}, None, {"a.b.c": 0, "a": 1}),
    ],
)  # fmt: skip
def test_sets_by_their_keys(layout, default, keys, make, tmp_path: Path) -> None:
    nets = [make(1), make(2)]
    torch.save(layout(*(net.state_dict() for net in nets)), tmp_path / "c.pt")
    if default is not None:
        found = load_module(identify(tmp_path / "c.pt", arch="parted_net:Net"))
        assert torch.equal(computes(found), computes(nets[default]))
    for key, which in keys.items():
        model = identify(tmp_path / "c.pt", arch="parted_net:Net", weights=key)
        assert torch.equal(computes(load_module(model)), computes(nets[which])), key
        bare = dict(tensors(identify(tmp_path / "c.pt", weights=key)))
        assert len(bare) == 8


def prefixed(state: dict, prefix: str) -> dict:
    return {prefix + name: value for name, value in state.items()}


def test_what_was_chosen_is_said_and_a_wrong_key_named(make, tmp_path: Path, capsys) -> None:
    state = make(1).state_dict()
    torch.save({"model": state, "ema": state, "optimizer": {"state": {0: state}}}, tmp_path / "c.pt")
    (said,) = said_of_weights(identify(tmp_path / "c.pt"))
    assert said == "The weights 'model' are taken; c.pt holds 'ema' too: --weights KEY takes others."
    (said,) = said_of_weights(identify(tmp_path / "c.pt", weights="ema"))
    assert "'ema' are taken; c.pt holds 'model' too" in said
    torch.save({"model": state, "optimizer": {"state": {0: state}}}, tmp_path / "one.pt")
    assert said_of_weights(identify(tmp_path / "one.pt")) == ()

    assert main(["analyze", "c.pt", "--weights", "ena", "--out", "run"]) == 2
    assert capsys.readouterr().err.strip().endswith("c.pt has no weights 'ena'. Did you mean 'ema'?")
    assert main(["analyze", "one.pt", "--weights", "optimizer.state", "--out", "run"]) == 2
    assert "has no weights 'optimizer.state'. There are 'model'." in capsys.readouterr().err
    assert main(["analyze", "c.pt", "--weights", "ema", "--out", "run"]) == 0
    seen = capsys.readouterr()
    assert "c.pt holds 'model' too" in seen.err
    report = json.loads(Path("run/report.json").read_text())
    assert any("'ema' are taken" in note for note in report["environment"]["notes"])


def test_weights_of_a_file_without_sets_are_refused(tmp_path: Path) -> None:
    module = torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2))
    torch.jit.save(module, tmp_path / "s.pt")
    with pytest.raises(InputError, match=r"--weights chooses.*s\.pt is torchscript: leave it out"):
        identify(tmp_path / "s.pt", weights="ema")


def test_one_of_several_whole_modules(make, tmp_path: Path) -> None:
    nets = [make(1), make(2)]
    torch.save({"model": nets[0], "ema": nets[1]}, tmp_path / "c.pt")
    for key, which in {"": 0, "model": 0, "ema": 1}.items():
        trusted = identify(tmp_path / "c.pt", trust=True, weights=key)
        assert torch.equal(computes(load_module(trusted)), computes(nets[which]))
        unread = identify(tmp_path / "c.pt", arch="parted_net:Net", weights=key)
        assert torch.equal(computes(load_module(unread)), computes(nets[which]))
    with pytest.raises(InputError, match=r"no weights 'emma'\. Did you mean 'ema'"):
        load_module(identify(tmp_path / "c.pt", arch="parted_net:Net", weights="emma"))


def by_old_weight_norm(net: nn.Module) -> None:
    weight_norm(net.conv)
    weight_norm(net.up, dim=1)
    weight_norm(net.rnn, dim=None)


def by_new_weight_norm(net: nn.Module) -> None:
    parametrizations.weight_norm(net.conv)
    parametrizations.weight_norm(net.up, dim=1)


def by_spectral_norm(net: nn.Module) -> None:
    spectral_norm(net.conv)
    spectral_norm(net.up)
    parametrizations.spectral_norm(net.rnn)


def by_pruning(net: nn.Module) -> None:
    prune.l1_unstructured(net.conv, "weight", 0.4)
    prune.random_structured(net.head, "weight", 0.5, dim=0)
    prune.l1_unstructured(net.rnn, "bias", 0.5)


@pytest.mark.parametrize("change", [by_old_weight_norm, by_new_weight_norm, by_spectral_norm, by_pruning])
def test_weights_in_parts_are_put_together(change, make, tmp_path: Path) -> None:
    net = make(3)
    change(net.train())
    for _ in range(3):
        net(ROWS)  # the vectors of spectral norm move in train mode
    net.eval()
    torch.save({"state_dict": prefixed(net.state_dict(), "module.")}, tmp_path / "parts.pt")
    names = dict(tensors(identify(tmp_path / "parts.pt")))
    assert "conv.weight" not in names
    found = load_module(identify(tmp_path / "parts.pt", arch="parted_net:Net"))
    torch.testing.assert_close(computes(found), computes(net), rtol=1e-5, atol=1e-6)
    if change is by_pruning:
        assert torch.equal(found.conv.weight, net.conv.weight)
        assert torch.equal(found.rnn.bias, net.rnn.bias)


@pytest.mark.parametrize("made", ["old", "new"])
def test_parts_go_to_an_architecture_that_has_parts(made: str, make, tmp_path: Path) -> None:
    net = make(4)
    (weight_norm if made == "old" else parametrizations.weight_norm)(net.conv)
    torch.save(net.state_dict(), tmp_path / "parts.pt")
    found = load_module(identify(tmp_path / "parts.pt", arch="parted_net:old"))
    torch.testing.assert_close(computes(found), computes(net), rtol=1e-6, atol=1e-7)


def test_parts_that_nothing_is_known_of_are_named(make, tmp_path: Path) -> None:
    net = make(5)

    class Twice(nn.Module):
        def forward(self, weight: torch.Tensor) -> torch.Tensor:
            return 2 * weight

    parametrize.register_parametrization(net.conv, "weight", Twice())
    torch.save(net.state_dict(), tmp_path / "parts.pt")
    with pytest.raises(
        InputError, match=r"'conv\.weight' are missing; 'conv\.parametrizations\.weight\.orig"
    ):
        load_module(identify(tmp_path / "parts.pt", arch="parted_net:Net"))


def test_tensors_that_lay_on_a_gpu(make, tmp_path: Path) -> None:
    net = make(6)
    torch.save(net.state_dict(), tmp_path / "cpu.pt")
    with zipfile.ZipFile(tmp_path / "cpu.pt") as old, zipfile.ZipFile(tmp_path / "gpu.pt", "w") as new:
        for member in old.infolist():
            content = old.read(member)
            if member.filename.endswith("data.pkl"):
                assert content.count(b"X\x03\x00\x00\x00cpu") == 1
                content = content.replace(b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0")
            new.writestr(member.filename, content)
    if not torch.cuda.is_available():
        with pytest.raises(RuntimeError, match="CUDA"):
            torch.load(tmp_path / "gpu.pt")
    found = load_module(identify(tmp_path / "gpu.pt", arch="parted_net:Net"))
    assert torch.equal(computes(found), computes(net))
    assert {str(value.device) for value in found.state_dict().values()} == {"cpu"}


def test_mixed_types(make, tmp_path: Path) -> None:
    state = make(7).state_dict()
    mixed = {
        name: value.to((torch.bfloat16, torch.float16, torch.float64)[at % 3])
        for at, (name, value) in enumerate(state.items())
    }
    torch.save(mixed, tmp_path / "mixed.pt")
    for name, value in (
        load_module(identify(tmp_path / "mixed.pt", arch="parted_net:Net")).state_dict().items()
    ):
        assert value.dtype is torch.float32
        assert torch.equal(value, mixed[name].float())
    for name, array in tensors(identify(tmp_path / "mixed.pt")):
        np.testing.assert_array_equal(array.astype(np.float64), mixed[name].double().numpy())
