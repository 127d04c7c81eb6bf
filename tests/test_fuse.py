"""Fusions of transformers: proven to be the same, also where the library's own result does not run."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from torch import nn

from export.graphs.nodes import attributes, read_current
from export.passes.fuse import Fuse
from export.passes.onnx import Onnx
from study.loading.live import live_model
from study.progress import Progress
from study.record import Verdict
from study.runtime import open_runtime
from study.subject import InputSpec, Subject
from tests.export_subjects import MACHINE

WORDS = 40


class Logits(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.net(input_ids=input_ids, use_cache=False).logits


def net_of(kind: str) -> nn.Module:
    torch.manual_seed(0)
    ends = {"vocab_size": WORDS, "bos_token_id": 0, "eos_token_id": 0}
    if kind == "gpt2":
        config = transformers.GPT2Config(n_positions=64, n_embd=32, n_layer=1, n_head=2, **ends)
        return Logits(transformers.GPT2LMHeadModel(config)).eval()
    config = transformers.LlamaConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        **ends,
    )
    return Logits(transformers.LlamaForCausalLM(config)).eval()


@pytest.mark.parametrize(("kind", "written"), [("gpt2", "as MatMul and Add"), ("llama", "as it is")])
def test_language_models_are_fused(kind: str, written: str, tmp_path: Path) -> None:
    net = net_of(kind)
    subject = Subject(live_model(net), inputs=(InputSpec("input_ids", (None, None), "int64"),))
    plain = Onnx().apply(subject, tmp_path / "plain", MACHINE, Progress()).model
    change = Fuse().apply(replace(subject, model=plain), tmp_path / "fused", MACHINE, Progress())
    fused, proof = change.records
    assert (fused.verdict, proof.verdict) == (Verdict.GOOD, Verdict.GOOD)
    assert change.provenance["Gemm"] == written
    assert fused.metrics["nodes@after_fusion"].value < fused.metrics["nodes@before_fusion"].value
    ids = np.random.default_rng(0).integers(0, WORDS, (3, 17))
    with open_runtime(change.model, MACHINE) as runtime:
        got = next(iter(runtime({"input_ids": ids}).values()))
    with torch.no_grad():
        assert np.abs(net(torch.from_numpy(ids)).numpy() - got).max() < 1e-5
    nodes = read_current(change.model.path).graph.node
    if kind == "gpt2":
        assert any(node.op_type == "MultiHeadAttention" for node in nodes)
    if kind == "llama":  # onnxruntime's, and in ONNX's own domain: onnx's checker knows it not
        (first, *_) = [node for node in nodes if node.op_type == "SimplifiedLayerNormalization"]
        assert attributes(first)["axis"] == -1
