"""``diag init``: ``diag.toml`` from questions."""

import os
import sys
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

import typer

from diag.ask import CHANGES, data_of, models_of
from diag.options import Options
from diag.plan import parse
from study.errors import InputError
from study.storage import write_text

QUESTIONS: Mapping[str, str] = {
    "data": "What judges the model (a file, a folder of class folders, module:factory)",
    "train": "The data it was trained on, if at hand",
    "arch": "module:factory that builds the model (for a state dict)",
    "steps": "Steps towards deployment",
}


def write_settings(model: Path | None, options: Options) -> str:
    """Ask what was not given as a flag, check it, and write ``diag.toml`` beside the model.

    Raises:
        InputError: the answers do not fit, or there is a ``diag.toml`` already and no ``--force``.
    """
    asks = sys.stdin.isatty()
    if model is None:
        if not asks:
            raise InputError("Which model? Type diag init MODEL: there is no terminal to ask at.")
        model = Path(typer.prompt("The model's file", err=True))
    file = model.parent / "diag.toml"
    if file.exists() and not options.force:
        raise InputError(f"{file} exists: use --force to replace it.")
    answers = {name: value for name, value in _given(options).items() if value not in ("", (), None)}
    if asks:
        for name, question in QUESTIONS.items():
            if name not in answers:
                default = CHANGES["run"] if name == "steps" else ""
                answers[name] = typer.prompt(question, default=default, show_default=bool(default), err=True)
    chosen = {name: value for name, value in answers.items() if value not in ("", (), None)}
    _check(model, chosen, options)
    chosen |= {name: _from(file.parent, str(chosen[name])) for name in ("data", "train") if name in chosen}
    lines = [f"model = {_toml(model.name)}", *(f"{name} = {_toml(value)}" for name, value in chosen.items())]
    write_text(file, "\n".join(lines) + "\n")
    return f"{file} written: diag run {model} goes by it."


def _given(options: Options) -> dict[str, object]:
    """The options that differ from what they are by themselves, but for those of ``init`` itself."""
    plain = Options()
    return {
        one.name.replace("_", "-"): getattr(options, one.name)
        for one in fields(Options)
        if getattr(options, one.name) != getattr(plain, one.name)
        and one.name not in ("force", "quiet", "as_json")
    }


def _check(model: Path, chosen: Mapping[str, object], options: Options) -> None:
    arch = chosen.get("arch", ())
    archs = (arch,) if isinstance(arch, str) else tuple(str(one) for one in _listed(arch))
    found = models_of([model], Options(arch=archs, trust=options.trust))[0]
    parse(str(chosen.get("steps", CHANGES["run"])), found.artifact)
    data_of(str(chosen.get("data", "")), options)


def _from(folder: Path, named: str) -> str:
    """A file as it is named from the folder of ``diag.toml``; ``module:factory`` as it is."""
    path = Path(named)
    return os.path.relpath(path, folder) if path.exists() and not path.is_absolute() else named


def _listed(value: object) -> tuple[object, ...]:
    return tuple(value) if isinstance(value, (tuple, list)) else (value,)


def _toml(value: object) -> str:
    """A TOML value: JSON's strings, numbers, booleans and lists of strings are TOML's."""
    import json

    return json.dumps(
        [str(one) for one in value] if isinstance(value, tuple) else value, ensure_ascii=False, default=str
    )
