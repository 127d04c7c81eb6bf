from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper
from torch import nn

from export.graphs.files import read_graph
from export.graphs.layers import layers_of
from export.passes.fp16 import Fp16
from export.passes.onnx import Onnx
from export.quantization.isa import IntegerTypes
from export.size import readable, size_record
from study.errors import SkipError
from study.loading.live import live_model
from study.progress import Progress
from study.record import Verdict
from study.runtime import open_runtime
from study.subject import InputSpec, Model, Subject
from tests.export_subjects import MACHINE, exported, flips, linear_file, outputs_of, subject_of, trained


@pytest.mark.parametrize("name", ["cnn", "recurrent", "encoder"])
def test_fp16_halves_the_file_and_decides_the_same(name, tmp_path):
    source = exported(name).model
    change = Fp16().apply(subject_of(source), tmp_path, MACHINE, Progress())
    assert change.model.artifact == "onnx/fp16"
    assert change.model.bytes < 0.8 * source.bytes
    assert flips(outputs_of(source), outputs_of(change.model)) <= 0.01
    record, audit = change.records
    assert record.verdict is Verdict.GOOD
    assert audit.by == "audit"
    assert audit.metrics["parameters_in_fp16@audit"].value > 0.9
    assert "On this CPU" in audit.findings[-1].what
    graph = onnx.load(change.model.path).graph
    ends = {value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)}
    assert ends == {TensorProto.FLOAT}


def test_what_half_precision_cannot_hold_stays_in_float(tmp_path):
    weight = np.eye(4, dtype="f4")
    weight[0, 0] = 1e6
    model = linear_file(tmp_path / "m.onnx", weight)
    subject = Subject(model, inputs=(InputSpec("x", (None, 4), "float32"),))
    change = Fp16().apply(subject, tmp_path / "out", MACHINE, Progress())
    assert change.records[0].verdict is Verdict.NOTED
    assert change.records[0].findings[0].where == "'w'"
    assert "beyond ±65504: 1; their layers stay in float" in change.records[0].findings[0].what
    model = linear_file(tmp_path / "n.onnx", np.full((4, 4), 6e4, "f4"))
    change = Fp16().apply(replace(subject, model=model), tmp_path / "o", MACHINE, Progress())
    record, audit = change.records
    assert record.verdict is Verdict.NOTED
    assert record.findings[0].where == "'h', 'y'"
    assert "Activations that reach beyond ±65504" in record.findings[0].what
    assert "The step changed nothing" in audit.summary
    with open_runtime(change.model, MACHINE) as run:
        answers = next(iter(run({"x": np.ones((2, 4), "f4")}).values()))
    np.testing.assert_allclose(answers, 2.4e5, rtol=1e-3)


class Masked(nn.Module):
    """Attention in which what is filled up is ruled out as transformers does it: by the lowest float32."""

    def forward(self, x):
        scores = x @ x.transpose(1, 2)
        lowest = torch.finfo(x.dtype).min
        mask = torch.where(x[:, None, :, 0] > 0, torch.zeros(()), torch.full((), lowest))
        return (scores + mask).softmax(-1) @ x


def test_what_a_mask_rules_out_does_not_overflow(tmp_path):
    subject = Subject(live_model(Masked()), inputs=(InputSpec("x", (None, 5, 3), "float32"),))
    model = Onnx().apply(subject, tmp_path / "onnx", MACHINE, Progress()).model
    lowest = [one for one in onnx.load(model.path).graph.initializer if one.data_type == TensorProto.FLOAT]
    assert any(np.abs(numpy_helper.to_array(one)).max(initial=0) > 3e38 for one in lowest)
    record, _ = Fp16().apply(replace(subject, model=model), tmp_path / "fp16", MACHINE, Progress()).records
    assert record.verdict is Verdict.GOOD


def test_parameters_and_macs_are_those_of_the_modules():
    graph = read_graph(exported("cnn").model.path)
    layers = layers_of(graph, {"x": (1, 1, 8, 8)})
    assert [(layer.op, layer.parameters, layer.macs) for layer in layers] == [
        ("Conv", 16 * 9, 16 * 9 * 64),
        ("Conv", 32 * 16 * 9, 32 * 16 * 9 * 16),
        ("Gemm", 128 * 10, 128 * 10),
    ]
    graph = read_graph(exported("recurrent").model.path)
    rnn = [layer for layer in layers_of(graph, {"x": (1, 1, 8, 8)}) if layer.op == "LSTM"]
    assert [layer.parameters for layer in rnn] == [4 * 24 * (8 + 24), 4 * 24 * (24 + 24)]
    assert [layer.macs for layer in rnn] == [8 * layer.parameters for layer in rnn]


def test_the_types_follow_the_cpu(monkeypatch, tmp_path):
    flags = tmp_path / "cpuinfo"
    monkeypatch.setattr("export.quantization.isa.CPUINFO", flags)
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    flags.write_text("flags : sse2 avx2 avx512_vnni")
    assert IntegerTypes.of_this_machine() == IntegerTypes(
        signed_activations=False, reduce_range=False, isa="avx512_vnni"
    )
    flags.write_text("flags : sse2 avx2")
    assert IntegerTypes.of_this_machine().reduce_range
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert IntegerTypes.of_this_machine().signed_activations


def test_size_counts_external_data(tmp_path):
    whole = exported("mlp").model
    graph = onnx.load(whole.path)
    path = tmp_path / "m.onnx"
    onnx.save_model(graph, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    model = Model(path, "onnx")
    record = size_record(model, whole)
    exact = path.stat().st_size + (tmp_path / "weights.bin").stat().st_size
    assert record.metrics["size_bytes"].value == exact
    assert record.metrics["size_ratio@as_it_came"].value == exact / whole.bytes
    assert size_record(live_model(trained("mlp"))).metrics["size_bytes"].value == 4 * sum(
        parameter.numel() for parameter in trained("mlp").parameters()
    )
    with pytest.raises(SkipError, match="no longer there"):
        size_record(Model(tmp_path / "gone.onnx", "onnx"))
    assert [readable(n) for n in (12, 999.7, 1500, 2.5e9)] == ["12 B", "1 kB", "1.5 kB", "2.5 GB"]
