"""Models of several inputs and several outputs: matched, run, exported, explained, and refused."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from diag.cli import main
from study.errors import InputError
from study.matching import match_inputs
from study.scored_output import scored_name
from study.subject import InputSpec
from tests import two_inputs
from tests.tiny import Files

ALWAYS = ("--threads", "1", "--quiet")
IMAGE = InputSpec("image", (None, 1, 8, 8), "float32")
CELLS = InputSpec("cells", (None, 8), "float32")
NUMBERS = InputSpec("ids", (None, 8), "int64")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return two_inputs.write(tmp_path_factory.mktemp("two"))


def arrays(**shapes: tuple[int, ...]) -> dict[str, np.ndarray]:
    return {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}


def metrics(report: dict, step: str) -> dict[str, float]:
    found = next(one for one in report["steps"] if one["name"] == step)
    return {name: one["value"] for record in found["records"] for name, one in record["metrics"].items()}


def right(logits: np.ndarray, labels: np.ndarray) -> float:
    return float((logits.argmax(axis=1) == labels).mean())


@pytest.mark.usefixtures("in_process")
def test_two_inputs_go_through_the_whole_chain(files: Files, tmp_path: Path) -> None:
    words = [files.model, "--arch", files.arch, "--data", files.data, "--train", files.train]
    out = tmp_path / "run"
    assert main(["run", *map(str, words), "--steps", "onnx,int8", "--out", str(out), *ALWAYS]) == 0
    report = json.loads((out / "report.json").read_text())
    data = np.load(files.data)
    net = two_inputs.fused().eval()
    net.load_state_dict(torch.load(files.model, weights_only=True))
    with torch.inference_mode():
        expected = net(torch.from_numpy(data["image"]), torch.from_numpy(data["cells"])).numpy()
    assert right(expected, data["y"]) > 0.8
    for step in ("as_it_came", "onnx"):
        assert metrics(report, step)["accuracy"] == pytest.approx(right(expected, data["y"]), abs=1e-9)
    for step in ("onnx", "int8"):
        folder = next(out.glob(f"[0-9][0-9]_{step}"))
        graph = onnx.load(folder / "model.onnx").graph
        axes = {one.name: one.type.tensor_type.shape.dim[0].dim_param for one in graph.input}
        assert axes == {"image": "batch", "cells": "batch"}
        session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
        (given,) = session.run(None, {"image": data["image"], "cells": data["cells"]})
        assert metrics(report, step)["accuracy"] == pytest.approx(right(given, data["y"]), abs=1 / 300)
    assert metrics(report, "onnx")["agreement"] == 1
    assert {"occlusion", "integrated-gradients", "gradcam"} <= {
        one["by"] for one in report["steps"][0]["records"]
    }


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize(
    ("factory", "names"),
    [
        ("pair", ["output_0", "output_1"]),
        ("answer", ["hidden", "scores"]),
        ("named", ["hidden", "scores"]),
        ("nested", ["hidden", "heads_scores"]),
    ],
)
def test_outputs_keep_their_names_in_onnx(
    files: Files, tmp_path: Path, factory: str, names: list[str]
) -> None:
    words = [
        files.model,
        "--arch",
        f"tests.two_inputs:{factory}",
        "--data",
        files.data,
        "--out",
        tmp_path / "o",
    ]
    assert main(["export", *map(str, words), *ALWAYS]) == 0
    path = tmp_path / "o" / "model.onnx"
    assert [one.name for one in onnx.load(path).graph.output] == names
    data = np.load(files.data)
    net = two_inputs.pair().eval()
    net.load_state_dict(torch.load(files.model, weights_only=True))
    with torch.inference_mode():
        expected = net(torch.from_numpy(data["image"]), torch.from_numpy(data["cells"]))
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    given = session.run(names, {"image": data["image"], "cells": data["cells"]})
    for wanted, got in zip(expected, given, strict=True):
        np.testing.assert_allclose(got, wanted.numpy(), atol=1e-4)


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("asked", [[], ["--output", "1"], ["--output", "output_1"]])
def test_the_output_that_fits_the_labels_is_scored(
    files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str], asked: list[str]
) -> None:
    words = [files.model, "--arch", "tests.two_inputs:pair", "--data", files.data, "--out", tmp_path / "o"]
    assert main(["analyze", *map(str, words), "--threads", "1", *asked]) == 0
    said = "'output_1' is the one that is scored, which fits the labels" in capsys.readouterr().err
    assert said is not bool(asked)
    report = json.loads((tmp_path / "o" / "report.json").read_text())
    assert metrics(report, "as_it_came")["accuracy"] > 0.8
    assert len(report["subject"]["classes"]) == 10


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize(
    ("gone", "options", "sentence"),
    [
        ([], ["--output", "output_9"], "no output 'output_9'. Did you mean 'output_"),
        (["cells"], [], "'cells'"),
        ([], ["--columns", "image,cels"], "Did you mean 'cells'?"),
    ],
)
def test_what_does_not_fit_is_one_sentence(
    files: Files,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    gone: list[str],
    options: list[str],
    sentence: str,
) -> None:
    kept = {name: array for name, array in np.load(files.data).items() if name not in gone}
    np.savez(tmp_path / "d.npz", **kept)
    words = [files.model, "--arch", "tests.two_inputs:pair", "--data", tmp_path / "d.npz", *options]
    assert main(["analyze", *map(str, words), "--out", str(tmp_path / "o"), *ALWAYS]) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert "Traceback" not in said


def test_names_go_before_shapes() -> None:
    raw = arrays(cells=(2, 8), image=(2, 1, 8, 8))
    assert match_inputs(raw, [IMAGE, CELLS]) == {"image": "image", "cells": "cells"}
    assert match_inputs(raw, [InputSpec("cells"), InputSpec("image")]) == {"cells": "cells", "image": "image"}


def test_shapes_and_dtypes_tell_what_names_do_not() -> None:
    raw = arrays(table=(2, 8), picture=(2, 1, 8, 8), noise=(2, 3))
    assert match_inputs(raw, [IMAGE, CELLS]) == {"image": "picture", "cells": "table"}
    typed = {"real": np.zeros((2, 8), np.float32), "whole": np.zeros((2, 8), np.int64)}
    assert match_inputs(typed, [NUMBERS, CELLS]) == {"ids": "whole", "cells": "real"}
    assert match_inputs(arrays(cells=(2, 8), picture=(2, 1, 8, 8)), [IMAGE, CELLS])["image"] == "picture"
    one = {"age": np.zeros(2, np.float32), "picture": raw["picture"]}
    assert match_inputs(one, [IMAGE, InputSpec("years", (None, 1))]) == {"image": "picture", "years": "age"}


def test_optional_inputs_go_by_name_alone() -> None:
    raw = arrays(image=(2, 1, 8, 8), cells=(2, 8), scale=(2,))
    wanted = [InputSpec("image"), InputSpec("cells")]
    assert match_inputs(raw, wanted, ("scale", "bias")) == {
        name: name for name in ("image", "cells", "scale")
    }
    assert "scale" not in match_inputs(raw, wanted)


@pytest.mark.parametrize(
    ("raw", "wanted", "sentence"),
    [
        (arrays(image=(2, 1, 8, 8), cels=(2, 9)), [IMAGE, CELLS], "Did you mean 'cels'"),
        (
            arrays(a=(2, 8), b=(2, 8), image=(2, 1, 8, 8)),
            [IMAGE, CELLS],
            "'a', 'b' fit the model's input 'cells'",
        ),
        (arrays(a=(2, 3), b=(2, 4), image=(2, 1, 8, 8)), [IMAGE, CELLS], "choose with --columns"),
        (arrays(a=(2, 3), b=(2, 4)), [IMAGE, CELLS], "choose with --columns"),
    ],
)
def test_what_nothing_tells_is_asked(
    raw: dict[str, np.ndarray], wanted: list[InputSpec], sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence):
        match_inputs(raw, wanted)


@pytest.mark.parametrize(
    ("labels", "scored"),
    [
        (np.arange(12) % 3, "classes"),
        (np.array(["a", "b", "c", None] * 3, dtype=object), "classes"),
        (np.linspace(0, 1, 12), "number"),
        (np.arange(12) % 2, "number"),
        (np.zeros((12, 5)), "flags"),
        (None, "flags"),
        (np.arange(12), "flags"),
    ],
)
def test_of_several_outputs_the_one_that_fits(labels: np.ndarray | None, scored: str) -> None:
    outputs = {"flags": np.zeros((4, 5)), "classes": np.zeros((4, 3)), "number": np.zeros((4, 1))}
    assert scored_name(outputs, "", labels)[0] == scored
    outputs = {"map": np.zeros((4, 3, 7)), **outputs}
    if labels is not None and scored != "flags":
        assert scored_name(outputs, "", labels)[0] == scored
