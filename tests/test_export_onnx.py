import hashlib
import logging
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from export.passes.onnx import Onnx
from export.verification.agreement import TOLERANCE
from study.errors import SkipError
from study.loading.live import live_model
from study.progress import Progress
from study.record import Verdict
from study.runtime import open_runtime
from study.subject import InputSpec, Model, Split, Subject
from tests.export_subjects import (
    CALIBRATION,
    JUDGED,
    MACHINE,
    MODELS,
    NEVER,
    accuracy_of,
    digits,
    exported,
    outputs_of,
    subject_of,
    trained,
)


def session(path):
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("name", MODELS)
def test_the_export_computes_what_the_module_computes(name):
    change = exported(name)
    images, _ = digits()
    with torch.no_grad():
        wanted = trained(name)(torch.from_numpy(images[JUDGED])).numpy()
    got = session(change.model.path).run(None, {"x": images[JUDGED]})[0]
    assert np.abs(wanted - got).max() < TOLERANCE["float32"] * np.abs(wanted).max()
    assert accuracy_of(got) == accuracy_of(wanted) > 0.6


@pytest.mark.parametrize("name", ["cnn", "recurrent"])
def test_one_file_with_the_names_of_the_runtime_and_a_free_batch(name):
    model = exported(name).model
    assert [file.name for file in model.path.parent.iterdir()] == ["model.onnx"]
    assert (model.format, model.precision, model.bytes) == ("onnx", "fp32", model.path.stat().st_size)
    assert model.sha256 == hashlib.sha256(model.path.read_bytes()).hexdigest()
    graph = onnx.load(model.path)
    onnx.checker.check_model(graph, full_check=True)
    assert [value.name for value in graph.graph.input] == ["x"]
    assert [value.name for value in graph.graph.output] == ["output"]
    assert graph.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    stored = {tensor.name for tensor in graph.graph.initializer}
    assert stored
    assert not stored & {value.name for value in graph.graph.value_info}
    assert str(Path(__file__).parent).encode() not in model.path.read_bytes()


def test_the_record_says_what_was_compared():
    (record,) = exported("cnn").records
    assert (record.by, record.verdict) == ("verification", Verdict.GOOD)
    assert set(record.metrics) == {
        "max_abs_error@batch=1",
        "max_abs_error@batch=2",
        "max_abs_error@batch=5",
        "agreement@verification",
    }
    assert record.metrics["agreement@verification"].value == 1.0
    assert record.metrics["agreement@verification"].n == 8
    assert exported("cnn").provenance["exporter"] == "dynamo"


