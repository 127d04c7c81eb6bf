"""What ``--steps`` says."""

import pytest

from diag.plan import parse, slug
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
        ("int8:3", "takes no number"),
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
