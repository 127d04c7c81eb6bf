"""The page, the Markdown and the notebook, without a browser."""

import json
import re
import subprocess
import sys
import time
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from diag.render import html, markdown, notebook, terminal
from diag.render import json as json_format
from diag.render.cards import SHOWN
from diag.render.figures import MINUS, plain
from diag.render.report import Report
from diag.render.summary import summarize
from study.record import Finding, Metric, Picture, Record, Table, Verdict
from tests.sample_report import ARABIC, CHINESE, EMOJI, HOSTILE, IMAGE, MARKED, OVERRIDE, SCRIPT, make

VOID = {"meta", "img", "br", "input", "image", "use", "rect", "line", "circle", "path", "hr"}


class Page(HTMLParser):
    """What a browser would make of it: every tag with its attributes, the text, and whether tags pair."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def ids(self) -> list[str]:
        return [at["id"] or "" for _, at in self.tags if "id" in at]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def report(run: Path) -> Report:
    return make(run)


@pytest.fixture(scope="module")
def page(report: Report, run: Path) -> str:
    return html.render(report, run)


@pytest.fixture(scope="module")
def parsed(page: str, report: Report, run: Path) -> tuple[Page, Page]:
    """The page and the notebook's fragment."""
    return Page(page), Page(notebook.repr_html(report, run))


def test_the_page_pairs_its_tags_and_every_link_lands(page: str) -> None:
    parsed = Page(page)
    ids = parsed.ids()
    assert len(ids) == len(set(ids))
    links = [at["href"] or "" for tag, at in parsed.tags if tag in ("a", "use")]
    assert len(links) > 50
    assert {link for link in links if link.removeprefix("#") not in ids} == set()
    named = [word for _, at in parsed.tags for word in (at.get("aria-labelledby") or "").split()]
    assert set(named) <= set(ids)


def test_the_page_fetches_nothing(page: str) -> None:
    for tag, attributes in Page(page).tags:
        for name in ("src", "href", "action", "srcset", "poster", "data", "xlink:href"):
            target = attributes.get(name)
            assert target is None or target.startswith(("#", "data:image/png;base64,")), (tag, target)
        assert not any(name.startswith("on") for name in attributes)
    style = re.findall("<style>(.*?)</style>", page, re.DOTALL)
    assert len(style) == 1
    assert "url(" not in style[0]
    assert "@import" not in style[0]


def test_only_our_script_runs_and_it_is_small(page: str) -> None:
    scripts = [at for tag, at in Page(page).tags if tag == "script"]
    assert [at.get("type") for at in scripts] == ["application/json", None]
    assert len((html.TEMPLATES / "page.js").read_bytes()) <= 8000
    assert re.search(r"script-src 'sha256-[A-Za-z0-9+/]{43}='", page)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_come_out_as_text(page: str, parsed: tuple[Page, Page], name: str) -> None:
    for made in parsed:
        assert any(plain(name) in text for text in made.text)
        assert not any("\x1b" in text for text in made.text)
        assert not {tag for tag, at in made.tags if "onerror" in at or tag == "img"}
    assert page.count("<script") == 2
    assert "\u202e" not in re.sub(r'<script type="application/json".*?</script>', "", page)


def test_hostile_names_are_no_markdown(report: Report) -> None:
    text = markdown.render(report)
    prose = re.sub(r"^(`{3,})sh\n.*?\n\1$", "", text, flags=re.DOTALL | re.MULTILINE)
    assert not re.search(r"(?<!\\)[<>`]", prose)
    assert "](http" not in prose.replace("\\]", "")
    assert "://" not in prose
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert ARABIC in text
    columns: dict[int, str] = {}
    for line in text.splitlines():
        if line.startswith("| "):
            columns.setdefault(len(re.findall(r"(?<!\\)\|", line)), line)
    assert set(columns) == {5, len(summarize(report).columns) + 3}


def test_a_command_cannot_leave_its_fence() -> None:
    fenced = markdown.code("a ``` b\n# c ````")
    first, *inside, last = fenced.splitlines()
    assert first == "`````sh"
    assert last == "`````"
    assert inside == ["a ``` b # c ````"]


def test_json_holds_the_names_as_they_are(report: Report) -> None:
    assert json.loads(json_format.render(report))["subject"]["classes"][: len(HOSTILE)] == list(HOSTILE)


