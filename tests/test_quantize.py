import hashlib
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from export.graphs.files import read_graph
from export.graphs.nodes import split_gemm, tidy
from export.passes.fuse import Fuse
from export.passes.int8 import Int8
from export.passes.int8_dynamic import Int8Dynamic
from export.quantization.audit import audit_record, fates_of
from export.quantization.calibration import Calibration
from study.errors import InputError, SkipError
from study.loading.live import live_model
from study.progress import Progress
from study.record import Verdict
from study.subject import Data, InputSpec, Split, Subject
from tests.export_subjects import (
    MACHINE,
    MODELS,
    exported,
    flips,
    linear_file,
    outputs_of,
    subject_of,
    trained,
)


def sqnr(wanted, got):
    return 10 * np.log10((wanted**2).sum() / ((wanted - got) ** 2).sum())


def parameters_of(model, kinds):
    """A slow twin of the audit: numbers stored in integers, by the file alone."""
    graph = onnx.load(model.path).graph
    return sum(
        numpy_helper.to_array(tensor).size
        for tensor in graph.initializer
        if tensor.data_type in kinds and tensor.name.endswith("_quantized") and len(tensor.dims) > 1
    )


@pytest.mark.parametrize("name", MODELS)
def test_int8_runs_in_integers_and_decides_the_same(name, tmp_path):
    source = exported(name).model
    before = source.path.read_bytes()
    change = Int8().apply(subject_of(source), tmp_path, MACHINE, Progress())
    assert source.path.read_bytes() == before
    assert change.model.artifact == "onnx/int8"
    assert change.model.sha256 == hashlib.sha256((tmp_path / "model.onnx").read_bytes()).hexdigest()
    wanted, got = outputs_of(source), outputs_of(change.model)
    assert flips(wanted, got) <= 0.03
    assert sqnr(wanted, got) > 20
    (record,) = change.records
    assert record.by == "audit"
    share = record.metrics["parameters_in_int8@audit"].value
    every = sum(parameter.numel() for parameter in trained(name).parameters())
    assert share == pytest.approx(parameters_of(change.model, (2, 3)) / every, abs=0.06)
    assert share > 0.02 if name == "recurrent" else share > 0.5
    assert change.provenance["calibration"].endswith(" over 192 rows; judged on 64 others")


def test_int8_says_that_lstms_stay_in_float(tmp_path):
    change = Int8().apply(subject_of(exported("recurrent").model), tmp_path, MACHINE, Progress())
    (record,) = change.records
    assert record.verdict is Verdict.NOTED
    assert "1 of 3 layers" in record.summary
    (found,) = record.findings
    assert "LSTM is left in float" in found.what
    assert found.where.startswith("rnn")


@pytest.mark.parametrize("name", ["mlp", "recurrent", "encoder"])
def test_dynamic_int8_quantizes_linear_layers_and_lstms(name, tmp_path):
    source = exported(name).model
    change = Int8Dynamic().apply(subject_of(source), tmp_path, MACHINE, Progress())
    wanted, got = outputs_of(source), outputs_of(change.model)
    assert flips(wanted, got) <= 0.03
    assert sqnr(wanted, got) > 20
    (record,) = change.records
    assert record.metrics["parameters_in_int8@audit"].value > 0.85
    weighted = [row for row in record.tables[0].rows if row[3]]
    assert weighted
    assert {row[5] for row in weighted} == {"int8"}


def test_dynamic_int8_leaves_convolutions_and_says_so(tmp_path):
    source = exported("cnn").model
    change = Int8Dynamic().apply(
        subject_of(source, calibration=None, judged=None), tmp_path, MACHINE, Progress()
    )
    (record,) = change.records
    assert "Conv is left in float" in record.findings[0].what
    assert record.findings[0].where in ("one, two", "norm, two")
    operators = {node.op_type for node in onnx.load(change.model.path).graph.node}
    assert "ConvInteger" not in operators
    assert "MatMulInteger" in operators


