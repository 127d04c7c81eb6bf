"""``diag.toml`` beside the model, or ``[tool.diag]``: every option may stand there; flags win."""

import json
import tomllib
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TypeAlias

from diag.options import Options
from study.errors import InputError, did_you_mean

Value: TypeAlias = "str | int | float | bool | list[str]"


def settings(arguments: Sequence[str]) -> dict[str, Value]:
    """The settings that hold for these arguments of a command, by option name.

    They are looked for beside the files among the arguments, then in the current folder; the first file that
    has some is taken whole. The files that it names lie beside it, or else where they are from here.

    Raises:
        InputError: the file is no TOML, an option in it is unknown, or it came with a model and says to trust
            that.
    """
    folders = [Path(one).parent for one in arguments if not one.startswith("-") and Path(one).is_file()]
    for folder in dict.fromkeys([*folders, Path()]):
        for file in (folder / "diag.toml", folder / "pyproject.toml"):
            found = _read(file)
            if found is not None:
                _must_not_trust(found, file)
                return {name: _known(name, value, file) for name, value in found.items()}
    return {}


def _must_not_trust(found: dict[str, Value], file: Path) -> None:
    """Trust is given by whoever types the command, or works in the folder: not by what came with a model."""
    if found.get("trust") and file.resolve().parent != Path.cwd():
        raise InputError(f"{file} says to trust the model beside it: take that line out, and type --trust.")


def option_name(key: str) -> str:
    """A key as the options name it: ``max-bad-rows`` is ``max_bad_rows``, ``json`` is ``as_json``."""
    name = key.replace("-", "_")
    return "as_json" if name == "json" else name


def _read(file: Path) -> dict[str, Value] | None:
    if not file.is_file():
        return None
    try:
        data = tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{file} is no TOML: {error}.") from None
    found = data if file.name == "diag.toml" else data.get("tool", {}).get("diag")
    if found is not None and not isinstance(found, dict):
        raise InputError(f"{file}: [tool.diag] is no table of options.")
    return {option_name(key): value for key, value in found.items()} if found is not None else None


def _known(name: str, value: Value, file: Path) -> Value:
    known = [*(field.name for field in fields(Options)), "model"]
    if name not in known:
        raise InputError(f"{file}: there is no option '{name}'.{did_you_mean(name, known)}")
    values = value if isinstance(value, list) else [value]
    if any(isinstance(one, dict) for one in values) and name not in ("arch_args", "student_args"):
        raise InputError(f"{file}: '{name}' is a table, and no option takes one: write it as text.")
    texts = [_beside(file, one) if name in FILES else _text(one) for one in values]
    if name in LISTS:
        return texts
    return ",".join(texts) if isinstance(value, list) else texts[0] if name in TEXTS else value


def _text(value: object) -> str:
    """As it would be typed: a table is what JSON makes of it."""
    return json.dumps(value) if isinstance(value, dict) else str(value)


def _beside(file: Path, value: object) -> str:
    """A file that lies beside the settings, else as it is written."""
    place = file.parent / str(value)
    return str(place if value and place.exists() else value)


LISTS = tuple(field.name for field in fields(Options) if field.default == ())
"""Options that may be given several times."""
FILES = ("model", "data", "train")
TEXTS = (*FILES, *(field.name for field in fields(Options) if isinstance(field.default, str)))
