"""A race as it is run: processes of their own, the same rows for all, every sample kept, what may fail."""

import math
from dataclasses import replace
from pathlib import Path
from statistics import mean, median

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import diag.ask
from diag.cli import main
from export.timing.inputs import inputs_of
from export.timing.race import Contender, Rules, Way
from export.timing.record import race, throughput
from export.timing.samples import NAME, read
from export.timing.seats import Window
from export.timing.verdicts import LEAST_FLOOR, differs, process_floor, ratio
from study.cores import quota_of
from study.errors import InputError
from study.loading.live import hold
from study.loading.sniff import identify
from study.progress import Progress
from study.provider import must_run
from study.record import Record
from study.subject import InputSpec, Machine, Model, Subject
from study.worker import Child, Inline
from tests.onnx_models import W, onnx_model
from tests.tiny import Files

QUICK = Rules(least_rounds=5, rounds=5, visit_s=0.001, warm_s=0.0, window_s=0.005, windows=3, callers=(1, 2))
INPUTS = (InputSpec("x", (None, 3), "float32"),)
ROUNDS = 25


@pytest.fixture(scope="module")
def matmul(tmp_path_factory: pytest.TempPathFactory) -> Model:
    path = tmp_path_factory.mktemp("race") / "m.onnx"
    node = onnx.helper.make_node("MatMul", ["x", "w"], ["y"])
    onnx.save(onnx_model([node], {"w": W}), path)
    return identify(path)


def entered(name: str, model: Model, seats: int = 2, way: Way = "") -> Contender:
    """In the race with so many places, all in this process."""
    places = tuple(Inline() for _ in range(seats))
    return Contender(name, model, Subject(model, inputs=INPUTS), Inline(), places, way)


def raced(*contenders: Contender, into: Path | None = None, batches: tuple[int, ...] = (1,)) -> Record:
    return race(contenders, Machine(threads=1), batches, Progress(), QUICK, into)


def eager() -> Model:
    return Model(Path("m.pt"), "pytorch", live=hold(nn.Linear(3, 2)))


def test_every_sample_is_kept_and_gives_the_figures_again(matmul: Model, tmp_path: Path) -> None:
    record = raced(entered("a", matmul), entered("b", matmul), into=tmp_path, batches=(1, 4))
    one, four = read(tmp_path / NAME)
    assert (one.batch, four.batch, one.names) == (1, 4, ("a", "b"))
    times = one.nanoseconds[1]
    assert times.shape[:2] == (2, 5)
    p50 = record.metrics["latency_p50_ms"]
    assert p50.value == pytest.approx(np.median(times) / 1e6)
    assert p50.n == times.size
    by_round = [
        math.prod(median(t.tolist()) for t in one.nanoseconds[0][:, r]) ** 0.5
        / math.prod(median(t.tolist()) for t in times[:, r]) ** 0.5
        for r in range(5)
    ]
    assert record.metrics["speedup@a"].value == pytest.approx(median(by_round))
    assert all(sorted(order) == [0, 1, 2, 3] for order in one.order)
    assert len(set(one.order)) > 1
    assert one.shown == (0, 1, 2, 3, 4)
    assert {"throughput_per_s", "throughput_per_s@callers=2", "throughput_per_s@batch=4"} <= set(
        record.metrics
    )


@pytest.mark.parametrize(
    ("round_s", "most"), [(0.01, 40), (0.25, 32), (0.6, 15), (1.9, 15), (3.0, 10), (6.0, 5), (60.0, 5)]
)
def test_slow_calls_get_the_time_that_a_verdict_needs(round_s: float, most: int) -> None:
    assert Rules().most_rounds(round_s) == most


def test_a_single_place_has_a_second_visit_as_its_control(matmul: Model, tmp_path: Path) -> None:
    record = raced(entered("a", matmul, 0), entered("b", matmul, 0), into=tmp_path)
    assert "latency_noise_floor" in record.metrics
    assert all(sorted(order) == [0, 1, 2] for order in read(tmp_path)[0].order)
    assert "peak_memory_bytes" not in record.metrics  # this process holds much else


