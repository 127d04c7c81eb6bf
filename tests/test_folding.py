"""Recurrent weights that torch's exporter leaves to be computed are stored, and quantized like any other."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from torch import nn

from export.graphs.exporters import Source, exported
from export.graphs.files import write_model
from export.graphs.folding import RECURRENT, store_recurrent_weights
from export.passes.int8_dynamic import Int8Dynamic
from study.progress import Progress
from study.subject import InputSpec, Subject
from tests.export_subjects import MACHINE

STEPS, INPUT, HIDDEN = 5, 24, 96
"""Weights of more than the 8,192 numbers that torch's exporter folds."""


class Reader(nn.Module):
    def __init__(self, kind: type[nn.RNNBase], hidden: int = HIDDEN) -> None:
        super().__init__()
        self.rnn = kind(INPUT, hidden, num_layers=2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(2 * hidden, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        every, _ = self.rnn(x)
        answers: torch.Tensor = self.head(every[:, -1])
        return answers


def as_onnx(kind: type[nn.RNNBase]) -> tuple[nn.Module, onnx.ModelProto]:
    torch.manual_seed(0)
    module = Reader(kind).eval()
    source = Source(module, {"x": torch.randn(2, STEPS, INPUT)}, ("answers",), ("dynamo",))
    return module, exported(source, "dynamo", ())


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_the_weights_of_a_large_recurrent_layer_are_stored(kind):
    module, graph = as_onnx(kind)
    stored = {tensor.name for tensor in graph.graph.initializer}
    layers = [node for node in graph.graph.node if node.op_type in RECURRENT]
    assert len(layers) == 2
    assert all({*layer.input[1:4]} <= stored for layer in layers)
    read = {name for node in graph.graph.node for name in node.input}
    assert stored <= read, "what the weights were computed of is gone"
    numbers = sum(numpy_helper.to_array(tensor).size for tensor in graph.graph.initializer)
    every = sum(parameter.numel() for parameter in module.parameters())
    assert every <= numbers < every + 100
    x = torch.randn(2, STEPS, INPUT)
    onnx.checker.check_model(graph)
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    (got,) = session.run(None, {"x": x.numpy()})
    with torch.no_grad():
        np.testing.assert_allclose(got, module(x).numpy(), atol=1e-5)


def test_a_large_lstm_runs_in_int8_after_int8_dynamic(tmp_path):
    _, graph = as_onnx(nn.LSTM)
    model = write_model(graph, tmp_path / "onnx", "fp32")
    subject = Subject(model, inputs=(InputSpec("x", (None, STEPS, INPUT), "float32"),))
    change = Int8Dynamic().apply(subject, tmp_path / "int8", MACHINE, Progress())
    (record,) = change.records
    assert record.summary.startswith("3 of 3 layers run in int8")
    made = [node.op_type for node in onnx.load(change.model.path).graph.node]
    assert made.count("DynamicQuantizeLSTM") == 2


def graph_of(nodes, tensors, outputs=("y",)):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (2, 1, 3))],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in tensors.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def test_what_others_read_stays_and_what_depends_on_the_input_is_left():
    random = np.random.default_rng(0)
    tensors = {
        "w": random.normal(size=(4, 3)).astype(np.float32),
        "r": random.normal(size=(1, 4, 4)).astype(np.float32),
        "axes": np.array([0]),
    }
    rnn = helper.make_node("RNN", ["x", "wide", "r"], ["y", "last"], hidden_size=4)
    wide = helper.make_node("Unsqueeze", ["turned", "axes"], ["wide"])
    turned = helper.make_node("Identity", ["w"], ["turned"])
    shared = graph_of([turned, wide, rnn], tensors, ("y", "turned"))
    x = random.normal(size=(2, 1, 3)).astype(np.float32)
    before = ReferenceEvaluator(shared).run(None, {"x": x})
    assert store_recurrent_weights(shared) == 1
    assert [node.op_type for node in shared.graph.node] == ["Identity", "RNN"]
    for one, other in zip(before, ReferenceEvaluator(shared).run(None, {"x": x}), strict=True):
        np.testing.assert_array_equal(one, other)
    scaled = helper.make_node("Mul", ["w", "w"], ["turned"])
    assert store_recurrent_weights(graph_of([scaled, wide, rnn], tensors)) == 0, (
        "it is computed, not arranged"
    )
    fed = helper.make_node("Unsqueeze", ["w2", "axes"], ["wide"])
    last = helper.make_node("Concat", ["w", "x0"], ["w2"], axis=0)
    first = helper.make_node("Slice", ["x", "axes", "axes", "axes"], ["x0"])
    assert store_recurrent_weights(graph_of([first, last, fed, rnn], tensors)) == 0
