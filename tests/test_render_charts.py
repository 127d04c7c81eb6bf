"""The charts: well-formed, escaped, complete; and their scales and fronts against plain twins."""

import math
import random
from xml.etree import ElementTree as ET

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from diag.render.charts import draw
from diag.render.charts.axes import scale, tick_texts
from diag.render.charts.scatter import front
from diag.render.charts.svg import WIDTH, elided, text_width
from study.record import Cell, Chart, Picture, Table
from tests.sample_report import HOSTILE

SVG = "{http://www.w3.org/2000/svg}"
NAMES = (*HOSTILE, "x" * 300)
TABLES: dict[Chart, Table] = {
    "bars": Table("t", ("label", "value", "low", "high"), tuple((n, 0.5, 0.4, 0.6) for n in NAMES)),
    "lines": Table("t", ("x", *NAMES), tuple((at, *(at * k for k in range(9))) for at in range(30))),
    "scatter": Table("t", ("label", "x", "y"), tuple((n, 1.0 + k, k * k) for k, n in enumerate(NAMES))),
    "ecdf": Table("t", ("value",), tuple((math.sin(at),) for at in range(500))),
    "heatmap": Table("t", ("label", *NAMES), tuple((n, *range(-4, 5)) for n in NAMES)),
    "reliability": Table(
        "t",
        ("confidence", "accuracy", "low", "high", "rows"),
        ((0.9, 0.8, 0.7, 0.9, 40), (0.1, 0.2, 0.1, 0.4, 0)),
    ),
}


def drawn(kind: Chart, table: Table) -> ET.Element:
    text = draw(Picture("a <title>", kind, "t", "what & is seen"), table, "one")
    return ET.fromstring(text.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1))


@pytest.mark.parametrize("kind", list(TABLES))
def test_a_chart_is_well_formed_named_and_inside_its_frame(kind: Chart) -> None:
    root = drawn(kind, TABLES[kind])
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    assert root.attrib["role"] == "img"
    named = {child.attrib["id"]: child.text for child in root if "id" in child.attrib}
    assert root.attrib["aria-labelledby"].split() == list(named)
    assert list(named.values()) == ["a <title>", "what & is seen"]
    texts = [element for element in root.iter(f"{SVG}text") if "transform" not in element.attrib]
    assert texts
    for element in texts:
        x, y, room = float(element.attrib["x"]), float(element.attrib["y"]), text_width(element.text or "")
        left = x - room * {"middle": 0.5, "end": 1.0}.get(element.attrib.get("text-anchor", ""), 0.0)
        assert left >= -1
        assert left + room <= width + 1
        assert 8 <= y <= height
    for element in root.iter():
        assert element.tag.removeprefix(SVG) in {
            "svg", "title", "desc", "text", "rect", "path", "line", "circle", "g",
        }  # fmt: skip
        assert not any(name.startswith("on") for name in element.attrib)


@pytest.mark.parametrize("kind", list(TABLES))
@pytest.mark.parametrize(
    "cells",
    [
        (),
        ((None,) * 5,),
        ((float("nan"),) * 5,),
        ((0, 0, 0, 0, 0),),
        ((1, 1, 1, 1, 1),),
        (("a", 1e300, -1e300, 1e300, 1),),
    ],
)
def test_a_chart_of_nothing_much_does_not_fail(kind: Chart, cells: tuple[tuple[Cell, ...], ...]) -> None:
    text = draw(Picture("t", kind, "t"), Table("t", ("a", "b", "c", "d", "e"), cells), "one")
    if not cells:
        assert text == ""
        return
    for element in ET.fromstring(text).iter():
        assert not any(value in ("nan", "inf") for value in element.attrib.values())
        assert "nan" not in element.attrib.get("d", "")


def test_text_colour_and_marks_hold_without_styles() -> None:
    for kind, table in TABLES.items():
        root = drawn(kind, table)
        for element in root.iter(f"{SVG}text"):
            assert element.attrib["fill"] in ("currentColor", "#fff")
        for name in ("rect", "circle"):
            assert all("fill" in element.attrib for element in root.iter(f"{SVG}{name}"))
        assert all("stroke" in element.attrib for element in root.iter(f"{SVG}path"))


def test_bars_begin_at_nought_and_are_as_long_as_their_values() -> None:
    table = Table("t", ("label", "value"), (("a", 1.0), ("b", 4.0), ("c", 2.0)))
    boxes = list(drawn("bars", table).iter(f"{SVG}rect"))
    wide = [float(box.attrib["width"]) for box in boxes]
    assert wide[1] == pytest.approx(4 * wide[0], rel=0.01)
    assert wide[2] == pytest.approx(2 * wide[0], rel=0.01)
    assert len({box.attrib["x"] for box in boxes}) == 1


def test_a_distribution_of_many_values_is_small_and_true() -> None:
    values = [random.Random(1).random() for _ in range(100_000)]
    text = draw(Picture("t", "ecdf", "t"), Table("t", ("value",), tuple((v,) for v in values)), "one")
    assert len(text) < 15_000


