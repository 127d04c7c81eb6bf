"""What a command says at its end."""

import io
import re
from dataclasses import replace
from pathlib import Path

import pytest
from rich.cells import cell_len

from diag.render import terminal
from diag.render.figures import MINUS, TIMES
from diag.render.report import Report
from tests.sample_report import ARABIC, CHINESE, make


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    return make(tmp_path_factory.mktemp("run"))


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_summary_says_what_matters(report: Report) -> None:
    text = terminal.render(report, Path("runs/one"), width=200)
    text = text.replace("\xa0", " ").replace(MINUS, "-").replace(TIMES, "x")
    assert text.startswith("✕ Act before shipping: model.pt\n")
    line = next(line for line in text.splitlines() if line.startswith("int8 "))
    for part in (
        "✕ 1 fault",
        "96.7 % [94.8, 97.6]",
        "-1.7 points",
        "1.9 %",
        "0.934",
        "0.071 ms",
        "5.8x",
        "442 kB",
    ):
        assert part in line
    assert "conv2.weight: 12 of 64 output channels" in text
    assert "Report: runs/one/report.html" in text
    assert "Skipped, with reasons in the report: prune:0.3, robustness" in text


@pytest.mark.parametrize("width", [200, 150, 120, 100, 80, 60, 40, 20])
def test_no_line_is_wider_than_the_terminal_and_no_figure_is_cut(report: Report, width: int) -> None:
    text = terminal.render(report, None, width=width)
    copied = [line for line in text.splitlines() if line.strip().startswith("diag ")]
    for line in text.splitlines():
        assert cell_len(line) <= width or line in copied
    assert copied
    shown = text.replace("\xa0", " ").replace("\n", " ")
    for part in ("96.7 %", "0.071 ms", "442 kB"):
        assert part in shown
    assert "…" not in text
    # Eighty columns have room for a table without intervals; fewer have none, and a list has both.
    assert ("[0.069," in shown) == (width != 80)


def test_columns_stand_under_each_other_whatever_the_script(report: Report) -> None:
    names = {"onnx": CHINESE, "int8": ARABIC, "fp16": "🦊"}
    steps = tuple(replace(step, name=names.get(step.name, step.name)) for step in report.steps)
    text = terminal.render(replace(report, steps=steps), None, width=200)
    ends = set()
    for line in text.splitlines():
        if found := re.search(r"\d\s(MB|kB)$", line):
            ends.add(cell_len(line[: found.end()]))
    assert len(ends) == 1


def test_colour_only_on_a_terminal_without_no_color(report: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    def shown(stream: io.StringIO) -> str:
        monkeypatch.setattr("sys.stdout", stream)
        terminal.show(report)
        return stream.getvalue()

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[" in shown(Terminal())
    assert "\x1b" not in shown(io.StringIO())
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in shown(Terminal())
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert "\x1b" not in shown(Terminal())


def test_escapes_in_names_do_not_reach_the_terminal(report: Report) -> None:
    subject = replace(report.subject, model="\x1b]0;owned\x07[bold]model.pt :smile: \u202egpj")
    text = terminal.render(replace(report, subject=subject), Path("a\x1b[2Jb"), width=100)
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "\u202e" not in text
    assert "[bold]model.pt :smile:" in text


def test_a_narrow_encoding_is_no_reason_to_fail(report: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    monkeypatch.setattr("sys.stdout", stream)
    terminal.show(report)
    stream.flush()
    assert b"? Act before shipping: model.pt" in raw.getvalue()