def test_the_record_in_the_page_is_report_json(page: str, report: Report) -> None:
    found = re.search(r'<script type="application/json" id="report-json">(.*?)</script>', page, re.DOTALL)
    assert found
    assert "<" not in found[1]
    assert json_format.parse(found[1]) == report


def test_the_title_and_the_head_say_the_verdict(page: str, report: Report, tmp_path: Path) -> None:
    assert "<title>✕ Act before shipping: model.pt · diag</title>" in page
    good = replace(report, steps=report.steps[:2])
    assert "<title>✓ No fault found: model.pt · diag</title>" in html.render(good, tmp_path)


def test_the_page_has_its_order(page: str) -> None:
    parts = ['id="steps"', 'id="findings"', 'id="step-as_it_came"', 'id="step-int8"', 'id="changed"',
             'id="skipped"', 'id="passed"', 'id="record"']  # fmt: skip
    places = [page.index(part) for part in parts]
    assert places == sorted(places)


def test_what_was_skipped_and_what_was_said_aloud_is_there(page: str, report: Report) -> None:
    text = " ".join(Page(page).text)
    for step, record in report.with_verdict(Verdict.SKIPPED):
        assert record.reason in text, step.name
    for part in ("72 of 432 rows were held back", "onnxruntime", "1.31.1", "avx512_vnni", "3f9a3f9a"):
        assert part in text


def test_findings_are_told_once_worst_first(report: Report) -> None:
    found = summarize(report).found
    assert [one.verdict for one in found] == [Verdict.BAD, Verdict.NOTED, Verdict.NOTED]
    assert found[1].steps == ("as_it_came", "onnx", "int8", "fp16")
    assert found[1].finding.where == "site = C & shift = night"


def test_a_findings_id_survives_other_numbers_and_other_findings_have_others(report: Report) -> None:
    def ids(*findings: Finding) -> list[str]:
        record = Record("slices", Verdict.NOTED, "", findings=findings)
        step = replace(report.steps[0], records=(record,))
        return sorted(one.id for one in summarize(replace(report, steps=(step,))).found)

    first = ids(Finding("errs 4.1 times as often", "site = C"))
    assert first == ids(Finding("errs 3.7 times as often", "site = C"))
    assert first != ids(Finding("errs 4.1 times as often", "site = D"))
    # Without a place the numbers may be all that tells two apart.
    assert len(set(ids(Finding("row 17 changed"), Finding("row 93 changed"), Finding("row 93 changed")))) == 3


def test_a_bad_record_without_a_finding_is_one(report: Report) -> None:
    record = Record("int8", Verdict.BAD, "int8 failed: no calibration rows", reason="trace")
    failed = replace(report.steps[2], model=None, records=(record,))
    summary = summarize(replace(report, steps=(*report.steps[:2], failed)))
    assert summary.fault == "int8 failed: no calibration rows (int8)."
    assert summary.lines[2].word == "not made"


def test_a_section_shows_at_most_a_hundred_rows_and_says_how_many_more(report: Report) -> None:
    rows = tuple((f"id-{at}-end", at) for at in range(1234))
    findings = tuple(Finding(f"finding {at} here") for at in range(345))
    record = Record("errors", Verdict.NOTED, "", findings=findings, tables=(Table("T", ("id", "n"), rows),))
    step = replace(report.steps[0], records=(record,))
    text = html.render(replace(report, steps=(step,)))
    shown = re.sub(r'<script type="application/json".*?</script>', "", text, flags=re.DOTALL)
    assert shown.count("-end<") == SHOWN
    assert f"{1234 - SHOWN:,} more rows" in shown
    assert shown.count("<article") == SHOWN
    assert f"{345 - SHOWN} more findings" in shown


def test_the_page_does_not_grow_with_the_data(report: Report) -> None:
    def size(rows: int) -> int:
        table = Table("T", ("value",), tuple((at / 7,) for at in range(rows)))
        record = Record("x", Verdict.NOTED, "", tables=(table,), pictures=(Picture("T", "ecdf", "T"),))
        return len(html.render(replace(report, steps=(replace(report.steps[0], records=(record,)),))))

    assert size(150_000) < size(1000) + 30_000