def test_a_percentile_without_the_calls_is_refused_with_the_number_that_it_needs(matmul: Model) -> None:
    few = replace(QUICK, most_calls=2)
    record = race([entered("a", matmul)], Machine(threads=1), (1,), Progress(), few)
    assert "p90 needs 64 calls and 20 were made" in record.summary
    assert "p99 needs 662 calls and 20 were made" in record.summary
    assert not {"latency_p90_ms", "latency_p99_ms"} & set(record.metrics)


def test_a_process_of_its_own_tells_what_it_costs_to_start(matmul: Model, tmp_path: Path) -> None:
    with Child("timing", tmp_path / "log.txt", (), {"OMP_NUM_THREADS": "1"}) as child:
        contender = replace(entered("a", matmul), processes=(child,))
        record = race([contender], Machine(threads=1), (1,), Progress(), QUICK)
        assert child.starts == 1
    parts = [
        record.metrics[f"time_cold_start_ms@{part}"] for part in ("process", "import", "load", "first_call")
    ]
    assert all(part.value > 0 for part in parts)
    assert record.metrics["time_cold_start_ms"].value == pytest.approx(sum(part.value for part in parts))
    assert record.metrics["peak_memory_bytes"].n == 1
    assert 0 < record.metrics["peak_memory_bytes"].value < 500e6


def test_copies_are_a_row_of_their_own(matmul: Model) -> None:
    record = raced(entered("a, copied", matmul, way="copies"), entered("a", matmul))
    assert [row[0] for row in record.tables[0].rows] == ["a, copied", "a"]
    assert "speedup@a, copied" in record.metrics


@pytest.mark.parametrize(
    ("way", "reason"), [("compiled", "no C++ compiler"), ("graph", "A CUDA graph needs --device cuda")]
)
def test_who_cannot_run_in_its_way_is_told_and_the_race_goes_on(
    matmul: Model, monkeypatch: pytest.MonkeyPatch, way: Way, reason: str
) -> None:
    monkeypatch.setattr("shutil.which", lambda _name: None)
    model = eager() if way == "compiled" else matmul
    record = raced(entered("other", model, way=way), entered("a", matmul))
    assert reason in dict(record.tables[-1].rows)["other"]
    assert "other is not timed: " in record.summary
    assert [row[0] for row in record.tables[0].rows] == ["a"]


