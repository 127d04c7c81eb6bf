"""From a model and its data to a subject: what is judged, what is fed, what it means, and what is refused."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from study.data.opening import forget_sources
from study.errors import InputError
from study.feed import Feed
from study.host import to_numpy
from study.intake import inputs_of_shapes, refuse_bad_rows, take_in
from study.loading.live import live_model
from study.runtime import open_runtime
from study.splits import held_back, stratified
from study.subject import Data, InputSpec, Machine
from study.task import encode, read


@pytest.fixture(autouse=True)
def _fresh(monkeypatch, tmp_path):
    forget_sources()
    monkeypatch.chdir(tmp_path)
    yield
    forget_sources()


class Known:
    """A runtime whose file says its inputs: a linear layer of fixed weights."""

    outputs = ("scores",)
    optional = ()
    provider = "test"
    machine = Machine()

    def __init__(self, *inputs, classes=3):
        self.inputs = inputs
        self.classes = classes
        self.batches = []

    def __call__(self, batch):
        self.batches.append({name: array.shape for name, array in batch.items()})
        flat = np.concatenate([array.reshape(len(array), -1) for array in batch.values()], axis=1)
        weights = np.random.default_rng(0).normal(size=(flat.shape[1], self.classes))
        return {"scores": flat @ weights}


def taken(module, data, training=None, **options):
    model = live_model(module.eval()) if isinstance(module, nn.Module) else live_model(nn.Linear(1, 1))
    if isinstance(module, nn.Module):
        with open_runtime(model, Machine(threads=1)) as runtime:
            return take_in(model, runtime, data, training, **options)
    return take_in(model, module, data, training, **options)


def save(path, rows=60, classes=3, width=4, **more):
    random = np.random.default_rng(0)
    np.savez(path, x=random.normal(size=(rows, width)), y=np.arange(rows) % classes, **more)
    return Data(str(path))


def test_a_subject_of_arrays(tmp_path):
    subject = taken(nn.Linear(4, 3), save(tmp_path / "d.npz"))
    assert subject.judged.positions is None
    assert subject.calibration is None
    assert subject.inputs == (InputSpec("input", (None, 4), "float32"),)
    assert (subject.task.kind, subject.task.classes) == ("multiclass", ("0", "1", "2"))
    assert subject.notes[0].startswith("The task is classification of 3 classes")
    assert hash(subject.judged)  # plain data, which survives another process


@pytest.mark.parametrize("rows", [10, 60, 999, 4000])
def test_held_back_rows_are_a_stratified_fifth(rows):
    labels = np.array(["a"] * (rows - rows // 10) + ["b"] * (rows // 10 - 1) + ["c"], dtype=object)
    held = held_back(labels, rows, 3)
    assert len(held) == min(512, rows // 5)
    assert held.tolist() == sorted(set(held.tolist()))
    assert held.tolist() == held_back(labels, rows, 3).tolist()
    assert rows < 60 or held.tolist() != held_back(labels, rows, 4).tolist()
    left = np.delete(labels, held)
    assert set(left.tolist()) == {"a", "b", "c"} & set(labels.tolist())
    share = (labels[held] == "b").mean()
    assert share == pytest.approx((labels == "b").mean(), abs=1 / len(held))


def test_held_back_rows_of_a_regression_span_its_range():
    labels = np.random.default_rng(0).permutation(np.linspace(0, 1, 100))
    held = stratified(labels, 100, 20, 0)
    assert np.histogram(labels[held], bins=10, range=(0, 1))[0].tolist() == [2] * 10
    assert len(held_back(None, 100, 0)) == 20
    assert len(held_back(np.arange(10).astype(str), 10, 0)) == 2
    assert len(held_back(np.arange(3), 3, 0)) == 0


def test_rows_are_held_back_only_when_asked_and_never_judge(tmp_path):
    data = save(tmp_path / "d.npz", rows=100)
    subject = taken(nn.Linear(4, 3), data, hold_out=True, seed=5)
    judged, held = set(subject.judged.positions), set(subject.calibration.positions)
    assert len(held) == 20
    assert judged | held == set(range(100))
    assert not judged & held
    assert any("20 of 100 rows are held back" in note for note in subject.notes)
    again = taken(nn.Linear(4, 3), data, hold_out=True, seed=5)
    assert again.calibration == subject.calibration


def test_a_sample_is_seeded_and_said(tmp_path):
    data = save(tmp_path / "d.npz", rows=100)
    subject = taken(nn.Linear(4, 3), data, sample=30, hold_out=True)
    assert len(subject.judged.positions) == 30
    assert not set(subject.judged.positions) & set(subject.calibration.positions)
    assert subject.judged.positions == taken(nn.Linear(4, 3), data, sample=30, hold_out=True).judged.positions
    assert any("30 of 80 rows are judged" in note for note in subject.notes)
    assert taken(nn.Linear(4, 3), data, sample=500).judged.positions is None
    with pytest.raises(InputError, match="--sample 0"):
        taken(nn.Linear(4, 3), data, sample=0)


def test_with_training_rows_all_judge_and_calibration_is_theirs(tmp_path):
    data, training = save(tmp_path / "d.npz"), save(tmp_path / "t.npz", rows=700)
    subject = taken(nn.Linear(4, 3), data, training, hold_out=True)
    assert subject.judged.positions is None
    assert subject.training.data.source == training.source
    assert subject.calibration.data.source == training.source
    assert len(subject.calibration.positions) == 512


def test_labels_that_are_not_there(tmp_path):
    np.savez(tmp_path / "d.npz", x=np.zeros((5, 4)))
    with pytest.raises(InputError, match=r"no labels \(it has 'x'\): say with --label .* --unlabelled"):
        taken(nn.Linear(4, 3), Data("d.npz"))
    assert taken(nn.Linear(4, 3), Data("d.npz"), unlabelled=True).task.kind == "multiclass"
    (tmp_path / "t.csv").write_text("a,y\n1,\n2,\n")
    with pytest.raises(InputError, match="--unlabelled"):
        taken(nn.Linear(1, 3), Data("t.csv"))


def test_bare_weights_have_labels_alone(tmp_path):
    data = save(tmp_path / "d.npz")
    subject = take_in(live_model(nn.Linear(1, 1)), None, data, hold_out=True)
    assert subject.task is None
    assert len(subject.judged.positions) == 48


# what is fed


def test_integers_go_in_as_indices_where_the_model_takes_indices(tmp_path):
    np.savez(tmp_path / "d.npz", x=np.arange(60).reshape(20, 3) % 7, y=np.arange(20) % 2)
    embedding = nn.Sequential(nn.Embedding(7, 4), nn.Flatten(), nn.Linear(12, 2))
    assert taken(embedding, Data("d.npz")).inputs[0].dtype == "int64"
    linear = taken(nn.Linear(3, 2), Data("d.npz"))
    assert linear.inputs[0].dtype == "float32"
    assert any("fed as float32" in note for note in linear.notes)


def test_bytes_are_fed_unscaled_and_that_is_said(tmp_path):
    np.savez(tmp_path / "d.npz", x=np.full((9, 4), 255, dtype=np.uint8), y=np.arange(9) % 3)
    subject = taken(nn.Linear(4, 3), Data("d.npz"))
    assert subject.inputs[0].dtype == "float32"
    assert any("(0 to 255) are fed as they stand, unscaled" in note for note in subject.notes)


def images(folder, size, *, grey=False):
    random = np.random.default_rng(0)
    for name in ("一", "二"):
        (folder / name).mkdir(parents=True)
        for number in range(6):
            shape = size if grey else (*size, 3)
            Image.fromarray(random.integers(0, 255, shape, dtype=np.uint8)).save(
                folder / name / f"{number}.png"
            )
    return Data(str(folder))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("grey", [True, False])
def test_images_go_in_with_the_channels_that_run(tmp_path, channels, grey):
    net = nn.Sequential(nn.Conv2d(channels, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 2))
    subject = taken(net, images(tmp_path / "i", (9, 8), grey=grey))
    assert subject.inputs[0].shape == (None, channels, 9, 8)
    assert subject.task.classes == ("一", "二")
    assert any(f"(rows, {channels}, 9, 8) in 0 to 1" in note for note in subject.notes)
    batch = Feed.open(subject.judged, subject.inputs).at(np.array([0])).batch
    assert next(iter(batch.values())).shape == (1, channels, 9, 8)


def test_images_are_resized_to_what_the_model_says(tmp_path):
    data = images(tmp_path / "i", (9, 8))
    subject = taken(Known(InputSpec("pixels", (None, 3, 5, 5), "float32"), classes=2), data)
    assert subject.inputs == (InputSpec("pixels", (None, 3, 5, 5), "float32"),)
    assert Feed.open(subject.judged, subject.inputs).at(np.array([3])).batch["pixels"].shape == (1, 3, 5, 5)
    asked = taken(nn.Sequential(nn.Flatten(), nn.Linear(48, 2)), data, shapes=(InputSpec("", (1, 3, 4, 4)),))
    assert asked.inputs[0].shape == (None, 3, 4, 4)


@pytest.mark.parametrize(
    ("runtime", "needle"),
    [
        (
            Known(InputSpec("a", (None, 5), "float32")),
            r"takes 'a' as \(rows, 5\) and the data gives \(rows, 4\)",
        ),
        (Known(InputSpec("a", (None, 2, 2), "float32")), "the same numbers in another shape"),
        (Known(InputSpec("a", (None, 4), "float32"), classes=2), "labels go up to 2"),
        (nn.Linear(7, 3), "cannot be multiplied"),
    ],
)
def test_data_that_does_not_fit_the_model(tmp_path, runtime, needle):
    with pytest.raises(InputError, match=needle) as refused:
        taken(runtime, save(tmp_path / "d.npz"))
    assert "\n" not in str(refused.value)


def test_channels_that_are_last_are_noticed(tmp_path):
    np.savez(tmp_path / "d.npz", x=np.zeros((4, 8, 8, 3)), y=np.arange(4))
    with pytest.raises(InputError, match="channels are last"):
        taken(Known(InputSpec("a", (None, 3, 8, 8), "float32")), Data("d.npz"))


def test_rows_none_of_which_can_be_used(tmp_path):
    np.savez(tmp_path / "d.npz", x=np.full((9, 4), np.nan), y=np.arange(9) % 3)
    with pytest.raises(InputError, match=r"None of the 9 rows .*'0', '1', '2' and 6 more: 'x' holds NaN"):
        taken(nn.Linear(4, 3), Data("d.npz"))


def test_a_group_must_be_there(tmp_path):
    data = save(tmp_path / "d.npz", site=np.arange(60) % 5)
    taken(nn.Linear(4, 3), Data(data.source, group="site"))
    with pytest.raises(InputError, match="Did you mean 'site'"):
        taken(nn.Linear(4, 3), Data(data.source, group="sit"))


def test_too_many_bad_rows_name_three():
    refuse_bad_rows({"a": "is no image"}, 20, 0.05)
    with pytest.raises(
        InputError, match=r"2 of 20 rows cannot be used \('a', 'b'; the first is no image\)"
    ) as refused:
        refuse_bad_rows({"a": "is no image", "b": "?"}, 20, 0.05)
    assert "--max-bad-rows 5%" in str(refused.value)
    assert "--max-bad-rows 10%" in str(refused.value)


def test_inputs_without_data():
    known = Known(InputSpec("a", (None, None, 4), ""))
    assert inputs_of_shapes(known, ()) == ()
    assert inputs_of_shapes(known, (InputSpec("", (1, 7, 4)),)) == (InputSpec("a", (None, 7, 4), "float32"),)
    assert inputs_of_shapes(None, (InputSpec("", (1, 3), "int64"),)) == (InputSpec("x", (None, 3), "int64"),)
    with pytest.raises(InputError, match="--shape says"):
        inputs_of_shapes(known, (InputSpec("", (1, 7, 5)),))
    two = Known(InputSpec("a", (None, 4)), InputSpec("b", (None, 2)))
    with pytest.raises(InputError, match="--shape names 'c'"):
        inputs_of_shapes(two, (InputSpec("c", (1, 3)),))
    subject = take_in(live_model(nn.Linear(4, 2)), known, None, shapes=(InputSpec("a", (1, 7, 4)),))
    assert subject.judged is None
    assert json.dumps([subject.inputs[0].shape]) == "[[null, 7, 4]]"


# a published number: captum's titanic network


class Titanic(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear1, self.linear2, self.linear3 = nn.Linear(12, 12), nn.Linear(12, 8), nn.Linear(8, 2)

    def forward(self, x):
        hidden = torch.sigmoid(self.linear2(torch.sigmoid(self.linear1(x))))
        return torch.softmax(self.linear3(hidden), dim=1)


FEATURES = """
def one(value, known):
    return [float(value == each) for each in known]

