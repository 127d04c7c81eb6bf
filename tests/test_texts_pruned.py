"""Pruning a transformer of Hugging Face: its feed-forward layers get narrower, its heads stay."""

import numpy as np

from export.passes.prune import Prune
from study.loading import identify, load_module
from study.progress import Progress
from study.runtime import open_runtime, to_numpy
from study.subject import Data, InputSpec, Machine, Split, Subject
from study.task import Task
from tests import tiny_bert


def test_feed_forward_layers_get_narrower_and_it_runs(tmp_path):
    files = tiny_bert.write(tmp_path)
    split = Split(Data(str(files.train), tokenizer=str(files.model), label="label"))
    names = ("input_ids", "attention_mask")
    subject = Subject(
        identify(files.model),
        calibration=split,
        training=split,
        inputs=tuple(InputSpec(name, (None, None), "int64") for name in names),
        task=Task("multiclass", "logits", tuple(tiny_bert.TOPICS), "logits"),
    )
    machine = Machine(threads=1)
    change = Prune(0.3).apply(subject, tmp_path / "pruned", machine, Progress())
    layers = dict(load_module(change.model).named_modules())
    for at in range(tiny_bert.LAYERS):
        block = f"bert.encoder.layer.{at}"
        assert layers[f"{block}.intermediate.dense"].out_features < tiny_bert.WIDER
        assert layers[f"{block}.attention.self.query"].out_features == tiny_bert.WIDTH
    left = [found.what for record in change.records for found in record.findings]
    assert any("attention heads keep their width" in what for what in left)
    with open_runtime(change.model, machine) as run:
        answer = run({name: np.ones((2, 9), np.int64) for name in names})
    assert to_numpy(answer["logits"]).shape == (2, 3)
