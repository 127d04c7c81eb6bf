"""Folders of transformers: what is read from them, and how texts are fed."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from diag.cli import main
from study.errors import InputError
from study.guess import require_task
from study.loading.huggingface import HuggingFace
from study.loading.sniff import identify
from study.tokens import open_tokenizer
from tests.tiny_texts import TOPICS, WORDS, sentences, write_bert, write_csv

transformers = pytest.importorskip("transformers")


def own_scores(folder: Path, texts: list, pairs: list | None = None) -> np.ndarray:
    """What transformers itself gives, a text at a time: nothing is filled up."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder))
    model = transformers.AutoModelForSequenceClassification.from_pretrained(str(folder)).eval()
    found = []
    with torch.no_grad():
        for at, text in enumerate(texts):
            fed = tokenizer(text, pairs[at] if pairs else None, return_tensors="pt")
            found.append(model(**fed).logits[0].numpy())
    return np.stack(found)


def judged(tmp_path: Path, folder: Path, *words: object) -> tuple[dict, np.ndarray]:
    """The report of ``diag analyze``, and the outputs in its table of predictions."""
    import polars as pl

    out = tmp_path / "run"
    asked = ["analyze", folder, *words, "--out", out, "--threads", "1", "--force"]
    assert main([*map(str, asked)]) == 0
    table = pl.read_parquet(out / "00_as_it_came" / "predictions.parquet").sort("position")
    return json.loads((out / "report.json").read_text()), np.array(table["output"].to_list())


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("kind", ["Bert", "DistilBert", "Roberta"])
def test_texts_are_fed_as_transformers_feeds_them(kind: str, tmp_path: Path) -> None:
    folder = write_bert(tmp_path / "model", kind)
    rows = sentences(40, 0)
    report, scores = judged(
        tmp_path, folder, "--data", write_csv(tmp_path / "d.csv", rows), "--label", "topic"
    )
    assert report["subject"]["classes"] == list(TOPICS)
    assert scores == pytest.approx(own_scores(folder, [row["text"] for row in rows]), abs=1e-4)


@pytest.mark.usefixtures("in_process")
def test_pairs_of_texts_are_told_apart(tmp_path: Path) -> None:
    folder = write_bert(tmp_path / "model")
    first, second = sentences(20, 0), sentences(20, 1)
    rows = [
        {"topic": a["topic"], "premise": a["text"], "claim": b["text"]}
        for a, b in zip(first, second, strict=True)
    ]
    data = write_csv(tmp_path / "d.csv", rows)
    _, scores = judged(tmp_path, folder, "--data", data, "--label", "topic", "--columns", "premise,claim")
    expected = own_scores(folder, [row["premise"] for row in rows], [row["claim"] for row in rows])
    assert scores == pytest.approx(expected, abs=1e-4)


WRAPPED = """
from torch import nn
from transformers import BertConfig, BertModel

class Wrapped(nn.Module):
    def __init__(self):
        super().__init__()
        self.bert = BertModel(BertConfig(vocab_size=40, hidden_size=16, num_hidden_layers=1,
            num_attention_heads=2, intermediate_size=32, max_position_embeddings=40))
        self.head = nn.Linear(16, 3)

    def forward(self, input_ids, attention_mask=None):
        return self.head(self.bert(input_ids, attention_mask=attention_mask).last_hidden_state[:, 0])
"""


@pytest.mark.usefixtures("in_process")
def test_a_mask_that_a_module_could_do_without_is_fed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "wrapped_bert.py").write_text(WRAPPED)
    monkeypatch.syspath_prepend(str(tmp_path))
    import wrapped_bert  # type: ignore[import-not-found]

    torch.manual_seed(0)
    net = wrapped_bert.Wrapped().eval()
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    torch.save(net.state_dict(), tmp_path / "model.pt")
    tokens = write_bert(tmp_path / "tokens")
    rows = sentences(20, 0)
    data = write_csv(tmp_path / "d.csv", rows)
    _, scores = judged(
        tmp_path, tmp_path / "model.pt", "--arch", "wrapped_bert:Wrapped", "--data", data, "--label", "topic",
        "--tokenizer", tokens / "tokenizer.json",
    )  # fmt: skip
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(tokens))
    with torch.no_grad():
        expected = [net(tokenizer(row["text"], return_tensors="pt")["input_ids"])[0].numpy() for row in rows]
    assert scores == pytest.approx(np.stack(expected), abs=1e-4)


