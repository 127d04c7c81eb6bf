"""The run folder: files written beside their place and renamed, content hashes, a lock, and what is whole."""

import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from study.errors import DiagError, InputError, OutputError
from study.record import JSON, Record, record_from_json, record_to_json

CHUNK = 1 << 20
SHARDS = ".predictions"
"""Where a step's finished shards lie until they are put together."""
STEP = re.compile(r"\d\d_")
GENERATION = "generation"
"""The folder of the model that writes texts, below a step's and where ``diag export`` hands it over."""
WRITTEN = ("run.json", "report.html", "report.json", "report.md", "model.onnx", "model.onnx.data")


FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS})
"""What nothing but writing meets."""
FORBIDDEN = frozenset({errno.EACCES, errno.EPERM, errno.ENOTDIR})
"""What reading meets too."""
ROOM = 1 << 25
"""Bytes; a disk with less is taken for the full one."""
OS_ERROR = re.compile(r"\(os error (\d+)\)")
"""How libraries in Rust tell the number of an error."""


@contextmanager
def written(path: Path) -> Iterator[Path]:
    """A hidden name beside ``path`` to write to; it takes the place of ``path`` when all went well.

    Raises:
        OutputError: the disk is full, or the folder may not be written to.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    with writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield beside
            beside.replace(path)
        finally:
            with suppress(OSError):  # as where the folder itself is a file
                beside.unlink(missing_ok=True)


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Everything below writes into this folder.

    Raises:
        OutputError: the disk is full, or the folder may not be written to.
    """
    try:
        yield
    except Exception as error:  # a library has its own kinds
        number = number_of(error)
        if number not in FULL | FORBIDDEN:
            raise
        raise _refused(folder, number) from error


def refused(error: Exception, run: Path) -> OutputError | None:
    """The sentence for what a disk refused while a run wrote; None for anything else.

    An error without a file's name is the run folder's, or the one of the temporary files where that is full.
    """
    number, name = number_of(error), getattr(error, "filename", None)
    named = Path(str(name)).absolute().parent if name else None
    if number in FULL:
        return _refused(named or _fullest(run), number)
    if number in FORBIDDEN and named is not None and named.is_relative_to(run.absolute()):
        return _refused(named, number)
    return None


def _refused(folder: Path, number: int) -> OutputError:
    temporary = folder == Path(tempfile.gettempdir())
    another = "name another folder in TMPDIR" if temporary else "choose another folder"
    mend = {
        errno.ENOSPC: f"make room, or {another}",
        errno.EDQUOT: f"make room, or {another}",
        errno.EFBIG: f"{another}, or allow larger files (ulimit -f)",
    }.get(number, another)
    return OutputError(f"Cannot write to {folder} ({os.strerror(number)}): {mend}.")


def _fullest(run: Path) -> Path:
    """Where a file without a name was meant to go."""
    temporary = Path(tempfile.gettempdir())
    with suppress(OSError):
        if shutil.disk_usage(temporary).free < ROOM <= shutil.disk_usage(run).free:
            return temporary
    return run


def number_of(error: BaseException) -> int:
    """What the operating system said, to us or to a library that raised its own then; 0: something else."""
    seen: BaseException | None = error
    while seen is not None and not isinstance(seen, DiagError):
        told = OS_ERROR.search(str(seen))
        number = (seen.errno if isinstance(seen, OSError) else None) or (int(told[1]) if told else 0)
        if number:
            return number
        seen = seen.__cause__ or seen.__context__
    return 0


def write_text(path: Path, text: str) -> None:
    """The text, whole or not at all."""
    with written(path) as beside:
        beside.write_text(text, encoding="utf-8")


def write_json(path: Path, data: JSON) -> None:
    """JSON with unrounded floats, none of them infinite or NaN."""
    write_text(path, json.dumps(data, ensure_ascii=False, allow_nan=False, indent=1) + "\n")


def read_json(path: Path) -> dict[str, JSON]:
    """The object in that file."""
    return cast("dict[str, JSON]", json.loads(path.read_text(encoding="utf-8")))


def sha256_of(path: Path) -> str:
    """The hash of a file's bytes or, for a folder, of the names and sizes of all files below it."""
    digest = hashlib.sha256()
    if path.is_dir():
        for file in sorted(path.rglob("*")):
            if file.is_file():
                digest.update(f"{file.relative_to(path).as_posix()}\0{file.stat().st_size}\n".encode())
        return digest.hexdigest()
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def hash_of_all(files: Sequence[Path]) -> tuple[str, int]:
    """The hash of a file's bytes, or of the hashes of several in their order; and the bytes in all."""
    digests = [sha256_of(file) for file in files]
    joined = digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
    return joined, sum(file.stat().st_size for file in files)


