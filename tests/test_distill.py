"""The step distill: from the command line, and what a student must be."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from diag.cli import main
from export.passes.distill import Distill
from study.errors import InputError, SkipError
from study.loading import load_module
from study.loading.live import digest, live_model
from study.progress import Progress
from study.subject import Data, Model, Split
from tests.export_subjects import (
    MACHINE,
    Cnn,
    accuracy_of,
    digits,
    flips,
    outputs_of,
    subject_of,
    trained,
    training_split,
)
from tests.tiny import Files


def small(classes=10, width=8):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, classes))


def of_chances():
    return nn.Sequential(small(), nn.Softmax(1))


class TwoInputs(nn.Module):
    def forward(self, a, b):
        return a + b


def distilled(student, tmp_path, step, **changes):
    arguments = changes.pop("arguments", "{}")
    asked = Model(tmp_path, "pytorch", arch=student, arch_args=arguments)
    changes.setdefault("training", training_split())
    module = changes.pop("module", trained("cnn"))
    subject = subject_of(live_model(module), student=asked, **changes)
    return step.apply(subject, tmp_path / "out", MACHINE, Progress())


@pytest.mark.usefixtures("in_process")
def test_the_student_of_the_command_line_goes_on_through_the_chain(tiny_cnn: Files, tmp_path):
    out = tmp_path / "run"
    words = [
        *("export", str(tiny_cnn.model), "--arch", tiny_cnn.arch, "--data", str(tiny_cnn.data)),
        *("--train", str(tiny_cnn.train), "--label", "y", "--out", str(out), "--quiet"),
        *("--student", "tests.test_distill:small", "--student-args", '{"width": 24}'),
        *("--steps", "distill:epochs=12:rate=0.01,onnx"),
    ]
    assert main(words) == 0
    steps = {step["name"]: step for step in json.loads((out / "report.json").read_text())["steps"]}
    record = next(one for one in steps["distill_epochs_12_rate_0_01"]["records"] if one["by"] == "distill")
    figures = record["metrics"]
    assert figures["parameters@after_distillation"]["value"] == 65 * 24 + 25 * 10
    assert figures["loss@after_distillation"]["value"] < 0.2 * figures["loss@before_distillation"]["value"]
    agreement = figures["agreement@after_distillation"]
    assert agreement["low"] < agreement["value"] < agreement["high"]
    assert agreement["value"] > 0.85
    assert agreement["n"] == 130
    made = json.loads((out / "run.json").read_text())["steps"][1]
    assert made["provenance"]["student"] == 'tests.test_distill:small {"width": 24}'
    student = load_module(
        Model(
            out / "01_distill_epochs_12_rate_0_01" / "model.pt",
            "pytorch",
            arch="tests.test_distill:small",
            arch_args='{"width": 24}',
        )
    )
    import onnxruntime

    rows = digits()[0][:50]
    session = onnxruntime.InferenceSession(out / "model.onnx", providers=["CPUExecutionProvider"])
    (given,) = session.run(None, {session.get_inputs()[0].name: rows})
    with torch.no_grad():
        assert given == pytest.approx(student(torch.from_numpy(rows)).numpy(), abs=1e-4)


def test_without_a_student_nothing_is_begun(tiny_cnn: Files, tmp_path, capsys):
    words = ["export", str(tiny_cnn.model), "--arch", tiny_cnn.arch, "--data", str(tiny_cnn.data)]
    assert main([*words, "--steps", "distill", "--out", str(tmp_path / "run")]) == 2
    assert "distill needs --student module:factory" in capsys.readouterr().err
    assert main([*words, "--steps", "distill", "--student", "a:b", "--student-args", "[1]"]) == 2
    assert "--student-args is no JSON object" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_it_is_the_same_twice_and_leaves_the_teacher_alone(tmp_path):
    before = digest(trained("cnn"))
    step = Distill(epochs=2, rate=1e-2)
    made = [distilled("tests.test_distill:small", tmp_path / name, step) for name in ("a", "b")]
    assert digest(trained("cnn")) == before
    assert digest(load_module(made[0].model)) == digest(load_module(made[1].model))
    assert made[0].records == made[1].records
    assert all(parameter.requires_grad for parameter in load_module(made[0].model).parameters())


def test_a_student_of_the_teacher_s_architecture_may_begin_as_it(tmp_path):
    step = Distill(epochs=1, rate=1e-4, init="teacher", teacher=1.0)
    change = distilled("tests.export_subjects:Cnn", tmp_path, step)
    (record,) = change.records
    assert f"It began with {len(Cnn().state_dict())} of the model's tensors" in record.summary
    assert record.metrics["loss@before_distillation"].value == pytest.approx(0, abs=1e-9)
    assert record.metrics["agreement@before_distillation"].value == 1
    assert flips(outputs_of(live_model(trained("cnn"))), outputs_of(change.model)) < 0.01


def test_rows_without_labels_teach_too(tmp_path):
    np.savez(tmp_path / "bare.npz", x=digits()[0][:1000])
    bare = Split(Data(source=str(tmp_path / "bare.npz")))
    change = distilled(
        "tests.test_distill:small",
        tmp_path,
        Distill(epochs=12, rate=1e-2),
        training=bare,
        arguments='{"width": 24}',
    )
    assert accuracy_of(outputs_of(change.model)) > 0.8


@pytest.mark.parametrize(
    ("student", "arguments", "told"),
    [
        ("tests.test_distill:small", '{"classes": 7}', "gives 8x7 for 8 rows, and the model 8x10"),
        ("tests.test_distill:of_chances", "{}", "The model gives logits, and --student"),
        ("tests.test_distill:TwoInputs", "{}", "does not do what the model does"),
        ("tests.test_distill:nothing", "{}", "--student tests.test_distill:nothing: there is no 'nothing'"),
        ("tests.test_distill:small", '{"depth": 2}', "or give what it takes with --student-args"),
        ("builtins:dict", "{}", "--student builtins:dict gave a dict, not a torch.nn.Module"),
    ],
)
def test_a_student_that_does_not_fit_is_told(student, arguments, told, tmp_path):
    with pytest.raises(InputError) as error:
        distilled(student, tmp_path, Distill(epochs=1), arguments=arguments)
    assert told in str(error.value)
    assert not (tmp_path / "out").exists()


def test_what_stands_in_the_way_is_a_reason(tmp_path):
    with pytest.raises(SkipError, match="no training rows were given"):
        distilled("tests.test_distill:small", tmp_path, Distill(), training=None)
    with pytest.raises(SkipError, match="no tensor of the student"):
        distilled("tests.test_distill:small", tmp_path, Distill(init="teacher"))


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"epochs": 0}, "epochs=0 must be above 0"),
        ({"seconds": -1.0}, "seconds=-1 must not be below 0"),
        ({"teacher": 1.5}, "it must lie between 0 and 1"),
        ({"augment": ("flop",)}, "Did you mean 'flip'"),
        ({"init": "other"}, "own .* or teacher"),
    ],
)
def test_settings_out_of_their_range_are_refused_at_once(settings, told):
    with pytest.raises(InputError, match=told):
        Distill(**settings)
