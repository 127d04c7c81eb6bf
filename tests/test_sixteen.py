"""The sixteen acceptance tests, each of which some other tool fails: which of ours prove them.

A test is named ``file::function``; ``test_every_test_that_is_named_exists`` holds the table to the truth.
"""

import ast
import sys
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper

from diag.ask import ask
from diag.cli import main
from diag.doctor import find_ailments, find_devices, installed_runtimes
from diag.options import Options
from diag.render.report import ModelFacts, Report, Step, SubjectFacts
from diag.render.summary import summarize
from export.timing.race import Contender, Raced, Runner
from export.timing.record import compare
from study.loading import identify
from study.loading.live import live_model
from study.progress import Progress
from study.record import Metric, Record, Verdict
from study.runtime import Runtimes, to_numpy
from study.shard import Shard
from study.subject import Data, InputSpec, Machine, Model, Split, Subject
from study.task import Task
from tests.onnx_models import W, onnx_model

HERE = Path(__file__).resolve().parent
SIXTEEN: dict[int, tuple[str, tuple[str, ...]]] = {
    1: (
        "a wrong export of AdaptiveAvgPool2d(3) with free sizes is not let through, though torch is content",
        (
            "test_export_verified::test_adaptive_pooling_is_caught_and_its_sizes_are_fixed",
            "test_export_verified::test_the_trap_is_one_and_torch_is_content",
        ),
    ),
    2: (
        "two LSTM exports in one run both succeed, with a free length",
        ("test_export_onnx::test_two_recurrent_exports_in_one_process_keep_the_length_free",),
    ),
    3: (
        "dynamo's CNN and BERT become dynamic and static int8 without the crash on value_info",
        (
            "test_quantize::test_int8_runs_in_integers_and_decides_the_same",
            "test_quantize::test_dynamic_int8_quantizes_linear_layers_and_lstms",
            "test_texts_quantized::test_a_transformer_decides_the_same_and_runs_in_integers",
        ),
    ),
    4: (
        "a two-dimensional Linear in four bits is really quantized, or the step says that nothing was",
        (
            "test_int4::test_a_linear_layer_computes_with_the_rounded_weights",
            "test_int4::test_a_model_without_a_large_matmul_is_skipped",
        ),
    ),
    5: (
        "static int8 of an LSTM says that it stays in float",
        ("test_quantize::test_int8_says_that_lstms_stay_in_float",),
    ),
    6: (
        "a provider that this machine cannot use is an exit code and one line",
        (
            "test_sixteen::test_a_gpu_that_is_not_there_is_an_exit_code_and_one_line",
            "test_runtimes::test_a_provider_or_device_that_is_not_there_is_a_sentence_and_nothing_else",
        ),
    ),
    7: (
        "two onnxruntime wheels in one environment are detected",
        (
            "test_sixteen::test_two_wheels_of_onnxruntime_are_seen",
            "test_cli::test_doctor_tells_facts_and_ailments",
        ),
    ),
    8: (
        "a model raced against itself is no different in at least 95 % of the races",
        ("test_latency::test_a_model_differs_from_itself_in_at_most_1_of_40_races",),
    ),
    9: (
        "what is a little slower, under much noise, is not called faster",
        (
            "test_latency::test_high_noise_is_not_called_faster",
            "test_search::test_what_may_be_noise_is_not_called_faster_and_the_one_before_is_kept",
        ),
    ),
    10: (
        "equal accuracy with flips: the flips are listed, and a budget for them is not kept",
        (
            "test_agreement::test_a_few_flips_are_noted_and_shown_worst_first",
            "test_search::test_the_same_accuracy_with_flips_is_not_let_through",
        ),
    ),
    11: (
        "a slice that loses five points while the mean loses 0.2 is not let through",
        (
            "test_agreement::test_a_slice_that_loses_is_bad_though_the_whole_does_not",
            "test_search::test_a_slice_that_loses_five_points_is_not_let_through_though_the_mean_loses_little",
        ),
    ),
    12: (
        "a metric that is missing fails its budget",
        ("test_search::test_a_metric_that_is_missing_fails_its_budget",),
    ),
    13: (
        "a part that an export leaves in train mode is found",
        (
            "test_export_verified::test_no_part_is_left_in_train_mode",
            "test_export_verified::test_torch_leaves_train_mode_behind",
            "test_export_verified::test_a_part_that_stays_in_train_mode_is_no_export",
        ),
    ),
    14: (
        "a percentile that the number of calls does not allow is refused",
        ("test_latency::test_a_percentile_needs_its_calls",),
    ),
    15: (
        "the same architecture with other weights shares no folder, no shard and no open model",
        (
            "test_sixteen::test_other_weights_are_another_run_another_shard_and_another_open_model",
            "test_flow::test_a_folder_of_another_plan_is_refused",
        ),
    ),
    16: (
        "a pruning that made a model smaller and no faster is told so",
        (
            "test_sixteen::test_what_became_smaller_and_no_faster_is_told_so",
            "test_search::test_what_may_be_noise_is_not_called_faster_and_the_one_before_is_kept",
        ),
    ),
}
"""What each asks for, and the tests that prove it."""


@cache
def names_in(file: str) -> frozenset[str]:
    tree = ast.parse((HERE / f"{file}.py").read_text(encoding="utf-8"))
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef))


