"""Models with loops and branches: what is around the bodies is quantized, and the answers stay."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.graphs.bodies import keep_captured
from export.graphs.files import read_graph
from export.graphs.nodes import tidy
from export.passes.int8 import Int8
from export.passes.int8_dynamic import Int8Dynamic
from export.quantization.audit import audit_record, fates_of
from study.progress import Progress
from study.subject import Data, InputSpec, Model, Split, Subject
from study.task import Task
from tests.export_subjects import MACHINE

KINDS = ("Loop", "If", "Scan")
ROWS = np.random.default_rng(1).uniform(0, 1, (64, 64)).astype(np.float32)
INPUTS = (InputSpec("x", (None, 64), "float32"),)


def value(name: str, *shape: object, kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def weight(name: str, *shape: int) -> onnx.TensorProto:
    drawn = np.random.default_rng(len(name) + sum(shape)).normal(0, 0.3, shape)
    return numpy_helper.from_array(drawn.astype(np.float32), name)


def constant(name: str, number: object) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(number), name)


def middle(kind: str) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """From ``h`` to ``deep``, both (n, 32): three turns of a loop, a branch, or a scan over one step.

    Each body reads a weight around it or its own; the branch reads what a ReLU around it makes.
    """
    step = [helper.make_node("MatMul", ["s", "own"], ["m"]), helper.make_node("Tanh", ["m"], ["t"])]
    if kind == "Loop":
        body = helper.make_graph(
            [
                helper.make_node("Identity", ["go"], ["on"]),
                *step,
                helper.make_node("Add", ["t", "h"], ["out"]),
            ],
            "body",
            [value("turn", kind=TensorProto.INT64), value("go", kind=TensorProto.BOOL), value("s", "n", 32)],
            [value("on", kind=TensorProto.BOOL), value("out", "n", 32)],
            [weight("own", 32, 32)],
        )
        return [helper.make_node("Loop", ["three", "yes", "h"], ["deep"], body=body)], [
            constant("three", 3),
            constant("yes", True),
        ]
    if kind == "If":
        product = helper.make_node("MatMul", ["h", "own"], ["yes_out"])
        then = helper.make_graph([product], "then", [], [value("yes_out", "n", 32)], [weight("own", 32, 32)])
        other = helper.make_node("Neg", ["h"], ["no_out"])
        instead = helper.make_graph([other], "else", [], [value("no_out", "n", 32)])
        return [
            helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
            helper.make_node("Greater", ["sum", "nought"], ["positive"]),
            helper.make_node("If", ["positive"], ["deep"], then_branch=then, else_branch=instead),
        ], [constant("nought", np.float32(0))]
    add = helper.make_node("Add", ["t", "piece"], ["out"])
    body = helper.make_graph(
        [*step, add], "body", [value("s", "n", 32), value("piece", "n", 32)], [value("out", "n", 32)]
    )
    return [
        helper.make_node("Unsqueeze", ["h", "first"], ["sequence"]),
        helper.make_node("Scan", ["h", "sequence"], ["deep"], body=body, num_scan_inputs=1),
    ], [constant("first", [0]), weight("own", 32, 32)]


def model_of(kind: str, path: Path) -> Path:
    nodes, stored = middle(kind)
    before = [helper.make_node("Gemm", ["x", "w1", "b1"], ["g"]), helper.make_node("Relu", ["g"], ["h"])]
    after = helper.make_node("Gemm", ["deep", "w2", "b2"], ["logits"])
    stored += [weight("w1", 64, 32), weight("b1", 32), weight("w2", 32, 10), weight("b2", 10)]
    graph = helper.make_graph(
        [*before, *nodes, after], "g", [value("x", "n", 64)], [value("logits", "n", 10)], stored
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(made, full_check=True)
    onnx.save(made, path)
    return path


def answers(path: Path) -> np.ndarray:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": ROWS})[0])


def subject_of(kind: str, tmp_path: Path) -> Subject:
    np.savez(tmp_path / "rows.npz", x=ROWS)
    rows = Split(Data(str(tmp_path / "rows.npz")))
    model = Model(model_of(kind, tmp_path / "m.onnx"), "onnx")
    task = Task("multiclass", "logits", tuple("0123456789"))
    return Subject(model, rows, calibration=rows, task=task, inputs=INPUTS)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("step", [Int8, Int8Dynamic])
def test_what_is_around_a_body_is_quantized(kind, step, tmp_path):
    subject = subject_of(kind, tmp_path)
    (tmp_path / "out").mkdir()
    change = step().apply(subject, tmp_path / "out", MACHINE, Progress())
    wanted, got = answers(subject.model.path), answers(change.model.path)
    assert np.abs(wanted - got).max() < 0.1 * np.abs(wanted).max()
    (record,) = change.records
    rows = {row[2]: row for row in record.tables[0].rows}
    assert rows["Gemm"][5] == "int8"
    assert rows["MatMul"][5:] == ("float", f"it is in the body of {kind}, which stays as it is")
    counts = {"w1": 64 * 32, "w2": 320, "own": 1024, "biases": 42}
    share = (counts["w1"] + counts["w2"]) / sum(counts.values()) if kind != "If" else None
    if share:
        assert record.metrics["parameters_in_int8@audit"].value == pytest.approx(share, rel=2e-3)
    assert "macs_in_int8@audit" not in record.metrics  # how often a body runs, nobody knows


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_body_reads_is_named_anew_and_the_same(kind, tmp_path):
    path = model_of(kind, tmp_path / "m.onnx")
    graph = read_graph(path)
    count = keep_captured(graph)
    assert count == (0 if kind == "Scan" else 1)
    onnx.checker.check_model(graph, full_check=True)
    onnx.save(graph, tmp_path / "again.onnx")
    np.testing.assert_array_equal(answers(path), answers(tmp_path / "again.onnx"))


def test_a_body_in_a_body_reads_through_both(tmp_path):
    inner = helper.make_graph([helper.make_node("Neg", ["h"], ["low"])], "inner", [], [value("low", "n", 4)])
    plain = helper.make_graph(
        [helper.make_node("Abs", ["h"], ["high"])], "plain", [], [value("high", "n", 4)]
    )
    nested = helper.make_node("If", ["yes"], ["out"], then_branch=inner, else_branch=plain)
    outer = helper.make_graph([nested], "outer", [], [value("out", "n", 4)])
    other = helper.make_graph([helper.make_node("Exp", ["h"], ["up"])], "other", [], [value("up", "n", 4)])
    nodes = [
        helper.make_node("Relu", ["x"], ["h"]),
        helper.make_node("If", ["yes"], ["y"], then_branch=outer, else_branch=other),
    ]
    stored = [numpy_helper.from_array(np.array(1, dtype=bool), "yes")]
    graph = helper.make_graph(nodes, "g", [value("x", "n", 4)], [value("y", "n", 4)], stored)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    assert keep_captured(made) == 1
    onnx.checker.check_model(made, full_check=True)
    session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    x = np.array([[-1, 0, 1, 2]], np.float32)
    np.testing.assert_array_equal(session.run(None, {"x": x})[0], -np.maximum(x, 0))


def test_the_audit_lists_the_layers_of_a_body(tmp_path):
    graph = read_graph(model_of("Loop", tmp_path / "m.onnx"))
    tidy(graph)
    record = audit_record(graph, fates_of(graph, tmp_path / "m.onnx", {"x": (1, 64)}, {}))
    assert "none of 3 layers runs in int8" in record.summary
