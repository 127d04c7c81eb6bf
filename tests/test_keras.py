"""Models of Keras: what our runtime gives is what ``model.predict`` gives, and the whole chain completes."""

import copy
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

import diag
from diag.cli import main
from diag.options import Options
from study.channels import channels_last, turned
from study.errors import InputError
from study.loading.eager import load_module, save_module
from study.loading.library import facts_of, library_of_live
from study.loading.live import live_model
from study.loading.sniff import identify
from study.runtime import open_runtime
from study.subject import InputSpec, Machine
from tests.tiny import digits

os.environ["KERAS_BACKEND"] = "torch"
keras = pytest.importorskip("keras")
layers = keras.layers


@pytest.fixture(autouse=True)
def seeded() -> None:
    keras.utils.set_random_seed(0)


def sequential():
    return keras.Sequential(
        [
            keras.Input((8, 8, 1), name="image"),
            layers.Rescaling(2.0, offset=-1.0),
            layers.Conv2D(8, 3, padding="same", activation="relu", name="conv"),
            layers.MaxPooling2D(),
            layers.Conv2D(16, 3, strides=2, padding="same", activation="relu", name="strided"),
            layers.Flatten(),
            layers.Dropout(0.3),
            layers.Dense(10, activation="softmax", name="digit"),
        ]
    )


def functional():
    image = keras.Input((8, 8, 1), name="image")
    x = layers.Conv2D(8, (3, 1), padding="same", use_bias=False, name="conv")(image)
    x = layers.ReLU()(layers.BatchNormalization(name="norm")(x))
    x = layers.Add()([x, layers.SeparableConv2D(8, 3, padding="same", name="parted")(x)])
    x = layers.GlobalAveragePooling2D()(layers.Rescaling(2.0)(x))
    return keras.Model(image, layers.Dense(10, activation="softmax", name="digit")(x))


def nested():
    image = keras.Input((8, 8, 1), name="image")
    body = sequential()
    return keras.Model(image, layers.Dense(10, activation="softmax", name="top")(body(image)))


def steps(*, mask):
    ids = keras.Input((6,), dtype="int32", name="ids")
    x = layers.Embedding(20, 8, mask_zero=mask)(ids)
    x = layers.LSTM(7, name="lstm")(layers.LSTM(5, return_sequences=True, name="first")(x))
    return keras.Model(ids, layers.Dense(1, activation="sigmoid")(x))


def rows_for(name: str, number: int = 5) -> np.ndarray:
    random = np.random.default_rng(0)
    if name in ("steps", "masked"):
        rows = random.integers(1, 20, (number, 6)).astype(np.int32)
        rows[0, 3:] = 0
        return rows
    return random.random((number, 8, 8, 1), dtype=np.float32)


MODELS = {
    "sequential": sequential,
    "functional": functional,
    "nested": nested,
    "steps": lambda: steps(mask=False),
    "masked": lambda: steps(mask=True),
}


@pytest.mark.parametrize(
    ("name", "ending"),
    # Keras cannot read the operations of a mask from .h5 again.
    [
        (name, ending)
        for name in MODELS
        for ending in (".keras", ".h5")
        if (name, ending) != ("masked", ".h5")
    ],
)
def test_outputs_are_those_of_predict(name, ending, tmp_path):
    model = MODELS[name]()
    model.save(tmp_path / f"m{ending}")
    path = (tmp_path / f"m{ending}").rename(tmp_path / "lies.pt")  # the content tells, not the name
    rows = rows_for(name)
    found = identify(path)
    assert (found.library, found.format) == ("keras", "pytorch")
    assert [spec.shape for spec in facts_of(found).inputs] == [(None, *rows.shape[1:])]
    with open_runtime(found, Machine(threads=1)) as runtime:
        (ours,) = runtime({"x": rows}).values()
        again = copy.deepcopy(runtime.module)
    np.testing.assert_allclose(ours, model.predict(rows, verbose=0), atol=1e-6)
    with torch.no_grad():
        np.testing.assert_allclose(again(torch.from_numpy(rows)), ours, atol=1e-7)


