"""Language models: the reading against torch's cross entropy, the check against plain loops over tokens."""

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

from diagnose.probe import PROBES
from diagnose.spoken import PLACES, SEEN, by_frequency, by_place
from study.data.source import Rows
from study.errors import InputError
from study.feed import Piece
from study.loading.live import live_model
from study.progress import Progress
from study.readings.language import SPAN, Language, by_step, most_surprising
from study.record import Verdict
from study.subject import Data, InputSpec, Split
from study.task import Task
from study.tokens import Tokens
from study.view import View
from tests.prediction_tables import checked, view_of

WIDTH = 30
TASK = Task("language", "logits", width=WIDTH)


def texts(count: int, seed: int = 0) -> tuple[list[np.ndarray], np.ndarray]:
    """Token ids of texts of 2 to 40 tokens, frequent ones first, and logits that know a little of them."""
    random = np.random.default_rng(seed)
    ids = [
        np.minimum(random.geometric(0.15, int(random.integers(2, 41))) - 1, WIDTH - 1) for _ in range(count)
    ]
    logits = random.standard_normal((count, 40, WIDTH)).astype(np.float32)
    for row, one in enumerate(ids):
        logits[row, np.arange(len(one) - 1), one[1:]] += 1.5
    return ids, logits


def piece_of(ids: list[np.ndarray]) -> Piece:
    padded = np.zeros((len(ids), 40), dtype=np.int64)
    for row, one in enumerate(ids):
        padded[row, : len(one)] = one
    words = [" ".join(f"w{token}" for token in one) for one in ids]
    spans = [np.array([(m, m + len(w)) for m, w in _places(text)]) for text in words]
    tokens = tuple(
        Tokens(one, span, np.arange(len(one)), np.zeros(len(one), np.int64))
        for one, span in zip(ids, spans, strict=True)
    )
    names = tuple(str(row) for row in range(len(ids)))
    rows = Rows(np.arange(len(ids)), names, {"text": words}, None, pl.DataFrame(height=len(ids)))
    return Piece(rows, {"input_ids": padded}, {}, tokens)


def _places(text: str) -> list[tuple[int, str]]:
    found, at = [], 0
    for word in text.split(" "):
        found.append((at, word))
        at += len(word) + 1
    return found


def table_of(ids: list[np.ndarray], logits: np.ndarray) -> pl.DataFrame:
    columns = Language.columns(TASK, piece_of(ids), {"output": torch.from_numpy(logits)})
    first = {
        "position": pl.Series(range(len(ids)), dtype=pl.Int64),
        "id": [str(at) for at in range(len(ids))],
    }
    return pl.DataFrame({**first, **columns})


def losses_of(ids: list[np.ndarray], logits: np.ndarray) -> list[np.ndarray]:
    """The oracle: torch's cross entropy of all logits at once."""
    return [
        torch.nn.functional.cross_entropy(
            torch.from_numpy(logits[row, : len(one) - 1]), torch.from_numpy(one[1:]), reduction="none"
        ).numpy()
        for row, one in enumerate(ids)
    ]


def test_loss_and_perplexity_are_those_of_cross_entropy(tmp_path):
    ids, logits = texts(50)
    wanted = np.concatenate(losses_of(ids, logits)).astype(np.float64)
    record = checked("language", view_of(tmp_path / "v", TASK, table_of(ids, logits)))
    assert record.metrics["loss"].value == pytest.approx(wanted.mean(), rel=1e-5)
    perplexity = record.metrics["perplexity"]
    assert perplexity.value == pytest.approx(np.exp(wanted.mean()), rel=1e-5)
    assert perplexity.low < perplexity.value < perplexity.high
    assert perplexity.n == 50
    assert record.verdict is Verdict.NOTED


