"""What each layer costs in int8: a planted fault comes out on top, and every figure has a plain twin."""

import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

import diag
from diag.options import Options
from diag.render.figures import meanings
from diag.render.summary import summarize
from export.graphs.layers import Layer, layers_of
from export.graphs.nodes import tidy
from export.quantization.quantizing import quantized
from export.sensitivity.alone import Bench, LayerCost, Sensitivity, sensitivity
from export.sensitivity.effects import Effect, Rows
from export.sensitivity.exclusion import Tolerance, proposed, ranked
from export.sensitivity.record import Quantized, sensitivity_record
from export.sensitivity.shares import _shares, _times, owners_of
from study.loading.live import hold
from study.progress import Progress
from study.record import Metric, Verdict
from study.subject import Data, InputSpec, Machine, Model, Split, Subject
from study.task import Task
from tests.onnx_models import onnx_model

MACHINE = Machine(threads=1)
WIDTH, CLASSES, ROWS = 24, 5, 96
NAMES = ("first", "second", "third")
OUTLIER = 3000.0


def chain(path: Path, *, outlier: float = 1.0) -> Model:
    """Three products with ReLUs between them; one channel between the last two is ``outlier`` times as large.

    What it is multiplied by is as much smaller, so in float nothing changes.
    """
    random = np.random.default_rng(3)
    first, second = (random.normal(0, 0.3, (WIDTH, WIDTH)).astype("f4") for _ in range(2))
    third = random.normal(0, 0.3, (WIDTH, CLASSES)).astype("f4")
    second[:, 0] *= outlier
    third[0] /= outlier
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["h1"], name="first"),
        helper.make_node("Relu", ["h1"], ["r1"], name="relu1"),
        helper.make_node("MatMul", ["r1", "b"], ["h2"], name="second"),
        helper.make_node("Relu", ["h2"], ["r2"], name="relu2"),
        helper.make_node("MatMul", ["r2", "c"], ["y"], name="third"),
    ]
    graph = onnx_model(nodes, {"a": first, "b": second, "c": third}, shape=("b", WIDTH))
    onnx.save(graph, path)
    return Model(path, "onnx")


def inputs(rows: int = ROWS) -> np.ndarray:
    return np.random.default_rng(5).normal(size=(rows, WIDTH)).astype("f4")


def run(path: Path | bytes, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def subject_of(model: Model, x: np.ndarray, y: np.ndarray | None) -> Subject:
    live = hold((x, y) if y is not None else {"x": x})
    return Subject(
        model,
        calibration=Split(Data("rows", live=live)),
        task=Task("multiclass", "logits", tuple(map(str, range(CLASSES)))),
        inputs=(InputSpec("x", (None, *x.shape[1:]), "float32"),),
    )


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bench, Sensitivity, np.ndarray]:
    model = chain(tmp_path_factory.mktemp("chain") / "model.onnx", outlier=OUTLIER)
    x = inputs()
    bench = Bench(subject_of(model, x, run(model.path, x).argmax(1)), MACHINE, Progress(), "minmax")
    return bench, sensitivity(bench, Progress()), x


def test_a_planted_outlier_is_on_top_and_in_the_list(planted) -> None:
    bench, found, _ = planted
    worst = max(found.layers, key=lambda cost: cost.alone.noise)
    assert (worst.layer.node, worst.name) == ("third", "third")
    assert worst.alone.drop.low > 0
    assert worst.alone.changed.value == pytest.approx(worst.alone.drop.value), "float is right on every row"
    assert all(cost.alone.drop.value <= 0.05 for cost in found.layers if cost is not worst)
    proposal = proposed(found, bench.effect, Tolerance(changed=0.05))
    assert proposal.reached
    assert proposal.names == ("third",)
    assert proposal.effect.changed.value <= 0.05 < found.whole.changed.value


