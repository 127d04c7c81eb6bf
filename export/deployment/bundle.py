"""What is deployed: the artifact with all that is needed to feed it, to trust it and to serve it.

A folder is whole or not there: everything is written beside its place, tried, and moved in with its
``provenance.json`` last.
"""

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from export.deployment.feeding import Feeding, feeding_of
from export.deployment.predictor import predictor
from export.deployment.signature import (
    FORMAT,
    Signature,
    scored_name,
    signature_of,
    task_to_json,
    tensors_to_json,
    tolerance_of,
)
from export.deployment.triton import (
    LABELS,
    MOST_NUMBERS,
    REQUEST,
    config,
    label_lines,
    repository_name,
    request,
)
from export.examples import examples_of, named, typed
from export.graphs.files import files_of
from study.errors import DiagError, InputError
from study.host import to_numpy
from study.progress import Progress
from study.record import JSON
from study.runtimes.ort import OnnxRuntime
from study.storage import GENERATION, read_json, sha256_of, write_json, writing
from study.subject import Machine, Model, Subject

if TYPE_CHECKING:
    from numpy.typing import NDArray

ROWS: Final = 3
"""Of the example: enough to see whether rows depend on each other."""
PROVENANCE: Final = "provenance.json"
"""With that file a bundle is whole; it lists the others with their hashes."""
TRIED_WITHIN_S: Final = 600


@dataclass(frozen=True, slots=True)
class Shipment:
    """One artifact to be bundled into a folder, and how it came about."""

    step: str
    subject: Subject
    machine: Machine
    into: Path
    provenance: Mapping[str, JSON]
    force: bool = False


def refuse_other(folder: Path, *, force: bool) -> None:
    """Refuse a folder of other things before anything is computed.

    Raises:
        InputError: it is a file, or holds what is no bundle; with ``force`` that stays beside the bundle.
    """
    there = next(one for one in (folder.absolute(), *folder.absolute().parents) if one.exists())
    if not there.is_dir():
        raise InputError(f"{there} is a file: give --bundle a folder.")
    if not os.access(there, os.W_OK | os.X_OK):
        raise InputError(f"Nothing can be written to {there}: give --bundle another folder.")
    if force or not folder.is_dir():
        return
    strangers = sorted({entry.name for entry in folder.iterdir()} - {PROVENANCE} - _entries(folder))
    if strangers:
        raise InputError(
            f"{folder} holds '{strangers[0]}', which is no part of a bundle: give --bundle another folder, "
            "or --force to write beside it."
        )


def write_bundle(shipment: Shipment, progress: Progress) -> str:
    """Write the bundle, try it, and move it into its place; says what it is, in a sentence.

    Raises:
        InputError: the folder holds something else, or the artifact is not ONNX.
        DiagError: the bundle's own check failed.
    """
    subject, machine = shipment.subject, shipment.machine
    if subject.model.format != "onnx":
        raise InputError(
            f"A bundle holds an ONNX model, and {subject.model.path.name} is {subject.model.artifact}."
        )
    refuse_other(shipment.into, force=shipment.force)
    progress.tell("writing the bundle", 0, 1)
    with OnnxRuntime.open(subject.model, machine) as runtime:
        batch, origin = _example(subject, runtime, machine.seed)
        expected = {name: to_numpy(array) for name, array in runtime(batch).items()}
        signature = signature_of(runtime, batch, expected)
        providers = [runtime.provider, *(["CPUExecutionProvider"] if runtime.provider[:3] != "CPU" else [])]
    with _staged(shipment.into) as beside:
        _copy_model(subject.model.path, beside)
        feeding = feeding_of(subject)
        told = _told(shipment, signature, feeding, expected, origin)
        if subject.model.with_past is not None:
            told["generation"] = _writes_texts(subject.model.with_past, machine, beside / GENERATION)
        write_json(beside / "signature.json", {**told, "providers": list[JSON](providers)})
        for name, text in _texts(subject, signature, feeding, providers).items():
            (beside / name).parent.mkdir(parents=True, exist_ok=True)
            (beside / name).write_text(text, encoding="utf-8")
        _save(beside / "example.npz", batch)
        _save(beside / "expected.npz", expected)
        if max(array[:1].size for array in batch.values()) <= MOST_NUMBERS:
            write_json(beside / REQUEST, request(signature, batch))
        cpu = not machine.device.startswith("cuda")
        _triton(beside, repository_name(shipment.into.resolve().name), signature, subject, cpu=cpu)
        _try(beside)
        files = sorted(one.relative_to(beside).as_posix() for one in beside.rglob("*") if one.is_file())
        hashes: dict[str, JSON] = {name: sha256_of(beside / name) for name in files}
        write_json(beside / PROVENANCE, {"format": FORMAT, **shipment.provenance, "files": hashes})
    progress.tell("writing the bundle", 1, 1)
    script = shipment.into / "predict.py"
    return (
        f"{shipment.into} is the bundle of step {shipment.step}: python {script} --check tries it elsewhere."
    )


