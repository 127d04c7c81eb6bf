"""Our calibration and quantization against onnxruntime's own."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from onnxruntime.quantization.calibrate import HistogramCollector

from export.graphs import taps
from export.graphs.nodes import read_current, tidy
from export.passes.int8 import Int8
from export.quantization.calibration import Calibration
from export.quantization.chosen import IN_FLOAT, left_in_float
from export.quantization.isa import IntegerTypes
from export.quantization.observing import histogram_of, observe
from export.quantization.quantizing import (
    activations,
    calibrate,
    chosen_nodes,
    operators,
    prepared,
    quantized,
)
from export.quantization.ranges import Histogram, entropy_range, minmax_range, percentile_range
from export.quantization.weights import scales_of_weights
from study.errors import InputError, SkipError
from study.progress import Progress
from study.record import Verdict
from tests.export_subjects import MACHINE, digits, exported, outputs_of, subject_of
from tests.onnx_models import onnx_model

TYPES = IntegerTypes(signed_activations=False, reduce_range=False, isa="any")


def ready(name):
    graph = read_current(exported(name).model.path)
    tidy(graph)
    return prepared(graph)


def batches(count=64, size=16):
    return [{"x": digits()[0][at : at + size]} for at in range(0, count, size)]


class Reader:
    def __init__(self, rows):
        self.rows = iter(rows)

    def get_next(self):
        return next(self.rows, None)


def numbers_of(graph):
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.graph.initializer}


@pytest.mark.parametrize("name", ["cnn", "encoder"])
def test_minmax_gives_the_model_that_onnxruntime_gives(name, tmp_path):
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    graph = ready(name)
    onnx.save(graph, tmp_path / "given.onnx")
    quantize_static(
        tmp_path / "given.onnx",
        tmp_path / "made.onnx",
        Reader(batches()),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=operators(),
        nodes_to_exclude=left_in_float(graph, operators()),
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        extra_options={"WeightSymmetric": True, "OpTypesToExcludeOutputQuantization": [IN_FLOAT]},
    )
    made = quantized(graph, calibrate(graph, batches(), "minmax"), TYPES)
    wanted, got = numbers_of(onnx.load(tmp_path / "made.onnx")), numbers_of(made)
    assert got.keys() <= wanted.keys()
    gone = {key.removesuffix("_scale").removesuffix("_zero_point") for key in wanted.keys() - got.keys()}
    assert len(gone) <= 3, "the answer of a Gemm stays in float"
    for key in got:
        np.testing.assert_allclose(got[key], wanted[key], rtol=1e-5, err_msg=key)


@pytest.mark.parametrize("reduce_range", [False, True])
def test_scales_of_weights_are_those_of_onnxruntime(reduce_range, monkeypatch):
    random = np.random.default_rng(1)
    a, b, c, d = (
        random.normal(0, 10.0 ** random.integers(-3, 3, (1, 1)), shape).astype("f4")
        for shape in ((4, 6), (5, 6), (5, 5), (5, 2))
    )
    d[:, 1] = 0  # a channel without a number has no scale of its own
    conv, up = (random.normal(size=(3, 4, 3)).astype("f4") for _ in range(2))
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["h1"], name="matmul"),
        helper.make_node("Gemm", ["h1", "b"], ["h2"], name="turned", transB=1),
        helper.make_node("Gemm", ["h2", "c"], ["h3"], name="gemm"),
        helper.make_node("Gemm", ["h3", "d"], ["y"], name="zeros"),
        helper.make_node("Conv", ["image", "conv"], ["i1"], name="conv"),
        helper.make_node("ConvTranspose", ["i1", "up"], ["i2"], name="up"),
    ]
    weights = {"a": a, "b": b, "c": c, "d": d, "conv": conv, "up": up}
    given = onnx_model(nodes, weights, shape=("b", 4))
    given.graph.input.append(helper.make_tensor_value_info("image", 1, ["b", 4, 8]))
    given.graph.output.append(helper.make_tensor_value_info("i2", 1, None))
    graph = prepared(given)
    ranges = dict.fromkeys(activations(graph), (-3.0, 4.0))
    types = replace(TYPES, reduce_range=reduce_range)
    ours = quantized(graph, ranges, types)
    assert len([name for name in numbers_of(ours) if name.endswith("_quantized")]) >= len(weights)
    monkeypatch.setattr("export.quantization.quantizing.scales_of_weights", lambda *_, **__: {})
    theirs = quantized(graph, ranges, types)
    assert ours.SerializeToString(deterministic=True) == theirs.SerializeToString(deterministic=True)


def test_weights_without_a_finite_scale_and_integers_are_left_to_onnxruntime():
    broken, counts = np.eye(4, dtype="f4"), np.eye(4, dtype="i8")
    broken[1, 2] = np.nan
    nodes = [
        helper.make_node("MatMul", ["x", "broken"], ["y"], name="broken"),
        helper.make_node("MatMul", ["ids", "counts"], ["z"], name="counts"),
        helper.make_node("MatMul", ["x", "fine"], ["w"], name="fine"),
    ]
    weights = {"broken": broken, "counts": counts, "fine": np.eye(4, dtype="f4")}
    given = onnx_model(nodes, weights, shape=("b", 4))
    every = {node.name for node in nodes}
    assert list(scales_of_weights(given, every, reduce_range=False)) == ["fine"]


def collected(pieces, method, percentile=99.99):
    collector = HistogramCollector(method, False, 2048, 256, percentile, "same")
    for piece in pieces:
        collector.collect({"t": piece})
    return collector


@pytest.mark.parametrize("shape", ["both signs", "positive", "outliers"])
def test_ranges_are_those_of_onnxruntime(shape):
    rng = np.random.default_rng(3)
    array = rng.standard_normal(30_000).astype("f4")
    if shape == "positive":
        array = np.maximum(array, 0)
    if shape == "outliers":
        array[:30] = 12
    reach = float(np.abs(array).max())
    ours = Histogram(float(array.min()), float(array.max()), histogram_of(array, reach))
    assert minmax_range(ours) == (array.min(), array.max())
    theirs = collected([array], "percentile")
    (histogram, edges, *_) = theirs.histogram_dict["t"]
    assert np.abs(ours.counts - histogram).sum() <= 20  # float32 at the edges of bins
    low, high = (float(number) for number in theirs.compute_percentile()["t"][:2])
    same = Histogram(float(array.min()), float(array.max()), histogram)
    np.testing.assert_allclose(same.edges(), edges, rtol=1e-4, atol=1e-5)
    assert percentile_range(same) == pytest.approx((low, high), rel=1e-5)
    wanted = [float(number) for number in theirs.get_entropy_threshold(theirs.histogram_dict["t"], 256)]
    assert entropy_range(same, levels=256, stride=1) == pytest.approx(wanted, rel=1e-5)


def test_entropy_cuts_an_outlier_off_and_leaves_an_even_tensor_whole():
    rng = np.random.default_rng(0)
    heavy = np.append(rng.standard_normal(50_000), 100.0).astype("f4")
    cut = entropy_range(Histogram(float(heavy.min()), 100.0, histogram_of(heavy, 100.0)))
    assert 2 < cut[1] < 60
    even = rng.uniform(-1, 1, 50_000).astype("f4")
    low, high = entropy_range(Histogram(-1, 1, histogram_of(even, 1)))
    assert (low, high) == pytest.approx((-1, 1), abs=0.05)
    zeros = Histogram(0.0, 0.0, histogram_of(np.zeros(9, "f4"), 0))
    assert entropy_range(zeros) == percentile_range(zeros) == (0.0, 0.0)


def test_pieces_add_up_to_the_whole(monkeypatch):
    graph = ready("cnn")
    names = activations(graph)
    whole = observe(graph, names, batches(60, 60))
    monkeypatch.setattr(taps, "HELD", 100_000)
    cut = observe(graph, names, batches(60, 20))
    assert whole.histograms.keys() == cut.histograms.keys() == {*names}
    for name, histogram in whole.histograms.items():
        other = cut.histograms[name]
        assert (histogram.lowest, histogram.highest) == pytest.approx((other.lowest, other.highest))
        assert histogram.counts.sum() == other.counts.sum()
        assert np.abs(histogram.counts - other.counts).sum() < 0.01 * histogram.counts.sum()


def test_layers_are_named_by_module_or_node_and_a_wrong_name_by_the_closest():
    graph = ready("encoder")
    (head,) = chosen_nodes(graph, ["head"])
    assert chosen_nodes(graph, [head]) == [head]
    assert len(chosen_nodes(graph, ["encoder.layers.0"])) > len(
        chosen_nodes(graph, ["encoder.layers.0.linear1"])
    )
    with pytest.raises(InputError, match=r"no layer 'haed' to leave in float. Did you mean 'head'"):
        chosen_nodes(graph, ["haed"])


def test_int8_leaves_what_it_was_asked_to_in_float(tmp_path):
    source = exported("cnn").model
    change = Int8(exclude=("two",), calibrator="minmax", rows=64, quick=True).apply(
        subject_of(source), tmp_path, MACHINE, Progress()
    )
    (record,) = change.records
    (found,) = record.findings
    assert "it was asked to stay in float" in found.what
    assert found.where == "two"
    fates = {row[1]: row[5] for row in record.tables[0].rows}
    assert fates["two"] == "float", "onnxruntime quantizes it again when it opens the model"
    assert fates["head"] == "int8"
    assert change.provenance["calibration"] == "minmax over 48 rows; judged on 16 others"


def test_the_answer_is_not_rounded_to_eight_bits(tmp_path):
    change = Int8(calibrator="minmax").apply(subject_of(exported("mlp").model), tmp_path, MACHINE, Progress())
    assert change.records[0].metrics["parameters_in_int8@audit"].value > 0.97
    last = {name: node for node in onnx.load(change.model.path).graph.node for name in node.output}["output"]
    assert last.op_type == "Gemm"
    scores = outputs_of(change.model)
    assert len(np.unique(scores)) > 256


def test_what_computes_in_float_reads_floats():
    """onnxruntime's quantizer rounds the residual stream at each layer, which costs most of the error."""
    graph = ready("encoder")
    made = quantized(graph, calibrate(graph, batches(), "minmax"), TYPES)
    makers = {name: node.op_type for node in made.graph.node for name in node.output}
    sums = [node for node in made.graph.node if node.op_type == "Add"]
    read = [makers.get(name) for node in sums for name in node.input]
    assert "LayerNormalization" in read
    assert "DequantizeLinear" not in read
    onnx.checker.check_model(made, full_check=True)