def test_layers_have_their_names(tmp_path):
    functional().save(tmp_path / "m.keras")
    module = load_module(identify(tmp_path / "m.keras"))
    names = list(module.state_dict())
    assert {"conv.weight", "norm.gamma", "norm.moving_mean", "digit.weight"} <= {*names}
    assert isinstance(module.get_submodule("conv"), torch.nn.Conv2d)


@pytest.mark.parametrize("ending", [".keras", ".h5"])
def test_a_lambda_runs_with_trust_alone(ending, tmp_path):
    model = keras.Sequential([keras.Input((4,)), layers.Lambda(lambda x: x * 3, name="thrice")])
    model.save(tmp_path / f"m{ending}")
    with pytest.raises(InputError, match="the layer 'thrice' is a Lambda; add --trust"):
        load_module(identify(tmp_path / f"m{ending}"))
    trusted = load_module(identify(tmp_path / f"m{ending}", trust=True))
    assert trusted(torch.ones(2, 4)).tolist() == [[3.0] * 4] * 2


def test_what_is_no_whole_model_is_refused(tmp_path):
    sequential().save_weights(tmp_path / "w.weights.h5")
    with pytest.raises(InputError, match="weights of Keras alone"):
        identify(tmp_path / "w.weights.h5")
    sequential().save(tmp_path / "m.h5")
    (tmp_path / "cut.h5").write_bytes((tmp_path / "m.h5").read_bytes()[:3000])
    with pytest.raises(InputError, match="damaged or cut off"):
        identify(tmp_path / "cut.h5")
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "saved_model.pb").write_bytes(b"\x08\x01")
    with pytest.raises(InputError, match=r"SavedModel of TensorFlow.*model.save\('model.keras'\)"):
        identify(tmp_path / "saved")


def test_channels_are_turned_where_the_model_takes_them_last():
    spec = InputSpec("x", (None, 4, 5, 3), "float32")
    first = np.arange(120).reshape(2, 3, 4, 5)
    assert (turned(first, spec) == first.transpose(0, 2, 3, 1)).all()
    assert turned(turned(first, spec), spec).shape == (2, 4, 5, 3)
    assert turned(np.zeros((2, 4, 5)), InputSpec("x", (None, 4, 5, 1))).shape == (2, 4, 5, 1)
    assert not channels_last((None, 3, 8, 8))
    assert turned(first, InputSpec("x", (None, 3, 4, 5))) is first


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("layout", ["first", "last"])
def test_the_whole_chain(layout, tmp_path):
    images, labels = digits()
    last = np.moveaxis(images, 1, -1)
    model = sequential()
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(last[:1200], labels[:1200], epochs=2, verbose=0)
    model.save(tmp_path / "m.keras")
    x = images if layout == "first" else last
    np.savez(tmp_path / "train.npz", x=x[:200], y=labels[:200])
    np.savez(tmp_path / "test.npz", x=x[1200:1500], y=labels[1200:1500])
    answers = model.predict(last[1200:1500], verbose=0)
    given = [str(tmp_path / name) for name in ("m.keras", "test.npz", "train.npz", "run")]
    words = ["run", given[0], "--data", given[1], "--train", given[2], "--out", given[3]]
    assert main([*words, "--steps", "(prune:0.3|onnx,int8)", "--threads", "1", "--quiet"]) == 0
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    found = {step["name"]: {one["by"]: one for one in step["records"]} for step in report["steps"]}
    right = float((answers.argmax(axis=1) == labels[1200:1500]).mean())
    likely = -np.log(answers[np.arange(300), labels[1200:1500]]).mean()
    for step in ("as_it_came", "onnx"):
        measured = {name: one for record in found[step].values() for name, one in record["metrics"].items()}
        assert measured["accuracy"]["value"] == pytest.approx(right)
        assert measured["nll"]["value"] == pytest.approx(likely, abs=1e-4)  # no second softmax
    assert "channels last" in found["prune_0_3"]["prune"]["reason"]
    assert found["as_it_came"]["gradcam"]["verdict"] != "skipped"
    assert "int8" in found
    assert Path(tmp_path / "run" / "report.html").is_file()


def mixed():
    """As Keras advises: half precision inside, float32 for the probabilities."""
    return keras.Sequential(
        [
            keras.Input((8, 8, 1), name="image"),
            layers.Conv2D(8, 3, activation="relu", dtype="mixed_float16"),
            layers.Flatten(dtype="mixed_float16"),
            layers.Dense(10, activation="softmax", dtype="float32"),
        ]
    )


