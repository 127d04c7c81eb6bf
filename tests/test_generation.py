"""Texts written with a key/value cache: the tokens and logits of ``generate`` of transformers."""

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from diag.cli import main
from export.change import Change
from export.generation.cached import Cached
from export.generation.decoding import TorchDecoder, decoder_of, with_past, without_past
from export.generation.record import generation
from export.generation.timing import Entry, Ready, Visit, ready, release, visit
from export.generation.with_past import added, applied, exported, prompts_of
from export.passes.int8 import Int8
from export.timing.race import Contender
from study.errors import SkipError
from study.loading.live import hold
from study.loading.sniff import identify
from study.progress import Progress
from study.record import Verdict
from study.runtime import of_this_process, open_runtime
from study.runtimes.pytorch import PyTorch
from study.storage import GENERATION
from study.subject import InputSpec, Machine, Model, Subject
from study.task import Task
from study.worker import Inline, Worker
from tests.test_language_chain import NETS, pretrained

transformers = pytest.importorskip("transformers")

LANGUAGE = Task("language", "logits", output_name="logits")
VOCABULARY, COUNT = 60, 9
PROMPTS = ([7], [3, 5], [11, 2, 9, 4, 30, 8, 1])


def net_of(kind: str, seed: int = 0) -> nn.Module:
    """Two layers with weights so large that the tokens before tell; Llama with two heads to a key."""
    ends = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": 0}
    sizes = {**ends, "vocab_size": VOCABULARY, "tie_word_embeddings": False}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if kind == "gpt2":
            net = transformers.GPT2LMHeadModel(
                transformers.GPT2Config(n_positions=40, n_embd=24, n_layer=2, n_head=3, **sizes)
            )
        else:
            config = transformers.LlamaConfig(
                hidden_size=32,
                intermediate_size=48,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                max_position_embeddings=40,
                **sizes,
            )
            net = transformers.LlamaForCausalLM(config)
        for parameter in net.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.4)
    return net.eval()