def test_the_noise_is_that_of_a_plain_twin(planted) -> None:
    bench, found, x = planted
    wanted = run(bench.graph.SerializeToString(), x)
    for cost in found.layers:
        others = [name for name in NAMES if name != cost.layer.node]
        graph = quantized(bench.graph, bench._ranges, bench._types, others)
        got = run(graph.SerializeToString(), x)
        noise = float(((wanted - got).astype("f8") ** 2).sum() / (wanted.astype("f8") ** 2).sum())
        assert cost.alone.noise == pytest.approx(noise, rel=1e-4)
        assert cost.alone.sqnr_db.value == pytest.approx(-10 * np.log10(noise), abs=1e-3)
        assert cost.alone.sqnr_db.low < cost.alone.sqnr_db.value < cost.alone.sqnr_db.high
        changed = (wanted.argmax(1) != got.argmax(1)).mean()
        assert cost.alone.changed.value == pytest.approx(changed)


def test_all_but_one_is_what_the_others_cost_together(planted) -> None:
    bench, found, _ = planted
    for cost in found.layers:
        assert cost.without == bench.effect({cost.layer.node})
    assert bench.effect(set(NAMES)).noise == 0
    assert bench.effect(set(NAMES)).sqnr_db is None
    third = next(cost for cost in found.layers if cost.name == "third")
    assert third.without.noise < found.whole.noise / 10


def test_what_the_step_leaves_in_float_already_is_not_asked_about(planted, tmp_path) -> None:
    whole, _, x = planted
    model = chain(tmp_path / "model.onnx", outlier=OUTLIER)
    bench = Bench(subject_of(model, x, None), MACHINE, Progress(), "minmax", exclude=("third",))
    assert [layer.node for layer in bench.layers] == ["first", "second"]
    assert bench.effect().noise == pytest.approx(whole.effect({"third"}).noise)
    assert bench.effect().drop is None, "the rows have no labels"
    assert bench.effect().changed is not None


def test_what_is_kept_does_not_grow_with_the_rows(tmp_path) -> None:
    wide = 4096
    weight = np.random.default_rng(0).normal(size=(wide, CLASSES)).astype("f4")
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], name="only")]
    onnx.save(onnx_model(nodes, {"w": weight}, shape=("b", wide)), tmp_path / "model.onnx")
    model = Model(tmp_path / "model.onnx", "onnx")
    peaks = {}
    for count in (64, 256):
        x = np.random.default_rng(1).normal(size=(count, wide)).astype("f4")
        rows = Rows(subject_of(model, x, np.zeros(count, int)), MACHINE, kept=1000)
        rows.effect(model)  # what is imported and cached at first
        tracemalloc.start()
        assert rows.effect(model).rows == count
        peaks[count] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert not rows._kept
    assert peaks[256] < 1.3 * peaks[64] < 256 * wide * 4
    few = Rows(subject_of(model, x, None), MACHINE, kept=3 * 32 * (wide + CLASSES) * 4)
    first = few.effect(model)
    assert len(few._kept) == 3
    assert few.effect(model) == first == rows.effect(model).__class__(256, None, first.changed, None, 0.0)


# --- the search --------------------------------------------------------------------------------------------


def metric(value: float, n: int = 400) -> Metric:
    return Metric(value, max(0.0, value - 0.01), value + 0.01, n, better="lower")


def made_up(noises: dict[str, float], shares: dict[str, float]) -> tuple[Sensitivity, Callable, list]:
    """Layers whose noise adds, and of whose noise a tenth is the share of decisions that change.

    With the measure of the joint model, and its calls.
    """
    calls: list[frozenset[str]] = []

    def effect(left) -> Effect:
        calls.append(frozenset(left))
        noise = sum(value for name, value in noises.items() if name not in left)
        return Effect(400, None, metric(noise / 10), metric(20), noise)

    costs = tuple(
        LayerCost(
            Layer(name, "", "Conv", ("w",), 1, 1),
            name,
            effect(set(noises) - {name}),
            effect({name}),
            metric(shares[name]),
        )
        for name in noises
    )
    found = Sensitivity(costs, effect(()), (), "minmax", None)
    calls.clear()
    return found, effect, calls


