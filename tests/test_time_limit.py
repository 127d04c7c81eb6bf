"""A step whose library hangs has failed, by name, and the next step goes on."""

import json
import time
from pathlib import Path

import pytest

from diag.cli import main
from diag.flow import Flow
from diag.work import change
from study.progress import Progress
from tests import tiny


def hang(typed: str, *_: object) -> None:
    """As an export may, in a process of its own."""
    time.sleep(3600)
    raise AssertionError(typed)


def test_an_export_that_hangs_is_ended_and_the_next_step_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = Flow._call

    def limited(self: Flow, worker, function, *arguments):  # type: ignore[no-untyped-def]
        if function is change and arguments[0] == "onnx":
            return worker.call(hang, *arguments, progress=Progress(), limit_s=0.5)
        return call(self, worker, function, *arguments)

    monkeypatch.setattr(Flow, "_call", limited)
    files = tiny.write(tmp_path, "mlp")
    words = ["export", str(files.model), "--arch", files.arch, "--data", str(files.data)]
    assert main([*words, "--steps", "(onnx|prune:0.3)", "--out", str(tmp_path / "run"), "--quiet"]) == 0
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    onnx, pruned = report["steps"][1:]
    (failed,) = onnx["records"]
    assert (failed["by"], failed["verdict"]) == ("onnx", "bad")
    assert failed["summary"] == "onnx failed: it was silent past its time limit of 0.5 s and was ended"
    assert pruned["model"]["bytes"] > 0
    assert {record["by"] for record in pruned["records"]} >= {"prune", "size"}
