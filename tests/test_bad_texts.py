"""Texts, tokenizers and sequences that do not fit: one sentence, or the row is counted out by its id."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
import torch

from diag.cli import main
from tests.tiny_texts import WORDS, Reader, sentences, write_bert, write_csv

pytestmark = pytest.mark.usefixtures("in_process")
READER = ["--arch", "tests.tiny_texts:Reader"]
ROWS = sentences(40, 0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A vocabulary, a plain net and a BERT, with texts that fit them."""
    pytest.importorskip("transformers")
    home = tmp_path_factory.mktemp("bad_texts")
    write_csv(home / "texts.csv", ROWS)
    (home / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    torch.save(Reader().state_dict(), home / "model.pt")
    write_bert(home / "bert")
    return home


def larger(home: Path) -> list[str]:
    (home / "large.txt").write_text("\n".join([*WORDS, *(f"word{at}" for at in range(9))]))
    return ["model.pt", *READER, "--data", "texts.csv", "--label", "topic", "--tokenizer", "large.txt"]


def larger_for_a_folder(home: Path) -> list[str]:
    larger(home)
    return ["bert", "--data", "texts.csv", "--label", "topic", "--tokenizer", "large.txt"]


def without_padding(home: Path) -> list[str]:
    (home / "nopad.txt").write_text("\n".join(WORDS).replace("<pad>", "padding"))
    return ["model.pt", *READER, "--data", "texts.csv", "--label", "topic", "--tokenizer", "nopad.txt"]


def too_long(home: Path) -> list[str]:
    long = [row | {"text": "goal " * 50} if at % 4 == 0 else row for at, row in enumerate(ROWS)]
    write_csv(home / "long.csv", long)
    return ["bert", "--data", "long.csv", "--label", "topic"]


def unknown_label(home: Path) -> list[str]:
    write_csv(home / "weather.csv", [*ROWS[1:], ROWS[0] | {"topic": "weather"}])
    return ["bert", "--data", "weather.csv", "--label", "topic"]


def without_texts(home: Path) -> list[str]:
    pl.DataFrame({"a": [0.5] * 8, "b": [0.25] * 8, "topic": ["food"] * 8}).write_csv(home / "numbers.csv")
    return ["model.pt", *READER, "--data", "numbers.csv", "--label", "topic", "--tokenizer", "vocab.txt"]


def without_tokenizer(home: Path) -> list[str]:
    return ["model.pt", *READER, "--data", "texts.csv", "--label", "topic"]


def folder_without_tokenizer(home: Path) -> list[str]:
    for file in write_bert(home / "bare").glob("tokenizer*"):
        file.unlink()
    return ["bare", "--data", "texts.csv", "--label", "topic"]


def no_tokenizer_there(home: Path) -> list[str]:
    return ["model.pt", *READER, "--data", "texts.csv", "--label", "topic", "--tokenizer", "model.pt"]


def damaged_tokenizer(home: Path) -> list[str]:
    (write_bert(home / "damaged") / "tokenizer.json").write_text("{")
    return ["damaged", "--data", "texts.csv", "--label", "topic"]


def two_texts(home: Path) -> list[str]:
    write_csv(home / "two.csv", [row | {"title": row["text"]} for row in ROWS])
    return [*without_tokenizer(home)[:4], "two.csv", "--label", "topic", "--tokenizer", "vocab.txt",
            "--columns", "text,title"]  # fmt: skip


def ragged(home: Path) -> list[str]:
    rows = [list(range(2, 4 + at % 5)) for at in range(30)]
    pl.DataFrame({"ids": rows, "label": [at % 3 for at in range(30)]}).write_parquet(home / "ragged.parquet")
    return ["model.pt", *READER, "--data", "ragged.parquet"]


def beyond_the_embedding(home: Path) -> list[str]:
    rows = [[1, 2, 1000] for _ in range(30)]
    pl.DataFrame({"ids": rows, "label": [at % 3 for at in range(30)]}).write_parquet(home / "beyond.parquet")
    return ["model.pt", *READER, "--data", "beyond.parquet"]


def prepared_twice(home: Path) -> list[str]:
    return [*without_tokenizer(home), "--tokenizer", "vocab.txt", "--preprocess", "json:loads"]


SENTENCES: dict[Callable[[Path], list[str]], str] = {
    larger: rf"has {len(WORDS) + 9} tokens and the model's embedding {len(WORDS)}: give the tokenizer that",
    larger_for_a_folder: r"has 37 tokens and the model's embedding 32: give the tokenizer that",
    without_padding: "different lengths, and the vocabulary has no <pad>",
    too_long: r"10 of 40 rows .*has 52 tokens, and the model takes 40: --max-tokens 40 would cut it",
    unknown_label: "'weather' are no classes of this model. There are 'food', 'money', 'sport'",
    without_texts: "--tokenizer vocab.txt is given, and the inputs hold no texts: name the column",
    without_tokenizer: "'text' holds texts: give --tokenizer",
    folder_without_tokenizer: "'text' holds texts: give --tokenizer",
    no_tokenizer_there: "model.pt holds no tokenizer: give a folder with tokenizer.json",
    damaged_tokenizer: "damaged holds no tokenizer that transformers can read",
    two_texts: "A vocabulary knows no pairs of texts: give one text column with --columns",
    ragged: "'ids' holds rows of different sizes: give --pad",
    beyond_the_embedding: "beyond the rows of an embedding: give the --tokenizer",
    prepared_twice: "--preprocess makes the arrays of a row itself: leave --tokenizer out",
}


@pytest.mark.parametrize("what", SENTENCES, ids=lambda what: what.__name__)
def test_what_does_not_fit_is_said_in_one_sentence(
    what: Callable[[Path], list[str]],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(folder)
    words = ["analyze", *what(folder), "--out", what.__name__, "--threads", "1", "--quiet"]
    capsys.readouterr()
    assert main(words) == 2
    (sentence,) = capsys.readouterr().err.strip().splitlines()
    assert sentence.startswith("diag: ")
    assert re.search(SENTENCES[what], sentence), sentence


def test_empty_and_long_texts_are_counted_out_by_id(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    texts = {2: "", 5: "   ", 9: "goal " * 50}
    write_csv(
        folder / "some.csv", [row | {"text": texts.get(at, row["text"])} for at, row in enumerate(ROWS)]
    )
    words = ["analyze", "bert", "--data", "some.csv", "--label", "topic", "--out", "some", "--threads", "1"]
    assert main([*words, "--max-bad-rows", "10%"]) == 0
    report = json.loads((folder / "some" / "report.json").read_text())
    (data,) = (one for one in report["steps"][0]["records"] if one["by"] == "data")
    said = json.dumps(data)
    assert "is an empty text" in said
    assert "has 52 tokens, and the model takes 40" in said
    table = pl.read_parquet(folder / "some" / "00_as_it_came" / "predictions.parquet")
    assert set(range(40)) - set(table["position"]) == {2, 5, 9}


def test_sequences_of_a_table_are_filled_up_by_what_was_said(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    words = ["analyze", *ragged(folder), "--pad", "0", "--out", "padded", "--threads", "1"]
    assert main(words) == 0
    table = pl.read_parquet(folder / "padded" / "00_as_it_came" / "predictions.parquet").sort("position")
    net = Reader().eval()
    net.load_state_dict(torch.load("model.pt"))
    rows = pl.read_parquet("ragged.parquet")["ids"].to_list()
    with torch.no_grad():
        expected = net.of([torch.tensor(row) for row in rows])
    assert torch.allclose(torch.tensor(table["output"].to_list(), dtype=torch.float32), expected, atol=1e-5)