def test_the_fewest_layers_are_found_by_the_joint_model() -> None:
    noises = {f"n{at}": 0.001 for at in range(20)} | {"bad": 0.3, "worse": 0.4}
    found, effect, calls = made_up(noises, dict.fromkeys(noises, 0.05))
    proposal = proposed(found, effect, Tolerance(changed=0.01))
    assert set(proposal.names) == {"bad", "worse"}
    assert proposal.reached
    assert proposal.effect.noise == pytest.approx(0.02)
    assert len(calls) <= 6
    assert [len(trial.left) for trial in proposal.trials][:3] == [0, 1, 2]


def test_a_layer_that_the_others_can_do_without_is_given_back() -> None:
    noises = {"cheap": 0.02, "bad": 0.14, "good": 0.001}
    found, effect, _ = made_up(noises, {"cheap": 0.001, "bad": 0.5, "good": 0.5})
    assert ranked(found.layers)[0].name == "cheap", "it costs next to no latency"
    assert proposed(found, effect, Tolerance(changed=0.01)).names == ("bad",)


def test_a_search_ends_and_says_that_it_found_nothing() -> None:
    noises = {f"n{at}": 0.1 for at in range(64)}
    found, effect, calls = made_up(noises, dict.fromkeys(noises, 0.01))
    proposal = proposed(found, effect, Tolerance(changed=0.0), trials=4)
    assert not proposal.reached
    assert len(calls) == 4
    assert len(proposal.left) == 8, "the best that was tried"


def test_a_figure_that_is_asked_for_and_missing_holds_nothing() -> None:
    blind = Effect(10, None, None, None, 0.5)
    assert not Tolerance(changed=None, drop=0.01).holds(blind)
    assert not Tolerance().holds(blind), "without decisions it is held to 20 dB"
    assert Tolerance().holds(Effect(10, None, None, None, 0.009))
    assert Tolerance(changed=None).holds(blind)


# --- shares of the latency ---------------------------------------------------------------------------------


def fused() -> onnx.ModelProto:
    """What onnxruntime fuses and renames: convolutions with what follows them, a product with its bias."""
    random = np.random.default_rng(0)
    weights = {
        "stem": random.normal(size=(16, 1, 3, 3)).astype("f4"),
        "one": random.normal(size=(16, 16, 3, 3)).astype("f4"),
        "two": random.normal(size=(16, 16, 3, 3)).astype("f4"),
        "side": random.normal(size=(16, 16, 1, 1)).astype("f4"),
        "head": random.normal(size=(1024, 8)).astype("f4"),
        "bias": random.normal(size=8).astype("f4"),
        "axes": np.array([0, -1]),
        "w": random.normal(size=(1, 16, 8)).astype("f4"),
        "r": random.normal(size=(1, 16, 4)).astype("f4"),
        "steps": np.array([1, 0]),
    }
    same = {"pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("Conv", ["x", "stem"], ["s"], **same),
        helper.make_node("Relu", ["s"], ["sr"]),
        helper.make_node("Conv", ["sr", "one"], ["o"], **same),
        helper.make_node("Relu", ["o"], ["or"]),
        helper.make_node("Conv", ["or", "two"], ["t"], **same),
        helper.make_node("Conv", ["sr", "side"], ["d"]),
        helper.make_node("Add", ["t", "d"], ["a"]),
        helper.make_node("Relu", ["a"], ["ar"]),
        helper.make_node("Reshape", ["ar", "axes"], ["flat"]),
        helper.make_node("MatMul", ["flat", "head"], ["m"]),
        helper.make_node("Add", ["m", "bias"], ["b"]),
        helper.make_node("Unsqueeze", ["b", "steps_axis"], ["seq"]),
        helper.make_node("LSTM", ["seq", "w", "r"], ["", "y"], hidden_size=4),
    ]
    del weights["steps"]
    weights["steps_axis"] = np.array([0])
    made = onnx_model(nodes, weights, opset=20, shape=("b", 1, 8, 8))
    tidy(made)
    return made


