"""The int4 step: four bits where a MatMul has a stored weight, against a plain rounding of each block."""

import numpy as np
import onnx
import pytest

from export.passes.int4 import BLOCK, Int4
from study.errors import SkipError
from study.loading.onnx import read_initializers
from study.progress import Progress
from study.runtime import open_runtime
from study.subject import InputSpec, Subject
from tests.export_subjects import MACHINE, exported, flips, linear_file, outputs_of, subject_of


def rounded(weight: np.ndarray) -> np.ndarray:
    """A slow twin: each block of 32 inputs of an output on 16 levels from its lowest to its highest."""
    made = np.empty_like(weight)
    for column in range(weight.shape[1]):
        for start in range(0, len(weight), BLOCK):
            block = weight[start : start + BLOCK, column]
            low, high = min(block.min(), 0), max(block.max(), 0)
            scale = (high - low) / 15
            zero = np.round(-low / scale)
            levels = np.clip(np.round(block / scale) + zero, 0, 15)
            made[start : start + BLOCK, column] = (levels - zero) * scale
    return made


def test_a_linear_layer_computes_with_the_rounded_weights(tmp_path):
    weight = np.random.default_rng(0).standard_normal((64, 5)).astype(np.float32)
    source = linear_file(tmp_path / "given.onnx", weight)
    rows = np.random.default_rng(1).standard_normal((3, 64)).astype(np.float32)
    inputs = (InputSpec("x", (None, 64), "float32"),)
    change = Int4().apply(Subject(source, inputs=inputs), tmp_path / "made", MACHINE, Progress())
    assert change.model.artifact == "onnx/int4"
    with open_runtime(change.model, MACHINE) as run:
        got = next(iter(run({"x": rows}).values()))
    np.testing.assert_allclose(got, rows @ rounded(weight), atol=1e-4)
    assert not np.allclose(got, rows @ weight, atol=1e-2)
    held = {name: value for name, value in read_initializers(change.model) if value.ndim == 2}
    assert list(held) == ["w"]
    np.testing.assert_allclose(held["w"], rounded(weight).T, atol=1e-5)


def test_a_trained_model_decides_nearly_the_same_and_is_smaller(tmp_path):
    source = exported("mlp").model
    before = source.path.read_bytes()
    change = Int4().apply(subject_of(source), tmp_path, MACHINE, Progress())
    assert source.path.read_bytes() == before
    kinds = [node.op_type for node in onnx.load(change.model.path).graph.node]
    (record,) = change.records
    named = [row for row in record.tables[0].rows if row[5] == "int4"]
    assert kinds.count("MatMulNBits") == len(named) > 0
    share = record.metrics["parameters_in_int4@audit"].value
    held = sum(
        np.prod(tensor.dims) for tensor in onnx.load(source.path).graph.initializer if tensor.data_type == 1
    )
    assert share == pytest.approx(sum(row[3] for row in named) / held)
    assert change.model.path.stat().st_size < len(before)
    assert flips(outputs_of(source), outputs_of(change.model)) < 0.1


def test_a_model_without_a_large_matmul_is_skipped(tmp_path):
    source = linear_file(tmp_path / "given.onnx", np.ones((BLOCK - 1, 5), np.float32))
    subject = Subject(source, inputs=(InputSpec("x", (None, BLOCK - 1), "float32"),))
    with pytest.raises(SkipError, match="no MatMul"):
        Int4().apply(subject, tmp_path / "made", MACHINE, Progress())
