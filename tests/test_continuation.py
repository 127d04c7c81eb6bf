"""What is explained of language models, against one forward a perturbation, and where it is known by hand."""

import json
import re
from dataclasses import replace
from math import ceil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from torch import nn

from diagnose.probe import PROBES
from explain.continuation import AHEAD, absent_id
from explain.look import explain
from explain.method import METHODS
from explain.question import Question, ask
from explain.summed import Summed
from explain.words import WORDS
from study.errors import InputError, SkipError
from study.loading import identify
from study.loading.live import live_model
from study.progress import Progress
from study.readings.language import SPAN
from study.runtime import Runtimes, open_runtime
from study.subject import Artifact, Data, InputSpec, Machine, Split, Subject
from study.task import Task
from study.tokenizers.vocabulary import Vocabulary
from study.view import View

LETTERS = " abcdefg."
TASK = Task("language", "logits", width=len(LETTERS))
BATCH = 7


class Bigram(nn.Module):
    """Looks at the token before the next one alone."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(len(LETTERS), len(LETTERS))

    def forward(self, input_ids):
        return self.table(input_ids)


class Reader(nn.Module):
    """Looks at every token before."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(len(LETTERS), 12)
        self.rnn = nn.GRU(12, 16, batch_first=True)
        self.head = nn.Linear(16, len(LETTERS))

    def forward(self, input_ids):
        return self.head(self.rnn(self.embedding(input_ids))[0])


def lines() -> list[str]:
    random = np.random.default_rng(0)
    found = []
    for length in (30, 44, 9, 25, 60, 38):
        words = [
            "".join(random.choice(list(LETTERS[1:-1]), int(random.integers(1, 6)))) for _ in range(length)
        ]
        found.append(" ".join(words)[:length] + ".")
    return found