def test_every_kernel_is_brought_home_to_its_layer(tmp_path) -> None:
    graph = fused()
    layers = layers_of(graph, {"x": (1, 1, 8, 8)})
    assert [layer.op for layer in layers] == ["Conv"] * 4 + ["MatMul", "LSTM"]
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 4
    content = graph.SerializeToString()
    onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    optimised = onnx.load(tmp_path / "optimised.onnx")
    names = {node.name for node in graph.graph.node}
    assert sum(node.name in names for node in optimised.graph.node) < 8, "it renames most of them"
    owners = owners_of(graph, optimised, layers)
    assert sorted(owners.values()) == sorted(layer.node for layer in layers)
    kinds = {node.name: node.op_type for node in optimised.graph.node}
    assert sorted(kinds[name] for name in owners) == ["Conv"] * 4 + ["Gemm", "LSTM"]


def test_shares_are_those_of_the_middle_runs() -> None:
    times = {"layer": 30.0, "other": 10.0, "": 60.0}
    events = []
    for run_number in range(5 + 12):
        start = 1000 * run_number
        slow = 9 if run_number == 8 else 1
        events.append({"cat": "Session", "name": "model_run", "ts": start, "dur": 900})
        kernels = (("k1", 20), ("k2", 10 * slow), ("k3", 10), ("rest", 60), ("unknown", 500))
        events += [
            {"cat": "Node", "name": f"{name}_kernel_time", "ts": start + 1, "dur": duration}
            for name, duration in kernels
        ]
        events.append({"cat": "Node", "name": "k1_fence_before", "ts": start + 1, "dur": 7})
    owners = {"k1": "layer", "k2": "layer", "k3": "other"}
    found = _shares(_times(events, owners, {"k1", "k2", "k3", "rest"}))
    assert found.runs == 12
    assert found.total_ms.value == pytest.approx(sum(times.values()) / 1e3)
    assert {name: share.value for name, share in found.of.items()} == pytest.approx(
        {"layer": 0.3, "other": 0.1}
    )
    assert found.rest.value == pytest.approx(0.6)
    assert found.of["layer"].low <= 0.3 <= found.of["layer"].high


# --- as a user asks ----------------------------------------------------------------------------------------


def test_a_run_tells_it_after_int8_and_proposes_the_steps(tmp_path) -> None:
    model = chain(tmp_path / "model.onnx", outlier=OUTLIER)
    x = inputs(600)
    np.savez(tmp_path / "rows.npz", x=x, y=run(model.path, x).argmax(1))
    options = Options(sensitivity=True, quiet=True, out=tmp_path / "run", threads=1)
    result = diag.export(
        str(model.path), str(tmp_path / "rows.npz"), steps="int8:calibrator=minmax", options=options
    )
    record = next(one for one in result.report.steps[-1].records if one.by == "sensitivity")
    assert record.verdict is Verdict.NOTED
    assert "'third' makes most noise" in record.summary
    (found,) = record.findings
    assert found.where == "third"
    assert found.do == 'Give --steps "int8:exclude=third:calibrator=minmax".'
    assert found.show.startswith("diag run ")
    assert found.show.endswith("--steps int8:exclude=third:calibrator=minmax")
    assert record.metrics["decisions_changed_share@all layers"].n == 120, "a fifth is held back to calibrate"
    assert f"{result.report.steps[-1].name}: {found.what} {found.do}" in summarize(result.report).sentences
    table = record.tables[0]
    assert table.rows[0][0] == "third"
    for side in ("low", "high"):
        place = table.columns.index(f"SQNR (dB) {side}")
        assert meanings(table.columns)[place] == "SQNR (dB)", "it is no percent, as the share before it"
    assert {picture.source for picture in record.pictures} <= {one.title for one in record.tables}