def test_the_interval_holds_whole_texts_together(tmp_path):
    """Texts whose tokens are all alike: the interval is that of texts, far wider than that of tokens."""
    ids, logits = texts(40, seed=1)
    logits[::2] *= 0.1
    metric = checked("language", view_of(tmp_path / "v", TASK, table_of(ids, logits))).metrics["loss"]
    each = losses_of(ids, logits)
    random = np.random.default_rng(0)
    drawn = []
    for _ in range(2000):
        chosen = random.integers(0, len(each), len(each))
        drawn.append(np.concatenate([each[one] for one in chosen]).mean())
    low, high = np.quantile(drawn, [0.025, 0.975])
    assert (metric.low, metric.high) == (pytest.approx(low, abs=0.02), pytest.approx(high, abs=0.02))
    grouped = table_of(ids, logits).with_columns(group=pl.Series([str(at // 10) for at in range(40)]))
    by_group = checked("language", view_of(tmp_path / "g", TASK, grouped)).metrics["loss"]
    assert by_group.value == pytest.approx(metric.value)
    assert by_group.high - by_group.low != pytest.approx(metric.high - metric.low, rel=1e-3)


def test_losses_by_place_and_frequency_are_those_of_a_loop(tmp_path):
    ids, logits = texts(50)
    view = view_of(tmp_path / "v", TASK, table_of(ids, logits))
    counts = Counter(int(token) for one in ids for token in one[1:])
    places, seen = np.zeros((len(PLACES), 2)), np.zeros((len(SEEN), 2))
    for one, losses in zip(ids, losses_of(ids, logits), strict=True):
        for before, (token, loss) in enumerate(zip(one[1:], losses, strict=True), 1):
            places[max(at for at, edge in enumerate(PLACES) if edge <= before)] += loss, 1
            seen[max(at for at, edge in enumerate(SEEN) if edge <= counts[int(token)])] += loss, 1
    position = np.arange(50)
    for found, wanted in ((by_place(view, position), places), (by_frequency(view, position), seen)):
        assert np.allclose(found.losses.sum(axis=0), wanted[:, 0], rtol=1e-5)
        assert found.tokens.sum(axis=0).tolist() == wanted[:, 1].tolist()


def test_the_most_surprising_span_is_named_by_its_text(tmp_path):
    ids, logits = texts(20)
    ids[7] = np.arange(29) % WIDTH
    logits[7, 10:18] = 0
    logits[7, 10:18, 29] = 12.0  # what comes are the tokens 11 to 18
    record = checked("language", view_of(tmp_path / "v", TASK, table_of(ids, logits)))
    span = record.tables[-1].rows[0]
    assert span[:3] == ("7", 11, SPAN)
    assert span[4] == " ".join(f"w{token}" for token in range(11, 19))
    assert "w11" in record.summary


def test_the_window_is_that_of_a_loop():
    loss = np.random.default_rng(2).exponential(size=30).astype(np.float32)
    means = [loss[at : at + SPAN].mean() for at in range(30 - SPAN + 1)]
    start, size, mean = most_surprising(loss)
    assert (start, size) == (int(np.argmax(means)), SPAN)
    assert mean == pytest.approx(max(means), rel=1e-5)
    assert most_surprising(loss[:3])[:2] == (0, 3)
    assert most_surprising(loss[:0]) == (0, 0, 0.0)


def test_a_model_that_got_worse_is_a_fault_and_one_that_did_not_is_good(tmp_path):
    ids, logits = texts(60)
    origin = view_of(tmp_path / "a", TASK, table_of(ids, logits))
    worse = checked("language", view_of(tmp_path / "b", TASK, table_of(ids, logits * 0.5), origin))
    assert worse.verdict is Verdict.BAD
    means = [np.concatenate(losses_of(ids, one)).astype(np.float64).mean() for one in (logits, logits * 0.5)]
    ratio = worse.metrics["perplexity_ratio"]
    assert ratio.value == pytest.approx(np.exp(means[1] - means[0]), rel=1e-5)
    assert ratio.low > 1
    assert worse.metrics["perplexity@change"].value == pytest.approx(
        np.exp(means[1]) - np.exp(means[0]), rel=1e-4
    )
    same = checked("language", view_of(tmp_path / "c", TASK, table_of(ids, logits), origin))
    assert same.verdict is Verdict.GOOD
    assert same.metrics["perplexity_ratio"].value == 1


def test_worse_than_guessing_is_the_wrong_tokenizer(tmp_path):
    ids, logits = texts(40)
    record = checked("language", view_of(tmp_path / "v", TASK, table_of(ids, -3 * logits)))
    assert record.verdict is Verdict.BAD
    assert "equally likely" in record.findings[0].what


def test_the_divergence_is_that_of_torch_over_all_logits(tmp_path):
    ids, logits = texts(30)
    near = logits + np.random.default_rng(3).standard_normal(logits.shape).astype(np.float32) * 0.3
    origin, after = (_running(tmp_path / name, ids, one) for name, one in (("a", logits), ("b", near)))
    after = replace(after, origin=origin)
    PROBES.get("divergence")().run(after, Progress())
    record = checked("divergence", after)
    wanted, flips = [], 0
    for row, one in enumerate(ids):
        p, q = (
            torch.from_numpy(each[row, : len(one) - 1]).double().log_softmax(-1) for each in (logits, near)
        )
        wanted.append(torch.nn.functional.kl_div(q, p, reduction="none", log_target=True).sum(-1).numpy())
        flips += int((p.argmax(-1) != q.argmax(-1)).sum())
    every = np.concatenate(wanted)
    mean = record.metrics["kl_divergence"]
    assert mean.value == pytest.approx(every.mean(), rel=1e-5)
    assert mean.low < mean.value < mean.high
    assert record.metrics["kl_divergence@p99"].value == pytest.approx(np.percentile(every, 99), rel=1e-4)
    assert record.metrics["top_token_flips"].value == pytest.approx(flips / len(every))
    same = replace(after, artifact=origin.artifact)
    PROBES.get("divergence")().run(same, Progress())
    assert checked("divergence", same).verdict is Verdict.GOOD
    assert checked("divergence", same).metrics["kl_divergence"].value == 0


class _Lookup(torch.nn.Module):
    """Gives the logits of the text whose number is the first token."""

    def __init__(self, logits: np.ndarray) -> None:
        super().__init__()
        self.register_buffer("logits", torch.from_numpy(logits))

    def forward(self, input_ids):
        return self.logits[input_ids[:, 0], : input_ids.shape[1]]


def _running(folder, ids: list[np.ndarray], logits: np.ndarray) -> View:
    """A view whose model runs, on texts given as ids; the first id of each is the number of the text."""
    view = view_of(folder, TASK, table_of(ids, logits))
    rows = [{"tokens": [str(row), *(str(one) for one in text[1:])]} for row, text in enumerate(ids)]
    pl.DataFrame(rows).write_ndjson(folder / "rows.jsonl")
    (folder / "vocab.json").write_text(json.dumps({"<pad>": 99, **{str(at): at for at in range(40)}}))
    data = Data(str(folder / "rows.jsonl"), tokenizer=str(folder / "vocab.json"))
    subject = replace(
        view.subject, judged=Split(data), inputs=(InputSpec("input_ids", (None, None), "int64"),)
    )
    model = live_model(_Lookup(logits).eval())
    return replace(view, subject=subject, artifact=replace(view.artifact, model=model))


def test_a_model_that_scores_the_last_token_alone_is_named_so():
    with pytest.raises(InputError, match="last token alone"):
        by_step(torch.zeros(3, 1, WIDTH), (3, 7))
    assert by_step(torch.zeros(3, 1, WIDTH), (3, 1)).shape == (3, 1, WIDTH)
    assert by_step(torch.zeros(21, WIDTH), (3, 7)).shape == (3, 7, WIDTH)
    with pytest.raises(InputError, match="--output"):
        by_step(torch.zeros(3, 5, WIDTH), (3, 7))