class Made:
    """A net, its ONNX with a past, and both as models."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.net = net_of(kind)
        self.onnx = exported(Cached.of(net_of(kind)), folder)
        self.eager = Model(Path(kind), "pytorch", live=hold(self.net))


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(request.param, tmp_path_factory.mktemp(request.param))


def generated(net: nn.Module, prompts: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    """By transformers itself; shorter prompts are filled up on the left."""
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    given = net.generate(
        ids,
        attention_mask=mask,
        max_new_tokens=COUNT,
        do_sample=False,
        return_dict_in_generate=True,
        output_logits=True,
    )
    return given.sequences[:, longest:].numpy(), torch.stack(given.logits, 1).numpy()


@pytest.mark.parametrize("prompts", [*([one] for one in PROMPTS), list(PROMPTS[1:]), list(PROMPTS)])
@pytest.mark.parametrize("form", ["onnx", "eager"])
def test_greedy_tokens_and_logits_are_those_of_generate(
    made: Made, form: str, prompts: list[list[int]]
) -> None:
    tokens, logits = generated(made.net, prompts)
    assert len(np.unique(tokens)) > 2
    with open_runtime(getattr(made, form), Machine()) as runtime:
        written = with_past(decoder_of(runtime), [np.array(one) for one in prompts], COUNT)
    np.testing.assert_array_equal(written.tokens, tokens)
    np.testing.assert_allclose(written.logits, logits, atol=1e-4 * np.abs(logits).max())


@pytest.mark.parametrize("first", [0, 1, 4, 6])
def test_a_prompt_read_in_two_pieces_and_a_text_read_again_for_each_token_are_the_same(
    made: Made, first: int
) -> None:
    prompt = [np.array(PROMPTS[2])]
    with open_runtime(made.eager, Machine()) as eager, open_runtime(made.onnx, Machine()) as onnx:
        again = without_past(eager, prompt, COUNT)
        written = with_past(decoder_of(onnx), prompt, COUNT, first=first)
    np.testing.assert_array_equal(written.tokens, again.tokens)
    np.testing.assert_allclose(written.logits, again.logits, atol=1e-4 * np.abs(again.logits).max())
    assert again.tokens.tolist() == generated(made.net, [PROMPTS[2]])[0].tolist()


def test_names_and_axes_are_those_of_optimum(made: Made) -> None:
    import onnx

    graph = onnx.load(made.onnx.path).graph
    shapes = {
        value.name: [size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.output)
    }
    heads, width = (3, 8) if made.net.config.model_type == "gpt2" else (2, 8)
    past = ["batch", heads, "past_sequence", width]
    assert shapes["input_ids"] == shapes["position_ids"] == ["batch", "sequence"]
    assert shapes["attention_mask"] == ["batch", "total_sequence"]
    assert shapes["logits"] == ["batch", 1, VOCABULARY]
    layers = [f"{layer}.{part}" for layer in (0, 1) for part in ("key", "value")]
    assert [name for name in shapes if "past" in name] == [f"past_key_values.{one}" for one in layers]
    assert [name for name in shapes if "present" in name] == [f"present.{one}" for one in layers]
    assert all(shapes[f"past_key_values.{one}"] == past for one in layers)


def test_a_token_takes_its_keys_and_values_in_every_layer(made: Made) -> None:
    heads, width, layers = (3, 8, 2) if made.net.config.model_type == "gpt2" else (2, 8, 2)
    for model in (made.eager, made.onnx):
        with open_runtime(model, Machine()) as runtime:
            assert decoder_of(runtime).bytes_per_token == 2 * layers * heads * width * 4


def test_an_export_that_writes_something_else_is_not_kept(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ready(_: Cached, folder: Path) -> Model:
        shutil.copytree(made.onnx.path.parent, folder)
        return replace(made.onnx, path=folder / "model.onnx")

    monkeypatch.setattr("export.generation.with_past.exported", ready)
    batch = {"input_ids": np.array([PROMPTS[2], PROMPTS[2]])}
    change = Change(Model(tmp_path / "model.onnx", "onnx"))

    def added_to(eager: Model) -> Change:
        subject = Subject(eager, task=LANGUAGE)
        with open_runtime(eager, Machine()) as reference:
            return added(change, made.net, subject, reference, batch, tmp_path)

    other = Model(Path("other"), "pytorch", live=hold(net_of(made.net.config.model_type, seed=1)))
    wrong = added_to(other)
    assert wrong.records[0].verdict is Verdict.SKIPPED
    assert "was not kept: it writes" in wrong.records[0].reason
    assert wrong.model.with_past is None
    assert not (tmp_path / GENERATION).exists()
    right = added_to(made.eager)
    assert right.records[0].verdict is Verdict.GOOD
    assert right.records[0].metrics["agreement@generation"].value == 1
    assert right.model.with_past is not None
    assert right.model.with_past.path == tmp_path / GENERATION / "model.onnx"
    assert right.records[0].tables[0].rows[0][2] == right.model.with_past.sha256 != ""


class Forgetful(nn.Module):
    """Takes a cache and keeps nothing in it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Embedding(5, 5)

    def forward(self, input_ids, attention_mask, past_key_values=None, *, use_cache=False):
        from types import SimpleNamespace

        return SimpleNamespace(logits=self.layer(input_ids), past_key_values=past_key_values)


def test_models_without_a_cache_say_so() -> None:
    nets: dict[str, type[nn.Module]] = {}
    exec(NETS, nets)  # the character GRU of the chain's test
    with pytest.raises(SkipError, match="CharRNN: its forward takes no key/value cache"):
        Cached.of(nets["CharRNN"]())
    with pytest.raises(SkipError, match="Forgetful keeps is not the keys and values"):
        Cached.of(Forgetful())


def test_a_mamba_keeps_a_state_and_no_keys() -> None:
    sizes = transformers.MambaConfig(vocab_size=20, hidden_size=8, state_size=4, num_hidden_layers=1)
    with pytest.raises(SkipError, match="MambaForCausalLM"):
        Cached.of(transformers.MambaForCausalLM(sizes))


def test_a_step_that_is_calibrated_does_not_touch_the_second_file(tmp_path: Path) -> None:
    before = Model(tmp_path / "model.onnx", "onnx", with_past=Model(tmp_path / "past.onnx", "onnx"))
    change = Change(replace(before, with_past=None, precision="int8"))
    subject = Subject(before, task=LANGUAGE)
    (record,) = applied(Int8(), change, subject, tmp_path, Machine(), Progress()).records
    assert "calibrated with whole texts" in record.reason


