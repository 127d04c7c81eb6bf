"""Taggers through the whole chain, from the command line."""

import json
import re
from pathlib import Path

import pytest

from diag.cli import main
from tests.tiny_tagger import TAGS, write_bert, write_plain

pytestmark = [pytest.mark.usefixtures("in_process"), pytest.mark.slow]
STEPS = ["as_it_came", "onnx", "int8"]


def report_of(out: Path, *words: object) -> dict:
    assert main([*map(str, words), "--out", str(out), "--threads", "1"]) == 0
    return json.loads((out / "report.json").read_text())


def records(report: dict, step: int) -> dict[str, dict]:
    return {record["by"]: record for record in report["steps"][step]["records"]}


def must_be_right(report: dict, right: int, tokens: int) -> None:
    """What torch counted is counted, before and after the export; eight bits stay near."""
    assert report["subject"]["task"] == "tokens"
    assert [step["name"] for step in report["steps"]] == STEPS
    for step in range(2):
        found = records(report, step)
        assert found["accuracy"]["metrics"]["accuracy"]["value"] == pytest.approx(right / tokens)
        assert f"of {tokens} words in 120 rows" in found["accuracy"]["summary"]
    f1 = [records(report, step)["entities"]["metrics"]["entity_f1"]["value"] for step in range(3)]
    assert 0.4 < f1[0] == f1[1] < 1
    assert f1[2] == pytest.approx(f1[0], abs=0.05)
    assert records(report, 1)["agreement"]["verdict"] == "good"
    assert records(report, 1)["entities"]["metrics"]["entity_f1@change"]["value"] == 0
    assert records(report, 2)["agreement"]["metrics"]["agreement"]["value"] > 0.95


def test_a_bert_and_its_word_pieces(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    (tmp_path / "files").mkdir()
    files = write_bert(tmp_path / "files" / "bert")
    out = tmp_path / "run"
    report = report_of(
        out, "run", files.model, "--data", files.data, "--train", files.train, "--group", "site"
    )
    must_be_right(report, files.right, files.tokens)
    assert report["subject"]["classes"] == list(TAGS)
    tables = {table["title"]: table for table in records(report, 0)["entity-errors"]["tables"]}
    assert sum(row[4] for row in tables["What each kind of error costs"]["rows"]) > 0
    assert tables["Most frequent confusions of entities"]["rows"][0][7]
    assert [one["title"] for one in records(report, 0)["confusion"]["tables"]] == [
        "Classes",
        "Confusion of words",
    ]
    assert records(report, 2)["audit"]["metrics"]["macs_in_int8@audit"]["value"] > 0.8
    (worst,) = records(report, 0)["errors"]["tables"]
    assert worst["columns"][-1] == "text"
    (told,) = records(report, 1)["errors"]["findings"]
    assert f"--task tokens --classes {','.join(TAGS)} --rows" in told["show"]
    assert len(worst["rows"][0][-1].split()) == worst["rows"][0][1]
    drift = records(report, 2)["drift"]["metrics"]
    assert drift["attribution_rank_correlation"]["value"] > 0.5
    assert "int8: entity F1" in (out / "report.md").read_text()


@pytest.mark.parametrize("factory", ["Tagger", "ClassesFirst"])
def test_a_plain_net_on_arrays(factory: str, tmp_path: Path) -> None:
    files = write_plain(tmp_path / "files", factory)
    report = report_of(
        tmp_path / "run", "analyze", files.model, "--arch", f"tests.tiny_tagger:{factory}",
        "--data", files.data.with_suffix(".npz"), "--classes", ",".join(TAGS),
    )  # fmt: skip
    found = records(report, 0)
    assert found["accuracy"]["metrics"]["accuracy"]["value"] == pytest.approx(files.right / files.tokens)
    assert found["entities"]["metrics"]["entity_f1"]["n"] == 120


def test_a_plain_net_on_words_and_a_vocabulary(tmp_path: Path) -> None:
    files = write_plain(tmp_path / "files")
    report = report_of(
        tmp_path / "run", "run", files.model, "--arch", "tests.tiny_tagger:Tagger", "--data", files.data,
        "--train", files.train, "--classes", ",".join(TAGS), "--tokenizer", files.vocabulary,
    )  # fmt: skip
    must_be_right(report, files.right, files.tokens)


def test_words_that_are_cut_off_are_counted_out_and_said(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    (tmp_path / "files").mkdir()
    files = write_bert(tmp_path / "files" / "bert")
    report = report_of(tmp_path / "run", "analyze", files.model, "--data", files.data, "--max-tokens", 10)
    said = records(report, 0)["data"]["summary"]
    counts = [int(number) for number in re.findall(r"(\d+) words", said)]
    assert "could not be scored (cut off, or without a token)" in said
    assert sum(counts) == files.tokens
    assert counts[1] > 0
