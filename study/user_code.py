"""Code of the user: ``module:factory``, imported from where they stand, with errors in their own lines."""

import json
import sys
import traceback
from collections.abc import Callable
from contextlib import redirect_stdout
from importlib import import_module
from pathlib import Path
from typing import Final

import study
from study.errors import InputError, did_you_mean

TAKE_ARGS: Final = ("--arch", "--student")
"""Options whose factories may be given arguments, as JSON."""
OURS: Final = ("study", "diagnose", "explain", "export", "diag")


def open_user_folder() -> None:
    """Let imports find the modules of the current folder, after ours and everyone else's.

    Raises:
        InputError: one of its modules has the name of one of ours and could never be imported.
    """
    folder = Path.cwd()
    home = Path(study.__file__).resolve().parent.parent
    for name in OURS:
        for shadow in (folder / f"{name}.py", folder / name / "__init__.py"):
            if shadow.exists() and folder.resolve() != home:
                raise InputError(
                    f"{shadow} has the name of a part of diag, so it cannot be imported: rename it."
                )
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def import_attribute(spec: str, what: str = "--arch") -> object:
    """What ``module:attribute`` names; ``what`` is the option that it was given to.

    Raises:
        InputError: it cannot be imported; the sentence names the exception and the line in the user's code.
    """
    module_name, colon, attribute = spec.partition(":")
    if not colon or not module_name or not attribute:
        typed = spec.partition(":")[0]
        stem = Path(typed).stem if typed.endswith(".py") else typed
        raise InputError(
            f"{what} '{spec}' is not module:name: type for example {what} {stem or 'net'}:build."
        )
    if module_name.endswith(".py") or "/" in module_name:
        dotted = module_name.removesuffix(".py").strip("./").replace("/", ".")
        raise InputError(f"{what} takes a module, not a file: type {what} {dotted}:{attribute}.")
    open_user_folder()
    module = run_user_code(
        lambda: import_module(module_name),
        f"{what} {spec} cannot be imported",
        f"stand in the folder where {module_name.partition('.')[0]} lies, and mend what it says",
    )
    found: object = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            names = [name for name in dir(found) if not name.startswith("_")]
            hint = did_you_mean(part, names).split(" There are")[0]
            raise InputError(f"{what} {spec}: there is no '{part}' in {module_name}.{hint}")
        found = getattr(found, part)
    return found


def call_factory(spec: str, args_json: str = "{}", what: str = "--arch") -> object:
    """What the factory returns for these keyword arguments (JSON); what cannot be called is returned itself.

    Raises:
        InputError: it cannot be imported, its arguments are no JSON object, or it raises.
    """
    try:
        arguments = json.loads(args_json)
    except json.JSONDecodeError as error:
        raise InputError(
            f"{what}-args '{args_json}' is no JSON ({error}): type for example '{{\"depth\": 20}}'."
        ) from None
    if not isinstance(arguments, dict):
        raise InputError(
            f"{what}-args '{args_json}' is no JSON object: type for example '{{\"depth\": 20}}'."
        )
    factory = import_attribute(spec, what)
    if not callable(factory):
        return factory
    mend = "mend it" if what not in TAKE_ARGS else f"mend it, or give what it takes with {what}-args"
    return run_user_code(lambda: factory(**arguments), f"{what} {spec} raised", mend)


def run_user_code(run: "Callable[[], object]", what: str, mend: str = "") -> object:
    """Run code of the user; what it prints goes to stderr, since stdout holds results.

    ``what`` begins the sentence of an error, and ``mend`` ends it: what the user can do.

    Raises:
        InputError: it raised (or exited); the sentence names the exception, its message and the line.
    """
    try:
        with redirect_stdout(sys.stderr):
            return run()
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        first = (str(error).strip().splitlines() or [""])[0][:200]
        told = f": {first.rstrip('.')}" if first else ""
        do = f": {mend}." if mend else ""
        raise InputError(f"{what}: {type(error).__name__}{told}{_place(error)}{do}") from error


def _place(error: BaseException) -> str:
    """`` (net.py:12)``: the innermost line that is the user's."""
    if isinstance(error, SyntaxError) and error.filename:
        return f" ({Path(error.filename).name}:{error.lineno})"
    here = Path.cwd().resolve()
    trace = [one for one in traceback.extract_tb(error.__traceback__) if not one.filename.startswith("<")]
    frames = [Path(frame.filename).resolve() for frame in trace]
    lines = [frame.lineno for frame in trace]
    ours = Path(study.__file__).resolve().parent
    for path, line in reversed(list(zip(frames, lines, strict=True))):
        if path.is_relative_to(here) and not path.is_relative_to(ours) and "site-packages" not in path.parts:
            return f" ({path.relative_to(here)}:{line})"
    return ""
