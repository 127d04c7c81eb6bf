"""A transformer of Hugging Face made smaller: narrower by pruning, and of fewer layers by distillation."""

from dataclasses import replace

import numpy as np
import pytest

from export.passes.distill import Distill
from export.passes.prune import Prune
from study.loading import identify, load_module
from study.progress import Progress
from study.runtime import open_runtime, to_numpy
from study.subject import Data, InputSpec, Machine, Model, Split, Subject
from study.task import Task
from tests import tiny_bert

pytestmark = pytest.mark.usefixtures("untimed")

NAMES = ("input_ids", "attention_mask")
MACHINE = Machine(threads=1)


@pytest.fixture(scope="module")
def subject(tmp_path_factory):
    files = tiny_bert.write(tmp_path_factory.mktemp("bert"))
    split = Split(Data(str(files.train), tokenizer=str(files.model), label="label"))
    return Subject(
        identify(files.model),
        calibration=split,
        training=split,
        inputs=tuple(InputSpec(name, (None, None), "int64") for name in NAMES),
        task=Task("multiclass", "logits", tuple(tiny_bert.TOPICS), "logits"),
    )


def test_feed_forward_layers_get_narrower_and_it_runs(subject, tmp_path):
    change = Prune(0.3, epochs=2, rate=1e-3).apply(subject, tmp_path / "pruned", MACHINE, Progress())
    layers = dict(load_module(change.model).named_modules())
    for at in range(tiny_bert.LAYERS):
        block = f"bert.encoder.layer.{at}"
        assert layers[f"{block}.intermediate.dense"].out_features < tiny_bert.WIDER
        assert layers[f"{block}.attention.self.query"].out_features == tiny_bert.WIDTH
    left = [found.what for record in change.records for found in record.findings]
    assert any("attention heads keep their width" in what for what in left)
    with open_runtime(change.model, MACHINE) as run:
        answer = run({name: np.ones((2, 9), np.int64) for name in NAMES})
    assert to_numpy(answer["logits"]).shape == (2, 3)


def test_it_is_distilled_into_a_net_of_its_first_layer(subject, tmp_path):
    student = Model(tmp_path, "pytorch", arch="tests.tiny_bert:fresh", arch_args='{"layers": 1}')
    step = Distill(epochs=3, rate=2e-3, init="teacher", features=0.1)
    change = step.apply(replace(subject, student=student), tmp_path / "out", MACHINE, Progress())
    made, teacher = load_module(change.model), load_module(subject.model)
    assert len(made.bert.encoder.layer) == 1
    (record,) = change.records
    assert f"began with {len(made.state_dict())} of the model's tensors" in record.summary
    figures = record.metrics
    assert figures["agreement@after_distillation"].value > 0.9
    assert figures["loss@after_distillation"].value < figures["loss@before_distillation"].value
    assert "bert.embeddings" in change.provenance["features"]
    assert sum(one.numel() for one in teacher.parameters()) == figures["parameters@before_distillation"].value
