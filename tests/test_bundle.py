"""Deployment bundles: run without torch, whole or not there, and as Triton's documentation has it."""

import json
from dataclasses import replace

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.deployment.bundle import Shipment, write_bundle
from export.deployment.triton import repository_name
from study.errors import InputError
from study.progress import Progress
from study.runtime import open_runtime
from study.subject import InputSpec, Model, Subject
from study.task import Task, decisions, probabilities
from tests.bundles import MACHINE, ROWS, TASK, WEIGHT, alone, config_of, linear, node, shipped


def test_it_says_what_the_run_says_without_torch_and_without_us(tmp_path, bare):
    bundle = shipped(tmp_path, linear(tmp_path))
    np.save(tmp_path / "all.npy", ROWS)
    for forbidden in ("torch", "study", "onnx"):
        probe = tmp_path / "probe.py"
        probe.write_text(f"import numpy, onnxruntime, {forbidden}")
        assert "ModuleNotFoundError" in alone(bare, probe).stderr
    ran = alone(bare, bundle / "predict.py", str(tmp_path / "all.npy"))
    scores = ROWS @ WEIGHT
    chances = probabilities(TASK, scores)
    wanted = [
        f"{TASK.classes[at]}  {row[at]:.4f}" for at, row in zip(decisions(TASK, scores), chances, strict=True)
    ]
    assert ran.stdout.splitlines() == wanted, ran.stderr
    checked = alone(bare, bundle / "predict.py", "--check")
    assert checked.returncode == 0
    assert checked.stdout.startswith("y: the same")


def test_the_check_finds_another_model(tmp_path, bare):
    bundle = shipped(tmp_path, linear(tmp_path))
    other = linear(tmp_path, node("Neg"))
    (bundle / "model.onnx").write_bytes(other.path.read_bytes())
    checked = alone(bare, bundle / "predict.py", "--check")
    assert checked.returncode == 1
    assert "y: DIFFERENT" in checked.stdout


def test_all_of_it_is_told(tmp_path):
    bundle = shipped(tmp_path, linear(tmp_path))
    told = json.loads((bundle / "signature.json").read_text())
    assert told["inputs"] == [{"name": "x", "shape": ["batch", 4], "dtype": "float32"}]
    assert told["task"]["classes"] == list(TASK.classes)
    assert told["example"]["from"] == "3 calibration rows"
    provenance = json.loads((bundle / "provenance.json").read_text())
    from study.storage import sha256_of

    there = {one.relative_to(bundle).as_posix() for one in bundle.rglob("*") if one.is_file()}
    assert there == {*provenance["files"], "provenance.json"}
    assert all(sha256_of(bundle / name) == digest for name, digest in provenance["files"].items())
    assert "onnxruntime==" in (bundle / "requirements.txt").read_text()


def test_triton_joins_rows_that_stand_alone(tmp_path):
    config = config_of(shipped(tmp_path, linear(tmp_path)))
    assert config.max_batch_size > 1
    assert config.HasField("dynamic_batching")
    assert [list(one.dims) for one in (*config.input, *config.output)] == [[4], [3]]
    assert config.input[0].data_type == 11  # FP32
    assert config.output[0].label_filename == "labels.txt"
    labels = tmp_path / "ship" / "triton" / "ship" / "labels.txt"
    assert labels.read_text().splitlines() == list(TASK.classes)
    assert (labels.parent / "1" / "model.onnx").samefile(tmp_path / "ship" / "model.onnx")


def test_the_model_that_writes_texts_comes_too(tmp_path):
    (tmp_path / "past").mkdir()
    past = linear(tmp_path / "past", node("Neg"))
    bundle = shipped(tmp_path, replace(linear(tmp_path), with_past=past))
    told = json.loads((bundle / "signature.json").read_text())["generation"]
    assert (bundle / told["model"]).read_bytes() == past.path.read_bytes()
    assert told["inputs"] == [{"name": "x", "shape": ["batch", 4], "dtype": "float32"}]


def test_the_request_is_one_row_of_the_example(tmp_path):
    bundle = shipped(tmp_path, linear(tmp_path, rows=2, out=(2, 3)))
    (one,) = json.loads((bundle / "request.json").read_text())["inputs"]
    assert (one["name"], one["shape"], one["datatype"]) == ("x", [2, 4], "FP32")
    assert np.array_equal(np.array(one["data"], "f4").reshape(one["shape"]), ROWS[:2])


def mean_over_rows() -> list[object]:
    axes = helper.make_node("Constant", [], ["a"], value=numpy_helper.from_array(np.array([0], "i8")))
    mean = helper.make_node("ReduceMean", ["h", "a"], ["m"])
    return [axes, mean, helper.make_node("Sub", ["h", "m"], ["y"])]


def test_triton_joins_no_rows_that_depend_on_each_other(tmp_path):
    config = config_of(shipped(tmp_path, linear(tmp_path, *mean_over_rows())))
    assert config.max_batch_size == 0
    assert not config.HasField("dynamic_batching")
    assert [list(one.dims) for one in (*config.input, *config.output)] == [[-1, 4], [-1, 3]]


