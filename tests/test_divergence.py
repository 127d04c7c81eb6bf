"""Where two models begin to differ: faults that are planted in one layer are found in that layer."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

import export.verification.readers
from export.change import Change
from export.examples import examples_of
from export.graphs.cuts import Flow, floats_of
from export.graphs.exporters import Source, exported
from export.graphs.files import Graph, write_model
from export.graphs.nodes import Node, module_of, modules_of
from export.passes.int8 import Int8
from export.quantization.equalisation import EVEN
from export.verification.bisection import TAPS, Bisection, Gap, Sum
from export.verification.divergence import begins, differs, explained, inputs_of, of_change, of_export
from export.verification.readers import GraphReader
from study.loading.live import live_model
from study.progress import Progress
from study.record import Verdict
from study.runtime import open_runtime
from study.subject import Model
from tests.export_subjects import MACHINE, MODELS, digits, subject_of

ROWS = 6


@cache
def module(name: str) -> torch.nn.Module:
    torch.manual_seed(3)
    made: torch.nn.Module = MODELS[name]()
    for part in made.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.running_mean.normal_(std=0.2)
            part.running_var.uniform_(0.5, 1.5)
    return made.eval()


@cache
def graph_of(name: str, exporter: str) -> bytes:
    subject = subject_of(live_model(module(name)))
    with open_runtime(subject.model, MACHINE) as reference:
        source = Source.of(subject.model, reference, examples_of(subject, 4))
        made: bytes = exported(source, exporter, ()).SerializeToString()
    return made


def fresh(name: str, exporter: str = "dynamo") -> Graph:
    return onnx.load_from_string(graph_of(name, exporter))


def nodes_of(graph: Graph, layer: str) -> list[Node]:
    return [node for node in graph.graph.node if module_of(node) == layer]


def change_weight(graph: Graph, layer: str) -> None:
    """The largest stored matrix that a layer reads has other numbers."""
    read = {name for node in nodes_of(graph, layer) for name in node.input}
    held = [tensor for tensor in graph.graph.initializer if tensor.name in read]
    tensor = max(held, key=lambda tensor: math.prod(tensor.dims))
    array = numpy_helper.to_array(tensor) * np.float32(1.5)
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def found_in(graph: Graph, name: str, folder: Path) -> str:
    """The layer where the export begins to differ from the module; empty where it does not."""
    subject = subject_of(live_model(module(name)))
    model = write_model(graph, folder, "fp32")
    batch = examples_of(subject, ROWS).batch
    with open_runtime(subject.model, MACHINE) as reference:
        found = of_export(model, reference, batch)
    return found.layer if found else ""


@pytest.mark.parametrize(
    ("name", "exporter", "layers"),
    [
        ("residual", "dynamo", ["stem", "one.two", "two.one", "head"]),
        ("residual", "torchscript", ["stem", "one.two", "two.one", "head"]),
        ("encoder", "dynamo", ["embed", "encoder.layers.0.linear2", "encoder.layers.1.self_attn", "head"]),
        ("recurrent", "dynamo", ["rnn", "head"]),
        ("recurrent", "torchscript", ["rnn", "head"]),
    ],
)
def test_a_changed_weight_is_found_in_its_layer(
    name: str, exporter: str, layers: list[str], tmp_path: Path
) -> None:
    assert not found_in(fresh(name, exporter), name, tmp_path)
    for layer in layers:
        graph = fresh(name, exporter)
        change_weight(graph, layer)
        found = found_in(graph, name, tmp_path)
        assert found.partition(" (")[0] == layer
        assert nodes_of(graph, layer)[-1].name in found


@pytest.mark.parametrize(
    ("name", "was", "becomes", "at", "layer"),
    [
        ("residual", "Relu", "Sigmoid", 1, "one"),
        ("encoder", "Softmax", "Identity", 1, "encoder.layers.1.self_attn"),
    ],
)
def test_another_operator_is_found(
    name: str, was: str, becomes: str, at: int, layer: str, tmp_path: Path
) -> None:
    graph = fresh(name)
    node = [node for node in graph.graph.node if node.op_type == was][at]
    node.op_type = becomes
    del node.attribute[:]
    assert found_in(graph, name, tmp_path).partition(" (")[0] == layer


def test_a_folded_batch_norm_belongs_to_its_convolution() -> None:
    for exporter in ("dynamo", "torchscript"):
        convolutions = [node for node in fresh("residual", exporter).graph.node if node.op_type == "Conv"]
        assert [module_of(node) for node in convolutions] == [
            "stem",
            "one.one",
            "one.two",
            "two.one",
            "two.two",
        ]


def test_the_torchscript_exporter_names_modules_too() -> None:
    node = onnx.helper.make_node("Conv", ["x"], ["y"], name="/layer1/layer1.0/conv1/Conv")
    assert modules_of(node) == ("layer1", "layer1.0", "layer1.0.conv1")
    node.name = "/encoder/layers.1/norm/Add"
    assert modules_of(node) == ("encoder", "encoder.layers.1", "encoder.layers.1.norm")
    node.name = "Conv_12"
    assert modules_of(node) == ()


def test_few_values_are_read_at_once_and_few_cuts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    sessions: list[int] = []
    tapped = export.verification.readers.tapped

    @contextmanager
    def counted(graph: Graph, names: Sequence[str]) -> Iterator[object]:
        sessions.append(len(names))
        with tapped(graph, names) as call:
            yield call

    monkeypatch.setattr(export.verification.readers, "tapped", counted)
    graph = fresh("encoder")
    change_weight(graph, "encoder.layers.1.self_attn")
    assert found_in(graph, "encoder", tmp_path)
    cuts = 12  # an embedding, five a layer, a head
    assert max(sessions) <= TAPS
    assert len(sessions) <= 2 + math.ceil(math.log2(cuts))


def test_the_wrong_cut_is_that_of_a_scan_of_all() -> None:
    """A plain twin of the bisection, and of its cuts: every value of the graph in turn."""
    before, after = fresh("residual"), fresh("residual")
    change_weight(after, "two.one")
    batch = {"x": digits()[0][:ROWS]}
    flow, floats = Flow.of(before), frozenset(floats_of(before))
    inputs = inputs_of(before)
    readers = GraphReader(flow, inputs), GraphReader(Flow.of(after), inputs)
    bisection = Bisection(flow, floats, floats, *readers, lambda: (batch,), differs)
    found = bisection.first()
    assert found is not None
    scanned = Bisection(flow, floats, floats, *readers, lambda: (batch,), differs)
    wrong = [place for place in range(len(scanned.cuts)) if differs(scanned.worst(place))]
    assert found == (wrong[0] - 1, wrong[0])
    for values in scanned.cuts:
        place = max(flow.makers[name] for name in values)
        before_it = {name for node in flow.nodes[: place + 1] for name in node.output}
        behind = [name for node in flow.nodes[place + 1 :] for name in node.input]
        crossing = before_it & {*behind, *(output.name for output in before.graph.output)} & floats
        assert set(values) == crossing


def test_a_gap_of_batches_is_that_of_all_rows() -> None:
    rng = np.random.default_rng(0)
    right = rng.standard_normal((30, 7)).astype(np.float32)
    wrong = right + rng.standard_normal((30, 7)).astype(np.float32) / 10
    one = Sum()
    for start in range(0, 30, 8):
        one.add(right[start : start + 8], wrong[start : start + 8])
    relative = np.linalg.norm((wrong - right).astype(np.float64)) / np.linalg.norm(right.astype(np.float64))
    assert one.gap().relative == pytest.approx(relative)
    assert one.gap().sqnr_db == pytest.approx(-20 * math.log10(relative))
    right[3, 3] = np.finfo(np.float32).min
    masked = Sum()
    masked.add(right, np.where(right < -1e30, -np.inf, right).astype(np.float32))
    assert masked.gap() == Gap()
    wrong[2, 2] = np.inf
    one.add(right, wrong)
    assert "not finite" in one.gap().fault


@pytest.fixture(scope="module")
def int8(tmp_path_factory: pytest.TempPathFactory) -> tuple[Model, Change]:
    folder = tmp_path_factory.mktemp("int8")
    source = write_model(fresh("residual"), folder / "fp32", "fp32")
    return source, Int8(calibrator="minmax").apply(subject_of(source), folder / "int8", MACHINE, Progress())


def rows() -> Iterator[dict[str, np.ndarray]]:
    yield {"x": digits()[0][:16]}
    yield {"x": digits()[0][16:32]}


def ruined(change: Change, layer: str, folder: Path) -> Model:
    """The weights of one convolution are four times as large, by their scales."""
    graph = onnx.load(change.model.path)
    (node,) = [node for node in graph.graph.node if module_of(node) == layer and node.op_type == "Conv"]
    (made,) = [one for one in graph.graph.node if one.output[0] == node.input[1]]
    (scale,) = [tensor for tensor in graph.graph.initializer if tensor.name == made.input[1]]
    scale.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(scale) * 4, scale.name))
    return write_model(graph, folder, "int8")


def test_a_ruined_int8_layer_is_found_and_said(int8: tuple[Model, Change], tmp_path: Path) -> None:
    source, change = int8
    subject = subject_of(source)
    assert explained("int8", change, subject, MACHINE) == change
    for layer in ("one.two", "two.one"):
        model = ruined(change, layer, tmp_path)
        worse = explained("int8", replace(change, model=model), subject, MACHINE)
        *kept, record = worse.records
        assert tuple(kept) == change.records
        assert (record.by, record.verdict) == ("divergence", Verdict.NOTED)
        within = {found.where.partition(" (")[0] for found in record.findings}
        pair = f"{layer[:3]}.one and {layer[:3]}.two"  # equalised: what lies between them is another value
        assert within <= {layer, pair}
        assert layer in record.findings[0].do
        assert record.metrics["relative_error@outputs"].value > 0.1
        (table,) = record.tables
        assert max(float(row[1] or 0) for row in table.rows) > 0.5


def test_a_relu_that_was_folded_into_rounding_is_no_error(int8: tuple[Model, Change]) -> None:
    """Before it is rounded such a value has its negative half still: an SQNR of 3 dB that nobody sees."""
    source, change = int8
    graphs = onnx.load(source.path), onnx.load(change.model.path)
    found = of_change(*graphs, rows, lambda gap: gap.relative > 1e-6)
    assert found is not None
    assert all(0 < point.gap.relative < 0.1 for point in found.points)
    names = {name for node in graphs[1].graph.node for name in node.output}
    assert any(EVEN in name for name in names), "values of equalised channels are others, under other names"
    assert found.steepest is not None


def test_what_cannot_be_told_is_not_told(tmp_path: Path) -> None:
    def fails() -> None:
        raise RuntimeError

    assert begins(fails) == ""
    assert begins(lambda: None) == ""
    source = write_model(fresh("residual"), tmp_path, "fp32")
    with open_runtime(source, MACHINE) as reference:
        assert of_export(source, reference, {"x": digits()[0][:2]}) is None


def test_hooks_come_off(tmp_path: Path) -> None:
    graph = fresh("encoder")
    change_weight(graph, "head")
    assert found_in(graph, "encoder", tmp_path)
    parts = module("encoder").modules()
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in parts)
