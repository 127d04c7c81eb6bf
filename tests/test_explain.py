"""Explaining whole artifacts: which rows, trust, records, files, pictures and drift, end to end."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_breast_cancer, load_digits
from torch import nn

from diagnose.probes.predictions import Predictions
from explain import saved, trust
from explain.choice import choose, targets
from explain.look import default_methods, explain
from explain.method import Attribution, Explained, Method
from explain.methods.gradcam import GradCAM
from explain.methods.integrated_gradients import IntegratedGradients
from explain.methods.occlusion import Occlusion
from explain.picture import drawable, overlay, row_picture, scale_of
from study.errors import InputError, SkipError
from study.loading.live import live_model
from study.progress import Progress
from study.record import Record, Verdict, record_to_json
from study.runtime import Runtimes, open_runtime
from study.subject import Artifact, Data, InputSpec, Machine, Model, Split, Subject
from study.task import Task
from study.view import View

DIGITS = Task("multiclass", "logits", tuple("0123456789"))
MACHINE = Machine(threads=1)


# --- A trained network on its rows -------------------------------------------------------------------------


def trained(module: nn.Module, x, y, epochs: int) -> nn.Module:
    optimizer = torch.optim.Adam(module.parameters(), 0.01)
    shuffled = torch.Generator().manual_seed(0)
    for _ in range(epochs):
        for rows in torch.randperm(len(x), generator=shuffled).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(module(x[rows]), y[rows]).backward()
            optimizer.step()
    return module.eval()


@pytest.fixture(scope="module")
def digits():
    """A small CNN on scikit-learn's digits, and the 200 rows that judge it."""
    x, y = load_digits(return_X_y=True)
    images = torch.from_numpy((x / 16).reshape(-1, 1, 8, 8).astype(np.float32))
    labels = torch.from_numpy(y)
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(256, 10),
    )  # fmt: skip
    return trained(module, images[200:], labels[200:], 4), images[:200].numpy(), y[:200]


