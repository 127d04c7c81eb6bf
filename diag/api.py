"""The commands as Python functions; they take live modules, arrays, datasets and loaders as well as paths."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from diag.options import Options

if TYPE_CHECKING:
    from diag.flow import Result
    from study.subject import Data, Model

ModelLike: TypeAlias = object
"""A path, or an ``nn.Module``."""
DataLike: TypeAlias = object
"""A path, ``module:factory``, arrays ``(x, y)``, a dict of arrays, a ``Dataset`` or a ``DataLoader``."""
PLAIN = Options()


def analyze(model: ModelLike, data: DataLike = None, *, options: Options = PLAIN) -> "Result":
    """Where does it err, and is it healthy? Without data: health alone."""
    return _do("analyze", [model], data, None, options)


def explain(
    model: ModelLike, data: DataLike, *, method: Sequence[str] = (), options: Options = PLAIN
) -> "Result":
    """What does it look at?"""
    return _do("explain", [model], data, None, replace(options, method=tuple(method) or options.method))


def export(
    model: ModelLike,
    data: DataLike = None,
    *,
    steps: str | Sequence[str] = "onnx",
    train: DataLike = None,
    bundle: str | Path = "",
    options: Options = PLAIN,
) -> "Result":
    """ONNX, verified against the module; then the other steps; ``bundle`` is a folder to deploy from."""
    return _do("export", [model], data, train, _changing(options, steps, bundle))


def benchmark(*models: ModelLike, data: DataLike = None, options: Options = PLAIN) -> "Result":
    """How fast are they, and which of them differ?"""
    return _do("benchmark", models, data, None, options)


def compare(before: ModelLike, after: ModelLike, data: DataLike, *, options: Options = PLAIN) -> "Result":
    """Two models on the same rows: what differs, by how much, and is it more than chance?"""
    return _do("compare", [before, after], data, None, options)


def run(
    model: ModelLike,
    data: DataLike,
    *,
    steps: str | Sequence[str] = ("onnx", "int8"),
    train: DataLike = None,
    bundle: str | Path = "",
    options: Options = PLAIN,
) -> "Result":
    """The whole chain: look, change, look again after every step, report; ``bundle`` as for ``export``."""
    return _do("run", [model], data, train, _changing(options, steps, bundle))


def optimize(
    model: ModelLike,
    data: DataLike,
    *,
    train: DataLike = None,
    max_drop: float | str | None = None,
    max_flips: float | str | None = None,
    max_slice_drop: float | str | None = None,
    max_latency: str = "",
    max_size: str = "",
    bundle: str | Path = "",
    options: Options = PLAIN,
) -> "Result":
    """Search the steps and their settings for the fastest artifact that keeps the budgets."""
    said = {
        "max_drop": max_drop,
        "max_flips": max_flips,
        "max_slice_drop": max_slice_drop,
        "max_latency": max_latency,
        "max_size": max_size,
    }
    given = {name: str(value) for name, value in said.items() if value not in (None, "")}
    into = Path(bundle) if bundle else options.bundle
    options = replace(options, **given, bundle=into)  # type: ignore[arg-type]  # the others are texts
    return _do("optimize", [model], data, train, options)


def report(folder: str | Path) -> "Result":
    """The result of an earlier command, from its run folder."""
    from diag.flow import Result
    from diag.render.write import read_report

    return Result(Path(folder), read_report(Path(folder)))


def _do(
    command: str, models: Sequence[ModelLike], data: DataLike, training: DataLike, options: Options
) -> "Result":
    from diag.ask import ask
    from diag.console import watching
    from diag.flow import run as flow

    found = _models(models, options)
    request = ask(command, found, options, _data(data, options), _data(training, options), f"diag.{command}")
    with watching(quiet=options.quiet) as watcher:
        return flow(request, watcher)


def _changing(options: Options, steps: str | Sequence[str], bundle: str | Path) -> Options:
    typed = steps if isinstance(steps, str) else ",".join(steps)
    return replace(options, steps=typed, bundle=Path(bundle) if bundle else options.bundle)


def _models(models: Sequence[ModelLike], options: Options) -> "list[Model]":
    from diag.ask import models_of
    from study.errors import InputError
    from study.loading.library import library_of_live
    from study.loading.live import live_model

    if all(isinstance(model, (str, Path)) for model in models):
        return models_of([Path(str(model)) for model in models], options)
    found = []
    for model in models:
        if isinstance(model, (str, Path)):
            found.extend(models_of([Path(model)], options))
        elif hasattr(model, "state_dict") and hasattr(model, "forward"):
            found.append(live_model(model, library_of_live(model)))  # type: ignore[arg-type]  # has what makes it an nn.Module
        else:
            raise InputError(f"A {type(model).__name__} is no model: give a path or an nn.Module.")
    return found


def _data(data: DataLike, options: Options) -> "Data | None":
    from diag.ask import data_of
    from study.data.live import digest
    from study.loading.live import hold

    if data is None or isinstance(data, (str, Path)):
        return data_of(str(data or ""), options)
    named = data_of(f"<live {digest(data)}>", options)
    assert named is not None
    return replace(named, live=hold(data))
