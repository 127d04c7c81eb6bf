"""The page in a real browser: headless Chromium, driven by playwright."""

import os
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from diag.render import html
from diag.render.figures import plain
from diag.render.report import Report
from diag.render.summary import summarize
from tests.sample_report import HOSTILE, make

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
STRICT = "default-src 'none'; img-src data:"
"""As where reports of strangers are shown: neither scripts nor styles."""


def _missing(reason: str) -> None:
    if os.environ.get("CI"):
        pytest.fail(f"{reason}, and CI must have it")
    pytest.skip(reason)


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    found = os.environ.get("DIAG_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        _missing(f"there is no browser ({', '.join(NAMES)})")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        _missing("playwright is not installed")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def report(run: Path) -> Report:
    return make(run)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def address(run: Path, report: Report) -> str:
    (run / "report.html").write_text(html.render(report, run), encoding="utf-8")
    return (run / "report.html").as_uri()


class Strict(SimpleHTTPRequestHandler):
    """Serves the page under the strict policy."""

    def end_headers(self) -> None:
        self.send_header("Content-Security-Policy", STRICT)
        super().end_headers()

    def log_message(self, *_arguments: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def strict_address(address: str, run: Path) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Strict, directory=str(run))) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/report.html"
        server.shutdown()
        thread.join()


@dataclass
class Seen:
    """A page that is open, with what it said and asked for."""

    page: "Page"
    said: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def run(self, script: str) -> Any:
        return self.page.evaluate(script)


class Opener:
    """Opens pages in contexts of their own, and closes them."""

    def __init__(self, browser: "Browser") -> None:
        self._browser = browser
        self.contexts: list[Any] = []

    def __call__(self, address: str, width: int = 1280, theme: str = "light", *, script: bool = True) -> Seen:
        context = self._browser.new_context(
            viewport={"width": width, "height": 900},
            color_scheme=theme,  # type: ignore[arg-type]  # one of playwright's literals
            java_script_enabled=script,
        )
        self.contexts.append(context)
        seen = Seen(context.new_page())
        seen.page.on("console", lambda message: seen.said.append(message.text))
        seen.page.on("pageerror", lambda error: seen.said.append(str(error)))
        seen.page.on("request", lambda request: seen.asked.append(request.url))
        seen.page.goto(address)
        return seen


@pytest.fixture
def open_page(browser: "Browser") -> Iterator[Opener]:
    opener = Opener(browser)
    yield opener
    for context in opener.contexts:
        context.close()