def test_a_second_file_that_cannot_be_run_does_not_cost_the_first(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: Cached, folder: Path) -> Model:
        folder.mkdir()
        (folder / "model.onnx").write_bytes(b"no graph")
        return replace(made.onnx, path=folder / "model.onnx")

    monkeypatch.setattr("export.generation.with_past.exported", broken)
    change = Change(Model(tmp_path / "model.onnx", "onnx"))
    batch = {"input_ids": np.array([PROMPTS[2]])}
    with open_runtime(made.eager, Machine()) as reference:
        kept = added(change, made.net, Subject(made.eager, task=LANGUAGE), reference, batch, tmp_path)
    assert kept.model == change.model
    assert "cannot be run by ONNX Runtime" in kept.records[0].reason
    assert not (tmp_path / GENERATION).exists()


def test_prompts_leave_room_to_write() -> None:
    batch = {
        "input_ids": np.arange(40).reshape(2, 20),
        "attention_mask": np.array([[1] * 20, [1] * 4 + [0] * 16]),
    }
    assert [len(one) for one in prompts_of(batch, 0)] == [1, 4, 12]
    assert [len(one) for one in prompts_of(batch, 11)] == [1, 3, 3]
    with pytest.raises(SkipError, match="room"):
        prompts_of(batch, 8)
    with pytest.raises(SkipError, match="input_ids"):
        prompts_of({"x": np.zeros((2, 3))}, 0)


def test_the_module_is_as_it_was_after_an_export(made: Made) -> None:
    cached = Cached.of(made.net)
    with cached.flat():
        assert "forward" in vars(made.net)
    assert "forward" not in vars(made.net)
    assert isinstance(decoder_of(PyTorch.open(made.eager, Machine())), TorchDecoder)


class Clock(Worker):
    """A worker whose models take exactly so many ms: for the prompt, a token, a call without a cache."""

    def __init__(self, times: dict[str, tuple[int, int, int]]) -> None:
        self.times = times
        self.visits: list[tuple[str, int]] = []

    def call(self, function, *arguments, progress, limit_s=None):
        del progress, limit_s
        if function is release:
            return None
        name = arguments[0].model.path.name
        prefill, token, again = (ms * 1_000_000 for ms in self.times[name])
        if function is ready:
            return Ready(Visit(prefill, (token,) * 16, again), 40, 256, "cpu")
        self.visits.append((name, arguments[1]))
        return Visit(prefill, (token,) * arguments[1], again)

    def close(self) -> None:
        pass


def contenders(worker: Worker, *names: str) -> list[Contender]:
    models = [Model(Path(name), "onnx" if name == "onnx" else "pytorch") for name in names]
    return [Contender(one.path.name, one, Subject(one, task=LANGUAGE), worker) for one in models]


def test_prefill_and_decode_are_told_apart() -> None:
    clock = Clock({"came": (20, 4, 24), "onnx": (10, 1, 12)})
    (record,) = generation(contenders(clock, "came", "onnx"), Machine(), Progress())
    values = {name: metric.value for name, metric in record.metrics.items()}
    assert values == {
        "bytes_per_token@decode": 256,
        "latency_p50_ms@prefill": 10,
        "throughput_tokens_per_s@prefill": 4000,
        "latency_p50_ms@decode": 1,
        "latency_p90_ms@decode": 1,
        "throughput_tokens_per_s@decode": 1000,
        "latency_p50_ms@without_cache": 12,
        "speedup@cache": 12,
        "speedup@prefill": 2,
        "speedup@decode": 4,
    }
    assert record.metrics["latency_p50_ms@decode"].n == 16 * clock.visits.count(("onnx", 16)) > 100
    assert "Decode takes 1 ms [1, 1] a token, 1,000 tokens a second" in record.summary
    assert "12 ms [12, 12] at 40 tokens" in record.summary
    assert "Decode of onnx: faster than came (4x" in record.summary
    assert [row[0] for row in record.tables[0].rows][:2] == ["came, prefill", "came, decode"]


