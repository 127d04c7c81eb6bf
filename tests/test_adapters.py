"""LoRA adapters, merged as peft merges them."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from diag.cli import main
from study.errors import InputError
from study.loading import identify, load_module
from study.loading.sniff import with_adapter

peft = pytest.importorskip("peft")
BASE = """
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D


class Base(nn.Module):
    def __init__(self, width=12):
        super().__init__()
        self.embed = nn.Embedding(9, 8)
        self.one = nn.Linear(8, width)
        self.square = nn.Linear(width, width)
        self.turned = Conv1D(width, width)
        self.conv = nn.Conv1d(1, 1, 1)
        self.head = nn.Linear(width, 3)

    def forward(self, x):
        x = torch.relu(self.one(self.embed(x).mean(1)))
        return self.head(torch.relu(self.turned(torch.relu(self.square(x)))))
"""
ROWS = torch.arange(20).reshape(4, 5) % 9
CASES = {
    "linear": {"target_modules": ["one", "square"]},
    "rslora": {"target_modules": ["one"], "use_rslora": True},
    "turned": {"target_modules": ["turned"], "fan_in_fan_out": True},
    "embedding": {"target_modules": ["embed", "one"]},
    "saved": {"target_modules": ["one"], "modules_to_save": ["head"]},
    "patterns": {
        "target_modules": ["one", "square"],
        "rank_pattern": {"square": 2},
        "alpha_pattern": {"square": 3},
    },
    "biases": {"target_modules": ["one"], "bias": "lora_only"},
}


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[nn.Module]:
    """The base model, and its weights in ``base.pt``."""
    (tmp_path / "lora_base.py").write_text(BASE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(__import__("sys").modules, "lora_base", raising=False)
    import lora_base

    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = lora_base.Base().eval()
        torch.save(module.state_dict(), tmp_path / "base.pt")
        yield module


def adapted(module: nn.Module, **settings: object) -> nn.Module:
    """With an adapter of random numbers, saved in ``adapter``, and merged by peft."""
    wrapped = peft.get_peft_model(module, peft.LoraConfig(r=4, lora_alpha=6, **settings))
    with torch.no_grad():
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn_like(parameter))
    wrapped.save_pretrained("adapter")
    return wrapped.merge_and_unload().eval()


def model_of(folder: str = "adapter", arch_args: str = "{}"):
    model = identify(Path("base.pt"), arch="lora_base:Base", arch_args=arch_args)
    return with_adapter(model, Path(folder))


@pytest.mark.parametrize("case", CASES)
def test_merged_as_peft_does(case: str, base: nn.Module) -> None:
    plain = load_module(identify(Path("base.pt"), arch="lora_base:Base"))
    oracle = adapted(base, **CASES[case])
    found = load_module(model_of())
    for name, value in oracle.state_dict().items():
        torch.testing.assert_close(found.state_dict()[name], value, rtol=1e-5, atol=1e-6, msg=name)
    with torch.no_grad():
        assert not torch.allclose(found(ROWS), plain(ROWS), atol=1e-3)
        torch.testing.assert_close(found(ROWS), oracle(ROWS), rtol=1e-4, atol=1e-5)


def test_an_adapter_decides_the_hash(base: nn.Module) -> None:
    adapted(base, target_modules=["one"])
    plain = identify(Path("base.pt"), arch="lora_base:Base")
    one = model_of()
    assert one.sha256 != plain.sha256
    assert one.bytes > plain.bytes
    shutil.copytree("adapter", "other")
    config = json.loads(Path("other/adapter_config.json").read_text())
    Path("other/adapter_config.json").write_text(json.dumps({**config, "lora_alpha": 7}))
    assert model_of("other").sha256 not in (one.sha256, plain.sha256)


def test_adapters_that_do_not_fit(base: nn.Module, capsys: pytest.CaptureFixture[str]) -> None:
    adapted(base, target_modules=["one", "square"])
    (Path("lora_base.py")).write_text(BASE.replace("self.one", "self.first"))
    __import__("sys").modules.pop("lora_base")
    torch.save(load_module_state(), "base.pt")
    with pytest.raises(InputError, match=r"does not fit: the model has no 'one\.weight'.*made from\.$"):
        load_module(model_of())
    Path("lora_base.py").write_text(BASE)
    __import__("sys").modules.pop("lora_base")
    torch.save(load_module_state(width=5), "base.pt")
    with pytest.raises(InputError, match=r"has 'one\.weight', 'square\.weight' in another shape"):
        load_module(model_of(arch_args='{"width": 5}'))

    config = Path("adapter/adapter_config.json")
    said = json.loads(config.read_text())
    for change, sentence in (
        ({"use_dora": True}, "of the kind DoRA.*merge_and_unload"),
        ({"peft_type": "IA3"}, "of the kind IA3"),
        ({"lora_alpha": None}, "is no configuration of a LoRA adapter"),
    ):
        config.write_text(json.dumps({**said, **change}))
        with pytest.raises(InputError, match=sentence):
            load_module(model_of(arch_args='{"width": 5}'))
    Path("adapter/adapter_model.safetensors").unlink()
    words = ["analyze", "base.pt", "--arch", "lora_base:Base", "--adapter", "adapter", "--out", "run"]
    assert main(words) == 2
    assert "adapter is no adapter, it lacks 'adapter_model.safetensors'" in capsys.readouterr().err
    assert main(["analyze", "base.pt", "--adapter", "adapter", "--out", "run"]) == 2
    assert "base.pt is weights: give its --arch." in capsys.readouterr().err


def load_module_state(**settings: int) -> dict:
    import lora_base

    return lora_base.Base(**settings).state_dict()


@pytest.mark.usefixtures("in_process")
def test_an_adapter_goes_through_the_command_line(base: nn.Module) -> None:
    oracle = adapted(base, target_modules=["one"])
    words = ["export", "base.pt", "--arch", "lora_base:Base", "--adapter", "adapter", "--shape", "1x5:int64"]
    assert main([*words, "--out", "run", "--quiet"]) == 0
    from study.runtime import open_runtime, to_numpy
    from study.subject import Machine

    with open_runtime(identify(Path("run/model.onnx")), Machine(threads=1)) as run:
        found = to_numpy(next(iter(run({"x": ROWS.numpy()}).values())))
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(found), oracle(ROWS), rtol=1e-4, atol=1e-5)