def viewed(
    folder: Path, net: nn.Module, *, rows: list[dict[str, object]] | None = None, batch: int = BATCH
) -> View:
    """The net on these rows, with its predictions; texts are cut into characters."""
    torch.manual_seed(0)
    for weight in net.parameters():
        nn.init.normal_(weight, std=0.4)
    pl.DataFrame(rows or [{"text": line} for line in lines()]).write_ndjson(folder / "rows.jsonl")
    vocabulary = {"<pad>": len(LETTERS) - 1} | {letter: at for at, letter in enumerate(LETTERS)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    data = Data(str(folder / "rows.jsonl"), tokenizer="" if rows else str(folder / "vocab.json"))
    model = live_model(net.eval())
    inputs = (InputSpec("input_ids", (None, None), "int64"),)
    subject = Subject(model=model, judged=Split(data), task=TASK, inputs=inputs)
    (folder / "as_it_came").mkdir()
    artifact = Artifact(name="as_it_came", folder=folder / "as_it_came", model=model)
    view = View(artifact, subject, Machine(threads=1, batch_size=batch), Runtimes())
    PROBES.get("predictions")().run(view, Progress())
    return view


def by_hand(net: nn.Module, question: Question) -> list[list[float]]:
    """One forward of batch 1 for the text, and one for each of its words."""
    (name,), found = question.rows.batch, []
    words, summed = question.rows.words, question.rows.summed
    assert words
    assert summed
    for row, ids in enumerate(question.rows.batch[name]):
        chosen = np.flatnonzero(summed.weights[row])

        def score(fed: np.ndarray, chosen: np.ndarray = chosen, ids: np.ndarray = ids) -> float:
            with torch.no_grad():
                logs = net(torch.from_numpy(fed[None])).log_softmax(-1)[0]
            return sum(logs[at, ids[at + 1]].item() for at in chosen)

        falls = []
        for start, stop in words.spans[row]:
            fed = ids.copy()
            fed[start:stop] = 0  # a blank
            falls.append(score(ids) - score(fed))
        found.append(falls)
    return found


def test_a_bigram_model_looks_at_the_last_token_alone(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    rows = [{"input_ids": random.integers(1, len(LETTERS), 24).tolist()} for _ in range(6)]
    net = Bigram()
    question = ask(viewed(tmp_path, net, rows=rows))
    words, summed = question.rows.words, question.rows.summed
    with open_runtime(live_model(net), Machine(threads=1)) as run:
        found = METHODS.get("occlusion")().attribute(run, question.rows)
    assert words
    assert summed
    table = net.table.weight.detach().log_softmax(-1).numpy()
    absent = int(question.rows.baseline["input_ids"][0])
    for row, ids in enumerate(question.rows.batch["input_ids"]):
        own = found.values[WORDS][row, : len(words.spans[row])]
        start = int(np.flatnonzero(summed.weights[row])[0]) + 1
        assert words.spans[row] == tuple((at, at + 1) for at in range(start))
        assert not own[:-1].any()
        fall = table[ids[start - 1], ids[start]] - table[absent, ids[start]]
        assert own[-1] == pytest.approx(fall, abs=1e-5)
    assert np.nanmax(np.abs(found.values[WORDS])) > 0.1


def test_batched_is_what_one_forward_a_word_gives(tmp_path: Path) -> None:
    net = Reader()
    view = viewed(tmp_path, net)
    question = ask(view)
    found = METHODS.get("occlusion")().attribute(view.runtime, question.rows)
    for row, wanted in enumerate(by_hand(net, question)):
        np.testing.assert_allclose(found.values[WORDS][row, : len(wanted)], wanted, atol=1e-5)
        assert np.isnan(found.values[WORDS][row, len(wanted) :]).all()


def test_the_forwards_are_as_few_as_batches(tmp_path: Path) -> None:
    view = viewed(tmp_path, Reader())
    question = ask(view)
    assert question.rows.words
    shapes: list[tuple[int, ...]] = []
    run = view.runtime
    run.module.register_forward_pre_hook(
        lambda _, fed, named: shapes.append(
            tuple(named["input_ids"].shape) if named else tuple(fed[0].shape)
        ),
        with_kwargs=True,
    )
    METHODS.get("occlusion")().attribute(run, question.rows)
    words = sum(len(spans) for spans in question.rows.words.spans)
    assert sum(rows for rows, _ in shapes) == words + len(question.rows)
    assert len(shapes) == ceil((words + len(question.rows)) / BATCH)
    assert max(steps for _, steps in shapes) < question.rows.batch["input_ids"].shape[1]


@pytest.mark.filterwarnings("ignore")
def test_onnx_gives_the_same(tmp_path: Path) -> None:
    net = Reader()
    question = ask(viewed(tmp_path, net))
    free = {"input_ids": {0: "rows", 1: "steps"}}
    ids = torch.from_numpy(question.rows.batch["input_ids"])
    torch.onnx.export(
        net, (ids,), tmp_path / "m.onnx", input_names=["input_ids"], dynamic_axes=free, dynamo=False
    )
    torch.onnx.export(
        net,
        (ids[:BATCH],),
        tmp_path / "fixed.onnx",
        input_names=["input_ids"],
        dynamic_axes={"input_ids": {0: "rows"}},
        dynamo=False,
    )
    maps = []
    for name in ("m.onnx", "fixed.onnx"):
        with open_runtime(identify(tmp_path / name), Machine(threads=1)) as run:
            maps.append(METHODS.get("occlusion")().attribute(run, question.rows).values[WORDS])
    for found in maps:
        for row, wanted in enumerate(by_hand(net, question)):
            np.testing.assert_allclose(found[row, : len(wanted)], wanted, atol=1e-5)


def test_the_span_is_the_most_surprising_behind_the_first_quarter(tmp_path: Path) -> None:
    view = viewed(tmp_path, Reader())
    question = ask(view, "0,2,4")
    table = view.table("predictions").collect()
    for at, row in enumerate((0, 2, 4)):
        losses = table["part_loss"][row].to_numpy()
        ahead = len(losses) // AHEAD
        size = min(SPAN, len(losses) - ahead)
        means = [losses[start : start + size].mean() for start in range(ahead, len(losses) - size + 1)]
        start = ahead + int(np.argmax(means))
        assert question.spans[at].parts == slice(start, start + size)
        assert question.spans[at].text == lines()[row][start + 1 : start + 1 + size]
        assert question.titles[at] == f"row {row}, what goes before '{question.spans[at].text.strip()}'"
        words = question.rows.words
        assert words
        assert words.texts[at] == tuple(
            one.strip() or "␣" for one in re.findall(r" ?\w+| $", lines()[row][: start + 1])
        )


def test_a_vocabulary_of_many_tokens_is_asked_of_few_rows_at_once() -> None:
    weights = np.zeros((2, 512), np.float32)
    weights[0, 300], weights[1, 100] = 1, 1
    wide = Summed(replace(TASK, width=50_257), weights, np.zeros((2, 512), np.int64))
    assert wide.rows_a_batch() == 2**25 // (301 * 50_257)
    assert replace(wide, task=TASK).rows_a_batch() == 2**25 // (301 * TASK.width)


def test_a_blank_stands_for_what_is_hidden_else_the_unknown_token_else_the_most_frequent() -> None:
    ids = np.array([[3, 3, 1]])
    assert absent_id(Vocabulary({"a": 0, " ": 1, "<unk>": 2, "b": 3}), ids) == (1, "a blank")
    assert absent_id(Vocabulary({"a": 0, "<unk>": 2, "b": 3}), ids) == (2, "the token <unk>")
    assert absent_id(Vocabulary({"a": 0, "<pad>": 2, "b": 3}), ids) == (3, "the token b")
    assert absent_id(None, ids) == (3, "the token 3")


def test_there_is_no_class_to_explain(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="leave --target out"):
        ask(viewed(tmp_path, Reader()), "", "a")


def test_texts_of_one_token_have_no_continuation(tmp_path: Path) -> None:
    view = viewed(tmp_path, Reader(), rows=[{"input_ids": [3]}, {"input_ids": [4]}])
    with pytest.raises(SkipError, match="no judged rows"):
        ask(view)
    with pytest.raises(SkipError, match="not one text"):
        ask(view, "0,1")


def test_the_record_says_what_was_asked_and_an_artifact_is_compared(tmp_path: Path) -> None:
    net = Reader()
    view = viewed(tmp_path, net)
    by = {record.by: record for record in explain(view, ("occlusion",))}
    assert "a blank" in by["occlusion"].summary
    assert "nats" in by["occlusion"].summary
    (tmp_path / "later").mkdir()
    later = replace(
        view,
        artifact=replace(view.artifact, name="later", folder=tmp_path / "later"),
        origin=view,
    )
    PROBES.get("predictions")().run(later, Progress())
    drift = {record.by: record for record in explain(later, ("occlusion",))}["drift"]
    assert drift.metrics["attribution_rank_correlation"].value == 1
    assert all(row[3] == "the same" for row in drift.tables[0].rows)
