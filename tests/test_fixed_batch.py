"""ONNX models whose file fixes the batch: they run, and what that costs is said."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from diag.cli import main
from export.timing.record import filled_up
from study.batches import said_of_batch
from study.splits import held_back
from study.subject import InputSpec


def fixed_model(path: Path, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """A logistic regression on digits whose batch is fixed; 203 rows and labels that it has not seen."""
    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype(np.float32)
    fit = LogisticRegression(max_iter=300).fit(images[:500], labels[:500])
    stored = [
        numpy_helper.from_array(fit.coef_.T.astype(np.float32), "w"),
        numpy_helper.from_array(fit.intercept_.astype(np.float32), "b"),
    ]
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, (rows, 64))
    made = helper.make_tensor_value_info("logits", TensorProto.FLOAT, (rows, 10))
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "w", "b"], ["logits"])], "g", [given], [made], stored
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return images[500:703], labels[500:703]


def accuracy_of(path: Path, images: np.ndarray, labels: np.ndarray, rows: int) -> float:
    """Of onnxruntime alone, in whole batches and one that is filled up with nought."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    filled = np.concatenate([images, np.zeros((-len(images) % rows, 64), np.float32)])
    answers = [session.run(None, {"x": filled[at : at + rows]})[0] for at in range(0, len(filled), rows)]
    return float((np.concatenate(answers)[: len(images)].argmax(axis=1) == labels).mean())


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("rows", [1, 8])
def test_a_fixed_batch_runs_and_is_said(rows: int, tmp_path: Path) -> None:
    images, labels = fixed_model(tmp_path / "m.onnx", rows)
    np.savez(tmp_path / "rows.npz", x=images, y=labels)
    words = ["run", str(tmp_path / "m.onnx"), "--data", str(tmp_path / "rows.npz"), "--steps", "int8"]
    assert main([*words, "--out", str(tmp_path / "run"), "--threads", "1", "--quiet"]) == 0
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    steps = [{record["by"]: record for record in step["records"]} for step in report["steps"]]
    judged = np.setdiff1d(np.arange(203), held_back(labels, 203, seed=0))
    for step, file in zip(
        steps, (tmp_path / "m.onnx", tmp_path / "run" / "01_int8" / "model.onnx"), strict=True
    ):
        found = step["accuracy"]["metrics"]["accuracy"]["value"]
        assert found == accuracy_of(file, images[judged], labels[judged], rows)
    said = [note for note in report["environment"]["notes"] if "fixes its batches" in note]
    assert said == list(said_of_batch([InputSpec("x", (rows, 64))]))
    wasted = [found for found in steps[0]["latency"]["findings"] if "fixed at" in found["what"]]
    if rows == 1:
        assert "as many calls" in said[0]
        assert not wasted
    else:
        assert "a single row costs as much as 8" in said[0]
        assert wasted[0]["what"] == "the batch is fixed at 8 rows: 1 row costs as much as 8"
        assert wasted[0]["effect"]["value"] == 7 / 8


def test_a_free_batch_has_no_note() -> None:
    assert said_of_batch([InputSpec("x", (None, 64))]) == ()
    assert said_of_batch([InputSpec("x")]) == ()


@pytest.mark.parametrize(
    ("batch", "fixed", "spare"),
    [(1, 0, 0), (8, 0, 0), (1, 1, 0), (3, 1, 0), (8, 8, 0), (1, 8, 7 / 8), (9, 8, 7 / 16)],
)
def test_what_is_filled_up_costs(batch: int, fixed: int, spare: float) -> None:
    found = [finding.effect.value for finding in filled_up(batch, fixed) if finding.effect]
    assert found == ([spare] if spare else [])
