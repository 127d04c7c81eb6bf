"""The report and its JSON: what others script against."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from diag.render import json as json_format
from diag.render.report import ModelFacts, Report, Step, from_json, to_json
from diag.render.write import read_report, write_again, write_reports
from study.errors import InputError
from study.record import Metric, Record, Verdict
from tests.sample_report import CLASSES, make

MADE = ModelFacts("model.onnx", "onnx", "3f9a", 1)


@pytest.fixture
def report(tmp_path: Path) -> Report:
    return make(tmp_path)


def test_what_was_written_is_read_back(report: Report) -> None:
    assert json_format.parse(json_format.render(report)) == report


def test_the_keys_are_those_that_others_rely_on(report: Report) -> None:
    data = json.loads(json_format.render(report))
    assert list(data) == ["format", "verdict", "subject", "environment", "steps"]
    assert data["format"] == 1
    assert data["verdict"] == "bad"
    assert list(data["subject"]) == ["model", "sha256", "task", "classes", "rows"]
    for step in data["steps"]:
        assert list(step) == ["name", "from", "model", "records"]
        assert step["model"] is None or list(step["model"]) == ["path", "format", "sha256", "bytes"]
        for record in step["records"]:
            assert list(record) == [
                "by", "verdict", "summary", "reason", "metrics", "findings", "tables", "pictures",
            ]  # fmt: skip
            for metric in record["metrics"].values():
                assert list(metric) == ["value", "low", "high", "n", "unit", "better", "level"]


def test_numbers_are_not_rounded(report: Report) -> None:
    value = 0.1 + 0.2
    metric = Metric(value, value, value, 1)
    exact = replace(
        report, steps=(Step("a", None, None, (Record("x", Verdict.NOTED, "", metrics={"m": metric}),)),)
    )
    assert json.loads(json_format.render(exact))["steps"][0]["records"][0]["metrics"]["m"]["value"] == value


def test_labels_are_readable_and_half_characters_survive(report: Report) -> None:
    text = json_format.render(replace(report, environment={"command": "diag run bad\udcffname.pt"}))
    assert CLASSES[4] in text
    text.encode("utf-8")
    assert json_format.parse(text).text("command") == "diag run bad\udcffname.pt"


def test_no_number_that_is_not_finite_is_written(report: Report) -> None:
    with pytest.raises(ValueError, match="JSON"):
        json_format.render(replace(report, environment={"seconds": float("nan")}))


@pytest.mark.parametrize(
    ("bad", "verdict"),
    [(set(), "good"), ({"came"}, "good"), ({"onnx"}, "good"), ({"int8"}, "bad"), ({"fp16"}, "bad")],
)
def test_a_report_is_as_bad_as_the_leaves_of_its_tree(report: Report, bad: set[str], verdict: str) -> None:
    tree = {"came": None, "onnx": "came", "int8": "onnx", "fp16": "onnx"}
    steps = tuple(
        Step(name, parent, MADE, (Record("x", Verdict.BAD if name in bad else Verdict.NOTED, ""),))
        for name, parent in tree.items()
    )
    assert replace(report, steps=steps).verdict.value == verdict


def test_a_step_that_was_not_made_is_as_bad_as_what_it_was_to_be_made_from(report: Report) -> None:
    came = Step("came", None, MADE, (Record("x", Verdict.BAD, ""),))
    failed = Step("onnx", "came", None, (Record("onnx", Verdict.BAD, ""),))
    skipped = Step("int8", "onnx", None, (Record.skipped("int8", "onnx was not made"),))
    assert replace(report, steps=(came, failed, skipped)).verdict is Verdict.BAD
    mended = replace(failed, model=MADE, records=(Record("x", Verdict.NOTED, ""),))
    assert replace(report, steps=(came, mended, skipped)).verdict is Verdict.GOOD


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"format": 2}',
        '{"format": 1}',
        '{"format": 1, "subject": 3, "steps": [], "environment": {}}',
    ],
)
def test_what_is_no_report_is_refused_in_one_sentence(text: str) -> None:
    with pytest.raises(InputError) as caught:
        json_format.parse(text)
    assert "\n" not in str(caught.value)


def test_a_damaged_step_is_refused(report: Report) -> None:
    data = to_json(report)
    steps = data["steps"]
    assert isinstance(steps, list)
    assert isinstance(steps[0], dict)
    del steps[0]["records"]
    with pytest.raises(InputError, match="damaged"):
        from_json(data)


def test_the_folder_is_rendered_again_from_its_json(report: Report, tmp_path: Path) -> None:
    write_reports(report, tmp_path)
    first = {path.name: path.read_bytes() for path in tmp_path.glob("report.*")}
    assert set(first) == {"report.html", "report.json", "report.md"}
    (tmp_path / "report.html").unlink()
    (tmp_path / "report.md").unlink()
    write_again(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.glob("report.*")} == first


def test_a_folder_without_a_report_and_an_unknown_format_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"report\.json"):
        read_report(tmp_path)
    with pytest.raises(InputError, match="html"):
        write_again(tmp_path, "htm")