def test_every_test_that_is_named_exists() -> None:
    assert list(SIXTEEN) == list(range(1, 17))
    named = [name for _, names in SIXTEEN.values() for name in names]
    missing = [name for name in named if name.split("::")[1] not in names_in(name.split("::")[0])]
    assert not missing
    assert all(names for _, names in SIXTEEN.values())


# --- 6 -----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("asked", [["--device", "cuda"], ["--provider", "CUDAExecutionProvider"]])
def test_a_gpu_that_is_not_there_is_an_exit_code_and_one_line(asked, tmp_path, monkeypatch, capfd) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    onnx.save(onnx_model([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": W}), tmp_path / "m.onnx")
    assert main(["export", "m.onnx", "--shape", "1x3", "--out", "run", "--quiet", *asked]) == 2
    printed = capfd.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert line.startswith("diag: ")
    assert "CUDAExecutionProvider" in line


# --- 7 -----------------------------------------------------------------------------------------------------


def test_two_wheels_of_onnxruntime_are_seen(tmp_path, monkeypatch) -> None:
    before = installed_runtimes()
    assert len(before) == 1
    other = "onnxruntime" if before == ["onnxruntime-gpu"] else "onnxruntime-gpu"
    facts = tmp_path / f"{other.replace('-', '_')}-1.0.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {other}\nVersion: 1.0.0\n")
    devices = find_devices(Progress())
    assert not any("both installed" in one.what for one in find_ailments(devices))
    monkeypatch.syspath_prepend(tmp_path)
    assert installed_runtimes() == ["onnxruntime", "onnxruntime-gpu"]
    found = next(one for one in find_ailments(devices) if "both installed" in one.what)
    assert "onnxruntime and onnxruntime-gpu" in found.what
    assert found.do.startswith("Type: pip uninstall")


# --- 15 ----------------------------------------------------------------------------------------------------


def net(seed: int) -> torch.nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return torch.nn.Sequential(torch.nn.Linear(3, 2))


def build() -> torch.nn.Module:
    return net(0)


def test_other_weights_are_another_run_another_shard_and_another_open_model(tmp_path) -> None:
    """One path, written twice: nothing may be found under it that was learnt of the first."""
    path, runtimes = tmp_path / "model.pt", Runtimes()
    rows = Data(str(tmp_path / "never-read.npz"))
    folders, shards, answers, lives = set(), set(), [], set()
    x = np.ones((2, 3), np.float32)
    for seed in (1, 2):
        torch.save(net(seed).state_dict(), path)
        model = identify(path, arch="tests.test_sixteen:build")
        folders.add(ask("run", [model], Options(), rows, None, "").folder())
        task = Task("multiclass", "logits", ("a", "b"))
        shard = Shard(model, Machine(), Split(rows), (InputSpec("x", (None, 3)),), task, 0, 2, tmp_path)
        shards.add(shard.key)
        answers.append(to_numpy(next(iter(runtimes.get(model, Machine(threads=1))({"input": x}).values()))))
        np.testing.assert_allclose(answers[-1], net(seed)(torch.from_numpy(x)).detach().numpy(), atol=1e-6)
        lives.add(live_model(net(seed)).sha256)
    runtimes.close()
    assert len(folders) == len(shards) == len(lives) == 2
    assert not np.allclose(*answers)


# --- 16 ----------------------------------------------------------------------------------------------------

ROUNDS = 25


def raced(milliseconds: float) -> Record:
    """The race of a pruned model that takes so long with a model that takes 1 ms, of given timings."""
    generator = np.random.default_rng(0)
    models = [Model(Path(f"{name}.pt"), "pytorch") for name in ("as_it_came", "prune_0_05")]
    contenders = [Contender(one.path.stem, one, Subject(one), None) for one in models]  # type: ignore[arg-type]
    times = [generator.normal(ms * 1e6, 2e4, (2, ROUNDS, 5)).astype(np.int64) for ms in (1.0, milliseconds)]
    runners = tuple(Runner((), (), one) for one in times)
    sentences, ratios, _ = compare(contenders, Raced(1, runners, None), 0)
    return Record("latency", Verdict.NOTED, f"One call takes 1 ms. {sentences[0]}.", metrics=ratios)


@pytest.mark.parametrize(("milliseconds", "told"), [(1.0, True), (1.2, True), (0.5, False)])
def test_what_became_smaller_and_no_faster_is_told_so(milliseconds: float, *, told: bool) -> None:
    sizes = (44_800_000, 42_100_000)
    records = [
        (Record("size", Verdict.NOTED, "", metrics={"size_bytes": Metric.exact(size, 1, "bytes", "lower")}),)
        for size in sizes
    ]
    steps = [
        Step("as_it_came", None, ModelFacts("model.pt", "pytorch", "0" * 64, sizes[0]), records[0]),
        Step(
            "prune_0_05",
            "as_it_came",
            ModelFacts("pruned.pt", "pytorch", "1" * 64, sizes[1]),
            (*records[1], raced(milliseconds)),
        ),
    ]
    subject = SubjectFacts("model.pt", "0" * 64, "classification", ("a", "b"), 100)
    summary = summarize(Report(subject=subject, steps=tuple(steps), environment={}))
    (sentence,) = summary.sentences
    plain = sentence.replace("\N{NO-BREAK SPACE}", " ")
    assert ("smaller, not faster: 42.1 MB (94 % of the original's size)" in plain) is told
    assert "the speed of torch eager" in sentence