def test_mixed_precision_is_computed_as_keras_does(tmp_path):
    model = mixed()
    model.save(tmp_path / "m.keras")
    rows = rows_for("image")
    with open_runtime(identify(tmp_path / "m.keras"), Machine(threads=1)) as runtime:
        (ours,) = runtime({"x": rows}).values()
    np.testing.assert_allclose(ours, model.predict(rows, verbose=0), atol=1e-3)


@pytest.mark.parametrize("name", [*MODELS, "mixed"])
def test_a_live_model_is_built_as_its_file_is(name, tmp_path):
    model = {**MODELS, "mixed": mixed}[name]()
    rows = rows_for(name)
    live = live_model(model, library_of_live(model))
    model.save(tmp_path / "m.keras")
    stored = identify(tmp_path / "m.keras")
    assert facts_of(live) == facts_of(stored)
    mine, theirs = load_module(live), load_module(stored)
    assert [type(layer) for layer in mine.modules()] == [type(layer) for layer in theirs.modules()]
    assert [*mine.state_dict()] == [*theirs.state_dict()]
    wanted = model.predict(rows, verbose=0)
    with torch.no_grad():
        next(mine.parameters()).zero_()  # a copy: what is done to it does not reach the model
    np.testing.assert_allclose(model.predict(rows, verbose=0), wanted)
    again = load_module(save_module(mine, tmp_path / "changed.pt", live))
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in mine.state_dict().items())
    with open_runtime(live, Machine(threads=1)) as runtime:
        (ours,) = runtime({"x": rows}).values()
    np.testing.assert_allclose(ours, wanted, atol=1e-3 if name == "mixed" else 1e-6)


@keras.saving.register_keras_serializable(package="tests")
class Gain(layers.Layer):
    def build(self, shape):
        self.gain = self.add_weight(shape=(shape[-1],), initializer="ones", name="gain")

    def call(self, rows):
        return rows * self.gain * 2.0


def test_a_registered_class_loads_with_trust_alone(tmp_path):
    model = keras.Sequential([keras.Input((4,)), Gain(name="gain"), layers.Dense(3, name="top")])
    model.save(tmp_path / "m.keras")
    with pytest.raises(InputError, match=r"'gain' is 'Gain' of the module .*; add --trust"):
        load_module(identify(tmp_path / "m.keras"))
    rows = np.random.default_rng(0).random((5, 4), dtype=np.float32)
    for found in (identify(tmp_path / "m.keras", trust=True), live_model(model, library_of_live(model))):
        trusted = load_module(found)
        assert isinstance(trusted.get_submodule("top"), torch.nn.Linear)
        with torch.no_grad():
            got = trusted(torch.from_numpy(rows)).numpy()
        np.testing.assert_allclose(got, model.predict(rows, verbose=0), atol=1e-6)


def test_other_live_modules_are_no_kerass():
    class Own(keras.Model):
        def call(self, rows):
            return rows

    assert library_of_live(torch.nn.Linear(2, 2)) == ""
    assert library_of_live(Own()) == ""
    assert library_of_live(sequential()) == "keras"


@pytest.mark.usefixtures("in_process")
def test_a_live_model_through_the_chain(tmp_path):
    images, labels = digits()
    last = np.moveaxis(images, 1, -1)
    model = sequential()
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(last[:1200], labels[:1200], epochs=2, verbose=0)
    right = float((model.predict(last[1200:1500], verbose=0).argmax(axis=1) == labels[1200:1500]).mean())
    result = diag.run(
        model,
        (last[1200:1500], labels[1200:1500]),
        steps="(prune:0.3|onnx,int8)",
        train=(last[:200], labels[:200]),
        options=Options(out=tmp_path / "run", threads=1, quiet=True),
    )
    found = {step.name: {record.by: record for record in step.records} for step in result.report.steps}
    assert found["as_it_came"]["accuracy"].metrics["accuracy"].value == pytest.approx(right)
    assert found["onnx"]["accuracy"].metrics["accuracy"].value == pytest.approx(right)
    assert "channels last" in found["prune_0_3"]["prune"].reason
    assert found["int8"]["audit"].metrics["parameters_in_int8@audit"].value > 0.5