def test_where_nothing_is_lost_nothing_is_excluded(tmp_path) -> None:
    model, x = chain(tmp_path / "model.onnx", outlier=OUTLIER), inputs()
    subject = subject_of(model, x, run(model.path, x).argmax(1))
    step = Quantized(model, ("int8:exclude=third:rows=64",), exclude=("third",), calibrator="minmax")
    record = sensitivity_record(subject, step, MACHINE, Progress(), Tolerance(changed=0.05))
    assert record.verdict is Verdict.GOOD
    assert "No layer needs to stay in float (at most 5.0% of the decisions changed)" in record.summary
    assert not record.findings
    assert step.with_left(["first"]) == "int8:exclude=third+first:rows=64"


# --- other kinds of task -----------------------------------------------------------------------------------


def looked_up(path: Path, seed: int) -> Model:
    """Scores of four classes a step, looked up by token; another seed moves them a little."""
    table = np.random.default_rng(0).normal(size=(9, 4)) + np.random.default_rng(seed).normal(0, 0.5, (9, 4))
    nodes = [helper.make_node("Gather", ["w", "x"], ["y"])]
    graph = onnx_model(nodes, {"w": table.astype("f4")}, shape=("b", "t"))
    graph.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.INT64
    onnx.save(graph, path)
    return Model(path, "onnx")


@pytest.mark.parametrize("kind", ["tokens", "language"])
def test_answers_with_parts_are_counted_a_part(kind, tmp_path) -> None:
    random = np.random.default_rng(2)
    x = random.integers(0, 4 if kind == "language" else 9, (40, 6))
    y = random.integers(0, 4, (40, 6))
    first, second = (looked_up(tmp_path / f"{seed}.onnx", seed) for seed in (1, 2))
    live = hold({"x": x} if kind == "language" else (x, y))
    subject = Subject(
        first,
        calibration=Split(Data("rows", live=live)),
        task=Task(kind, "logits", tuple("abcd"), width=4),
        inputs=(InputSpec("x", (None, None), "int64"),),
    )
    effect = Rows(subject, MACHINE).effect(second)
    was, now = (run(one.path, x).astype("f8") for one in (first, second))
    assert effect.noise == pytest.approx(((was - now) ** 2).sum() / (was**2).sum())
    if kind == "language":
        was, now, y = was[:, :-1], now[:, :-1], x[:, 1:]
        losses = [
            np.log(np.exp(one).sum(-1)) - np.take_along_axis(one, y[..., None], -1)[..., 0]
            for one in (was, now)
        ]
        cost = (losses[1] - losses[0]).mean()
    else:
        cost = (was.argmax(-1) == y).mean() - (now.argmax(-1) == y).mean()
    assert effect.changed.value == pytest.approx((was.argmax(-1) != now.argmax(-1)).mean())
    assert effect.drop.value == pytest.approx(cost, abs=1e-6)
    assert effect.drop.low < effect.drop.value < effect.drop.high
    assert effect.rows == effect.drop.n == 40


def test_values_cost_what_their_error_rises_by(tmp_path) -> None:
    x = inputs(50)
    models = []
    for seed in (1, 2):
        weight = np.random.default_rng(seed).normal(size=(WIDTH, 1)).astype("f4")
        nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
        onnx.save(onnx_model(nodes, {"w": weight}, shape=("b", WIDTH)), tmp_path / f"{seed}.onnx")
        models.append(Model(tmp_path / f"{seed}.onnx", "onnx"))
    was, now = (run(one.path, x)[:, 0] for one in models)
    truth = was + np.random.default_rng(3).normal(size=50).astype("f4")
    subject = subject_of(models[0], x, truth)
    effect = Rows(replace(subject, task=Task("regression", "value")), MACHINE).effect(models[1])
    assert effect.drop.value == pytest.approx((np.abs(now - truth) - np.abs(was - truth)).mean(), rel=1e-5)
    far = np.abs(was - now) > 0.05 * was.std()
    assert effect.changed.value == pytest.approx(far.mean())