def test_pictures_are_only_read_below_the_run_folder(report: Report, tmp_path: Path) -> None:
    from tests.sample_report import png

    (tmp_path / "secret.png").write_bytes(png(8, 1))
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "text.png").write_text("no picture")
    (folder / "good.png").write_bytes(png(8, 2))
    sources = ("../secret.png", str(tmp_path / "secret.png"), "text.png", "none.png", "good.png")
    pictures = tuple(Picture(f"a{at}", "image", source) for at, source in enumerate(sources))
    record = Record("x", Verdict.NOTED, "", pictures=pictures)
    one = replace(report, steps=(replace(report.steps[0], records=(record,)),))
    text = html.render(one, folder)
    assert text.count("data:image/png;base64,") == 1
    assert text.count("is not in the run folder") == 3
    assert text.count("is no PNG") == 1
    assert "it lies in the run folder as good.png" in html.render(one)


def test_maps_lie_over_their_rows_and_each_picture_is_there_once(page: str) -> None:
    tags = Page(page).tags
    images = [at["href"] for tag, at in tags if tag == "image"]
    used = [at["href"] for tag, at in tags if tag == "use"]
    assert len(images) == len(set(images)) == 15
    # Four steps of three rows, each a row with its map over it; the rows are the same.
    assert len(used) == 24
    assert sum(at.get("class") == "map" for tag, at in tags if tag == "use") == 12


def test_a_report_of_nothing_renders_everywhere(report: Report) -> None:
    empty = replace(report, steps=(), environment={})
    weights = replace(report, steps=(replace(report.steps[0], records=()),), environment={})
    for one in (empty, weights):
        Page(html.render(one))
        Page(notebook.repr_html(one))
        assert "No fault found" in markdown.render(one)
        assert "No fault found" in terminal.render(one)


def test_regression_and_benchmark_reports_have_their_headline(report: Report) -> None:
    rmse = Metric(53.2, 49.0, 58.1, 88, "", "lower")
    steps = tuple(
        replace(step, parent=None, records=(Record("accuracy", Verdict.NOTED, "", metrics={"rmse": rmse}),))
        for step in report.steps[:2]
    )
    subject = replace(report.subject, task="regression")
    summary = summarize(replace(report, subject=subject, steps=steps))
    assert summary.columns[0].title == "root mean squared error"
    assert [line.figures["headline"].text for line in summary.lines] == ["53", "53"]


def test_the_change_is_the_paired_one_with_its_interval_where_it_was_measured(report: Report) -> None:
    def change(*extra: tuple[str, Metric]) -> str:
        record = Record("agreement", Verdict.NOTED, "", metrics=dict(extra) | {
            "negative_flip_rate": Metric(0.02, 0.01, 0.03, 360),
            "positive_flip_rate": Metric(0.005, 0, 0.01, 360),
            "accuracy": Metric(0.9, 0.8, 0.95, 360),
        })  # fmt: skip
        steps = (report.steps[0], replace(report.steps[1], records=(record,)))
        return (
            summarize(replace(report, steps=steps))
            .lines[1]
            .figures["change"]
            .short.replace("\xa0", " ")
            .replace(MINUS, "-")
        )

    assert change() == "-1.5 points"
    measured = Metric(-0.015, -0.031, 0.0, 360, "", "higher")
    assert change(("accuracy@change", measured)) == "-1.5 points [-3.1, 0.0]"


def test_four_steps_with_thirty_charts_are_small_and_quick(report: Report, run: Path) -> None:
    text = html.render(report, run)
    assert text.count('<svg viewBox="0 0 376') >= 30
    assert len(text.encode()) < 1_000_000
    best = min(_seconds(report, run) for _ in range(3))
    # The budget is 0.3 s on an idle machine; the test's is for a busy one.
    assert best < 1.5


def _seconds(report: Report, folder: Path) -> float:
    began = time.perf_counter()
    html.render(report, folder)
    return time.perf_counter() - began


def test_importing_the_renderers_loads_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from diag.render import html, markdown, notebook, terminal, write\n"
        "heavy = ('numpy', 'torch', 'polars', 'jinja2', 'rich', 'PIL', 'onnx')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_names_of_every_script_stand_in_the_page(page: str) -> None:
    text = " ".join(Page(page).text)
    for name in (ARABIC, CHINESE, EMOJI, SCRIPT, IMAGE):
        assert name in text
    assert MARKED.replace("\n", " ") in text
    assert OVERRIDE not in re.sub(r'<script type="application/json".*?</script>', "", page)
