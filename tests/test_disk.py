"""A full disk and a read-only folder: one sentence that names the folder, and nothing half-written."""

import errno
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import diag
from diag.options import Options
from diag.render.write import write_again
from study.errors import InputError, OutputError
from study.progress import Progress
from study.storage import refused, written
from study.worker import Child
from tests.export_subjects import linear_file

QUIET = Options(quiet=True, shape=("1x4",))
LIMITED = (
    "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2); "
    "from diag.cli import main; sys.exit(main(sys.argv[2:]))"
)


def full(*_arguments: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def fill_up(progress: Progress) -> None:
    del progress
    full()


def written_half(path: Path, error: Exception) -> None:
    with written(path) as beside:
        beside.write_text("half")
        raise error


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EFBIG])
def test_what_a_disk_refuses_is_one_sentence_and_exit_2(number, tmp_path):
    with pytest.raises(OutputError, match=str(tmp_path)) as found:
        written_half(tmp_path / "a.txt", OSError(number, os.strerror(number)))
    assert found.value.exit_code == 2
    assert os.strerror(number) in str(found.value)
    assert not list(tmp_path.iterdir())


def test_libraries_that_raise_their_own_kinds_are_understood(tmp_path):
    polars = pl.exceptions.ComputeError("parquet: underlying IO error: No space left (os error 28)")
    torch_save = RuntimeError("unexpected pos 704 vs 598")
    torch_save.__context__ = OSError(errno.ENOSPC, "No space left on device")
    for error in (polars, torch_save):
        with pytest.raises(OutputError, match="No space left on device"):
            written_half(tmp_path / "a", error)
    with pytest.raises(RuntimeError, match="a fault of ours"):
        written_half(tmp_path / "a", RuntimeError("a fault of ours"))


def test_a_file_that_may_not_be_read_is_no_full_disk(tmp_path):
    secret = PermissionError(errno.EACCES, "Permission denied", "/somebody/else/model.pt")
    assert refused(secret, tmp_path) is None
    ours = PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "01_onnx" / "model.onnx"))
    assert str(tmp_path / "01_onnx") in str(refused(ours, tmp_path))


def test_a_worker_tells_it_by_the_name_of_the_run_folder(tmp_path):
    with Child("test", tmp_path / "log.txt") as worker:
        with pytest.raises(OutputError, match=f"Cannot write to {tmp_path} "):
            worker.call(fill_up, progress=Progress())
        assert worker.starts == 1


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """In a folder of its own."""
    (tmp_path / "given").mkdir()
    return linear_file(tmp_path / "given" / "linear.onnx", np.eye(4, 3, dtype="f4")).path


def exported(model: Path, **more: Any) -> None:
    options = replace(QUIET, out=model.parent.parent / "out")
    diag.export(model, steps="fp16", options=options, **more)


@pytest.mark.usefixtures("in_process")
def test_a_run_goes_on_when_there_is_room_again(model, tmp_path, monkeypatch):
    out, ship = tmp_path / "out", tmp_path / "ship"
    with monkeypatch.context() as patch:
        patch.setattr("export.graphs.files._write", full)
        with pytest.raises(OutputError, match=r"out.*No space left.*make room"):
            exported(model)
    assert [entry.name for entry in out.iterdir() if entry.is_dir()] == ["00_as_it_came"]
    assert not (out / "report.json").exists()
    exported(model)
    assert (out / "model.onnx").exists()
    with monkeypatch.context() as patch:
        patch.setattr("export.deployment.bundle._copy_model", full)
        with pytest.raises(OutputError, match="ship"):
            exported(model, bundle=ship)
    assert {entry.name for entry in tmp_path.iterdir()} == {"given", "out"}
    exported(model, bundle=ship)
    assert (ship / "provenance.json").exists()


@pytest.mark.usefixtures("in_process")
def test_the_reports_are_all_new_or_all_old(model, tmp_path, monkeypatch):
    exported(model)
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").glob("report.*")}
    monkeypatch.setattr("diag.render.html.render", lambda *_: "new")
    monkeypatch.setattr("diag.render.markdown.render", full)
    with pytest.raises(OutputError):
        write_again(tmp_path / "out")
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").glob("report.*")} == before


def test_a_bundle_that_cannot_be_written_is_refused_before_anything_runs(model, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file"):
        exported(model, bundle=tmp_path / "file" / "ship")
    assert {entry.name for entry in tmp_path.iterdir()} == {"file", "given"}


def test_the_command_ends_with_2_and_no_traceback(model, tmp_path):
    words = ["analyze", str(model), "--out", "out"]
    ran = subprocess.run(
        [sys.executable, "-c", LIMITED, "300", *words],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 2
    assert ran.stderr.splitlines()[-1].startswith("diag: Cannot write to out (File too large)")
    assert "Traceback" not in ran.stderr
    assert [entry.name for entry in tmp_path.iterdir()] == ["given"]