def test_a_module_that_was_not_compiled_is_not_timed_as_compiled(
    matmul: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", lambda module: module)
    torch._dynamo.utils.counters.clear()
    record = raced(entered("other", eager(), way="compiled"), entered("a", matmul))
    assert "ran as it is" in dict(record.tables[-1].rows)["other"]


def test_the_bare_speedup_is_against_torch_eager_also_beside_compiled(
    matmul: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", lambda module: module)
    monkeypatch.setattr("study.runtimes.pytorch.PyTorch.must_be_compiled", lambda _self: None)
    model = eager()
    record = raced(entered("m", model), entered("m, compiled", model, way="compiled"), entered("a", matmul))
    assert {"speedup", "speedup@m, compiled"} <= set(record.metrics)


def test_inputs_are_a_seeded_sample_or_random_numbers_and_say_so(matmul: Model) -> None:
    subject = Subject(matmul, inputs=INPUTS)
    made, again = (inputs_of(subject, 2, 0, Progress()) for _ in range(2))
    assert made.origin == "8 batches of 2 rows, seeded random numbers"
    assert [batch["x"].shape for batch in made.batches] == [(2, 3)] * 8
    assert all((a["x"] == b["x"]).all() for a, b in zip(made.batches, again.batches, strict=True))
    assert len({batch["x"].tobytes() for batch in made.batches}) == 8


def test_throughput_is_what_all_callers_did_in_their_own_time() -> None:
    windows = [Window((10, 20), (10**9, 2 * 10**9)), Window((30, 30), (10**9, 10**9))]
    rate = throughput(windows, batch=4, seed=0)
    assert rate.value == mean([4 * (10 + 10), 4 * (30 + 30)])
    assert rate.n == 2


def simulated(generator: np.random.Generator, factor: float, spread: float, processes: int) -> np.ndarray:
    """Medians (process, round): what a process's memory layout does, times the noise of a round."""
    layout = generator.lognormal(0.0, spread, (processes, 1))
    return factor * layout * generator.lognormal(0.0, 0.01, (processes, ROUNDS))


def said(seed: int, factor: float, spread: float) -> tuple[str, float]:
    generator = np.random.default_rng(seed)
    one, other = (simulated(generator, times, spread, 2) for times in (1.0, factor))
    floor = process_floor([one, other], (one, other))
    pooled = [times.prod(axis=0) ** 0.5 for times in (one, other)]
    return differs(ratio(pooled[0], pooled[1], seed), floor), floor


@pytest.mark.parametrize("spread", [0.0, 0.01, 0.08])
def test_layouts_of_memory_are_not_taken_for_a_difference(spread: float) -> None:
    assert sum(said(seed, 1.0, spread)[0] != "no measurable difference" for seed in range(400)) <= 20
    floor = median(said(seed, 1.0, spread)[1] for seed in range(40))
    factor = 1 + max(0.05, 3 * floor)
    assert sum(said(seed, factor, spread)[0] == "slower" for seed in range(40)) >= 36


def test_the_floor_is_students_of_the_pooled_processes() -> None:
    one = np.array([[1.0] * ROUNDS, [1.02] * ROUNDS])
    other = np.array([[3.0] * ROUNDS, [3.0] * ROUNDS])
    gap = math.log(1.02)
    pooled = (2 * (gap / 2) ** 2) / 2
    assert process_floor([one, other], (one, other)) == pytest.approx(math.expm1(4.303 * math.sqrt(pooled)))
    assert process_floor([other, other], (other, other)) == LEAST_FLOOR


@pytest.mark.parametrize(
    ("text", "cores"), [("max 100000", None), ("150000 100000", 1.5), ("nonsense", None), (None, None)]
)
def test_the_quota_of_a_container(tmp_path: Path, text: str | None, cores: float | None) -> None:
    if text is not None:
        (tmp_path / "cpu.max").write_text(text + "\n")
    assert quota_of(tmp_path) == cores
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu.max").unlink(missing_ok=True)
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("400000\n")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert quota_of(tmp_path) == 4.0


def test_a_provider_that_does_not_run_is_an_error_before_anything_is_made(
    tiny_mlp: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    monkeypatch.setattr("diag.flow.Child", lambda *_: Inline())
    assert must_run(Machine(), Progress()) == "CPUExecutionProvider"
    with pytest.raises(InputError, match="CUDAExecutionProvider"):
        must_run(Machine(provider="CUDAExecutionProvider"), Progress())
    words = [str(tiny_mlp.model), "--arch", tiny_mlp.arch, "--data", str(tiny_mlp.data)]
    for command in ("run", "benchmark"):
        for asked in (["--provider", "CUDAExecutionProvider"], ["--device", "cuda"]):
            if command == "benchmark" and asked[0] == "--provider":
                continue  # a torch model alone has no provider
            out = tmp_path / f"{command}{asked[0]}"
            assert main([command, *words, *asked, "--out", str(out)]) == 2
            said = capfd.readouterr().err.strip().splitlines()
            (line,) = [line for line in said if line.startswith("diag: ")]
            assert "use --provider CPUExecutionProvider" in line or "use --device cpu" in line
            assert ("--device cpu" in line) is (asked[0] == "--device")
            assert not out.exists()


def test_two_distributions_of_onnx_runtime_are_said_at_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diag.environment.version", lambda _name: "1")
    (said,) = diag.ask.two_runtimes()
    assert "onnxruntime and onnxruntime-gpu" in said
    assert "pip uninstall -y" in said