@pytest.mark.parametrize("kind", ["Bert", "DistilBert", "Roberta"])
def test_the_longest_text_is_the_longest_that_runs(kind: str, tmp_path: Path) -> None:
    folder = write_bert(tmp_path, kind)
    longest = HuggingFace.facts(folder).longest
    model = transformers.AutoModelForSequenceClassification.from_pretrained(str(folder)).eval()
    model(input_ids=torch.full((1, longest), 5))
    with pytest.raises((IndexError, RuntimeError)):
        model(input_ids=torch.full((1, longest + 1), 5))


def test_heads_say_their_task(tmp_path: Path) -> None:
    score = write_bert(tmp_path / "score", num_labels=1)
    flags = write_bert(tmp_path / "flags", num_labels=3, problem_type="multi_label_classification")
    assert HuggingFace.facts(score).task == "regression"
    assert HuggingFace.facts(flags).task == "multilabel"
    assert HuggingFace.facts(flags).classes == ()
    assert HuggingFace.facts(write_bert(tmp_path / "topics")).classes == tuple(TOPICS)


def test_shards_and_torchs_own_weights_are_read(tmp_path: Path) -> None:
    folder = write_bert(tmp_path / "whole")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(str(folder))
    shards, own = tmp_path / "shards", tmp_path / "own"
    model.save_pretrained(str(shards), max_shard_size="5KB")
    assert len(list(shards.glob("*.safetensors"))) > 1
    shutil.copytree(folder, own)
    (own / "model.safetensors").unlink()
    torch.save(model.state_dict(), own / "pytorch_model.bin")
    for path in (shards, own):
        state = HuggingFace.build(identify(path)).state_dict()
        assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    next(shards.glob("model-00002*")).unlink()
    with pytest.raises(InputError, match=r"lacks the weights in 'model-00002.*copy them too"):
        identify(shards)


BROKEN = {
    "no weights": (
        lambda f: (f / "model.safetensors").unlink(),
        "config.json and no weights: save the model",
    ),
    "not called so": (
        lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"),
        "is a safetensors file: rename it model.safetensors",
    ),
    "torch's own": (
        lambda f: torch.save({}, f / "model.safetensors"),
        "no safetensors file but torch's own: rename it pytorch_model.bin",
    ),
    "code of its own": (lambda f: changed(f, auto_map={"AutoModel": "x.Y"}), "keeps code of its own"),
    "no architecture": (lambda f: changed(f, architectures=None), "names no architecture"),
}


def changed(folder: Path, **settings: object) -> None:
    said = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(said | settings))


@pytest.mark.parametrize("what", BROKEN)
def test_a_folder_that_is_not_whole_is_refused_in_one_sentence(what: str, tmp_path: Path) -> None:
    folder = write_bert(tmp_path / "model")
    breaks, sentence = BROKEN[what]
    breaks(folder)
    with pytest.raises(InputError, match=sentence):
        identify(folder)


def test_a_tokenizer_file_stands_for_its_folder(tmp_path: Path) -> None:
    folder = write_bert(tmp_path)
    assert open_tokenizer(folder / "tokenizer.json").size == open_tokenizer(folder).size == len(WORDS) + 3


def test_a_task_that_there_is_not_is_said(tmp_path, monkeypatch, capsys):
    """And one tag a text is none a word; the weights are looked at without data."""
    import transformers

    monkeypatch.chdir(tmp_path)
    sizes = transformers.BertConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    transformers.BertForTokenClassification(sizes).save_pretrained("tagger")
    (tmp_path / "rows.csv").write_text("text,label\none two,1\nthree,0\n")
    write_bert(tmp_path / "words")
    with pytest.raises(InputError, match="no task 'tokns'"):
        require_task("tokns")
    assert main(["analyze", "tagger", "--data", "rows.csv", "--tokenizer", "words", "--out", "a"]) == 2
    assert "A tagger needs a tag a word" in " ".join(capsys.readouterr().err.split())
    assert main(["analyze", "tagger", "--out", "b"]) == 0
