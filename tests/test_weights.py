"""Health of the weights: planted faults are found where they are, and healthy models have none."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils import prune

from diagnose.checks.weights import Weights as WeightsCheck
from diagnose.probes.weights import Weights as WeightsProbe
from diagnose.tensor_facts import tensor_facts
from study.errors import SkipError
from study.progress import Progress
from study.record import Record, Verdict
from study.runtime import Runtimes
from study.subject import Artifact, Format, Machine, Model, Subject
from study.view import View


def looked_at(path: Path, form: Format = "weights") -> Record:
    model = Model(path, form)
    folder = path.parent / "00_as_it_came"
    view = View(Artifact("as_it_came", folder, model), Subject(model), Machine(), Runtimes())
    WeightsProbe().run(view, Progress())
    return WeightsCheck().check(view)


def health(state: dict[str, torch.Tensor], tmp_path: Path) -> Record:
    torch.save(state, tmp_path / "model.pt")
    return looked_at(tmp_path / "model.pt")


def summaries(record: Record) -> list[tuple[str, str]]:
    return [(found.where, found.what) for found in record.findings]


class Block(nn.Module):
    def __init__(self, width: int, *, zero: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        if zero:
            nn.init.zeros_(self.bn2.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(x + self.bn2(self.conv2(inner)))


def convolutional(*, zero: bool = False) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        Block(16, zero=zero),
        Block(16, zero=zero),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 10),
    )


def trained(module: nn.Module, *shape: int, steps: int = 30) -> nn.Module:
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(32, *shape, generator=generator)
    labels = (rows.flatten(1)[:, 0] > 0).long()
    optimizer = torch.optim.Adam(module.parameters(), lr=3e-3, weight_decay=1e-4)
    module.train()
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(module(rows), labels).backward()
        optimizer.step()
    return module.eval()


def mlp() -> nn.Module:
    return trained(
        nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4)), 20
    )


def tied() -> nn.Module:
    module = nn.ModuleDict(
        {"embed": nn.Embedding(50, 16), "mix": nn.Linear(16, 16), "head": nn.Linear(16, 50)}
    )
    module["head"].weight = module["embed"].weight
    return module


def masked() -> nn.Module:
    module = nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 10))
    prune.ln_structured(module[0], "weight", 0.6, n=2, dim=0)
    prune.l1_unstructured(module[2], "weight", 0.9)
    return module


def pruned() -> nn.Module:
    module = mlp()
    with torch.no_grad():
        for layer in (module[0], module[2]):
            norms = layer.weight.norm(dim=1)
            layer.weight[norms < norms.median()] = 0
    return module


def attentive() -> nn.Module:
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    module = nn.Sequential(nn.Linear(8, 16), nn.TransformerEncoder(layer, 3), nn.Linear(16, 4))
    module.register_buffer("causal_mask", torch.full((6, 6), float("-inf")).triu(1))
    module.register_buffer("seen", torch.ones(6, 6).tril())
    module.register_parameter("class_token", nn.Parameter(torch.zeros(1, 1, 16)))
    return module


class Folded(nn.Module):
    """Raw 16-bit inputs and targets in the hundred thousands, folded into the outer layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(20, 32), nn.Linear(32, 32), nn.Linear(32, 1)
        with torch.no_grad():
            self.first.weight /= 65535
            self.third.weight *= 2e5


def half() -> nn.Module:
    return convolutional().half()