@pytest.fixture(scope="module")
def onnx(digits, tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    batch = torch.export.Dim("batch")
    torch.onnx.export(
        digits[0], (torch.zeros(2, 1, 8, 8),), path, dynamo=True, external_data=False,
        dynamic_shapes=({0: batch},), verbose=False,
    )  # fmt: skip
    return Model(path, "onnx")


def subject_of(folder: Path, model: Model, x, y, task: Task, **data) -> Subject:
    path = folder / "data.npz"
    np.savez(path, x=x, y=y)
    spec = InputSpec("x", (None, *x.shape[1:]), str(x.dtype))
    return Subject(model, Split(Data(str(path), **data)), task=task, inputs=(spec,))


def view_of(folder: Path, name: str, subject: Subject, origin: View | None = None) -> View:
    view = View(Artifact(name, folder / name, subject.model), subject, MACHINE, Runtimes(), origin, origin)
    Predictions().run(view, Progress())
    return view


def by(records: tuple[Record, ...]) -> dict[str, Record]:
    return {record.by: record for record in records}


# --- End to end --------------------------------------------------------------------------------------------


def test_the_exported_network_looks_at_what_the_network_looked_at(digits, onnx, tmp_path):
    module, x, y = digits
    subject = subject_of(tmp_path, live_model(module), x, y, DIGITS)
    origin = view_of(tmp_path, "00_as_it_came", subject)
    first = by(explain(origin))
    assert list(first) == ["occlusion", "integrated-gradients", "gradcam"]
    assert all(record.verdict in (Verdict.GOOD, Verdict.NOTED) for record in first.values())
    exported = view_of(
        tmp_path, "01_onnx", Subject(onnx, subject.judged, task=DIGITS, inputs=subject.inputs), origin
    )
    second = by(explain(exported))
    assert list(second) == ["occlusion", "integrated-gradients", "gradcam", "drift"]
    assert second["gradcam"].verdict is second["integrated-gradients"].verdict is Verdict.SKIPPED
    drift = second["drift"]
    assert drift.verdict is Verdict.GOOD
    assert drift.metrics["attribution_rank_correlation"].value > 0.9999
    assert drift.metrics["attribution_rank_correlation_p05"].value > 0.9999
    assert drift.metrics["attribution_top_overlap"].value > 0.99
    assert not [name for name in drift.metrics if "@" in name]
    a, b = (saved.load(view.artifact.folder)["occlusion"] for view in (origin, exported))
    assert a.ids == b.ids
    np.testing.assert_allclose(a.values["x"], b.values["x"], atol=1e-4)
    for record in (*first.values(), *second.values()):
        record_to_json(record)


def test_an_artifact_compared_with_itself_does_not_drift(digits, tmp_path):
    module, x, y = digits
    subject = subject_of(tmp_path, live_model(module), x, y, DIGITS)
    origin = view_of(tmp_path, "00_as_it_came", subject)
    explain(origin)
    drift = by(explain(view_of(tmp_path, "01_again", subject, origin)))["drift"]
    assert {name: (metric.low, metric.value, metric.high) for name, metric in drift.metrics.items()} == {
        f"{stem}{method}": (1.0, 1.0, 1.0)
        for stem in (
            "attribution_rank_correlation",
            "attribution_rank_correlation_p05",
            "attribution_top_overlap",
        )
        for method in ("", "@gradcam", "@integrated-gradients")
    }


def test_a_network_with_other_weights_drifts(digits, tmp_path):
    module, x, y = digits
    subject = subject_of(tmp_path, live_model(module), x, y, DIGITS)
    origin = view_of(tmp_path, "00_as_it_came", subject)
    explain(origin, ("occlusion",))
    torch.manual_seed(5)
    other = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()
    changed = Subject(live_model(other), subject.judged, task=DIGITS, inputs=subject.inputs)
    record = by(explain(view_of(tmp_path, "01_other", changed, origin), ("occlusion",)))["drift"]
    assert record.verdict is Verdict.BAD
    assert record.metrics["attribution_rank_correlation"].high < 0.5


def test_gradient_attributions_are_trusted_and_pictured(digits, tmp_path):
    module, x, y = digits
    view = view_of(tmp_path, "00_as_it_came", subject_of(tmp_path, live_model(module), x, y, DIGITS))
    record = by(explain(view, ("integrated-gradients",)))["integrated-gradients"]
    assert record.metrics["completeness_error@integrated-gradients"].value < 0.05
    assert record.metrics["deletion_gain@integrated-gradients"].low > 0
    assert record.metrics["sanity_rank_correlation@integrated-gradients"].high < 0.9
    assert "half of |attribution| lies in" in record.summary
    assert "score: the logit as the model gives it; absent: zero" in record.summary
    assert len(record.pictures) == 16
    for picture in record.pictures:
        with Image.open(tmp_path / picture.source) as image:
            assert image.size == (8, 8)
            assert image.mode == ("L" if picture.title.endswith("· input") else "RGBA")
    assert record.pictures[0].title.rpartition(" · ")[0] == record.pictures[1].title.rpartition(" · ")[0]


def test_a_table_names_its_columns(tmp_path):
    cancer = load_breast_cancer()
    mean, spread = cancer.data.mean(axis=0), cancer.data.std(axis=0)
    path = tmp_path / "cancer.parquet"
    names = [name.replace(" ", "_") for name in cancer.feature_names]
    table = pl.DataFrame(cancer.data.astype(np.float32), schema=names).with_columns(
        target=pl.Series(cancer.target)
    )
    table.write_parquet(path)
    torch.manual_seed(0)
    module = nn.Linear(30, 2)
    scaled = torch.from_numpy(((cancer.data - mean) / spread).astype(np.float32))
    trained(module, scaled, torch.from_numpy(cancer.target), 5)
    with torch.no_grad():
        module.bias -= module.weight @ torch.from_numpy(mean / spread).float()
        module.weight /= torch.from_numpy(spread).float()
    task = Task("multiclass", "logits", ("malignant", "benign"))
    subject = Subject(
        live_model(module),
        Split(Data(str(path), label="target")),
        task=task,
        inputs=(InputSpec("input", (None, 30), "float32"),),
    )
    view = view_of(tmp_path, "00_as_it_came", subject)
    records = by(explain(view, rows="random"))
    assert list(records) == ["occlusion", "integrated-gradients"]
    for record in records.values():
        assert record.tables[0].columns[0] == "feature"
        assert {row[0] for row in record.tables[0].rows} <= set(names)
        assert record.pictures[0].kind == "bars"
        assert record.pictures[0].source == record.tables[0].title
        assert str(record.tables[0].rows[0][0]) in record.summary
        assert "the mean of the judged rows" in record.summary
    # Of a linear model, both methods are weight times distance from the baseline.
    found = saved.load(view.artifact.folder)
    np.testing.assert_allclose(
        found["occlusion"].values["input"],
        found["integrated-gradients"].values["input"],
        rtol=0.02,
        atol=0.02,
    )


def test_the_target_may_be_any_class(digits, tmp_path):
    module, x, y = digits
    view = view_of(tmp_path, "00_as_it_came", subject_of(tmp_path, live_model(module), x, y, DIGITS))
    explain(view, ("occlusion",), "0,3", target="7")
    with np.load(view.artifact.folder / saved.FILE, allow_pickle=False) as file:
        np.testing.assert_array_equal(file["targets"], [7, 7])
        np.testing.assert_array_equal(file["ids"], ["0", "3"])
        shown = file["occlusion/x"]
    run = view.runtime
    row = x[[3]].copy()
    cell = np.unravel_index(np.abs(shown[1, 0]).argmax(), (8, 8))
    whole = run({"x": row})["output"][0, 7]
    row[(0, 0, *cell)] = 0
    assert shown[1, 0][cell] == pytest.approx(float(whole - run({"x": row})["output"][0, 7]), abs=1e-5)
    with pytest.raises(InputError, match="no class '11'"):
        explain(view, ("occlusion",), "0", target="11")
    with pytest.raises(InputError, match="Did you mean 'gradcam'"):
        explain(view, ("gradcm",))


def test_without_errors_there_is_nothing_to_explain_among_them(digits, tmp_path):
    module, x, _ = digits
    said = module(torch.from_numpy(x)).argmax(dim=1).numpy()
    view = view_of(tmp_path, "00_as_it_came", subject_of(tmp_path, live_model(module), x, said, DIGITS))
    (record,) = explain(view, ("occlusion",), "errors")
    assert record.verdict is Verdict.SKIPPED
    assert "no errors" in record.reason


def test_default_methods_follow_the_model_as_it_came(digits, onnx, tmp_path):
    subject = subject_of(tmp_path, onnx, digits[1], digits[2], DIGITS)
    view = View(Artifact("a", tmp_path / "a", onnx), subject, MACHINE, Runtimes())
    assert default_methods(view) == ("occlusion",)
    linear = live_model(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval())
    view = View(Artifact("a", tmp_path / "a", linear), subject, MACHINE, Runtimes())
    assert default_methods(view) == ("occlusion", "integrated-gradients")


class LastStep(nn.Module):
    """A recurrent network whose last step is read; its score is one number a row."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 16, batch_first=True)
        self.head = nn.Linear(16, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.lstm(x)[0][:, -1])


@pytest.mark.parametrize("kind", ["binary", "regression"])
def test_a_sequence_with_a_single_score(kind, tmp_path):
    torch.manual_seed(0)
    x = torch.randn(40, 10, 4).numpy()
    module = LastStep().eval()
    score = module(torch.from_numpy(x)).detach().numpy()[:, 0]
    y = (score > 0).astype(int) if kind == "binary" else score + 1
    task = Task("binary", "logits", ("no", "yes")) if kind == "binary" else Task("regression", "value")
    view = view_of(tmp_path, "00_as_it_came", subject_of(tmp_path, live_model(module), x, y, task))
    records = by(explain(view))
    assert list(records) == ["occlusion", "integrated-gradients"]
    assert records["integrated-gradients"].metrics["complete_rows@integrated-gradients"].value == 1
    maps = saved.load(view.artifact.folder)["occlusion"].values["x"]
    assert maps.shape == (16, 10, 4)
    assert np.abs(maps[:, -1]).mean() > np.abs(maps[:, 0]).mean()
    again = by(explain(view_of(tmp_path, "01_again", view.subject, view)))
    assert again["drift"].verdict is Verdict.GOOD


@pytest.mark.parametrize("form", ["torchscript", "exported"])
def test_gradients_of_torch_files(form, digits, tmp_path):
    module, x, _ = digits
    path = tmp_path / "model.pt2"
    if form == "torchscript":
        torch.jit.trace(module, torch.zeros(2, 1, 8, 8)).save(path)
    else:
        torch.export.save(torch.export.export(module, (torch.zeros(3, 1, 8, 8),)), path)
    rows = Explained(tuple("abcde"), {"x": x[:5]}, np.arange(5))
    with open_runtime(Model(path, form), MACHINE) as run, open_runtime(live_model(module), MACHINE) as eager:
        found, expected = (IntegratedGradients().attribute(one, rows) for one in (run, eager))
        with pytest.raises(SkipError, match="eager"):
            GradCAM().attribute(run, rows)
    np.testing.assert_allclose(found.values["x"], expected.values["x"], atol=1e-5)


def test_flat_rows_are_drawn_as_the_images_that_they_were(tmp_path, monkeypatch):
    """The source gives images, the model takes them flat: the map is drawn as an image."""
    images = np.random.default_rng(0).random((30, 8, 8)).astype(np.float32)
    code = "def flat(image):\n    return {'x': image.reshape(-1)}\n"
    (tmp_path / "flattening.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "data.npz"
    np.savez(path, x=images, y=np.arange(30) % 3)
    torch.manual_seed(0)
    spec = InputSpec("x", (None, 64), "float32")
    data = Data(str(path), preprocess="flattening:flat")
    task = Task("multiclass", "logits", ("a", "b", "c"))
    subject = Subject(live_model(nn.Linear(64, 3).eval()), Split(data), task=task, inputs=(spec,))
    record = by(explain(view_of(tmp_path, "00_as_it_came", subject), ("occlusion",)))["occlusion"]
    assert not record.tables
    with Image.open(tmp_path / record.pictures[1].source) as image:
        assert image.size == (8, 8)


# --- Which rows --------------------------------------------------------------------------------------------


def predictions() -> pl.LazyFrame:
    """Forty rows; those at positions 10, 20, ... are wrong, the later the more costly and the less sure."""
    wrong = np.arange(0, 400, 10) % 100 == 0
    return pl.LazyFrame(
        {
            "position": np.arange(0, 400, 10),
            "label": np.ones(40, np.int64),
            "prediction": np.where(wrong, 0, 1),
            "loss": np.where(wrong, np.arange(40), 0.0),
            "confidence": np.where(wrong, 1 - np.arange(40) / 100, 1.0),
        }
    )


def test_rows_are_chosen_by_the_predictions():
    task = Task("multiclass", "logits")
    assert choose(predictions(), task, "errors") == (300, 200, 100, 0)
    assert choose(predictions(), task, "confident-errors") == (0, 100, 200, 300)
    assert choose(predictions(), task, "30, 10,30") == (30, 10)
    mixed, random = choose(predictions(), task), choose(predictions(), task, "random")
    assert mixed[:4] == (300, 200, 100, 0)
    assert len(set(mixed)) == len(set(random)) == 16
    assert choose(predictions(), task, seed=1) != mixed == choose(predictions(), task)
    with pytest.raises(InputError, match="no judged rows '5'"):
        choose(predictions(), task, "5,10")
    with pytest.raises(InputError, match="Did you mean 'errors'"):
        choose(predictions(), task, "error")
    with pytest.raises(SkipError, match="no labels"):
        choose(predictions().with_columns(label=pl.lit(None, pl.Int64)), task, "errors")


def test_rows_of_other_tasks():
    several = pl.LazyFrame(
        {"position": [0, 1], "label": [[1, 0], [1, 1]], "prediction": [[1, 0], [1, 0]], "loss": [0.1, 0.2]}
    )
    assert choose(several, Task("multilabel", "logits"), "errors") == (1,)
    numbers = pl.LazyFrame(
        {"position": [0, 1], "label": [1.0, 2.0], "prediction": [1.0, 1.0], "loss": [0.0, 1.0]}
    )
    assert choose(numbers, Task("regression", "value"), "confident-errors") == (1, 0)


def test_targets_are_predicted_classes():
    table = pl.DataFrame({"prediction": [2, 0], "output": [[0.0, 1, 2], [5.0, 1, 2]]})
    classes = Task("multiclass", "logits", ("ant", "bee", "cat"))
    np.testing.assert_array_equal(targets(table, classes, 3), [2, 0])
    np.testing.assert_array_equal(targets(table, classes, 3, "bee"), [1, 1])
    np.testing.assert_array_equal(targets(table, classes, 3, "2"), [2, 2])
    np.testing.assert_array_equal(targets(table, Task("multilabel", "logits"), 3), [2, 0])
    np.testing.assert_array_equal(targets(table, Task("binary", "logits"), 1), [0, 0])
    with pytest.raises(InputError, match="Did you mean 'cat'"):
        targets(table, classes, 3, "cats")
    with pytest.raises(InputError, match="leave --target out"):
        targets(table, Task("binary", "logits"), 1, "1")


# --- Trust -------------------------------------------------------------------------------------------------


def linear_question():
    rng = np.random.default_rng(0)
    batch = {"x": rng.normal(size=(12, 20)).astype(np.float32)}
    rows = Explained(tuple("abcdefghijkl"), batch, np.zeros(12, np.int64))
    module = nn.Linear(20, 1)
    module.weight.data = torch.from_numpy(rng.normal(size=(1, 20)).astype(np.float32))
    return open_runtime(live_model(module.eval()), MACHINE), rows, module.weight.detach().numpy()


def test_deletion_of_a_linear_model_in_closed_form():
    run, rows, weight = linear_question()
    exact = rows.batch["x"] * weight
    found = trust.deletion(run, rows, Occlusion().attribute(run, rows), repeats=400)
    expected = np.sort(exact, axis=1)[:, -4:].sum(axis=1) - 4 * exact.mean(axis=1)
    metric = found.metrics["deletion_gain@occlusion"]
    assert metric.value == pytest.approx(expected.mean(), rel=0.03)
    assert metric.low > 0
    assert not found.findings


def test_a_map_of_noise_is_found_out():
    run, rows, weight = linear_question()
    noise = np.random.default_rng(1).normal(size=(12, 20)).astype(np.float32)
    found = trust.deletion(run, rows, Attribution("noise", rows.ids, {"x": noise}))
    assert "no more than deleting as much at random" in found.findings[0].what
    upside_down = Attribution("bad", rows.ids, {"x": -rows.batch["x"] * weight})
    assert trust.deletion(run, rows, upside_down).metrics["deletion_gain@bad"].high < 0


def test_rows_that_miss_completeness_are_named():
    found = trust.completeness(Attribution("m", ("a", "b", "c"), {}, completeness=np.array([0.01, 0.4, 0.2])))
    assert [finding.what.split(" miss ")[0][-1] for finding in found.findings] == ["b", "c"]
    assert found.metrics["complete_rows@m"].value == pytest.approx(1 / 3)
    assert not trust.completeness(Attribution("m", ("a",), {})).metrics


def test_a_method_that_does_not_know_the_weights_is_found_out(digits):
    module, x, _ = digits
    run = open_runtime(live_model(module), MACHINE)
    rows = Explained(tuple("abcdefgh"), {"x": x[:8]}, np.arange(8))
    before = {name: value.clone() for name, value in module.state_dict().items()}

    class Edges(Method):
        needs = "gradients"

        def attribute(self, run, rows):
            return Attribution("edges", rows.ids, {"x": np.diff(rows.batch["x"], axis=-1, prepend=0)})

    edges = Edges()
    found = trust.sanity(run, edges, rows, edges.attribute(run, rows))
    assert found.metrics["sanity_rank_correlation@edges"].value == 1
    assert found.findings
    method = IntegratedGradients()
    assert not trust.sanity(run, method, rows, method.attribute(run, rows)).findings
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())


def test_sanity_needs_the_layers(onnx):
    run = open_runtime(onnx, MACHINE)
    rows = Explained(("a",), {"x": np.zeros((1, 1, 8, 8), np.float32)}, np.zeros(1, np.int64))
    with pytest.raises(SkipError, match="no eager module"):
        trust.sanity(run, Occlusion(), rows, Attribution("occlusion", ("a",), {}))


# --- Files and pictures ------------------------------------------------------------------------------------


def test_attributions_come_back_as_they_were_saved(tmp_path):
    rows = Explained(("行", "b"), {}, np.array([3, 1]))
    both = {
        "occlusion": Attribution("occlusion", rows.ids, {"a/b": np.eye(2, dtype=np.float32)}, None, "zero"),
        "integrated-gradients": Attribution(
            "integrated-gradients", rows.ids, {"x": np.ones((2, 3), np.float32)}, np.array([0.1, 0.2]), "zero"
        ),
    }
    saved.save(tmp_path, rows, both)
    found = saved.load(tmp_path)
    assert found.keys() == both.keys()
    for name, attribution in both.items():
        assert found[name].ids == rows.ids
        assert found[name].baseline == "zero"
        for key, values in attribution.values.items():
            np.testing.assert_array_equal(found[name].values[key], values)
    assert found["occlusion"].completeness is None
    np.testing.assert_array_equal(found["integrated-gradients"].completeness, [0.1, 0.2])
    assert [path.name for path in tmp_path.iterdir()] == [saved.FILE]
    assert saved.load(tmp_path / "elsewhere") == {}


def test_overlays_are_red_for_and_blue_against():
    pixels = overlay(np.array([[[2.0, -1.0, 0.0]]]), scale=2.0)
    assert pixels.shape == (1, 3, 4)
    red, blue, none = pixels[0]
    assert red[0] > red[2]
    assert blue[2] > blue[0]
    assert (red[3], blue[3], none[3]) == (217, 108, 0)
    assert overlay(np.zeros((4, 4)), scale_of(np.zeros((4, 4)))).max(axis=(0, 1))[3] == 0
    spike = np.zeros((30, 30))
    spike[0, 0] = -5
    assert scale_of(spike) == 5


def test_rows_are_drawn_over_their_own_range():
    grey = row_picture(np.array([[[-1.0, 0.0], [1.0, 3.0]]], np.float32))
    np.testing.assert_array_equal(grey, [[0, 64], [128, 255]])
    assert row_picture(np.zeros((3, 4, 5), np.float32)).shape == (4, 5, 3)
    assert row_picture(np.zeros((6, 5, 3), np.float32)).shape == (6, 5, 3)
    raw = np.array([[7, 9], [11, 13]], np.uint8)
    np.testing.assert_array_equal(row_picture(raw), raw)
    assert row_picture(np.zeros((50, 2))).shape == (2, 50)
    assert overlay(np.zeros((50, 2)), 1.0).shape == (2, 50, 4)


@pytest.mark.parametrize(
    ("shape", "drawn"),
    [((3, 8, 8), True), ((8, 8, 1), True), ((28, 6), True), ((30,), False), ((2, 4, 8, 8), False)],
)
def test_what_can_be_drawn(shape, drawn):
    assert drawable(shape) is drawn