def test_auto_keeps_the_calibrator_with_the_least_measured_error(tmp_path):
    source = exported("cnn").model
    change = Int8(quick=True).apply(subject_of(source), tmp_path, MACHINE, Progress())
    table = change.records[0].tables[-1]
    assert [row[0] for row in table.rows] == ["minmax", "percentile", "entropy"]
    best = min(table.rows, key=lambda row: row[2])
    assert best[-1] == "kept"
    assert [row[-1] for row in table.rows].count("kept") == 1
    subject = subject_of(source)
    rows = Calibration(subject, subject.inputs, Progress())
    _, held = rows.parts()
    images = np.concatenate([batch["x"] for batch in held])
    assert len(images) == best[4] == 64
    from study.runtime import open_runtime

    with open_runtime(source, MACHINE) as first, open_runtime(change.model, MACHINE) as second:
        wanted, got = (np.asarray(next(iter(one({"x": images}).values()))) for one in (first, second))
    error = np.sqrt(((wanted - got) ** 2).sum() / (wanted**2).sum())
    assert best[2] == pytest.approx(error, rel=0.05)
    assert best[3] == (wanted.argmax(1) != got.argmax(1)).sum()


def test_fewer_rows_than_asked_for_are_named(tmp_path):
    change = Int8(calibrator="minmax", rows=512).apply(
        subject_of(exported("mlp").model), tmp_path, MACHINE, Progress()
    )
    (record,) = change.records
    assert "512 calibration rows were asked for, and there are 256" in record.findings[-1].what
    assert record.verdict is Verdict.NOTED


def test_an_unknown_calibrator_is_one_sentence(tmp_path):
    with pytest.raises(InputError, match=r"no calibrator 'entropie'. Did you mean 'entropy'"):
        Int8(calibrator="entropie").apply(subject_of(exported("mlp").model), tmp_path, MACHINE, Progress())


def test_an_infinite_activation_is_named():
    graph = ready("mlp")
    for tensor in graph.graph.initializer:
        if tensor.name == "head.bias":
            tensor.CopyFrom(numpy_helper.from_array(np.full(10, np.inf, "f4"), tensor.name))
    with pytest.raises(SkipError, match="is NaN or infinite on the calibration rows"):
        calibrate(graph, batches(), "minmax")
