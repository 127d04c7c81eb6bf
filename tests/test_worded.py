"""Slices of texts by length and vocabulary, against texts that were made so."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from diagnose.worded import columns_of_texts, shown_texts, sliced_texts
from study.feed import Feed
from study.runtime import Runtimes
from study.subject import Artifact, Data, Machine, Model, Split, Subject
from study.view import View
from tests import tiny_bert


def view_of(folder, frame):
    frame.write_parquet(folder / "predictions.parquet")
    model = Model(folder / "m", "onnx")
    return View(Artifact("a", folder, model), Subject(model), Machine(), Runtimes())


@pytest.fixture
def texts(tmp_path):
    tiny_bert.tokenizer().save_pretrained(tmp_path / "tokenizer")
    given = ["the ship zzz", "Ship and cow", "a cow is seen near the cows", "zzz zzz"]
    (tmp_path / "rows.csv").write_text("text,label\n" + "".join(f"{text},sea\n" for text in given))
    feed = Feed.open(Split(Data(str(tmp_path / "rows.csv"), tokenizer=str(tmp_path / "tokenizer"))), ())
    return feed.at(np.arange(4)), feed.preparation.tokenizer


def test_a_line_has_its_text_its_length_and_what_is_unknown(texts):
    piece, tokenizer = texts
    found = columns_of_texts(piece, tokenizer)
    assert found["text"].to_list()[1] == "Ship and cow"
    assert found["text.tokens"].to_list() == [5, 5, 10, 4]
    assert found["text.unknown"].to_list() == [1 / 5, 0, 0, 2 / 4]
    assert columns_of_texts(replace(piece, tokens=()), tokenizer) == {}


def test_texts_are_sliced_by_length_unknown_tokens_and_frequent_words(texts, tmp_path):
    frame = pl.DataFrame({"position": [0, 1, 2, 3]}).with_columns(**columns_of_texts(*texts))
    view = view_of(tmp_path, frame)
    found = sliced_texts(view, pl.col("position") >= 0)
    assert found["tokens"].to_list() == [5, 5, 10, 4]
    assert found["has 'ship'"].to_list() == [True, True, False, False]
    assert found["has 'cow'"].to_list() == [False, True, True, False]
    assert "has 'zzz'" in found
    assert "has 'a'" not in found
    assert shown_texts(view, [1], most=6) == {1: "Ship a…"}


def test_other_rows_have_no_texts(tmp_path):
    view = view_of(tmp_path, pl.DataFrame({"position": [0]}))
    assert sliced_texts(view, pl.lit(value=True)) == {}
    assert shown_texts(view, [0]) == {}
