"""What static int8 tries: each proven to compute the same in float, or against a plain twin."""

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from export.graphs.files import copied, write_model
from export.graphs.layers import Layer, light_layers
from export.graphs.nodes import array_of, attributes, stored
from export.passes.int8 import SPARED, Int8
from export.quantization.bias_correction import corrected, mean_error, means_of
from export.quantization.equalisation import equalise, pairs_of
from export.quantization.isa import IntegerTypes
from export.quantization.quantizing import calibrate, integers_of, prepared, quantized
from export.quantization.smoothing import channel_extremes, factors_of, sites_of, smoothed
from study.progress import Progress
from tests.export_subjects import MACHINE, exported, subject_of
from tests.onnx_models import onnx_model

TYPES = IntegerTypes(signed_activations=False, reduce_range=False, isa="any")


def drawn(*shape, spread=0.0, seed=0):
    """Normal numbers; the first axis spread over orders of magnitude."""
    rng = np.random.default_rng((seed, *shape))
    numbers = rng.standard_normal(shape)
    scales = 10 ** (spread * rng.uniform(-1, 1, shape[0]))
    return (numbers * scales.reshape(-1, *[1] * (len(shape) - 1))).astype("f4")


def node(op, inputs, output, **settings):
    return onnx.helper.make_node(op, inputs, [output], name=f"n_{output}", **settings)