HEALTHY: dict[str, Callable[[], nn.Module]] = {
    "mlp as initialised": lambda: nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 4)),
    "mlp trained": mlp,
    "residual as initialised": convolutional,
    "residual trained": lambda: trained(convolutional(), 3, 8, 8, steps=4),
    "residual with zero scales": lambda: convolutional(zero=True),
    "residual with zero scales, trained": lambda: trained(convolutional(zero=True), 3, 8, 8, steps=4),
    "lstm": lambda: nn.ModuleList([nn.LSTM(10, 16, 2, batch_first=True), nn.Linear(16, 3)]),
    "gru with padding": lambda: nn.ModuleDict(
        {"embed": nn.Embedding(40, 8, padding_idx=0), "gru": nn.GRU(8, 16), "head": nn.Linear(16, 2)}
    ),
    "transformer": attentive,
    "layer norm": lambda: nn.Sequential(nn.Linear(8, 16), nn.LayerNorm(16), nn.GELU(), nn.Linear(16, 3)),
    "depthwise": lambda: nn.Sequential(
        nn.Conv2d(3, 24, 1), nn.Conv2d(24, 24, 3, groups=24), nn.BatchNorm2d(24), nn.Conv2d(24, 8, 1)
    ),
    "tied embedding": tied,
    "pruning masks": masked,
    "pruned for good": pruned,
    "half precision": half,
    "bfloat16": lambda: mlp().bfloat16(),
    "scales folded in": Folded,
    "one layer": lambda: nn.Linear(5, 1),
}


@pytest.mark.parametrize("name", HEALTHY)
@pytest.mark.parametrize("seed", range(2))
def test_a_healthy_model_has_no_fault(name: str, seed: int, tmp_path: Path) -> None:
    torch.manual_seed(seed)
    record = health(HEALTHY[name]().state_dict(), tmp_path)
    assert record.verdict is not Verdict.BAD, summaries(record)
    if "pruned" not in name and name not in ("pruning masks", "transformer", "scales folded in"):
        assert record.verdict is Verdict.GOOD or "never updated" in record.findings[0].what, summaries(record)


def plant_nan(state: dict[str, torch.Tensor]) -> None:
    state["2.weight"][3, 17] = float("nan")


def plant_infinity(state: dict[str, torch.Tensor]) -> None:
    state["2.bias"][5] = float("inf")


def plant_zero_layer(state: dict[str, torch.Tensor]) -> None:
    state["2.weight"].zero_()


def plant_most_zero(state: dict[str, torch.Tensor]) -> None:
    state["2.weight"][:20] = 0


def plant_most_copied(state: dict[str, torch.Tensor]) -> None:
    state["2.weight"][1:20] = state["2.weight"][0]


def plant_constant(state: dict[str, torch.Tensor]) -> None:
    state["2.weight"].fill_(0.1)


def plant_scale_up(state: dict[str, torch.Tensor]) -> None:
    state["2.weight"] *= 1e3


def plant_scale_down(state: dict[str, torch.Tensor]) -> None:
    state["2.weight"] *= 1e-4


def plant_rank_one(state: dict[str, torch.Tensor]) -> None:
    state["2.weight"].copy_(torch.outer(torch.randn(32), torch.randn(32)))


def plant_bit_flip(state: dict[str, torch.Tensor]) -> None:
    bits = state["2.weight"].view(torch.int32)
    bits[4, 2] |= 1 << 30


FAULTY: dict[str, tuple[Callable[[dict[str, torch.Tensor]], None], str, str]] = {
    "W1": (plant_nan, "2.weight", "1 NaN of 1024 values, the first at [3,17]"),
    "W2": (plant_infinity, "2.bias", "1 infinite of 32 values, the first at [5]"),
    "W3": (plant_zero_layer, "2.weight", "all 1024 values are zero"),
    "W4": (plant_most_zero, "2.weight", "20 of 32 units are zero"),
    "W5": (plant_most_copied, "2.weight", "19 of 32 units repeat another one"),
    "W5 constant": (plant_constant, "2.weight", "32 of 32 units weigh all their inputs alike"),
    "W8 up": (plant_scale_up, "2.weight", "it multiplies what it is given"),
    "W8 down": (plant_scale_down, "2.weight", "it shrinks what it is given"),
    "W12": (plant_bit_flip, "2.weight", "a value of magnitude"),
    "W14": (plant_rank_one, "2.weight", "its 32 units say the same"),
}


