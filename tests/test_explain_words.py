"""Attributions of words against what they are by hand, on a model that adds up embeddings."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from explain import saved, trust
from explain.drift import Pair
from explain.method import METHODS, Explained
from explain.words import WORDS, Words, absent_token, words_of
from study.errors import SkipError
from study.feed import Feed
from study.loading.live import live_model
from study.runtime import open_runtime
from study.subject import Data, InputSpec, Machine, Split
from tests import tiny_bert

MACHINE = Machine(threads=1)
MASK, PAD = 4, 0
INPUTS = tuple(InputSpec(name, (None, None), "int64") for name in ("input_ids", "attention_mask"))


class Sum(nn.Module):
    """The sum of the embeddings of the tokens that are no padding: linear in each token."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.positions = nn.Embedding(64, 3)
        self.embedding = nn.Embedding(80, 3)

    def forward(self, input_ids, attention_mask):
        steps = torch.arange(input_ids.shape[1]).expand_as(input_ids)
        each = self.embedding(input_ids) + self.positions(steps)
        return (each * attention_mask[..., None]).sum(1)


class Bag(nn.Module):
    def __init__(self):
        super().__init__()
        self.bag = nn.EmbeddingBag(80, 3)

    def forward(self, input_ids):
        return self.bag(input_ids)


@pytest.fixture(scope="module")
def feed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("words")
    tiny_bert.tokenizer().save_pretrained(folder / "tokenizer")
    given = ["the ships near, unknown zzz", "old cows", "Ship <b>cow</b> & a tram"]
    (folder / "rows.csv").write_text("text,label\n" + "\n".join(f'"{text}",sea' for text in given) + "\n")
    return Feed.open(Split(Data(str(folder / "rows.csv"), tokenizer=str(folder / "tokenizer"))), INPUTS)


@pytest.fixture(scope="module")
def rows(feed):
    piece = feed.at(np.arange(3))
    batch = {name: piece.batch[name][[2, 0, 1]] for name in piece.batch}
    words = words_of(piece, batch, [2, 0, 1])
    absent = np.full_like(batch["input_ids"][0], MASK)
    baseline, targets = {words.input: absent}, np.array([0, 2, 1])
    return Explained(("2", "0", "1"), batch, targets, baseline=baseline, baseline_name="m", words=words)


def by_hand(net, rows):
    """embedding(token) - embedding(mask), summed over the pieces of a word."""
    table = net.embedding.weight.detach().numpy()
    ids = rows.batch["input_ids"]
    return [
        [
            sum(table[ids[row, at], target] - table[MASK, target] for at in range(*span))
            for span in rows.words.spans[row]
        ]
        for row, target in enumerate(rows.targets)
    ]


def test_words_are_what_stands_in_the_text(rows):
    assert rows.words.texts[1] == ("the", "ships", "near", ",", "unknown", "zzz")
    assert rows.words.texts[2] == ("old", "cows")
    assert rows.words.texts[0][:4] == ("Ship", "<", "b", ">")
    assert rows.words.spans[1][1] == (2, 4)  # ship ##s
    assert rows.words.spans[1][4] == (6, 8)  # un ##known


def test_the_mask_stands_for_an_absent_word(feed):
    assert absent_token(feed.preparation.tokenizer) == (MASK, "[MASK]")


def test_numbers_are_no_words(feed):
    piece = replace(feed.at(np.arange(3)), tokens=())
    assert words_of(piece, piece.batch, [0, 1, 2]) is None


