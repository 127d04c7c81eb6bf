"""A small BERT and its texts through the whole chain."""

import csv
import json

import pytest

from diag.cli import main
from tests import tiny_bert


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bert")
    files = tiny_bert.write(folder)
    with files.data.open("a", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerow(["<script>alert(1)</script> the ship", "farm"])
    out = folder / "run"
    words = ["run", files.model, "--data", files.data, "--train", files.train, "--out", out, "--threads", "1"]
    assert main([*map(str, words), "--steps", "onnx,(int8|int8-dynamic)", "--quiet"]) in (0, 1)
    return out, json.loads((out / "report.json").read_text())


def record(report, step, by):
    found = next(one for one in report["steps"] if one["name"] == step)
    return next(one for one in found["records"] if one["by"] == by)


@pytest.mark.parametrize("step", ["int8", "int8_dynamic"])
def test_eight_bits_decide_as_the_model_does(ran, step):
    _, report = ran
    agreement = record(report, step, "agreement")["metrics"]
    assert agreement["agreement"]["value"] >= 0.97
    assert agreement["negative_flip_rate"]["value"] <= 0.03
    assert record(report, step, "audit")["metrics"]["macs_in_int8@audit"]["value"] > 0.8
    drift = record(report, step, "drift")["metrics"]
    assert drift["attribution_rank_correlation"]["n"] == 16
    assert drift["attribution_rank_correlation"]["value"] > 0


def test_words_are_explained_and_drawn(ran):
    out, report = ran
    for by in ("occlusion", "integrated-gradients"):
        found = record(report, "as_it_came", by)
        assert "a part is a word" in found["summary"]
        assert "absent: the token [MASK]" in found["summary"]
        assert f"deletion_gain@{by}" in found["metrics"]
        titles = {table["title"]: table for table in found["tables"]}
        loudest = titles["Mean |attribution| of each word"]["rows"]
        topics = {word for words in tiny_bert.TOPICS.values() for word in words}
        assert len({row[0].rstrip("s") for row in loudest[:10]} & topics) >= 6
        words = [row[1] for row in titles["Attribution of each word, by row"]["rows"]]
        assert not {"[CLS]", "[SEP]", "[PAD]", "##s"} & set(words)
    page = (out / "report.html").read_text()
    assert 'class="for l4"' in page
    assert "<script>alert" not in page
    assert "the loudest being" in (out / "report.md").read_text()


def test_texts_are_sliced_and_the_worst_are_shown(ran):
    out, report = ran
    (worst,) = record(report, "as_it_came", "errors")["tables"]
    assert worst["columns"][-1] == "text"
    assert "<script>alert(1)</script> the ship" in [row[-1] for row in worst["rows"]]
    assert "&lt;script&gt;alert(1)" in (out / "report.html").read_text()
    slices = [row[0] for table in record(report, "as_it_came", "slices")["tables"] for row in table["rows"]]
    assert any(name.startswith("tokens in [") for name in slices)
    assert any(name.startswith("has '") for name in slices)