def _writes_texts(model: Model, machine: Machine, folder: Path) -> JSON:
    """The same model with a key/value cache: what it gives of the past goes in again with the next token."""
    folder.mkdir()
    _copy_model(model.path, folder)
    with OnnxRuntime.open(model, machine) as runtime:
        inputs, outputs = runtime.declared()
    return {
        "model": f"{folder.name}/model.onnx",
        "inputs": tensors_to_json(inputs),
        "outputs": tensors_to_json(outputs),
    }


def _example(subject: Subject, runtime: OnnxRuntime, seed: int) -> "tuple[dict[str, NDArray[Any]], str]":
    """A few rows as this artifact takes them, and where they are from."""
    examples = examples_of(subject, ROWS, seed)
    batch = typed(named(examples.take(min(ROWS, examples.rows)), runtime.inputs), runtime.inputs)
    known = {spec.name: spec.shape or () for spec in runtime.inputs}
    fitted = {name: _fitted(array, known[name]) for name, array in batch.items() if name in known}
    return fitted, examples.origin


def _fitted(array: "NDArray[Any]", shape: tuple[int | None, ...]) -> "NDArray[Any]":
    """Cut, or continued from its start, where the artifact fixes an axis that the model leaves free."""
    for axis, size in enumerate(shape[: array.ndim]):
        if axis and size is not None and array.shape[axis] != size:
            array = np.take(array, range(size), axis=axis, mode="wrap")
    return array


def _told(
    shipment: Shipment,
    signature: Signature,
    feeding: Feeding | None,
    expected: "Mapping[str, NDArray[Any]]",
    origin: str,
) -> dict[str, JSON]:
    """``signature.json``, but for the providers."""
    outputs: list[JSON] = []
    for one in tensors_to_json(signature.outputs):
        assert isinstance(one, dict)
        outputs.append({**one, "tolerance": tolerance_of(expected[str(one["name"])], signature.precision)})
    task = shipment.subject.task
    return {
        "format": FORMAT,
        "model": "model.onnx",
        "precision": signature.precision,
        "inputs": tensors_to_json(signature.inputs),
        "outputs": outputs,
        "batch": signature.batch,
        "one_entry_a_row": signature.by_row,
        "rows_stand_alone": signature.apart,
        "task": task_to_json(task, scored_name(task, signature.outputs)),
        "preparation": dict(feeding.told) if feeding else None,
        "example": {"inputs": "example.npz", "outputs": "expected.npz", "from": origin},
    }


def _texts(
    subject: Subject, signature: Signature, feeding: Feeding | None, providers: list[str]
) -> dict[str, str]:
    """The files that are texts."""
    runtime = "onnxruntime" if len(providers) == 1 else "onnxruntime-gpu"
    return {
        "predict.py": predictor(signature, subject.task, feeding),
        "requirements.txt": f"{runtime}=={_version()}\nnumpy=={version('numpy')}\n",
        **(feeding.files if feeding else {}),
    }


