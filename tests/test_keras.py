"""Models of Keras: what our runtime gives is what ``model.predict`` gives, and the whole chain completes."""

import copy
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from diag.cli import main
from study.channels import channels_last, turned
from study.errors import InputError
from study.loading.eager import load_module
from study.loading.library import facts_of
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
