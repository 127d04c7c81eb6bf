"""What ``--steps`` says."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, final

import pytest

from diag.plan import Plan, parse, slug
from export.change import Change, Pass
from export.settings import make_pass, settings_of
from study.amounts import milliseconds, share, size
from study.errors import InputError


def shape(text: str, artifact: str = "pytorch/fp32") -> list[tuple[str, int | None]]:
    return [(step.name, step.parent) for step in parse(text, artifact).steps]


def test_a_chain_and_its_folders() -> None:
    plan = parse("prune:0.3,onnx,int8", "pytorch/fp32")
    assert [step.name for step in plan.steps] == ["as_it_came", "prune_0_3", "onnx", "int8"]
    assert [plan.folder(i) for i in range(4)] == ["00_as_it_came", "01_prune_0_3", "02_onnx", "03_int8"]
    assert [step.parent for step in plan.steps] == [None, 0, 1, 2]
    assert plan.needs_calibration()
    assert not parse("onnx,fp16", "pytorch/fp32").needs_calibration()


def test_branches_share_what_they_have_in_common() -> None:
    assert shape("prune:0.3,onnx,(int8|fp16)") == [
        ("as_it_came", None), ("prune_0_3", 0), ("onnx", 1), ("int8", 2), ("fp16", 2),
    ]  # fmt: skip
    assert shape("(int8|fp16)") == [("as_it_came", None), ("onnx", 0), ("int8", 1), ("fp16", 1)]
    assert shape("(prune:0.3|prune:0.5),onnx") == [
        ("as_it_came", None), ("prune_0_3", 0), ("prune_0_5", 0), ("onnx", 1), ("onnx_2", 2),
    ]  # fmt: skip


def test_onnx_is_put_in_where_it_is_needed_and_said() -> None:
    plan = parse("int8-dynamic", "pytorch/fp32")
    assert [step.name for step in plan.steps] == ["as_it_came", "onnx", "int8_dynamic"]
    assert plan.notes == ("The step onnx was put in before int8-dynamic, which needs it.",)
    assert shape("onnx,int8", "onnx/fp32") == [("as_it_came", None), ("int8", 0)]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("onxx", "There is no step 'onxx'. Did you mean 'onnx'?"),
        ("prune:1.5", "0 and 1"),
        ("prune", "needs a ratio"),
        ("prune:much", "no number"),
        ("fuse:3", "takes no number"),
        ("prune:0.3:ratio=0.4", "says its ratio twice"),
        ("prune:share=3", "has no setting 'share'"),
        ("onnx,prune:0.3", "put it before onnx"),
        ("int8,fp16", r"\(int8\|fp16\)"),
        ("onnx,(int8|fp16", "at its end"),
        ("onnx,,int8", "at ','"),
        ("", "at its end"),
    ],
)
def test_what_is_wrong_is_said_before_anything_runs(text: str, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        parse(text, "pytorch/fp32")


def test_a_model_that_came_in_another_form_is_for_the_step_to_refuse() -> None:
    assert shape("prune:0.3", "torchscript/fp32") == [("as_it_came", None), ("prune_0_3", 0)]
    assert shape("prune:0.3", "onnx/fp32") == [("as_it_came", None), ("prune_0_3", 0)]


def test_names() -> None:
    assert slug("prune:0.3") == "prune_0_3"
    assert slug("INT8-dynamic") == "int8_dynamic"


def test_a_long_name_is_cut_and_stays_its_own() -> None:
    first, second = (slug(f"int8:exclude={'layer+' * 20}{last}") for last in ("a", "b"))
    assert len(first) <= 60
    assert first.startswith("int8_exclude_layer_layer")
    assert first != second


def test_settings_go_by_the_types_of_the_fields() -> None:
    @final
    @dataclass(frozen=True, slots=True)
    class Shrink(Pass):
        argument: ClassVar[str] = "share"
        share: float = 0.5
        most_rows: int = 8
        exclude: tuple[str, ...] = ()
        method: str = "auto"
        twice: bool = False
        inner: Plan | None = None

        def apply(self, subject: object, out: object, machine: object, progress: object) -> Change:
            raise NotImplementedError

    assert [*settings_of(Shrink)] == ["share", "most_rows", "exclude", "method", "twice"]
    typed = "prune:0.3:most-rows=4:exclude=a.b+c:method=mean:twice"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("study.catalog.Catalog.get", lambda _catalog, _word: Shrink)
        assert make_pass(typed) == Shrink(0.3, 4, ("a.b", "c"), "mean", twice=True)
        for wrong in ("prune:most-rows=1.5", "prune:twice=perhaps", "prune:method="):
            with pytest.raises(InputError, match="is no"):
                make_pass(wrong)


@pytest.mark.parametrize(
    ("read", "text", "value"),
    [
        (milliseconds, "5ms", 5.0), (milliseconds, "0.2 s", 200.0), (milliseconds, "300us", 0.3),
        (milliseconds, "5", None), (milliseconds, "0ms", None), (milliseconds, "5MB", None),
        (size, "5MB", 5e6), (size, "1.5 kB", 1500.0), (size, "2MiB", 2 * 2**20), (size, "x", None),
        (share, "5%", 0.05), (share, "0.5", 0.5), (share, "120%", None), (share, "-1", None),
        (share, "1.2.3", None), (share, "0", 0.0),
    ],
)  # fmt: skip
def test_amounts(read: Callable[[str], float | None], text: str, value: float | None) -> None:
    assert read(text) == (None if value is None else pytest.approx(value))