def test_two_layers_that_share_a_square_weight_are_each_turned_once():
    """onnxruntime's own rewrite turns it twice; a fresh TransformerEncoder's layers share theirs."""
    generator = np.random.default_rng(0)
    weight = generator.standard_normal((4, 4)).astype("f4")
    graph = helper.make_graph(
        [
            helper.make_node("Gemm", ["x", "w", "b"], ["h"], transB=1),
            helper.make_node("Gemm", ["h", "w"], ["y"], transB=1),
            helper.make_node("Gemm", ["y", "w"], ["z"], alpha=2.0),
        ],
        "shared",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 4])],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, [None, 4])],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(weight[0], "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    tidy(model)
    assert split_gemm(model) == 2
    onnx.checker.check_model(model, full_check=True)
    assert [node.op_type for node in model.graph.node] == ["MatMul", "Add", "MatMul", "Gemm"]
    x = generator.standard_normal((3, 4)).astype("f4")
    from onnx.reference import ReferenceEvaluator

    (got,) = ReferenceEvaluator(model).run(None, {"x": x})
    wanted = 2 * ((x @ weight.T + weight[0]) @ weight.T) @ weight
    assert np.abs(got - wanted).max() < 1e-4


def test_an_encoder_with_equal_layers_survives_dynamic_int8(tmp_path):
    torch.manual_seed(1)
    layer = nn.TransformerEncoderLayer(16, 2, 16, batch_first=True)
    module = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    from export.passes.onnx import Onnx

    subject = Subject(live_model(module), inputs=(InputSpec("src", (None, 5, 16), "float32"),))
    source = Onnx().apply(subject, tmp_path / "onnx", MACHINE, Progress()).model
    change = Int8Dynamic().apply(replace(subject, model=source), tmp_path / "int8", MACHINE, Progress())
    import onnxruntime

    x = torch.randn(4, 5, 16)
    session = onnxruntime.InferenceSession(change.model.path, providers=["CPUExecutionProvider"])
    assert sqnr(module(x).detach().numpy(), session.run(None, {"src": x.numpy()})[0]) > 25
    fused = Fuse().apply(replace(subject, model=source), tmp_path / "fuse", MACHINE, Progress())
    assert "patterns were fused" in fused.records[0].summary
    nodes = fused.records[0].metrics
    assert nodes["nodes@after_fusion"].value < nodes["nodes@before_fusion"].value
    assert fused.records[1].by == "verification"
    assert fused.records[1].verdict is Verdict.GOOD
    session = onnxruntime.InferenceSession(fused.model.path, providers=["CPUExecutionProvider"])
    assert np.abs(module(x).detach().numpy() - session.run(None, {"src": x.numpy()})[0]).max() < 1e-4


def test_fuse_says_when_it_changed_nothing(tmp_path):
    source = exported("mlp").model
    change = Fuse().apply(subject_of(source), tmp_path, MACHINE, Progress())
    assert change.model.artifact == "onnx/fp32"
    assert change.records[0].verdict is Verdict.NOTED
    assert "changed nothing" in change.records[0].summary
    assert np.array_equal(outputs_of(source), outputs_of(change.model))


def rows_file(path, rows):
    np.savez(path, x=rows)
    return Split(Data(source=str(path)))


def test_infinity_in_calibration_is_named(tmp_path):
    rows = np.ones((40, 4), "f4")
    split = rows_file(tmp_path / "rows.npz", rows)
    subject = Subject(
        linear_file(tmp_path / "m.onnx", np.eye(4, dtype="f4")),
        calibration=split,
        inputs=(InputSpec("x", (None, 4), "float32"),),
    )
    reader = Calibration(subject, subject.inputs, Progress())

    class Poisoned:
        """A feed whose preparation let a NaN through."""

        def __len__(self):
            return 40

        def pieces(self, size):
            for piece in feed.pieces(size):
                array = np.array(piece.batch["x"])
                array[-1] = np.nan
                yield replace(piece, batch={"x": array})

    feed = reader.feed
    reader.feed = Poisoned()
    with pytest.raises(InputError, match="NaN or infinity in the input 'x'"):
        next(iter(reader))


def test_activations_without_a_range_are_a_reason(tmp_path):
    subject = Subject(
        linear_file(tmp_path / "m.onnx", np.full((4, 4), np.nan, "f4")),
        calibration=rows_file(tmp_path / "rows.npz", np.ones((40, 4), "f4")),
        inputs=(InputSpec("x", (None, 4), "float32"),),
    )
    with pytest.raises(SkipError):
        Int8().apply(subject, tmp_path / "out", MACHINE, Progress())
    assert not list((tmp_path / "out").glob("*"))


def test_int8_without_calibration_rows_is_skipped(tmp_path):
    assert Int8.needs_calibration
    with pytest.raises(SkipError, match="calibration rows"):
        Int8().apply(subject_of(exported("mlp").model, calibration=None), tmp_path, MACHINE, Progress())


def test_calibration_reads_a_piece_at_a_time_and_tells_its_progress():
    told = []
    subject = subject_of(exported("mlp").model)
    reader = Calibration(subject, subject.inputs, Progress(lambda *step: told.append(step)))
    sizes = [len(batch["x"]) for batch in reader]
    assert sizes == [32] * 8
    assert sizes == [len(batch["x"]) for batch in reader], "it begins again"
    assert told[-1] == ("calibration", 8, 8)


def test_a_step_that_changed_nothing_says_so(tmp_path):
    source = exported("cnn").model
    graph = read_graph(source.path)
    record = audit_record(graph, fates_of(graph, source.path, {"x": (1, 1, 8, 8)}, {}))
    assert "The step changed nothing: none of 3 layers runs in int8." in record.summary
    assert record.metrics["parameters_in_int8@audit"].value == 0
