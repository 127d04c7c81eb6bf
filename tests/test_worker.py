"""A worker: its answers, its errors, its limits, and that it dies with its parent."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from study.errors import InputError, WorkerError
from study.progress import Progress
from study.worker import Child, Inline

SILENT = Progress()


def double(number: int, progress: Progress) -> int:
    for _ in progress.over(range(3), "doubling", 3):
        pass
    return 2 * number


def refuse(progress: Progress) -> None:
    raise InputError("give it a number")


def break_down(progress: Progress) -> None:
    print("what the library had to say")
    raise RuntimeError("inner trouble")


def process_id(progress: Progress) -> int:
    return os.getpid()


def die(progress: Progress) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def tell(count: int, progress: Progress) -> int:
    for _ in progress.over(range(count), "working", count):
        time.sleep(0.25)
    return count


def sleep(progress: Progress) -> None:
    time.sleep(60)


@pytest.fixture
def child(tmp_path: Path):
    # under pytest's importlib mode a test module has no importable name: the child finds it by its folder
    os.environ["PYTHONPATH"] = str(Path(__file__).parent)
    sys.modules.setdefault("test_worker", sys.modules[__name__])
    for function in (double, refuse, break_down, process_id, die, sleep, tell):
        function.__module__ = "test_worker"
    with Child("test", tmp_path / "log.txt") as worker:
        yield worker
    del os.environ["PYTHONPATH"]


def test_an_answer_and_its_progress(child: Child) -> None:
    told = []
    progress = Progress(lambda what, done, total: told.append((what, done, total)))
    assert child.call(double, 21, progress=progress) == 42
    assert Inline().call(double, 21, progress=SILENT) == 42
    assert told[0] == ("doubling", 0, 3)
    assert told[-1] == ("doubling", 3, 3)


def test_one_process_serves_all_calls(child: Child) -> None:
    first = child.call(process_id, progress=SILENT)
    with pytest.raises(InputError, match="give it a number"):
        child.call(refuse, progress=SILENT)
    assert child.call(process_id, progress=SILENT) == first != os.getpid()
    assert child.starts == 1


def test_a_library_s_error_brings_its_traceback_and_its_words_go_to_the_log(child: Child, capfd) -> None:
    with pytest.raises(WorkerError, match="RuntimeError: inner trouble") as caught:
        child.call(break_down, progress=SILENT)
    assert "break_down" in "".join(caught.value.__notes__)
    child.close()
    assert "what the library had to say" in child.log.read_text()
    assert capfd.readouterr() == ("", "")


def test_a_death_is_told_and_the_next_call_starts_anew(child: Child) -> None:
    with pytest.raises(WorkerError, match="SIGKILL"):
        child.call(die, progress=SILENT)
    assert child.call(double, 1, progress=SILENT) == 2
    assert child.starts == 2


def test_a_limit_ends_the_process(child: Child) -> None:
    pid = child.call(process_id, progress=SILENT)
    with pytest.raises(WorkerError, match="time limit"):
        child.call(sleep, progress=SILENT, limit_s=0.2)
    assert not psutil.pid_exists(pid)


def test_a_limit_is_one_of_silence(child: Child) -> None:
    assert child.call(tell, 6, progress=SILENT, limit_s=1.0) == 6


def test_a_child_dies_with_a_killed_parent(tmp_path: Path) -> None:
    program = (
        "from pathlib import Path\nfrom study.progress import Progress\nfrom study.worker import Child\n"
        "import test_worker\n"
        f"child = Child('orphan', Path({str(tmp_path / 'log.txt')!r}))\n"
        "print(child.call(test_worker.process_id, progress=Progress()), flush=True)\n"
        "child.call(test_worker.sleep, progress=Progress())\n"
    )
    here = Path(__file__).parent
    paths = os.pathsep.join([str(here), str(here.parent)])
    environment = {**os.environ, "PYTHONPATH": paths}
    parent = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    assert psutil.pid_exists(pid)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 10
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "the child outlived its parent"
        time.sleep(0.05)


def loaded(name: str, progress: Progress) -> bool:
    return name in sys.modules


def surroundings(progress: Progress) -> tuple[str, str]:
    return os.environ.get("WORKER_TEST", ""), str(Path.cwd())


@pytest.mark.skipif(sys.platform != "linux", reason="forking is for Linux alone")
def test_what_is_preloaded_is_loaded_once_and_a_process_has_the_surroundings_of_its_start(
    child: Child, tmp_path: Path, monkeypatch
) -> None:
    from study.nursery import Forked

    for function in (loaded, surroundings):
        function.__module__ = "test_worker"
    assert isinstance((child.call(process_id, progress=SILENT), child._process)[1], Forked)
    monkeypatch.chdir(tmp_path)
    for value in ("first", "second"):
        monkeypatch.setenv("WORKER_TEST", value)
        with Child("another", tmp_path / "another.txt", ("sched",)) as other:
            assert other.call(loaded, "sched", progress=SILENT)
            assert other.call(surroundings, progress=SILENT) == (value, str(tmp_path))
    assert "sched" not in sys.modules


@pytest.mark.skipif(sys.platform != "linux", reason="forking is for Linux alone")
def test_a_nursery_that_is_gone_or_that_loaded_with_other_settings_is_replaced(
    child: Child, monkeypatch
) -> None:
    from study import nursery

    first = child.call(process_id, progress=SILENT)
    old = nursery._NURSERIES[0]
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    child.close()
    assert child.call(double, 2, progress=SILENT) == 4
    assert nursery._NURSERIES[0] is not old
    nursery._NURSERIES[0]._process.kill()
    nursery._NURSERIES[0]._process.wait()
    with pytest.raises(WorkerError, match="SIGKILL"):  # it dies with what forked it
        child.call(double, 3, progress=SILENT)
    assert child.call(process_id, progress=SILENT) != first


def test_without_forking_a_process_is_started(child: Child, monkeypatch) -> None:
    import subprocess as processes

    monkeypatch.setattr("study.nursery.sys.platform", "darwin")
    assert child.call(double, 4, progress=SILENT) == 8
    assert isinstance(child._process, processes.Popen)
