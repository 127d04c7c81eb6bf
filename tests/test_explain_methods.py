"""Attribution methods against Captum, published values and models whose attributions are known."""

import csv
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
import torch
from captum.attr import Occlusion as CaptumOcclusion
from captum.testing.helpers.basic_models import BasicModel2, BasicModel_MultiLayer
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from explain.layout import coarse, parts
from explain.method import METHODS, Explained
from explain.methods.gradcam import GradCAM
from explain.methods.integrated_gradients import IntegratedGradients
from explain.methods.occlusion import Occlusion
from study.errors import InputError, SkipError
from study.loading.live import live_model
from study.runtime import Batch, Runtime, open_runtime
from study.subject import InputSpec, Machine, Model


class Called(Runtime):
    """A runtime that only calls: a function of named arrays; it remembers how many rows it was given."""

    def __init__(self, function: Callable[[Batch], Batch]) -> None:
        self.function = function
        self.model = Model(Path("model.onnx"), "onnx")
        self.machine = Machine()
        self.inputs: tuple[InputSpec, ...] = ()
        self.outputs = ("y",)
        self.provider = "cpu"
        self.rows: list[int] = []

    @classmethod
    def open(cls, model: Model, machine: Machine) -> Self:
        raise NotImplementedError

    def __call__(self, batch: Batch) -> Batch:
        self.rows.append(len(next(iter(batch.values()))))
        return self.function(batch)

    def bind(self, batch: Batch) -> Callable[[], None]:
        raise NotImplementedError

    def as_torch(self) -> Callable[..., Any]:
        raise NotImplementedError

    def close(self) -> None:
        pass


def asked(batch: Mapping[str, Any], targets: Any, **settings: Any) -> Explained:
    arrays = {name: np.asarray(array, np.float32) for name, array in batch.items()}
    count = len(next(iter(arrays.values())))
    ids = tuple(str(at) for at in range(count))
    return Explained(ids, arrays, np.broadcast_to(np.asarray(targets, np.int64), (count,)).copy(), **settings)


def opened(module: nn.Module) -> Runtime:
    return open_runtime(live_model(module.eval()), Machine(threads=1))


def images(count: int = 4, channels: int = 3, side: int = 12) -> Any:
    return torch.randn(count, channels, side, side, generator=torch.Generator().manual_seed(0)).numpy()


def convolutional() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Linear(256, 5),
    ).eval()


# --- Parts -------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 70), min_size=0, max_size=3).map(tuple))
@settings(max_examples=60)
def test_parts_cover_each_cell_once(shape):
    seen = np.zeros(shape, int)
    for part in parts(shape):
        seen[part] += 1
    assert (seen == 1).all()


@pytest.mark.parametrize(
    ("shape", "count"),
    [
        ((12,), 12),
        ((784,), 196),
        ((1, 8, 8), 64),
        ((3, 224, 224), 64),
        ((28, 28, 1), 49),
        ((28, 100), 60),
        ((50, 2), 50),
    ],
)
def test_number_of_parts(shape, count):
    assert len(parts(shape)) == count


def test_maps_share_channels():
    assert coarse((3, 8, 9)) == (1, 8, 9)
    assert coarse((8, 9, 3)) == (8, 9, 1)
    assert coarse((8, 9)) == (8, 9)


# --- Occlusion ---------------------------------------------------------------------------------------------


def test_occlusion_of_a_linear_model_is_weight_times_distance():
    weights = np.array([[1.0, -2.0], [3.0, 0.0], [-1.0, 4.0]])
    rows = asked(
        {"x": [[1, 2, 3], [4, 5, 6]]}, [0, 1], baseline={"x": np.array([1.0, 1, 1])}, baseline_name="one"
    )
    found = Occlusion().attribute(Called(lambda batch: {"y": batch["x"] @ weights}), rows)
    np.testing.assert_allclose(found.values["x"], (rows.batch["x"] - 1) * weights[:, [0, 1]].T, rtol=1e-5)
    assert found.baseline == "one"