def test_a_line_is_broken_where_a_value_is_missing() -> None:
    rows: tuple[tuple[Cell, ...], ...] = ((0, 1.0), (1, 2.0), (2, None), (3, 1.0), (4, 2.0))
    paths = [e.attrib["d"] for e in drawn("lines", Table("t", ("x", "y"), rows)).iter(f"{SVG}path")]
    assert paths[0].count("M") == 2


@given(values=st.lists(st.floats(0, 1), min_size=1, max_size=20))
@example(values=[1.0])
@example(values=[0.8] * 3)
@example(values=[0.0])
@example(values=[0.93, 0.999])
def test_a_scale_of_shares_has_their_ends(values: list[float]) -> None:
    found = scale(values, 0, 100, share=True)
    assert -1e-12 <= found.low <= min(values) + 1e-9
    assert max(values) - 1e-9 <= found.high <= 1 + 1e-12
    assert found.low < found.high


def test_steps_of_one_accuracy_stay_below_a_hundred_percent() -> None:
    rows: tuple[tuple[Cell, ...], ...] = (("a", 1.0, 0.98), ("b", 2.0, 0.98))
    texts = [
        e.text
        for e in drawn("scatter", Table("t", ("step", "latency_p50_ms", "accuracy"), rows)).iter(f"{SVG}text")
    ]
    shares = [float(text.rstrip("%")) for text in texts if text and text.endswith("%")]
    assert len(shares) > 2
    assert max(shares) == 100
    assert min(shares) >= 90


@pytest.mark.parametrize("onnx", [0.52, 0.5], ids=["near", "at one point"])
def test_a_name_does_not_lie_over_the_numbers_of_the_axis(onnx: float) -> None:
    rows: tuple[tuple[Cell, ...], ...] = (
        ("int8", 0.5, 0.961),
        ("onnx", onnx, 0.961),
        ("as_it_came", 2, 0.961),
    )
    texts = list(
        drawn("scatter", Table("t", ("step", "latency_p50_ms", "accuracy"), rows)).iter(f"{SVG}text")
    )
    ticks = [e for e in texts if e.attrib.get("text-anchor") == "end"]
    names = [e for e in texts if e.text in {"int8", "onnx", "as_it_came"}]
    assert len(names) == 3
    assert len(ticks) > 2
    assert min(float(e.attrib["x"]) for e in names) >= max(float(e.attrib["x"]) for e in ticks)


@given(values=st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=20), zero=st.booleans())
def test_a_scale_covers_its_values_with_even_ticks(values: list[float], *, zero: bool) -> None:
    found = scale(values, 0, 100, zero=zero)
    almost = 1e-6 * (found.high - found.low)
    assert found.low <= min(values) + almost
    assert found.high >= max(values) - almost
    assert 2 <= len(found.ticks) <= 12
    gaps = [b - a for a, b in zip(found.ticks, found.ticks[1:], strict=False)]
    assert max(gaps) == pytest.approx(min(gaps), rel=1e-3)
    assert found(found.low) == pytest.approx(0)
    assert found(found.high) == pytest.approx(100)
    texts = tick_texts(found.ticks)
    assert len(set(texts)) == len(texts)
    if zero:
        assert found.low <= 0 <= found.high


@given(st.lists(st.floats(1e-6, 1e9), min_size=2, max_size=20))
def test_a_logarithmic_scale_covers_its_values(values: list[float]) -> None:
    found = scale(values, 0, 100, log=True)
    assert found.low <= min(values) * 1.001
    assert found.high >= max(values) * 0.999
    if found.logarithmic:
        middle = math.sqrt(found.low * found.high)
        assert found(middle) == pytest.approx(50)


@given(
    points=st.lists(
        st.tuples(st.just(""), st.integers(0, 9).map(float), st.integers(0, 9).map(float)), max_size=25
    ),
    lower_x=st.booleans(),
    lower_y=st.booleans(),
)
def test_the_front_is_what_no_point_beats(
    points: list[tuple[str, float, float]], *, lower_x: bool, lower_y: bool
) -> None:
    def beats(a: tuple[str, float, float], b: tuple[str, float, float]) -> bool:
        x, y = (a[1] <= b[1] if lower_x else a[1] >= b[1]), (a[2] <= b[2] if lower_y else a[2] >= b[2])
        return x and y and a[1:] != b[1:]

    plain = {p[1:] for p in points if not any(beats(other, p) for other in points)}
    assert {p[1:] for p in front(points, lower_x=lower_x, lower_y=lower_y)} == plain


@given(st.text(max_size=80), st.floats(20, 300))
def test_elided_text_fits_its_room(text: str, room: float) -> None:
    shown = elided(text, room)
    assert text_width(shown) <= max(room, text_width("…"))
    assert text_width(shown) <= WIDTH