@pytest.mark.parametrize("method", ["occlusion", "integrated-gradients"])
def test_each_word_has_what_its_pieces_add(method, rows):
    net = Sum().eval()
    with open_runtime(live_model(net), MACHINE) as run:
        found = METHODS.get(method)().attribute(run, rows)
        gain = trust.deletion(run, replace(rows, targets=rows.targets), found)
        sane = trust.sanity(run, METHODS.get(method)(), rows, found)
    (name,) = found.values
    assert name == WORDS
    for row, wanted in enumerate(by_hand(net, rows)):
        np.testing.assert_allclose(found.values[WORDS][row, : len(wanted)], wanted, atol=2e-5)
        assert np.isnan(found.values[WORDS][row, len(wanted) :]).all()
    assert gain.metrics[f"deletion_gain@{method}"].value > 0
    assert f"sanity_rank_correlation@{method}" in sane.metrics
    if method == "integrated-gradients":
        assert found.completeness.max() < 1e-4


def test_onnx_gives_the_same(rows, tmp_path):
    net = Sum().eval()
    batch = {name: torch.from_numpy(array) for name, array in rows.batch.items()}
    names = list(batch)
    free = {name: {0: "rows", 1: "steps"} for name in names}
    with torch.no_grad():
        torch.onnx.export(
            net,
            tuple(batch.values()),
            tmp_path / "m.onnx",
            input_names=names,
            dynamic_axes=free,
            dynamo=False,
        )
    from study.loading import identify

    with open_runtime(identify(tmp_path / "m.onnx"), MACHINE) as run:
        found = METHODS.get("occlusion")().attribute(run, rows)
        with pytest.raises(SkipError, match="ONNX Runtime"):
            METHODS.get("integrated-gradients")().attribute(run, rows)
    for row, wanted in enumerate(by_hand(net, rows)):
        np.testing.assert_allclose(found.values[WORDS][row, : len(wanted)], wanted, atol=2e-5)


def test_neighbours_of_a_long_text_are_hidden_together(rows):
    net = Sum().eval()
    with open_runtime(live_model(net), MACHINE) as run:
        found = METHODS.get("occlusion")(words=3).attribute(run, rows)
    wanted = by_hand(net, rows)[1]
    pairs = [wanted[at] + wanted[at + 1] for at in (0, 0, 2, 2, 4, 4)]
    np.testing.assert_allclose(found.values[WORDS][1, :6], pairs, atol=2e-5)


def test_an_embedding_bag_has_a_reason(rows):
    alone = replace(rows, batch={"input_ids": rows.batch["input_ids"]})
    with (
        open_runtime(live_model(Bag().eval()), MACHINE) as run,
        pytest.raises(SkipError, match=r"no nn\.Embedding of the model is given the token ids"),
    ):
        METHODS.get("integrated-gradients")().attribute(run, alone)


def test_drift_is_over_words_alone(rows, tmp_path):
    first, second = Sum().eval(), Sum().eval()
    nn.init.normal_(second.embedding.weight)
    maps = []
    for net in (first, second):
        with open_runtime(live_model(net), MACHINE) as run:
            maps.append(METHODS.get("occlusion")().attribute(run, rows))
    saved.save(tmp_path, rows, {"occlusion": maps[0]})
    pair = Pair(saved.load(tmp_path)["occlusion"], maps[1])
    from scipy.stats import spearmanr

    for row, spans in enumerate(rows.words.spans):
        wanted = spearmanr(*(found.values[WORDS][row, : len(spans)] for found in maps)).statistic
        assert pair.correlations()[row] == pytest.approx(wanted, abs=1e-6)
    assert Pair(maps[0], maps[0]).correlations().tolist() == [1, 1, 1]


def test_the_sum_of_words_leaves_separators_out():
    words = Words("ids", frozenset({"ids"}), (((1, 3), (3, 4)), ((1, 2),)), (("ab", "c"), ("d",)))
    tokens = np.array([[9.0, 1, 2, 4, 9], [9, 5, 9, 9, 9]])
    np.testing.assert_array_equal(words.summed(tokens), [[3, 4], [5, np.nan]])
    ids = np.array([[1, 2, 3, 4, 5], [1, 2, 3, 0, 0]])
    assert words.without(ids, np.full(5, 7)).tolist() == [[1, 7, 7, 7, 5], [1, 7, 3, 0, 0]]