def digest_of(data: JSON) -> str:
    """The hash of a JSON value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(data, sort_keys=True, allow_nan=False).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class RunFolder:
    """``run.json``, one folder a step, the log and the reports."""

    path: Path

    @property
    def log(self) -> Path:
        """Where libraries' output and our tracebacks go."""
        return self.path / "log.txt"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody else writes here meanwhile; what an ``InputError`` leaves half-done goes again.

        Raises:
            InputError: somebody does, the folder cannot be written, or it holds something else.
        """
        made = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
        self._must_be_ours()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = (self.path / ".lock").open("w")
        except OSError as error:
            raise InputError(
                f"Cannot write to {self.path} ({error.strerror}): choose another folder with --out."
            ) from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise InputError(
                    f"Another diag is writing to {self.path}: wait for it, or use --out."
                ) from error
            for half_written in self.path.glob(".*.*[0-9]"):  # by a run that was killed
                half_written.unlink()
            held = (self.path / "run.json").exists()
            try:
                yield
            except InputError:
                if not held:
                    self._take_away(made)
                raise
            except OutputError:
                if not self._has_whole() and not held:
                    self._take_away(made)
                raise

    def _has_whole(self) -> bool:
        """Take away what is half-written, and say whether anything is left that is worth going on from."""
        steps = [entry for entry in self.path.iterdir() if entry.is_dir() and STEP.match(entry.name)]
        for step in steps:
            if not (step / "records.json").exists():
                self._empty(step)
                if not any((step / SHARDS).glob("*.parquet")):
                    shutil.rmtree(step)
        return any(step.exists() for step in steps)

    def _must_be_ours(self) -> None:
        """Refuse a folder of other things before anything is written to it."""
        passing = (".lock", self.log.name)
        entries = [entry.name for entry in self.path.iterdir()] if self.path.is_dir() else []
        other = [name for name in entries if name not in passing and not name.startswith(".run.json.")]
        if other and "run.json" not in other:
            raise InputError(f"{self.path} is not empty and holds no run: choose another folder with --out.")

    def _take_away(self, made: list[Path]) -> None:
        """Leave things as they were before: the folder empty or gone, and those above it that it needed."""
        for entry in self.path.iterdir():
            if entry.is_dir():
                shutil.rmtree(entry)
            else:
                entry.unlink()
        for folder in made:
            with suppress(OSError):  # somebody else has put something into it
                folder.rmdir()

    def state(self) -> dict[str, JSON]:
        """What ``run.json`` says; empty where there is none.

        Raises:
            InputError: it is damaged.
        """
        file = self.path / "run.json"
        try:
            return read_json(file) if file.exists() else {}
        except ValueError as error:
            raise InputError(f"{file} is damaged: use --force to run again, or another --out.") from error

    def keep(self, state: dict[str, JSON]) -> None:
        """Write ``run.json``."""
        write_json(self.path / "run.json", state)

    def clear(self) -> None:
        """Take away what a run wrote, and nothing else."""
        for entry in self.path.iterdir():
            if entry.is_dir() and (STEP.match(entry.name) or entry.name == GENERATION):
                shutil.rmtree(entry)
            elif entry.name in WRITTEN:
                entry.unlink()

    def begin(self, step: str) -> Path:
        """A folder for a step that is not whole: empty, but for the shards that were finished.

        A shard's name hashes all that decides its rows, so one of another model is never taken.
        """
        folder = self.path / step
        folder.mkdir(parents=True, exist_ok=True)
        self._empty(folder)
        return folder

    @staticmethod
    def _empty(folder: Path) -> None:
        for entry in folder.iterdir():
            if entry.is_dir() and entry.name != SHARDS:
                shutil.rmtree(entry)
            elif not entry.is_dir():
                entry.unlink()

    def remove(self, step: str) -> None:
        """Take a step away that is no longer in the plan."""
        shutil.rmtree(self.path / step, ignore_errors=True)

    def finish(self, step: str, records: tuple[Record, ...]) -> None:
        """Write the step's records: with that file it is whole."""
        write_json(self.path / step / "records.json", [record_to_json(record) for record in records])

    def records(self, step: str) -> tuple[Record, ...] | None:
        """The records of a whole step; None where it is not whole."""
        file = self.path / step / "records.json"
        if not file.exists():
            return None
        data = cast("list[dict[str, JSON]]", json.loads(file.read_text(encoding="utf-8")))
        return tuple(record_from_json(one) for one in data)