def test_two_recurrent_exports_in_one_process_keep_the_length_free(tmp_path, capfd, caplog):
    """The second one of a process fails with named dimensions (torch 2.13)."""

    class Steps(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = nn.LSTM(4, 8, batch_first=True)

        def forward(self, x):
            return self.rnn(x)[0].mean(1)

    caplog.set_level(logging.INFO)
    for place in ("first", "second"):
        module = Steps().eval()
        subject = Subject(live_model(module), inputs=(InputSpec("x", (None, None, 4), "float32"),))
        change = Onnx().apply(subject, tmp_path / place, MACHINE, Progress())
        assert change.records[0].verdict is Verdict.GOOD
        assert any(name.startswith("max_abs_error@x.1=") for name in change.records[0].metrics)
        for length in (1, 7, 40):
            x = torch.randn(3, length, 4)
            got = session(change.model.path).run(None, {"x": x.numpy()})[0]
            assert np.abs(module(x).detach().numpy() - got).max() < 1e-5
    shown = capfd.readouterr()
    assert not shown.out + shown.err
    assert "UserWarning" in caplog.text


class Several(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(10, 4)
        self.head = nn.Linear(8, 3)

    def forward(self, ids, x, scale=None):
        mean = self.embed(ids).mean(1)
        scores = self.head(torch.cat([mean, x], 1))
        return {"logits": scores if scale is None else scores * scale, "pooled": mean}


def test_several_inputs_and_a_dictionary_of_outputs(tmp_path):
    module = Several().eval()
    inputs = (
        InputSpec("x", (None, 4), "float32"),
        InputSpec("scale", (None, 1), "float32"),
        InputSpec("ids", (None, 5), "int64"),
    )
    change = Onnx().apply(Subject(live_model(module), inputs=inputs), tmp_path, MACHINE, Progress())
    with open_runtime(change.model, MACHINE) as runtime:
        assert {spec.name for spec in runtime.inputs} == {"ids", "x", "scale"}
        assert runtime.outputs == ("logits", "pooled")
        batch = {
            "ids": np.array([[1, 2, 3, 4, 9]]),
            "x": np.ones((1, 4), "f4"),
            "scale": np.full((1, 1), 2, "f4"),
        }
        got = runtime(batch)["logits"]
    wanted = module(torch.tensor(batch["ids"]), torch.ones(1, 4), torch.full((1, 1), 2.0))["logits"]
    assert np.abs(wanted.detach().numpy() - got).max() < 1e-6


def test_exported_programs_and_torchscript(tmp_path):
    module = trained("cnn")
    x = torch.from_numpy(digits()[0][:2])
    batch = torch.export.Dim.AUTO
    torch.export.save(torch.export.export(module, (x,), dynamic_shapes=({0: batch},)), tmp_path / "m.pt2")
    torch.jit.save(torch.jit.trace(module, x), tmp_path / "m.pt")
    for name, form in (("m.pt2", "exported"), ("m.pt", "torchscript")):
        subject = subject_of(Model(tmp_path / name, form))
        change = Onnx().apply(subject, tmp_path / form, MACHINE, Progress())
        assert np.abs(outputs_of(change.model) - outputs_of(exported("cnn").model)).max() < 1e-4
        said = " ".join(found.what for found in change.records[0].findings)
        assert ("TorchScript exporter" in said) == (form == "torchscript")


class Recurrent(nn.Module):
    """A score a step, behind an LSTM both ways."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(3, 4, batch_first=True, bidirectional=True)
        self.head = nn.Linear(8, 2)

    def forward(self, x):
        return self.head(self.lstm(x)[0])


def test_outputs_as_long_as_the_inputs_are_stated_so(tmp_path):
    """Else the second call of a binding is refused at every length but the example's."""
    subject = Subject(live_model(Recurrent().eval()), inputs=(InputSpec("x", (None, None, 3), "float32"),))
    model = Onnx().apply(subject, tmp_path, MACHINE, Progress()).model
    (output,) = session(model.path).get_outputs()
    assert [type(size) for size in output.shape] == [str, str, int]
    with open_runtime(model, MACHINE) as runtime:
        for steps in (3, 5, 11):
            call = runtime.bind({"x": np.zeros((2, steps, 3), np.float32)})
            call()
            call()


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        lengths = torch.clamp(x[:, 0].abs().long() + 1, max=3)
        packed = nn.utils.rnn.pack_padded_sequence(
            x[:, None].repeat(1, 3, 1), lengths, batch_first=True, enforce_sorted=False
        )
        return self.head(packed.data) + float(x.sum())


def test_what_cannot_be_exported_is_skipped_with_the_reason_and_leaves_nothing(tmp_path, capfd):
    subject = Subject(live_model(Branches().eval()), inputs=(InputSpec("x", (None, 4), "float32"),))
    with pytest.raises(SkipError, match=r"export"):
        Onnx().apply(subject, tmp_path, MACHINE, Progress())
    assert not list(tmp_path.iterdir())
    shown = capfd.readouterr()
    assert not shown.out + shown.err


def test_a_model_without_rows_or_shapes_is_skipped(tmp_path):
    with pytest.raises(SkipError, match=r"--shape"):
        Onnx().apply(Subject(live_model(trained("mlp"))), tmp_path, MACHINE, Progress())


def test_only_calibration_rows_are_read():
    subject = subject_of(live_model(trained("mlp")))
    assert subject.judged == NEVER
    assert subject.calibration is not None
    assert subject.calibration.positions == CALIBRATION
    assert isinstance(subject.judged, Split)
    assert not Path(NEVER.data.source).exists()
    assert exported("mlp").provenance["verified on"] == "8 calibration rows"
