"""Recurrent nets that pack their texts by length: judged, explained and exported."""

import json
from pathlib import Path

import onnxruntime
import pytest
import torch
from torch import nn
from torch.nn.utils import rnn

from diag.cli import main
from export.refusals import Reason, reason_for
from study.loading.packing import in_any_order
from tests import tiny_texts
from tests.tiny_texts import WORDS, Listed, Packed, Reader, write_texts


@pytest.mark.parametrize("kind", [Packed, Listed])
def test_rows_in_any_order_have_the_answers_of_rows_alone(kind: type[Packed]) -> None:
    torch.manual_seed(0)
    net = kind().eval()
    texts = [torch.randint(2, len(WORDS), (size,)) for size in (3, 9, 1, 9, 5)]
    padded, lengths = rnn.pad_sequence(texts, batch_first=True), torch.tensor([len(one) for one in texts])
    with torch.no_grad():
        wanted = torch.cat([net(one[None], torch.tensor([len(one)])) for one in texts])
        with pytest.raises(RuntimeError, match="sorted"):
            net(padded, lengths)
        got = in_any_order(net)(padded, lengths)
    torch.testing.assert_close(got, wanted)


def test_torch_is_as_it_was_after_each_call() -> None:
    packing = rnn.pack_padded_sequence
    net = in_any_order(Packed().eval())
    with torch.no_grad():
        net(torch.tensor([[2, 0], [2, 3]]), torch.tensor([1, 2]))
    assert tiny_texts.pack_padded_sequence is rnn.pack_padded_sequence is packing
    with pytest.raises(IndexError):
        net(torch.tensor([[2, len(WORDS)]]), torch.tensor([2]))
    assert tiny_texts.pack_padded_sequence is rnn.pack_padded_sequence is packing


def test_what_packs_nothing_has_no_hooks() -> None:
    for net in (nn.LSTM(3, 4), nn.Linear(3, 4), torch.jit.script(nn.Linear(3, 4))):
        assert not in_any_order(net)._forward_pre_hooks
    # What lies beside it in the same file could be packed: it is not called differently for that.
    assert in_any_order(Reader())._forward_pre_hooks


def report_of(out: Path, factory: str, files: Path, *words: str) -> dict:
    made = write_texts(files, factory)
    given = [str(made.model), "--arch", made.arch, "--data", str(made.data), "--label", "topic"]
    given += ["--tokenizer", str(made.vocabulary), "--train", str(made.train), *words]
    assert main(["run", *given, "--out", str(out), "--threads", "1", "--quiet"]) == 0
    return json.loads((out / "report.json").read_text()) | {"reached": made.accuracy}


def records(report: dict, step: int) -> dict[str, dict]:
    return {record["by"]: record for record in report["steps"][step]["records"]}


@pytest.mark.slow
@pytest.mark.usefixtures("in_process")
def test_packed_texts_through_the_chain(tmp_path: Path) -> None:
    report = report_of(tmp_path / "run", "Packed", tmp_path, "--steps", "onnx,int8-dynamic")
    assert report["reached"] > 0.75
    for step in (0, 1):
        found = records(report, step)["accuracy"]["metrics"]["accuracy"]["value"]
        assert found == pytest.approx(report["reached"], abs=1e-6)
    assert records(report, 0)["integrated-gradients"]["verdict"] in ("good", "noted")
    assert records(report, 1)["agreement"]["verdict"] == "good"
    session = onnxruntime.InferenceSession(tmp_path / "run" / "01_onnx" / "model.onnx")
    assert [type(size) for size in session.get_inputs()[0].shape] == [str, str]
    assert records(report, 2)["audit"]["metrics"]["parameters_in_int8@audit"]["value"] > 0.5


@pytest.mark.slow
@pytest.mark.usefixtures("in_process")
def test_lengths_as_a_list_are_judged_and_the_line_that_cannot_be_exported_is_named(tmp_path: Path) -> None:
    report = report_of(tmp_path / "run", "Listed", tmp_path, "--steps", "onnx")
    assert records(report, 0)["accuracy"]["metrics"]["accuracy"]["value"] == pytest.approx(report["reached"])
    assert records(report, 0)["occlusion"]["verdict"] in ("good", "noted")
    reason = records(report, 1)["onnx"]["reason"]
    assert "in forward, tiny_texts.py line" in reason
    assert "give the lengths as a tensor" in reason


def test_the_line_of_a_failure_is_theirs_and_no_librarys() -> None:
    def number(x: torch.Tensor) -> float:
        return float(x.item())  # two numbers are no number

    with pytest.raises(RuntimeError) as caught:
        number(torch.ones(2))
    assert reason_for(caught.value).place.startswith(" in number, test_packing.py line ")
    assert "(`return float(x.item())" in reason_for(caught.value).place
    assert reason_for(ValueError("nowhere")) == Reason("", "")