def f(row):
    return [row["age"], row["sibsp"], row["parch"], row["fare"],
            *one(row["sex"], ("female", "male")), *one(row["embarked"], ("C", "Q", "S")),
            *one(row["pclass"], (1, 2, 3))]
"""


def test_the_titanic_network_has_the_accuracy_that_captum_prints(shared_data, tmp_path):
    (tmp_path / "titanic_features.py").write_text(FEATURES)
    table = shared_data / "titanic3" / "titanic3_dimview_CR.csv"
    data = Data(
        str(table),
        label="survived",
        columns=("age", "sibsp", "parch", "fare", "sex", "embarked", "pclass"),
        preprocess="titanic_features:f",
        missing="mean",
    )
    net = Titanic()
    net.load_state_dict(
        torch.load(shared_data / "captum_tutorial_models" / "titanic_model.pt", weights_only=True)
    )
    model = live_model(net.eval())
    with open_runtime(model, Machine(threads=1)) as runtime:
        subject = take_in(model, runtime, data)
        assert subject.task.output == "probabilities"
        feed = Feed.open(subject.judged, subject.inputs)
        piece = next(feed.pieces(2000))
        assert len(piece) == 1309
        outputs = {name: to_numpy(array) for name, array in runtime(piece.batch).items()}
    columns = read(subject.task, outputs, encode(subject.task, piece.rows.labels))
    right = columns["prediction"] == columns["label"]
    state = np.random.RandomState(131254)
    train = state.choice(1309, int(0.7 * 1309), replace=False)
    test = np.setdiff1d(np.arange(1309), train)
    assert right[train].mean() == 0.8493449781659389
    assert right[test].mean() == 0.816793893129771
