"""Text classifiers through the whole chain, from the command line."""

import json
from pathlib import Path

import onnxruntime
import pytest

from diag.cli import main
from tests.tiny_texts import sentences, write_bert, write_csv, write_texts

pytestmark = pytest.mark.usefixtures("in_process")


def report_of(out: Path, *words: object) -> dict:
    assert main([*map(str, words), "--out", str(out), "--threads", "1"]) == 0
    return json.loads((out / "report.json").read_text())


def accuracies(report: dict) -> dict[str, float]:
    """By step."""
    return {
        step["name"]: next(
            one["metrics"]["accuracy"]["value"] for one in step["records"] if one["by"] == "accuracy"
        )
        for step in report["steps"]
    }


@pytest.mark.slow
@pytest.mark.parametrize("factory", ["Bag", "Reader"])
def test_plain_text_nets_with_a_vocabulary(
    factory: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = write_texts(tmp_path / "files", factory)
    report = report_of(
        tmp_path / "run", "run", files.model, "--arch", files.arch, "--data", files.data,
        "--train", files.train, "--label", "topic", "--tokenizer", files.vocabulary, "--group", "site",
    )  # fmt: skip
    said = capsys.readouterr().err
    assert "float32" not in said
    assert ("'offsets' is fed the number of tokens" in said) == (factory == "Bag")
    found = accuracies(report)
    assert list(found) == ["as_it_came", "onnx", "int8"]
    assert files.accuracy > 0.75
    assert found["as_it_came"] == found["onnx"] == pytest.approx(files.accuracy, abs=1e-6)
    assert found["int8"] == pytest.approx(files.accuracy, abs=0.05)
    assert report["subject"]["classes"] == ["food", "money", "sport"]
    made = {record["by"]: record for record in report["steps"][1]["records"]}
    assert made["agreement"]["verdict"] == "good"
    session = onnxruntime.InferenceSession(tmp_path / "run" / "01_onnx" / "model.onnx")
    ids = session.get_inputs()[0]
    assert [type(size) for size in ids.shape] == [str, str], "rows and tokens are free"


@pytest.mark.slow
def test_a_bert_on_a_table_of_texts(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    data, train = (write_csv(tmp_path / f"{name}.csv", sentences(60, at)) for at, name in enumerate("ab"))
    report = report_of(
        tmp_path / "run", "run", write_bert(tmp_path / "bert"), "--data", data, "--train", train,
        "--label", "topic", "--group", "site", "--max-tokens", "16", "--steps", "onnx,(int8|int8-dynamic)",
    )  # fmt: skip
    found = accuracies(report)
    assert list(found) == ["as_it_came", "onnx", "int8", "int8_dynamic"]
    assert found["as_it_came"] == found["onnx"]
    made = {record["by"]: record for record in report["steps"][1]["records"]}
    assert made["agreement"]["verdict"] == "good"
    session = onnxruntime.InferenceSession(tmp_path / "run" / "01_onnx" / "model.onnx")
    assert [one.name for one in session.get_inputs()] == ["input_ids", "attention_mask", "token_type_ids"]
    assert all(isinstance(size, str) for one in session.get_inputs() for size in one.shape)