@pytest.mark.parametrize("fault", FAULTY)
def test_a_planted_fault_is_found_where_it_is(fault: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    plant, tensor, what = FAULTY[fault]
    state = mlp().state_dict()
    plant(state)
    record = health(state, tmp_path)
    assert record.verdict is Verdict.BAD
    assert [found.where for found in record.findings] == [tensor], summaries(record)
    assert what in record.findings[0].what
    assert record.findings[0].cause
    assert record.findings[0].do
    assert record.findings[0].show.startswith("diag analyze ")


def test_a_few_zero_or_equal_units_and_copied_layers_are_noted(tmp_path: Path) -> None:
    torch.manual_seed(0)
    state = nn.Sequential(*(nn.Linear(32, 32) for _ in range(4))).state_dict()
    state["0.weight"][[3, 7]] = 0
    state["1.weight"][[9, 11]] = state["1.weight"][4].clone()
    state["3.weight"] = state["2.weight"].clone()
    record = health(state, tmp_path)
    assert record.verdict is Verdict.NOTED
    found = dict(summaries(record))
    assert "2 of 32 units are zero: 3, 7" in found["0.weight"]
    assert "4, 9, 11 are equal" in found["1.weight"]
    assert found["3.weight"] == "it has the same bytes as 2.weight"


def test_batch_norm_that_was_reset_is_a_fault_and_a_fresh_one_is_not(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = trained(convolutional(), 3, 8, 8, steps=4)
    module[1].bn1.reset_running_stats()
    record = health(module.state_dict(), tmp_path)
    assert record.verdict is Verdict.BAD
    assert [found.where for found in record.findings] == ["1.bn1.running_var"]
    fresh = health(convolutional().state_dict(), tmp_path)
    assert fresh.verdict is Verdict.NOTED
    assert all("never updated" in found.what for found in fresh.findings)


@pytest.mark.parametrize(
    ("value", "verdict", "what"),
    [(-0.5, Verdict.BAD, "negative running variance"), (0.0, Verdict.NOTED, "1 of 16 channels")],
)
def test_impossible_variances(value: float, verdict: Verdict, what: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    state = trained(convolutional(), 3, 8, 8, steps=4).state_dict()
    state["2.bn2.running_var"][3] = value
    record = health(state, tmp_path)
    assert record.verdict is verdict
    assert record.findings[0].where == "2.bn2.running_var"
    assert what in record.findings[0].what


def test_fp16_overflow_is_called_by_its_name(tmp_path: Path) -> None:
    torch.manual_seed(0)
    state = mlp().state_dict()
    state["4.weight"][1, 1] = 1e6
    record = health({name: value.half() for name, value in state.items()}, tmp_path)
    assert record.findings[0].where == "4.weight"
    assert "65504" in record.findings[0].cause


@pytest.mark.parametrize("name", HEALTHY)
def test_parameters_are_those_of_the_module(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = HEALTHY[name]()
    record = health(module.state_dict(), tmp_path)
    assert record.metrics["parameters"].value == sum(one.numel() for one in module.parameters())


def test_tied_weights_are_counted_once_and_copied_ones_twice(tmp_path: Path) -> None:
    module = tied()
    record = health(module.state_dict(), tmp_path)
    assert record.metrics["parameters"].value == sum(one.numel() for one in module.parameters())
    assert record.verdict is Verdict.GOOD
    untied = {name: value.clone() for name, value in module.state_dict().items()}
    record = health(untied, tmp_path)
    assert record.metrics["parameters"].value == sum(value.numel() for value in untied.values())
    assert record.verdict is Verdict.NOTED


def test_safetensors_and_onnx(tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    torch.manual_seed(0)
    state = mlp().state_dict()
    plant_nan(state)
    save_file(state, tmp_path / "model.safetensors")
    assert looked_at(tmp_path / "model.safetensors").findings[0].where == "2.weight"

    weight = np.random.default_rng(0).integers(-127, 128, (8, 16)).astype(np.int8)
    weight[5] = 0
    held = {
        "fc.weight_quantized": weight,
        "fc.weight_scale": np.full(8, 0.01, np.float32),
        "fc.weight_zero_point": np.zeros(8, np.int8),
        "shape": np.array([0, 0], np.int64),
    }
    nodes = [
        helper.make_node("DequantizeLinear", [*list(held)[:3]], ["w"], axis=0),
        helper.make_node("Gemm", ["x", "w"], ["y"], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 8])],
        [numpy_helper.from_array(value, name) for name, value in held.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]), tmp_path / "q.onnx")
    record = looked_at(tmp_path / "q.onnx", "onnx")
    assert record.metrics["parameters"].value == 128
    assert summaries(record) == [("fc.weight", "1 of 8 units is zero: 5")]
    assert record.verdict is Verdict.NOTED


def test_many_faults_of_one_kind_are_few_findings(tmp_path: Path) -> None:
    state = {f"{place}.weight": torch.full((4, 4), float("nan")) for place in range(40)}
    record = health(state, tmp_path)
    assert len(record.findings) == 11
    assert "30 more tensors" in record.findings[-1].what


def test_no_tensors_is_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_module("study.loading.tensors"), "tensors", lambda _: iter(()))
    with pytest.raises(SkipError, match="no tensors"):
        looked_at(tmp_path / "x.pt")


@given(
    arrays.arrays(
        st.sampled_from([np.float32, np.float64, np.float16]),
        arrays.array_shapes(min_dims=1, max_dims=3, max_side=6),
        elements=st.sampled_from([0.0, 1.5, -2.25, 3.0, float("nan"), float("inf"), -7.0]),
    )
)
def test_facts_are_those_of_plain_numpy(values: np.ndarray) -> None:
    facts = tensor_facts("layer.weight", values)
    finite = values[np.isfinite(values)].astype(np.float64)
    assert facts.nan == np.isnan(values).sum()
    assert facts.inf == np.isinf(values).sum()
    if facts.bad_at:
        place = tuple(int(part) for part in facts.bad_at.split(","))
        assert not np.isfinite(values[place])
        assert np.isfinite(values.reshape(-1)[: np.ravel_multi_index(place, values.shape)]).all()
    assert facts.zeros == pytest.approx((values == 0).mean())
    if finite.size:
        assert (facts.low, facts.high) == (finite.min(), finite.max())
        assert facts.mean == pytest.approx(finite.mean(), abs=1e-12)
        assert facts.std == pytest.approx(finite.std(), abs=1e-7)
    if facts.role == "matrix" and np.isfinite(values).all():
        rows = values.reshape(len(values), -1)
        zero = [place for place, row in enumerate(rows) if not row.any()]
        assert facts.zero_at == zero
        if rows.shape[1] >= 4:
            constant = [place for place, row in enumerate(rows) if row.any() and (row == row[0]).all()]
            assert facts.constant_at == constant
            keys = [bytes(row) for place, row in enumerate(rows) if place not in {*zero, *constant}]
            assert facts.copied_units == len(keys) - len(set(keys))
        if facts.first_rank is not None:
            singular = np.linalg.svd(rows.astype(np.float64), compute_uv=False)
            assert facts.first_rank <= singular[0] ** 2 / (singular**2).sum() + 1e-3


def test_the_share_of_the_first_rank_is_that_of_the_singular_values() -> None:
    rng = np.random.default_rng(0)
    for strength in (0.0, 3.0, 30.0, 1e5):
        weak = rng.standard_normal((30, 20))
        matrix = (weak + strength * np.outer(rng.standard_normal(30), rng.standard_normal(20))).astype(
            np.float32
        )
        singular = np.linalg.svd(matrix, compute_uv=False)
        share = tensor_facts("a.weight", matrix).first_rank
        assert share == pytest.approx(float(singular[0] ** 2 / (singular**2).sum()), rel=0.05)


def test_real_checkpoints_have_no_fault(shared_data: Path, tmp_path: Path) -> None:
    found = [*shared_data.glob("mnist_lenet_csinva/*.p*"), *shared_data.glob("udacity_*/*.pt")]
    assert found
    for place, path in enumerate(found):
        (tmp_path / str(place)).mkdir()
        (tmp_path / str(place) / path.name).symlink_to(path)
        record = looked_at(tmp_path / str(place) / path.name)
        assert record.verdict is not Verdict.BAD, (path.name, summaries(record))