@pytest.mark.parametrize("baseline", [0.0, 4.0])
def test_occlusion_is_captums_published_feature_ablation(baseline):
    expected = {0.0: (80, 200, 120), 4.0: (68, 200, 120)}[baseline]
    module = BasicModel_MultiLayer().eval()

    def call(batch: Batch) -> Batch:
        return {"y": module(torch.from_numpy(batch["x"])).detach()}

    rows = asked({"x": [[20, 50, 30]]}, 0, baseline={"x": np.full(3, baseline)})
    from captum.attr import FeatureAblation

    oracle = FeatureAblation(module).attribute(torch.tensor([[20.0, 50, 30]]), target=0, baselines=baseline)
    found = Occlusion().attribute(Called(call), rows).values["x"]
    np.testing.assert_allclose(found, oracle.detach().numpy())
    if baseline == 0:
        np.testing.assert_allclose(found[0], expected)


@pytest.mark.parametrize("side", [8, 11, 12])
def test_occlusion_of_images_is_captums(side):
    torch.manual_seed(1)
    module = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.Tanh(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 3)
    ).eval()
    batch, patch = images(side=side), -(-side // 4)
    target = np.array([0, 1, 2, 1])
    oracle = CaptumOcclusion(module).attribute(
        torch.from_numpy(batch), (3, patch, patch), (3, patch, patch), target=torch.from_numpy(target)
    )
    run = Called(lambda given: {"y": module(torch.from_numpy(given["x"])).detach()})
    found = Occlusion(patches=16).attribute(run, asked({"x": batch}, target)).values["x"]
    assert found.shape == (4, 1, side, side)
    np.testing.assert_allclose(np.repeat(found, 3, axis=1), oracle.detach().numpy(), atol=1e-6)


def test_occlusion_calls_in_bounded_batches():
    def total(batch: Batch) -> Batch:
        return {"y": batch["x"].sum(axis=1)}

    rows = asked({"x": np.arange(1, 31).reshape(10, 3)}, 0)
    run = Called(total)
    run.machine = Machine(batch_size=7)
    np.testing.assert_allclose(Occlusion().attribute(run, rows).values["x"], rows.batch["x"])
    assert max(run.rows) == 7


def test_what_already_is_the_baseline_says_nothing_and_is_not_asked():
    run = Called(lambda batch: {"y": batch["x"].sum(axis=1) + np.random.default_rng(0).normal(0, 1e-3)})
    found = Occlusion().attribute(run, asked({"x": [[0, 5, 0]]}, 0)).values["x"]
    assert found[0, 0] == found[0, 2] == 0
    assert sum(run.rows) == 2


def test_falls_below_the_rounding_of_the_largest_output_are_none():
    """A sure row's log-probability is near 0, and its rounding that of the other logits."""
    scores = np.array([[0.0, -50.0]])
    run = Called(lambda batch: {"y": scores - 1e-5 * (batch["x"] == 0).any(axis=1, keepdims=True)})
    assert not Occlusion().attribute(run, asked({"x": [[1, 2]]}, 0)).values["x"].any()
    scores = np.array([[0.0, -1.0]])
    np.testing.assert_allclose(Occlusion().attribute(run, asked({"x": [[1, 2]]}, 0)).values["x"], 1e-5)


def test_occlusion_with_several_inputs_leaves_the_other_one_in_place():
    run = Called(lambda batch: {"y": batch["a"][:, 0] * batch["b"][:, 0]})
    found = Occlusion().attribute(run, asked({"a": [[2.0]], "b": [[3.0]]}, 0)).values
    assert found["a"][0, 0] == found["b"][0, 0] == 6


def test_occlusion_of_token_inputs_puts_token_zero():
    table = np.array([0.0, 1, 10, 100])
    rows = replace(asked({"x": [[0]]}, 0), batch={"x": np.array([[1, 3, 2]])})
    run = Called(lambda batch: {"y": table[batch["x"]].sum(axis=1)})
    np.testing.assert_allclose(Occlusion().attribute(run, rows).values["x"], [[1, 100, 10]])


def test_scores_that_are_not_finite_are_no_explanation():
    run = Called(lambda batch: {"y": batch["x"].sum(axis=1) * np.nan})
    with pytest.raises(SkipError, match="not finite"):
        Occlusion().attribute(run, asked({"x": [[1, 2]]}, 0))


def test_a_map_of_scores_cannot_be_explained():
    run = Called(lambda batch: {"y": np.zeros((len(batch["x"]), 3, 8, 8))})
    with pytest.raises(SkipError, match="4 axes"):
        Occlusion().attribute(run, asked({"x": [[1, 2]]}, 0))


def test_the_scored_output_is_chosen_by_name():
    run = Called(lambda batch: {"aux": batch["x"].sum(axis=1) * 0, "y": batch["x"].sum(axis=1)})
    rows = asked({"x": [[1, 2]]}, 0, output_name="y")
    np.testing.assert_allclose(Occlusion().attribute(run, rows).values["x"], [[1, 2]])
    with pytest.raises(SkipError, match="no output 'z'"):
        Occlusion().attribute(run, replace(rows, output_name="z"))


# --- Integrated Gradients ----------------------------------------------------------------------------------


def test_integrated_gradients_of_captums_published_model():
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = BasicModel2()

        def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return self.inner(a, b)

    rows = asked({"a": [3.0], "b": [1.0]}, 0)
    found = IntegratedGradients(steps=(50, 200, 3200)).attribute(opened(Named()), rows)
    assert found.values["a"][0] == pytest.approx(1.5, abs=0.01)
    assert found.values["b"][0] == pytest.approx(-0.5, abs=0.01)


class Cubes(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x**3).sum(dim=1, keepdim=True)


def test_integrated_gradients_of_a_sum_of_cubes_are_the_cubes():
    rows = asked({"x": np.random.default_rng(0).normal(size=(40, 5))}, 0)
    run = opened(Cubes())
    found = IntegratedGradients().attribute(run, rows)
    np.testing.assert_allclose(found.values["x"], rows.batch["x"] ** 3, rtol=1e-4, atol=1e-5)
    assert found.completeness is not None
    assert found.completeness.max() < 1e-3


def test_only_rows_that_miss_completeness_are_refined():
    class Step(nn.Module):
        calls = 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            Step.calls += len(x)
            return torch.sigmoid(300 * (x - 0.5)).sum(dim=1)

    rows = asked({"x": [[0.1], [0.2], [1.0]]}, 0)
    run = opened(Step())
    once = IntegratedGradients(steps=(5,)).attribute(run, rows)
    assert once.completeness is not None
    assert once.completeness[2] > 0.05
    Step.calls = 0
    refined = IntegratedGradients(steps=(1, 5, 800)).attribute(run, rows)
    assert refined.completeness is not None
    assert refined.completeness[2] < 0.05
    assert Step.calls < 800 + 100


def test_recurrent_layers_are_differentiated_without_cudnn():
    """cuDNN refuses to in eval mode; on a CPU only the switch can be seen."""

    seen: dict[str, set[bool]] = {"GRU": set(), "Linear": set()}

    class Watched(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen[type(self.inner).__name__].add(torch.backends.cudnn.enabled)
            given = self.inner(x)
            return (given[0] if isinstance(given, tuple) else given).sum(dim=(1, 2))[:, None]

    rows = asked({"x": np.ones((2, 5, 3))}, 0)
    for inner in (nn.GRU(3, 2, batch_first=True), nn.Linear(3, 2)):
        assert IntegratedGradients().attribute(opened(Watched(inner)), rows).values["x"].shape == (2, 5, 3)
    assert seen == {"GRU": {False}, "Linear": {True}}
    assert torch.backends.cudnn.enabled


def test_integrated_gradients_refuse_what_has_no_gradient():
    with pytest.raises(SkipError, match="ONNX"):
        IntegratedGradients().attribute(Called(lambda batch: batch), asked({"x": [[1]]}, 0))
    tokens = replace(asked({"x": [[1]]}, 0), batch={"x": np.array([[1, 2]])})
    with pytest.raises(SkipError, match="integers"):
        IntegratedGradients().attribute(opened(nn.Embedding(3, 1)), tokens)


def test_integrated_gradients_of_the_titanic_network_are_the_published_ones(shared_data):
    module = nn.Sequential(
        nn.Linear(12, 12), nn.Sigmoid(), nn.Linear(12, 8), nn.Sigmoid(), nn.Linear(8, 2), nn.Softmax(dim=1)
    )
    state = torch.load(shared_data / "captum_tutorial_models" / "titanic_model.pt", weights_only=True)
    module.load_state_dict(dict(zip(module.state_dict(), state.values(), strict=True)))
    rows = asked({"x": titanic_test(shared_data / "titanic3" / "titanic3_dimview_CR.csv")}, 1)
    found = IntegratedGradients().attribute(opened(module), rows)
    published = [-0.454, -0.119, -0.056, 0.175, 0.154, -0.359, 0.086, -0.001, -0.082, 0.062, 0.021, -0.159]
    mean = found.values["x"].mean(axis=0)
    others = np.arange(12) != 2
    np.testing.assert_array_equal(np.round(mean, 3)[others], np.array(published, np.float32)[others])
    # The third is -0.05549 by any fine quadrature, here by midpoints; the tutorial printed -0.056.
    line = torch.from_numpy(rows.batch["x"])
    slope = torch.zeros_like(line)
    for step in (np.arange(500) + 0.5) / 500:
        at = (line * step).requires_grad_()
        slope += torch.autograd.grad(module(at)[:, 1].sum(), at)[0] / 500
    np.testing.assert_allclose(mean, (line * slope).mean(dim=0).numpy(), atol=1e-4)
    np.testing.assert_allclose(mean, published, atol=0.0006)
    assert len(rows) == 393


def titanic_test(path: Path) -> Any:
    """The test split of Captum's titanic tutorial: twelve raw columns, the rows that its seed left out."""
    with path.open(encoding="utf-8") as stream:  # universal newlines: this copy has bare carriage returns
        people = list(csv.DictReader(stream))

    def number(name: str) -> Any:
        values = np.array([float(person[name]) if person[name] else np.nan for person in people])
        return np.where(np.isnan(values), np.nanmean(values), values)

    def is_(name: str, value: str) -> Any:
        return np.array([float(person[name] == value) for person in people])

    columns = [number(name) for name in ("age", "sibsp", "parch", "fare")]
    columns += [is_("sex", value) for value in ("female", "male")]
    columns += [is_("embarked", value) for value in "CQS"] + [is_("pclass", value) for value in "123"]
    table = np.stack(columns, axis=1).astype(np.float32)
    train = np.random.RandomState(131254).choice(len(table), int(0.7 * len(table)), replace=False)
    return table[np.setdiff1d(np.arange(len(table)), train)]


# --- Grad-CAM ----------------------------------------------------------------------------------------------


def test_gradcam_by_hand():
    module = convolutional()
    batch, target = images(), np.array([0, 1, 2, 3])
    features = module[:5](torch.from_numpy(batch)).detach().requires_grad_()
    score = module[5:](features.clone()).gather(1, torch.from_numpy(target)[:, None]).sum()
    (gradient,) = torch.autograd.grad(score, features)
    coarse_map = torch.relu((gradient.mean(dim=(2, 3), keepdim=True) * features).sum(dim=1, keepdim=True))
    expected = nn.functional.interpolate(coarse_map, size=(12, 12), mode="bilinear", align_corners=False)
    found = GradCAM().attribute(opened(module), asked({"x": batch}, target)).values["x"]
    assert found.shape == (4, 1, 12, 12)
    np.testing.assert_allclose(found, expected.detach().numpy(), atol=1e-6)


def test_gradcam_in_chunks_is_the_same():
    module, batch = convolutional(), images(count=7)
    run = opened(module)
    whole = GradCAM().attribute(run, asked({"x": batch}, 1)).values["x"]
    run.machine = Machine(batch_size=3, threads=1)
    np.testing.assert_allclose(GradCAM().attribute(run, asked({"x": batch}, 1)).values["x"], whole, atol=1e-6)


def test_gradcam_of_a_frozen_backbone():
    module = convolutional()
    expected = GradCAM().attribute(opened(module), asked({"x": images()}, 0)).values["x"]
    module.requires_grad_(False)
    found = GradCAM().attribute(opened(module), asked({"x": images()}, 0)).values["x"]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_gradcam_finds_the_planted_corner():
    """The class is decided by the lower right corner alone, so the map has to lie there."""

    class Corner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 1, 1, bias=False)
            self.conv.weight.data.fill_(1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            maps = torch.relu(self.conv(x))
            return torch.stack(
                [maps[:, 0, 6:, 6:].sum(dim=(1, 2)), maps[:, 0, :6, :6].sum(dim=(1, 2))], dim=1
            )

    batch = np.zeros((1, 1, 8, 8), np.float32)
    batch[..., 6:, 6:] = 1
    found = GradCAM().attribute(opened(Corner()), asked({"x": batch}, 0)).values["x"][0, 0]
    assert found[6:, 6:].min() > 0
    assert found[:6, :6].max() == 0


class Steps(nn.Module):
    """A sequence (steps, features) whose convolution runs along the steps."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(6, 4, 3, padding=1)
        self.head = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.conv(x.transpose(1, 2))).mean(dim=2))


def test_gradcam_has_the_axes_of_the_input():
    found = GradCAM().attribute(opened(Steps()), asked({"x": np.ones((2, 20, 6))}, 1)).values["x"]
    assert found.shape == (2, 20, 1)
    module = nn.Sequential(nn.Unflatten(1, (1, 4, 5)), nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(12, 2))
    found = GradCAM().attribute(opened(module), asked({"x": np.ones((2, 20))}, 1)).values["x"]
    assert found.shape == (2, 20)


def test_gradcam_needs_convolutions_of_an_eager_module():
    with pytest.raises(SkipError, match="no convolutions"):
        GradCAM().attribute(opened(nn.Linear(2, 2)), asked({"x": [[1, 2]]}, 0))
    with pytest.raises(SkipError, match="eager"):
        GradCAM().attribute(Called(lambda batch: batch), asked({"x": images()}, 0))
    pointwise = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(3, 2, 1), nn.Flatten())
    with pytest.raises(SkipError, match="more than one place"):
        GradCAM().attribute(opened(pointwise), asked({"x": images()}, 0))


# --- The contract of every method --------------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_signed_for_the_target_repeatable_and_leaves_the_model_alone(name):
    module, batch = convolutional(), images()
    before = {key: value.clone() for key, value in module.state_dict().items()}
    run, rows = opened(module), asked({"x": batch}, [0, 1, 2, 3])
    method = METHODS.get(name)()
    first, again = method.attribute(run, rows), method.attribute(run, rows)
    assert first.by == name
    assert first.ids == rows.ids
    assert first.values["x"].dtype == np.float32
    assert first.values["x"].shape in ((4, 3, 12, 12), (4, 1, 12, 12))
    np.testing.assert_array_equal(first.values["x"], again.values["x"])
    np.testing.assert_array_equal(rows.batch["x"], batch)
    assert all(torch.equal(before[key], value) for key, value in module.state_dict().items())
    assert all(parameter.grad is None for parameter in module.parameters())
    assert not any(layer._forward_hooks for layer in module.modules())


@pytest.mark.parametrize("name", METHODS)
def test_every_method_explains_a_model_with_a_single_score(name):
    module = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(200, 1))
    found = METHODS.get(name)().attribute(opened(module), asked({"x": images()}, 0))
    assert np.isfinite(found.values["x"]).all()


def test_an_unknown_method_is_answered_with_the_closest():
    with pytest.raises(InputError, match="Did you mean 'gradcam'"):
        METHODS.get("grad-cam")
