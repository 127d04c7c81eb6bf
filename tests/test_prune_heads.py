"""Whole attention heads go, and what is left is the model that did not read them."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
)

from export.passes.onnx import Onnx
from export.passes.prune import Prune
from export.pruning.narrowing import pruned
from study.loading import load_module
from study.loading.live import live_model
from study.loading.narrowed import FewerHeads
from study.progress import Progress
from study.record import Verdict
from study.runtime import open_runtime, to_numpy
from study.subject import InputSpec, Subject
from tests.export_subjects import MACHINE, outputs_of, subject_of, trained

pytestmark = pytest.mark.usefixtures("untimed")

BERT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 24}


def settings():
    """Weights are drawn larger than for a width of 768, so that errors would show."""
    return BertConfig(vocab_size=40, max_position_embeddings=16, num_labels=3, initializer_range=0.2, **BERT)


def bert():
    torch.manual_seed(0)
    return BertModel(settings(), add_pooling_layer=False).eval()


def distilbert():
    torch.manual_seed(0)
    settings = DistilBertConfig(vocab_size=40, dim=32, n_heads=4, n_layers=2, hidden_dim=24)
    return DistilBertModel(settings).eval()


def unread(module, mixing, left, width):
    """The module, with nothing reading the heads that are gone."""
    with torch.no_grad():
        for head in set(range(mixing.in_features // width)) - set(left):
            mixing.weight[:, head * width : (head + 1) * width] = 0
    return module


@pytest.mark.parametrize(("make", "mixing"), [(bert, "output.dense"), (distilbert, "out_lin")])
def test_a_model_without_heads_is_the_one_that_does_not_read_them(make, mixing):
    module = make()
    rows = {"input_ids": torch.arange(18).reshape(2, 9)}
    made, cut = pruned(module, rows, 0.3, {})
    assert [(before, len(left)) for before, left in cut.heads.values()] == [(4, 3), (4, 3)]
    original = make()
    for name, (_, left) in cut.heads.items():
        owner = name.rpartition(".")[0] if "." in mixing else name
        unread(original, original.get_submodule(f"{owner}.{mixing}"), left, 8)
    for name in cut.widths:  # the feed-forward layers are narrower too
        original.set_submodule(name, copy.deepcopy(made.get_submodule(name)))
        after = name.replace("intermediate.dense", "output.dense").replace("lin1", "lin2")
        original.set_submodule(after, copy.deepcopy(made.get_submodule(after)))
    with torch.no_grad():
        torch.testing.assert_close(made(**rows)[0], original(**rows)[0], rtol=1e-4, atol=1e-5)
        assert (made(**rows)[0] - module(**rows)[0]).abs().max() > 1e-3


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("several", [{}, {"kdim": 12, "vdim": 20, "bias": False}])
def test_narrower_attention_answers_like_torchs_own(batch_first, several):
    """With masks, weights and inputs of other widths; the twin is torch's, with the head's columns zero."""
    torch.manual_seed(0)

    class Crossed(nn.Module):
        def __init__(self):
            super().__init__()
            self.attend = nn.MultiheadAttention(24, 3, batch_first=batch_first, **several)

        def forward(self, query, key, value, padding, causal):
            return self.attend(query, key, value, key_padding_mask=padding, attn_mask=causal)[0]

    module = Crossed().eval()
    turned = (lambda x: x) if batch_first else (lambda x: x.transpose(0, 1))
    rows = {
        "query": turned(torch.randn(2, 5, 24)),
        "key": turned(torch.randn(2, 7, several.get("kdim", 24))),
        "value": turned(torch.randn(2, 7, several.get("vdim", 24))),
        "padding": torch.tensor([[False] * 7, [False] * 5 + [True] * 2]),
        "causal": torch.ones(5, 7, dtype=torch.bool).triu(3),
    }
    made, cut = pruned(module, rows, 0.3, {})
    assert isinstance(made.attend, FewerHeads), cut.left
    ((before, left),) = cut.heads.values()
    assert (before, len(left)) == (3, 2)
    unread(module, module.attend.out_proj, left, 8)
    with torch.no_grad():
        wanted, given = module(*rows.values()), made(*rows.values())
        torch.testing.assert_close(given, wanted)
        call = {"need_weights": False, "attn_mask": rows["causal"], "key_padding_mask": rows["padding"]}
        flat = made.attend(rows["query"], rows["key"], rows["value"], **call)[0]
        torch.testing.assert_close(flat, wanted)
        alone = [turned(rows[name])[0] for name in ("query", "key", "value")]
        torch.testing.assert_close(made.attend(*alone)[0], module.attend(*alone)[0])


def test_an_encoder_without_heads_comes_back_and_exports(tmp_path):
    origin = live_model(trained("encoder"))
    change = Prune(0.3).apply(subject_of(origin), tmp_path / "pruned", MACHINE, Progress())
    heads = next(table for table in change.records[0].tables if table.title == "Heads")
    assert [row[:3] for row in heads.rows] == [(f"encoder.layers.{at}.self_attn", 4, 3) for at in (0, 1)]
    back = load_module(change.model)
    assert back.encoder.layers[0].self_attn.in_proj_weight.shape == (72, 32)
    again = Prune(0.5).apply(subject_of(change.model), tmp_path / "again", MACHINE, Progress())
    assert load_module(again.model).encoder.layers[0].self_attn.num_heads < 3
    exported = Onnx().apply(subject_of(change.model), tmp_path / "onnx", MACHINE, Progress())
    assert exported.records[0].verdict is Verdict.GOOD
    assert np.abs(outputs_of(exported.model) - outputs_of(change.model)).max() < 1e-3


def test_a_bert_without_heads_comes_back_and_exports(tmp_path):
    inputs = (InputSpec("input_ids", (None, 9), "int64"), InputSpec("attention_mask", (None, 9), "int64"))
    subject = Subject(live_model(BertForSequenceClassification(settings()).eval()), inputs=inputs)
    change = Prune(0.3).apply(subject, tmp_path / "pruned", MACHINE, Progress())
    attention = load_module(change.model).bert.encoder.layer[0].attention.self
    assert (attention.num_attention_heads, attention.all_head_size) == (3, 24)
    exported = Onnx().apply(Subject(change.model, inputs=inputs), tmp_path / "onnx", MACHINE, Progress())
    rows = {"input_ids": np.arange(27).reshape(3, 9), "attention_mask": np.ones((3, 9), np.int64)}
    answers = []
    for model in (change.model, exported.model):
        with open_runtime(model, MACHINE) as run:
            answers.append(to_numpy(run(rows)["logits"]))
    np.testing.assert_allclose(*answers, atol=1e-4)


def test_heads_that_forward_counts_are_left_alone_and_named():
    class Counted(nn.Module):
        def __init__(self):
            super().__init__()
            self.num_heads = 4
            self.q, self.k, self.v = (nn.Linear(16, 16) for _ in range(3))
            self.mix = nn.Linear(16, 16)

        def forward(self, x):
            q, k, v = (part(x).view(len(x), -1, 4, 4).transpose(1, 2) for part in (self.q, self.k, self.v))
            return self.mix(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    module = nn.Sequential(Counted(), nn.Linear(16, 40), nn.ReLU(), nn.Linear(40, 3)).eval()
    made, cut = pruned(module, {"x": torch.randn(2, 5, 16)}, 0.4, {})
    assert not cut.heads
    assert cut.left["have heads (its forward holds their number)"] == ["0"]
    assert made[0].q.out_features == 16


def test_heads_go_by_what_they_are_worth_where_that_is_known():
    module = bert()
    worth = {name: torch.ones_like(one) for name, one in module.named_parameters()}
    for at in (0, 1):
        worth[f"encoder.layer.{at}.attention.output.dense.weight"][:, 8 * at : 8 * at + 8] = 0.5
    _, cut = pruned(module, {"input_ids": torch.arange(18).reshape(2, 9)}, 0.3, worth)
    assert [left for _, left in cut.heads.values()] == [[1, 2, 3], [0, 2, 3]]
