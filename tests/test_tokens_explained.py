"""Why a word is tagged as it is: occlusion of the words of its sentence, against a slow twin."""

import json
import re

import numpy as np
import pytest
import torch

from diag.cli import main
from explain import saved
from tests.tiny_tagger import TAGS, WORDS, Tagger, sentences, write_plain

pytestmark = pytest.mark.usefixtures("in_process")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return write_plain(tmp_path_factory.mktemp("tagger"))


def explained(files, out, *more: str) -> list[dict]:
    command = ["explain", files.model, "--arch", "tests.tiny_tagger:Tagger", "--data", files.data]
    command += ["--tokenizer", files.vocabulary, "--classes", ",".join(TAGS), "--out", out, "--quiet", *more]
    assert main([str(word) for word in command]) == 0
    return json.loads((out / "report.json").read_text())["steps"][0]["records"]


def slow(net: Tagger, words: list[str], at: int, tag: int, filled: int) -> np.ndarray:
    """How far the logit of the word falls when each word in turn is unknown; filled up as its batch is."""
    ids = [*(WORDS.index(word) for word in words), *[0] * (filled - len(words))]
    with torch.no_grad():
        whole = float(net(torch.tensor([ids]))[0, at, tag])
        hidden = [[*ids[:place], 1, *ids[place + 1 :]] for place in range(len(words))]
        return whole - np.array([float(net(torch.tensor([one]))[0, at, tag]) for one in hidden])


@pytest.mark.parametrize("target", ["", "B-LOC"])
def test_the_fall_of_the_logit_of_one_word(files, tmp_path, target):
    records = explained(files, tmp_path / "run", *(["--target", target] if target else []))
    (record,) = [one for one in records if one["by"] == "occlusion"]
    net = Tagger()
    net.load_state_dict(torch.load(files.model))
    net.eval()
    rows = sentences(120, 1)
    found = saved.load(next((tmp_path / "run").glob("00_*")))["occlusion"]
    with torch.no_grad():
        said = [
            net(torch.tensor([[WORDS.index(word) for word in row["tokens"]]]))[0].argmax(1).tolist()
            for row in rows
        ]
    wrong_rows = 0
    for row, values in zip(found.ids, found.values["words"], strict=True):
        words, tags, answer = rows[int(row)]["tokens"], rows[int(row)]["tags"], said[int(row)]
        wrong = [at for at, tag in enumerate(tags) if TAGS.index(tag) != answer[at]]
        entity = [at for at, tag in enumerate(answer) if tag] or range(len(words))
        tag = TAGS.index(target) if target else None
        falls = [
            slow(net, words, at, answer[at] if tag is None else tag, found.values["words"].shape[1])
            for at in wrong or entity
        ]
        wrong_rows += bool(wrong)
        assert any(np.allclose(values[: len(words)], fall, atol=1e-4) for fall in falls)
        assert np.isnan(values[len(words) :]).all()
    assert wrong_rows >= 8, "half of the rows are errors"
    (table,) = [one for one in record["tables"] if one["title"] == "Attribution of each word, by row"]
    assert all(
        re.search(r"row \d+, '\w+' predicted [-A-Z]+, labelled [-A-Z]+", row[0]) for row in table["rows"]
    )
    assert "logit of the tag of one word a row" in record["summary"]


def test_what_attributes_nothing_of_a_tagger_says_so(files, tmp_path):
    records = explained(files, tmp_path / "run", "--rows", "3", "--method", "integrated-gradients")
    (record,) = [one for one in records if one["by"] == "integrated-gradients"]
    assert record["verdict"] == "skipped"
    assert "tokens task" in record["reason"]


def test_arrays_have_no_word_that_could_be_absent(files, tmp_path):
    command = ["explain", files.model, "--arch", "tests.tiny_tagger:Tagger", "--out", tmp_path / "run"]
    data = files.data.with_suffix(".npz")
    assert main([*map(str, command), "--data", str(data), "--classes", ",".join(TAGS), "--quiet"]) == 0
    records = json.loads((tmp_path / "run" / "report.json").read_text())["steps"][0]["records"]
    (reason,) = {one["reason"] for one in records if one["by"] == "occlusion"}
    assert reason == "its rows are no texts: nothing says what stands for an absent word"