def convolutions():
    """Conv, ReLU, pool, Conv, ReLU, flattened, Gemm: channels of very unlike size."""
    nodes = [
        node("Conv", ["x", "w1", "b1"], "h1", pads=[1, 1, 1, 1]),
        node("Relu", ["h1"], "r1"),
        node("MaxPool", ["r1"], "p1", kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", ["p1", "w2", "b2"], "h2"),
        node("Relu", ["h2"], "r2"),
        node("Flatten", ["r2"], "f"),
        node("Gemm", ["f", "w3", "b3"], "y", transB=1),
    ]
    weights = {
        "w1": drawn(6, 2, 3, 3, spread=1.5),
        "b1": drawn(6),
        "w2": drawn(4, 6, 2, 2),
        "b2": drawn(4),
        "w3": drawn(3, 36),
        "b3": drawn(3),
    }
    weights["w2"] /= np.abs(weights["w1"]).max(axis=(1, 2, 3))[
        :, None, None
    ]  # a small channel counts as much
    return prepared(onnx_model(nodes, weights, shape=("b", 2, 8, 8)))


def normalised(*, residual):
    """LayerNorm, then two products; with a residual stream its answer is read by a sum too."""
    nodes = [
        node("LayerNormalization", ["x", "gain", "shift"], "n", axis=-1),
        node("MatMul", ["n", "w1"], "h1"),
        node("MatMul", ["n", "w2"], "h2"),
        node("Add", ["h1", "b1"], "s1"),
        node("Tanh", ["h2"], "t"),
        node("Add", ["s1", "t"], "z" if residual else "y"),
    ]
    if residual:
        nodes.append(node("Add", ["z", "n"], "y"))
    gain = drawn(8)
    gain[2] = 40
    weights = {
        "gain": gain,
        "shift": drawn(8, seed=1),
        "w1": drawn(8, 8),
        "w2": drawn(8, 8, seed=1),
        "b1": drawn(8, seed=2),
    }
    return prepared(onnx_model(nodes, weights, shape=("b", 5, 8)))


def answers(graph, x):
    return ReferenceEvaluator(graph).run(None, {"x": x})[0]


def test_equalisation_computes_the_same_and_evens_the_ranges_out():
    graph = convolutions()
    even = copied(graph)
    (pair,) = equalise(even)
    assert (pair.first.name, pair.second.name) == ("n_h1", "n_h2")
    x = drawn(4, 2, 8, 8)
    np.testing.assert_allclose(answers(even, x), answers(graph, x), rtol=1e-4, atol=1e-4)
    first, second = (array_of(stored(even)[name]) for name in ("w1", "w2"))
    np.testing.assert_allclose(
        np.abs(first).max(axis=(1, 2, 3)), np.abs(second).max(axis=(0, 2, 3)), rtol=1e-4
    )
    was = array_of(stored(graph)["w1"])
    ranges = np.abs(was).max(axis=(1, 2, 3)), np.abs(array_of(stored(graph)["w2"])).max(axis=(0, 2, 3))
    np.testing.assert_allclose(np.abs(first).max(axis=(1, 2, 3)), np.sqrt(ranges[0] * ranges[1]), rtol=1e-4)


def test_layers_whose_answer_has_another_reader_are_no_pair():
    graph = convolutions()
    graph.graph.output.append(onnx.ValueInfoProto(name="r1"))
    assert not pairs_of(graph)


def test_an_equalised_model_loses_less():
    """What per-channel scales cannot help: activations of unlike channels share one range."""
    graph = convolutions()
    even = copied(graph)
    equalise(even)
    rows = [{"x": drawn(32, 2, 8, 8)}]
    wanted = answers(graph, rows[0]["x"])

    def error(source):
        made = quantized(source, calibrate(source, rows, "minmax"), TYPES)
        return np.abs(answers(made, rows[0]["x"]) - wanted).mean()

    assert error(even) < 0.9 * error(graph)


@pytest.mark.parametrize("residual", [False, True])
def test_smoothing_computes_the_same_and_its_ranges_are_those_of_a_run(residual):
    graph = normalised(residual=residual)
    rows = [{"x": drawn(16, 5, 8)}, {"x": drawn(7, 5, 8)}]
    (site,) = sites_of(graph, integers_of(graph))
    assert site.alone is not residual
    extremes = channel_extremes(graph, [site], rows)
    changed, ranges = smoothed(graph, [site], extremes, 0.5)
    for batch in rows:
        np.testing.assert_allclose(
            answers(changed, batch["x"]), answers(graph, batch["x"]), rtol=2e-4, atol=2e-4
        )
    (name,) = ranges
    assert ranges[name] == pytest.approx(calibrate(changed, rows, "minmax")[name], rel=1e-4)
    x = np.concatenate([batch["x"] for batch in rows])
    wanted = answers(graph, x)

    def error(source, known):
        return np.abs(answers(quantized(source, known, TYPES), x) - wanted).mean()

    plain = calibrate(graph, rows, "minmax")
    assert error(changed, {**plain, **ranges}) < 0.8 * error(graph, plain)


def test_the_factor_is_the_papers():
    assert factors_of(np.array([16.0]), np.array([4.0]), 0.5) == pytest.approx(2.0)
    assert factors_of(np.array([16.0]), np.array([4.0]), 1.0) == pytest.approx(16.0)
    assert factors_of(np.array([0.0]), np.array([0.0]), 0.5) > 0


def test_means_and_the_error_of_a_layer_against_plain_loops():
    graph = convolutions()
    rows = [{"x": drawn(5, 2, 8, 8)}, {"x": drawn(2, 2, 8, 8)}]
    found = means_of(graph, {"x": 1}, rows, None)["x"]
    np.testing.assert_allclose(
        found, np.concatenate([b["x"] for b in rows]).mean(axis=(0, 2, 3)), rtol=1e-4, atol=1e-6
    )
    layers = {one.name: one for one in graph.graph.node}
    wrong, mean = drawn(4, 6, 2, 2).astype("f8"), drawn(6).astype("f8")
    plain = np.zeros(4)
    for out in range(4):
        for channel in range(6):
            plain[out] += wrong[out, channel].sum() * mean[channel]
    np.testing.assert_allclose(mean_error(layers["n_h2"], wrong, mean), plain)
    assert attributes(layers["n_y"])["transB"] == 1
    wrong, mean = drawn(3, 36).astype("f8"), drawn(36).astype("f8")
    np.testing.assert_allclose(mean_error(layers["n_y"], wrong, mean), wrong @ mean)
    grouped = onnx.helper.make_node("Conv", ["a", "b"], ["c"], group=2)
    wrong, mean = drawn(4, 3, 1, 1).astype("f8"), drawn(6).astype("f8")
    expected = [
        wrong[out, :, 0, 0] @ mean[:3] if out < 2 else wrong[out, :, 0, 0] @ mean[3:] for out in range(4)
    ]
    np.testing.assert_allclose(mean_error(grouped, wrong, mean), expected)


def test_corrected_biases_take_the_mean_error_of_rounded_weights_off():
    """One layer, inputs far from 0: with its weights rounded alone, the mean answer is the float model's."""
    weights = {"w": drawn(8, 3), "b": drawn(3)}
    graph = prepared(onnx_model([node("Gemm", ["x", "w", "b"], "y")], weights, shape=("b", 8)))
    rows = [{"x": drawn(64, 8) + 3}]
    made = quantized(graph, calibrate(graph, rows, "minmax"), TYPES)
    changed = corrected(graph, made, rows)
    before = array_of(stored(made)["w_quantized"]) * array_of(stored(made)["w_scale"])
    x = rows[0]["x"].astype("f8")
    wanted = (x @ weights["w"] + weights["b"]).mean(axis=0)
    np.testing.assert_allclose((x @ before + array_of(stored(changed)["b"])).mean(axis=0), wanted, atol=1e-5)
    assert np.abs((x @ before + weights["b"]).mean(axis=0) - wanted).max() > 1e-3


def test_int8_tells_what_it_tried_and_keeps_the_least_error(tmp_path):
    change = Int8(calibrator="minmax", rows=96).apply(
        subject_of(exported("encoder").model), tmp_path, MACHINE, Progress()
    )
    table = change.records[0].tables[-1]
    tried = [row[0] for row in table.rows]
    assert tried[0] == "minmax"
    assert any("smoothed by" in what for what in tried)
    assert "biases corrected" in tried[-1]
    (kept,) = [row for row in table.rows if row[-1] == "kept"]
    assert kept[2] <= min(row[2] for row in table.rows) / 0.98
    quick = Int8(calibrator="minmax", rows=96, quick=True).apply(
        subject_of(exported("encoder").model), tmp_path / "quick", MACHINE, Progress()
    )
    assert [row[0] for row in quick.records[0].tables[-1].rows] == ["minmax"]


def test_light_layers_are_the_smallest_with_a_hundredth_of_the_work():
    def layer(name, macs, weights=("w",)):
        return Layer(name, "", "Gemm", weights, 0, macs)

    layers = (layer("body", 10_000), layer("stem", 60), layer("head", 30), layer("two", 20, ()))
    assert light_layers(layers) == ("head", "stem")
    assert light_layers((*layers, layer("neck", 15))) == ("neck", "head")
    assert light_layers((*layers, layer("unknown", None))) == ()


def test_a_light_layer_that_costs_much_stays_in_float(tmp_path):
    wide, rng = 128, np.random.default_rng(0)
    head = (rng.standard_normal((wide, 2)) * 0.01).astype("f4")
    head[0] = (3, -3)  # takes the whole range of eight bits
    nodes = [
        node("Flatten", ["x"], "f"),
        node("MatMul", ["f", "w0"], "h0"),
        node("Relu", ["h0"], "r0"),
        node("MatMul", ["r0", "w1"], "h1"),
        node("Relu", ["h1"], "r1"),
        node("MatMul", ["r1", "w2"], "h2"),
        node("Tanh", ["h2"], "t"),
        node("MatMul", ["t", "w3"], "y"),
    ]
    scale = (2 / wide) ** 0.5
    weights = {f"w{place}": drawn(wide, wide, seed=place) * scale for place in range(3)}
    weights["w0"] = drawn(64, wide) / 60
    weights["w2"][:, 0] *= 1e-3  # and carries nothing
    weights["w3"] = head
    model = write_model(prepared(onnx_model(nodes, weights, shape=("b", 1, 8, 8))), tmp_path, "fp32")
    made = Int8(calibrator="minmax").apply(subject_of(model), tmp_path / "made", MACHINE, Progress())
    record = made.records[0]
    tried = {row[0]: row for row in record.tables[-1].rows}
    (spared,) = [what for what in tried if what.endswith("light layers in float")]
    assert tried[spared][2] < 0.98 * tried["minmax"][2]
    assert {row[0]: (row[5], row[6]) for row in record.tables[0].rows}["n_y"] == ("float", SPARED)
