"""int8 of a transformer and of embeddings: what really runs in integers, and that it decides the same."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from export.examples import row_shapes
from export.graphs.layers import layers_of
from export.passes.int8 import SPARED, Int8
from export.passes.int8_dynamic import Int8Dynamic
from export.passes.onnx import Onnx
from study.feed import Feed
from study.loading import identify
from study.loading.live import live_model
from study.progress import Progress
from study.record import Verdict
from study.runtime import open_runtime, to_numpy
from study.subject import Data, InputSpec, Machine, Split, Subject
from tests import tiny_bert

MACHINE = Machine(threads=1)
INPUTS = tuple(InputSpec(name, (None, None), "int64") for name in ("input_ids", "attention_mask"))


def scores(model, split):
    feed = Feed.open(split, INPUTS)
    with open_runtime(model, MACHINE) as run:
        pieces = list(feed.batches(np.arange(len(feed)), 16))
        order = np.argsort(np.concatenate([piece.rows.positions for piece in pieces]))
        found = [to_numpy(next(iter(run(piece.batch).values()))) for piece in pieces]
    return np.concatenate(found)[order]


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    files = tiny_bert.write(folder)
    data, train = (Data(str(path), tokenizer=str(files.model)) for path in (files.data, files.train))
    model = identify(files.model)
    subject = Subject(model, Split(data), Split(train), inputs=INPUTS)
    change = Onnx().apply(subject, folder / "onnx", MACHINE, Progress())
    return model, replace(subject, model=change.model)


@pytest.mark.parametrize("step", [Int8, Int8Dynamic])
def test_a_transformer_decides_the_same_and_runs_in_integers(bert, step, tmp_path):
    original, subject = bert
    change = step().apply(subject, tmp_path, MACHINE, Progress())
    wanted, got = scores(original, subject.judged), scores(change.model, subject.judged)
    agreement = (wanted.argmax(1) == got.argmax(1)).mean()
    assert agreement >= 0.97
    assert not np.array_equal(wanted, got)
    (record,) = change.records
    left = [found for found in record.findings if "left in float" in found.what]
    spared = [found for found in left if SPARED in found.what]  # pooler and classifier
    left = [found for found in left if found not in spared]
    share = share_of_macs(subject, head=not spared)
    assert record.metrics["macs_in_int8@audit"].value == pytest.approx(share, abs=0.001)
    assert len(left) == 1
    assert "Gather" in left[0].what
    assert "embedding" in left[0].where
    with open_runtime(change.model, MACHINE) as run:
        assert [spec.shape for spec in run.inputs] == [(None, None)] * 2
        for shape in ((1, 3), (5, 17)):
            answer = run({spec.name: np.ones(shape, np.int64) for spec in run.inputs})
            assert to_numpy(next(iter(answer.values()))).shape == (shape[0], 3)


def share_of_macs(subject, *, head):
    """By hand, for one text of so many tokens; without its ``head`` where that stays in float."""
    tokens = row_shapes(subject, INPUTS)["input_ids"][1]
    wide, wider, layers = tiny_bert.WIDTH, tiny_bert.WIDER, tiny_bert.LAYERS
    linear = layers * tokens * (4 * wide * wide + 2 * wide * wider)
    last = wide * wide + 3 * wide
    attention = layers * 2 * tokens * tokens * wide
    return (linear + head * last) / (linear + last + attention)


def test_macs_are_counted_where_shape_inference_gives_up(bert):
    _, subject = bert
    layers = layers_of(onnx.load(subject.model.path), row_shapes(subject, INPUTS))
    assert len(layers) == 2 * 6 + 2 + 2 * 2 + 3
    assert None not in {layer.macs for layer in layers}


class Bag(nn.Module):
    def __init__(self, classes, *, head):
        super().__init__()
        self.bag = nn.EmbeddingBag(50, 8 if head else classes)
        self.head = nn.Linear(8, classes) if head else nn.Identity()

    def forward(self, ids):
        return self.head(self.bag(ids))


@pytest.mark.parametrize("step", [Int8, Int8Dynamic])
@pytest.mark.parametrize("head", [True, False])
def test_an_embedding_bag_says_what_stays_in_float(step, head, tmp_path):
    torch.manual_seed(0)
    rows = np.random.default_rng(0).integers(0, 50, (40, 7))
    np.savez(tmp_path / "rows.npz", ids=rows)
    subject = Subject(
        live_model(Bag(3, head=head).eval()),
        calibration=Split(Data(str(tmp_path / "rows.npz"))),
        inputs=(InputSpec("ids", (None, None), "int64"),),
    )
    source = Onnx().apply(subject, tmp_path / "onnx", MACHINE, Progress()).model
    (record,) = step().apply(replace(subject, model=source), tmp_path / "int8", MACHINE, Progress()).records
    assert record.verdict is Verdict.NOTED
    assert record.findings[0].what == (
        "Gather is left in float: an embedding is looked up and multiplies nothing"
    )
    assert record.findings[0].where == "bag"
    start = (
        "1 of 2 layers run in int8" if head else "The step changed nothing: none of 1 layers runs in int8."
    )
    assert record.summary.startswith(start)
    assert ("the rows beside it" in record.findings[-1].what) == (head and step is Int8Dynamic)