def _version() -> str:
    """Of ONNX Runtime, whichever of its packages is installed."""
    for package in ("onnxruntime-gpu", "onnxruntime"):
        with suppress(PackageNotFoundError):
            return version(package)
    import onnxruntime

    return str(onnxruntime.__version__)


def _save(path: Path, arrays: "Mapping[str, NDArray[Any]]") -> None:
    """As ``np.savez``, whose keywords could not be called as some inputs are; texts without pickle."""
    with zipfile.ZipFile(path, "w") as file:
        for name, array in arrays.items():
            with file.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, array.astype(str) if array.dtype.kind == "O" else array)


def _copy_model(model: Path, folder: Path) -> None:
    for file in files_of(model):
        name = "model.onnx" if file == model else file.name
        shutil.copyfile(file, folder / name)


def _triton(folder: Path, name: str, signature: Signature, subject: Subject, *, cpu: bool) -> None:
    """``triton/NAME``: the model is the same file under a second name, or a copy where links are refused."""
    repository = folder / "triton" / name
    (repository / "1").mkdir(parents=True)
    files = files_of(folder / "model.onnx")
    # Triton wants a model of several files in a folder that is called as the file would be
    place = repository / "1" / ("model.onnx" if len(files) > 1 else "")
    place.mkdir(exist_ok=True)
    for file in files:
        try:
            (place / file.name).hardlink_to(file)
        except OSError:
            shutil.copyfile(file, place / file.name)
    classes = subject.task.classes if subject.task and subject.task.kind == "multiclass" else ()
    scored = scored_name(subject.task, signature.outputs)
    text = config(name, signature, scored=scored, labels=bool(classes), cpu=cpu)
    (repository / "config.pbtxt").write_text(text, encoding="utf-8")
    if classes:
        (repository / LABELS).write_text(label_lines(classes), encoding="utf-8")


def _try(folder: Path) -> None:
    """Its own check, in a process that knows nothing of us."""
    command = [sys.executable, "-I", "-B", str(folder / "predict.py"), "--check"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=TRIED_WITHIN_S, check=False)  # noqa: S603 - our own file
    if ran.returncode:
        raise DiagError(f"The bundle's own check failed: {(ran.stdout + ran.stderr).strip()[-500:]}")


def _entries(folder: Path) -> set[str]:
    """What lies in a bundle's folder, as its list of files says; nothing where it is no bundle."""
    file = folder / PROVENANCE
    try:
        told = read_json(file) if file.is_file() else {}
    except ValueError:
        return set()
    files = told.get("files")
    if not str(told.get("format", "")).startswith("diag-bundle/") or not isinstance(files, dict):
        return set()
    return {name.partition("/")[0] for name in files}


@contextmanager
def _staged(folder: Path) -> Iterator[Path]:
    """A hidden folder to write to; what is in it takes its place when all went well, else it goes again.

    Raises:
        OutputError: the disk is full, or the folder may not be written to.
    """
    there = folder.is_dir()
    beside = folder / f".bundle.{os.getpid()}" if there else folder.with_name(f".{folder.name}.{os.getpid()}")
    made = [one for one in folder.parents if not one.exists()]
    try:
        with writing(folder):
            beside.mkdir(parents=True)
            yield beside
            if there:
                _move_in(beside, folder)
            else:
                beside.rename(folder)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        for one in made:
            with suppress(OSError):
                one.rmdir()
        raise


def _move_in(beside: Path, folder: Path) -> None:
    """Replace an older bundle: its list of files goes first and the new one comes last."""
    old = _entries(folder)
    (folder / PROVENANCE).unlink(missing_ok=True)
    new = [entry.name for entry in beside.iterdir() if entry.name != PROVENANCE]
    for name in (*new, *(old - set(new))):
        if (folder / name).is_dir():
            shutil.rmtree(folder / name)
        elif (folder / name).exists():
            (folder / name).unlink()
        if name in new:
            (beside / name).rename(folder / name)
    (beside / PROVENANCE).rename(folder / PROVENANCE)
    beside.rmdir()