@pytest.mark.parametrize(("token", "count", "rounds"), [(1, 16, 9), (45, 6, 5), (5000, 4, 5)])
def test_slow_models_write_fewer_tokens_and_then_fewer_rounds(token: int, count: int, rounds: int) -> None:
    clock = Clock({"came": (100, token, 100)})
    (record,) = generation(contenders(clock, "came"), Machine(), Progress())
    assert set(clock.visits) == {("came", count)}
    assert len(clock.visits) == 2 * rounds  # once as the control
    assert record.metrics["latency_p50_ms@decode"].value == token


def test_generation_is_asked_of_language_models_alone() -> None:
    clock = Clock({})
    (one,) = contenders(clock, "came")
    other = replace(one, subject=replace(one.subject, task=Task("multiclass", "logits")))
    assert generation([other], Machine(), Progress()) == ()
    (record,) = generation(contenders(Inline(), "onnx"), Machine(), Progress())
    assert record.verdict is Verdict.SKIPPED
    assert "no file with a key/value cache lies beside this ONNX" in record.reason


def test_a_visit_writes_what_generate_writes(made: Made) -> None:
    """And counts each token: the clock is beside a real decoder."""
    model = replace(made.eager, with_past=None)
    inputs = (InputSpec("input_ids", (None, None), "int64"),)
    entry = Entry(model, Subject(model, task=LANGUAGE, inputs=inputs), Machine(), 1)
    prepared = ready(entry, Progress())
    assert (prepared.prompt, prepared.bytes_per_token) == (16, decoder_of_bytes(made))
    seen = visit(entry, 5, Progress())
    release(Progress())
    assert len(seen.decode) == 5
    assert min(seen.prefill, seen.again, *seen.decode) > 0


def test_two_onnx_models_race_in_one_process(made: Made, tmp_path: Path) -> None:
    """Each has two files open, which are more than a process keeps open for others."""
    models = []
    for name in ("a", "b"):
        shutil.copytree(made.onnx.path.parent, tmp_path / name)
        models.append(replace(made.onnx, path=tmp_path / name / "model.onnx"))
    scoring = Model(made.eager.path, "pytorch", live=made.eager.live)
    inputs = (InputSpec("input_ids", (None, None), "int64"),)
    entries = [
        Entry(replace(scoring, with_past=one), Subject(scoring, task=LANGUAGE, inputs=inputs), Machine(), 1)
        for one in models
    ]
    for entry in entries:
        ready(entry, Progress())
    for at in range(3):
        of_this_process().get(scoring, Machine(seed=at + 1))
    assert all(visit(entry, 4, Progress()).decode for entry in entries)
    release(Progress())


def decoder_of_bytes(made: Made) -> int:
    with open_runtime(made.onnx, Machine()) as runtime:
        return decoder_of(runtime).bytes_per_token


@pytest.mark.slow
@pytest.mark.usefixtures("in_process")
def test_export_hands_both_files_over_and_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["export", str(pretrained(tmp_path, "llama")), "--data", "texts.jsonl", "--out", "run"]
    words += ["--steps", "onnx,int4"]
    assert main(words) == 0
    assert "run/generation/model.onnx is the same with a key/value cache" in capfd.readouterr().err
    given, last = (tmp_path / "run" / one / "generation" / "model.onnx" for one in ("", "02_int4"))
    assert given.read_bytes() == last.read_bytes()
    told = json.loads((tmp_path / "run" / "run.json").read_text())["steps"][2]
    assert told["model"]["with_past"]["path"] == "02_int4/generation/model.onnx"
    assert told["model"]["with_past"]["sha256"] == hashlib.sha256(last.read_bytes()).hexdigest()
    assert told["provenance"]["with past"].endswith(told["model"]["with_past"]["sha256"])
    assert identify(last.parents[1] / "model.onnx").with_past == identify(last)
    made = {one: one.stat().st_mtime_ns for one in (tmp_path / "run").rglob("0*/**/model.onnx")}
    assert len(made) == 4
    last.unlink()
    assert main(words) == 0
    again = [one for one, when in made.items() if one.stat().st_mtime_ns != when]
    assert sorted(one.parent.name for one in again) == ["02_int4", "generation"]