def test_a_fixed_batch_is_told_and_cut_to(tmp_path, bare):
    bundle = shipped(tmp_path, linear(tmp_path, rows=2, out=(2, 3)))
    config = config_of(bundle)
    assert config.max_batch_size == 0
    assert [list(one.dims) for one in (*config.input, *config.output)] == [[2, 4], [2, 3]]
    np.savez(tmp_path / "all.npz", x=ROWS)
    ran = alone(bare, bundle / "predict.py", str(tmp_path / "all.npz"))
    assert [line.split("  ")[0] for line in ran.stdout.splitlines()] == [
        TASK.classes[at] for at in decisions(TASK, ROWS @ WEIGHT)
    ]


def test_one_number_a_row_has_dims_for_triton(tmp_path, bare):
    nodes = [helper.make_node("ArgMax", ["h"], ["i"], axis=1, keepdims=0)]
    nodes.append(helper.make_node("Cast", ["i"], ["y"], to=TensorProto.FLOAT))
    bundle = shipped(
        tmp_path, linear(tmp_path, *nodes, out=("batch",)), Task("regression", "value", output_name="y")
    )
    (output,) = config_of(bundle).output
    assert list(output.dims) == [1]
    assert output.HasField("reshape")
    assert not output.reshape.shape
    ran = alone(bare, bundle / "predict.py", str(bundle / "example.npz"))
    assert ran.stdout.split() == [str(at) for at in (ROWS[:3] @ WEIGHT).argmax(1)]


@pytest.mark.parametrize("output", ["logits", "probabilities"])
@pytest.mark.parametrize("kind", ["binary", "multilabel"])
def test_yes_and_no_as_the_task_has_it(kind, output, tmp_path, bare):
    extra = [node("Sigmoid")] if output == "probabilities" else []
    columns = 1 if kind == "binary" else 3
    if columns == 1:
        axes = helper.make_node("Constant", [], ["a"], value=numpy_helper.from_array(np.array([1], "i8")))
        summed = helper.make_node("ReduceSum", ["h", "a"], ["s"])
        extra = [axes, summed, helper.make_node("Sigmoid" if extra else "Identity", ["s"], ["y"])]
    task = Task(kind, output, ("no", "yes") if columns == 1 else ("a", "b", "c"), "y")
    bundle = shipped(tmp_path, linear(tmp_path, *extra, out=("batch", columns)), task)
    ran = alone(bare, bundle / "predict.py", str(bundle / "example.npz"))
    with open_runtime(Model(bundle / "model.onnx", "onnx"), MACHINE) as runtime:
        scores = runtime({"x": ROWS[:3]})["y"]
    said, chances = decisions(task, scores), probabilities(task, scores)
    if kind == "binary":
        wanted = [f"{task.classes[at]}  {row[at]:.4f}" for at, row in zip(said, chances, strict=True)]
    else:
        wanted = [
            ", ".join(
                f"{name} {chance:.4f}" for name, yes, chance in zip("abc", row, each, strict=True) if yes
            )
            or "none"
            for row, each in zip(said, chances, strict=True)
        ]
    assert ran.stdout.splitlines() == wanted, ran.stderr


def test_a_bundle_takes_the_place_of_an_older_one_and_of_nothing_else(tmp_path):
    model = linear(tmp_path)
    bundle = shipped(tmp_path, model)
    before = (bundle / "provenance.json").read_text()
    bundle = shipped(tmp_path, linear(tmp_path, node("Neg")), None)
    assert (bundle / "provenance.json").read_text() != before
    assert not (bundle / "triton" / "ship" / "labels.txt").exists()
    (bundle / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match=r"thesis\.txt"):
        shipped(tmp_path, model)
    subject = Subject(model, inputs=(InputSpec("x", (None, 4), "float32"),))
    write_bundle(Shipment("onnx", subject, MACHINE, bundle, {}, force=True), Progress())
    assert (bundle / "thesis.txt").exists()
    assert {entry.name for entry in tmp_path.iterdir()} == {"made.onnx", "rows.npz", "ship"}


def test_what_cannot_be_bundled_leaves_nothing(tmp_path, monkeypatch):
    model = linear(tmp_path)
    with pytest.raises(InputError, match="ONNX"):
        shipped(tmp_path, replace(model, format="pytorch"))
    monkeypatch.setattr("export.deployment.bundle.predictor", lambda *_: "raise SystemExit('no')")
    from study.errors import DiagError

    with pytest.raises(DiagError, match="own check failed: no"):
        shipped(tmp_path, model)
    assert {entry.name for entry in tmp_path.iterdir()} == {"made.onnx", "rows.npz"}


def test_names_that_a_url_would_quote():
    assert [repository_name(name) for name in ("my model (2)", "…", "a.b-c_1")] == [
        "my_model_2",
        "model",
        "a.b-c_1",
    ]