BOXES = """() => [...document.querySelectorAll('svg[role=img]')].map(svg => {
  for (let at = svg; at; at = at.parentElement) if (at.tagName === 'DETAILS') at.open = true;
  const box = svg.getBBox(), on = svg.getBoundingClientRect();
  return [box.width, box.height, on.width, on.height];
})"""
PICTURES = """() => Promise.all([...document.querySelectorAll('image')].map(image => new Promise(done => {
  const loaded = new Image();
  loaded.onload = () => done(loaded.naturalWidth);
  loaded.onerror = () => done(0);
  loaded.src = image.getAttribute('href');
})))"""
OVERLAPS = """() => {
  const bad = [];
  for (const details of document.querySelectorAll('details')) details.open = true;
  for (const svg of document.querySelectorAll('svg[role=img]')) {
    const frame = svg.getBoundingClientRect();
    const texts = [...svg.querySelectorAll('text')]
      .map(text => [text.firstChild.textContent, text.getBoundingClientRect()]);
    texts.forEach(([name, a], at) => {
      if (a.left < frame.left - 1 || a.right > frame.right + 1) bad.push(['cut', name]);
      if (a.top < frame.top - 1 || a.bottom > frame.bottom + 2) bad.push(['cut', name]);
      for (const [other, b] of texts.slice(at + 1))
        if (a.left < b.right - 2 && b.left < a.right - 2 && a.top < b.bottom - 5 && b.top < a.bottom - 5)
          bad.push(['overlap', name, other]);
    });
  }
  return bad;
}"""
CONTRASTS = """() => {
  const known = new Map(), canvas = document.createElement('canvas').getContext('2d');
  const channels = color => {
    if (!known.has(color)) {
      canvas.clearRect(0, 0, 1, 1);
      canvas.fillStyle = color;
      canvas.fillRect(0, 0, 1, 1);
      known.set(color, [...canvas.getImageData(0, 0, 1, 1).data]);
    }
    return known.get(color);
  };
  const linear = v => v / 255 <= .03928 ? v / 255 / 12.92 : ((v / 255 + .055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => .2126 * linear(r) + .7152 * linear(g) + .0722 * linear(b);
  const ground = element => { for (let at = element; at; at = at.parentElement) {
    const color = channels(getComputedStyle(at).backgroundColor); if (color[3] > 250) return color; }
    return channels(getComputedStyle(document.body).backgroundColor); };
  const pale = [];
  for (const element of document.querySelectorAll('main *:not(svg *), nav a, footer *')) {
    const text = [...element.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
    if (!text || !element.checkVisibility()) continue;
    const a = light(channels(getComputedStyle(element).color)), b = light(ground(element));
    const contrast = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    if (contrast < 4.5) pale.push([element.tagName, element.textContent.slice(0, 30), contrast]);
  }
  return pale;
}"""


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
def test_readable_without_an_error_or_a_request(
    open_page: Opener, address: str, width: int, theme: str
) -> None:
    seen = open_page(address, width, theme)
    assert seen.said == []
    assert [url for url in seen.asked if not url.startswith("data:")] == [address]
    assert seen.run("document.documentElement.scrollWidth <= innerWidth")
    assert seen.run(CONTRASTS) == []
    dark = seen.run("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
    assert dark == (theme == "dark")


@pytest.mark.parametrize("width", [1280, 400])
def test_every_picture_is_visible_and_no_text_is_cut_or_covered(
    open_page: Opener, address: str, width: int
) -> None:
    seen = open_page(address, width)
    boxes = seen.run(BOXES)
    assert len(boxes) > 40
    assert all(min(box) > 10 for box in boxes), boxes
    widths = seen.run(PICTURES)
    assert len(widths) == 15
    assert all(wide > 0 for wide in widths)
    assert seen.run(OVERLAPS) == []


def test_hostile_names_are_text_and_nothing_they_ask_for_happens(
    open_page: Opener, address: str, report: Report
) -> None:
    seen = open_page(address)
    dialogs: list[str] = []
    seen.page.on("dialog", lambda dialog: dialogs.append(dialog.message))
    text = seen.run("document.body.textContent")
    for name in HOSTILE:
        assert plain(name) in text
    assert seen.run("document.querySelectorAll('main script, main img, [onerror]').length") == 0
    assert dialogs == []
    assert summarize(report).title in seen.page.title()


def test_whole_without_scripts(open_page: Opener, address: str) -> None:
    seen = open_page(address, script=False)
    assert seen.page.locator("h1").is_visible()
    assert seen.page.locator("#tradeoff svg").is_visible()
    assert not seen.page.locator("#filter").is_visible()
    assert not seen.page.locator("#help").is_visible()
    closed = seen.page.locator("#as_it_came-calibration")
    assert closed.get_attribute("open") is None
    inside = closed.locator("div").first
    closed.locator("summary").first.click()
    assert inside.is_visible()
    maps = seen.page.locator(".sets:has(.map):visible").first
    layer = maps.locator(".map").first
    assert layer.evaluate("e => getComputedStyle(e).opacity") == "1"
    maps.locator(".over").uncheck()
    assert layer.evaluate("e => getComputedStyle(e).opacity") == "0"


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_whole_under_a_policy_that_forbids_scripts_and_styles(
    open_page: Opener, strict_address: str, theme: str
) -> None:
    seen = open_page(strict_address, theme=theme)
    assert seen.run("document.querySelector('#filter').hidden")
    assert seen.run("getComputedStyle(document.querySelector('nav')).position") == "static"
    boxes = seen.run(BOXES)
    assert all(min(box) > 10 for box in boxes)
    assert all(wide > 0 for wide in seen.run(PICTURES))
    assert seen.run(OVERLAPS) == []
    fills = seen.run(
        "[...document.querySelectorAll('svg[role=img] rect')].map(e => getComputedStyle(e).fill)"
    )
    assert "rgb(0, 114, 178)" in fills
    assert "rgb(0, 0, 0)" not in fills
    # The text's colour goes with the ground's: a chart is no black blob on a dark one.
    text = seen.run("getComputedStyle(document.querySelector('svg text')).fill")
    body = seen.run("getComputedStyle(document.body).color")
    assert text == body


def test_a_deep_link_opens_what_is_closed_and_lands(open_page: Opener, address: str) -> None:
    seen = open_page(f"{address}#int8-calibration-chart-0")
    seen.page.wait_for_timeout(150)
    assert seen.run("document.getElementById('int8-calibration').open")
    top = seen.run("document.getElementById('int8-calibration-chart-0').getBoundingClientRect().top")
    assert 0 <= top <= 120
    links = seen.run("[...document.querySelectorAll('a[href^=\"#\"]')].map(a => a.hash.slice(1))")
    assert len(links) > 30
    assert seen.page.evaluate("ids => ids.filter(id => !document.getElementById(id))", links) == []


def test_the_script_sorts_filters_moves_and_turns_dark(open_page: Opener, address: str) -> None:
    seen = open_page(address)
    page = seen.page
    sizes = """[...document.querySelectorAll('.strip tbody tr')]
      .map(row => Number(row.cells[row.cells.length - 1].dataset.v || NaN))"""
    page.locator(".strip thead button", has_text="size").click()
    up = [size for size in seen.run(sizes) if size == size]  # noqa: PLR0124  NaN is not itself
    assert up == sorted(up)
    page.locator(".strip thead button", has_text="size").click()
    assert [size for size in seen.run(sizes) if size == size] == sorted(up, reverse=True)  # noqa: PLR0124
    page.locator("#filter select[name=verdict]").select_option("bad")
    assert page.locator("article.finding:visible").count() == 1
    assert "?verdict=bad" in page.url
    page.reload()
    assert page.locator("article.finding:visible").count() == 1
    page.locator("#filter select[name=verdict]").select_option("")
    page.locator("h1").click()
    page.keyboard.press("j")
    assert page.locator("article.here").count() == 1
    page.keyboard.press("?")
    assert page.locator("#help").is_visible()
    page.keyboard.press("Escape")
    before = seen.run("getComputedStyle(document.body).backgroundColor")
    page.keyboard.press("t")
    assert seen.run("getComputedStyle(document.body).backgroundColor") != before
    page.reload()
    assert seen.run("getComputedStyle(document.body).backgroundColor") != before
    assert seen.said == []


def test_an_edited_script_does_not_run(open_page: Opener, address: str, run: Path) -> None:
    edited = run / "edited.html"
    text = (run / "report.html").read_text(encoding="utf-8")
    edited.write_text(
        text.replace('"use strict";', '"use strict"; document.title = "owned";'), encoding="utf-8"
    )
    seen = open_page(edited.as_uri())
    assert seen.page.title() != "owned"
    assert any("Content Security Policy" in said for said in seen.said)


def test_print_opens_what_is_closed(open_page: Opener, address: str) -> None:
    seen = open_page(address)
    inside = seen.page.locator("#int8-calibration > div")
    assert not inside.is_visible()
    seen.page.emulate_media(media="print")
    assert inside.is_visible()
    assert not seen.page.locator("nav").is_visible()
