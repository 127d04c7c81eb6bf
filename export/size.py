"""How large the file is that is deployed."""

from study.errors import SkipError
from study.record import Metric, Record, Verdict
from study.subject import Model

UNITS = ("B", "kB", "MB", "GB", "TB")


def size_record(model: Model, origin: Model | None = None) -> Record:
    """The exact bytes of the artifact, external data included, and the ratio to the model as it came.

    A live module has no file: the bytes of its tensors stand for it. Of a folder, the files count that decide
    what the model computes.

    Raises:
        SkipError: the file is gone.
    """
    taken = _bytes(model)
    metrics = {"size_bytes": Metric.exact(taken, 1, unit="B", better="lower")}
    summary = f"The artifact has {readable(taken)}."
    if origin is not None and origin != model:
        ratio = taken / _bytes(origin)
        metrics["size_ratio@as_it_came"] = Metric.exact(ratio, 1, better="lower")
        summary = f"The artifact has {readable(taken)}, {ratio:.2f} times what the model had as it came."
    return Record("size", Verdict.NOTED, summary, metrics=metrics)


def _bytes(model: Model) -> int:
    if model.live or model.adapter or model.path.is_dir() or model.path.suffix == ".json":
        return model.bytes
    if not model.path.is_file():
        raise SkipError(f"the file {model.path.name} is no longer there")
    if model.format == "onnx":
        from export.graphs.files import bytes_of

        return bytes_of(model.path)
    return model.path.stat().st_size


def readable(count: float) -> str:
    """``1.5 MB``: three digits and a unit of a thousand."""
    for unit in UNITS[:-1]:
        if count < 999.5:  # noqa: PLR2004 -- what three digits round to a thousand
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} {UNITS[-1]}"
