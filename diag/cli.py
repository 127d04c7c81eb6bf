"""The command line: one function a command, one list of options, one place where errors become sentences."""

import inspect
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import Field, fields
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.main import get_command

from diag.config import Value, settings
from diag.options import Group, Options
from study.errors import DiagError, did_you_mean

INTERRUPTED = 130
OUR_FAULT = 3
UNCONFIGURED = ("report", "init", "doctor")
"""Commands that look at no model, and go by no ``diag.toml``."""
Model = Annotated[Path, typer.Argument(help="The model's file.", show_default=False)]
Models = Annotated[list[Path], typer.Argument(help="The models' files.", show_default=False)]

app = typer.Typer(
    name="diag",
    help="Diagnose, explain, shrink and time a trained PyTorch model; look again after every step.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)


def takes(*groups: Group) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Gives a command the options of these groups, and hands it them as one ``Options``."""

    def give(function: Callable[..., None]) -> Callable[..., None]:
        own = [one for one in inspect.signature(function).parameters.values() if one.name != "options"]
        chosen = [one for one in fields(Options) if one.metadata["group"] in groups and _has(function, one)]

        @wraps(function)
        def command(*arguments: Any, **typed: Any) -> None:
            said = {one.name: typed.pop(one.name) for one in chosen}
            lists = {name: tuple(value) for name, value in said.items() if isinstance(value, list)}
            function(*arguments, **typed, options=Options(**{**said, **lists}))

        parameters = [*own, *(_parameter(one) for one in chosen)]
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # what typer reads
        command.__annotations__ = {one.name: one.annotation for one in parameters}
        return command

    return give


def _has(command: Callable[..., None], option: Field[Any]) -> bool:
    """Whether the option is one of this command's, among those of its group."""
    return not option.metadata["commands"] or command.__name__ in option.metadata["commands"]


def _parameter(option: Field[Any]) -> inspect.Parameter:
    """The flag of an option, as typer reads it."""
    told = option.metadata
    several = option.default == ()
    flag = told["flag"] or "--" + option.name.replace("_", "-")
    kind = list[str] if several else option.type
    words = typer.Option(
        flag,
        help=told["text"].replace("[", "\\["),  # rich reads brackets as markup
        rich_help_panel=told["group"],
        show_default=False,
        metavar=None if kind is bool else told["metavar"],
    )
    return inspect.Parameter(
        option.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=[] if several else option.default,
        annotation=Annotated[kind, words],
    )


@app.command()
@takes("Data", "Model", "Machine", "Output")
def analyze(model: Model, options: Options) -> None:
    """Where does it err, and is it healthy? Without --data: health alone."""
    _do("analyze", [model], options)


@app.command()
@takes("Data", "Model", "Explanation", "Machine", "Output")
def explain(model: Model, options: Options) -> None:
    """What does it look at?"""
    _do("explain", [model], options)


@app.command()
@takes("Steps", "Data", "Model", "Machine", "Output")
def export(model: Model, options: Options) -> None:
    """ONNX, verified against the module; then the other steps; the last artifact is OUT/model.onnx."""
    _do("export", [model], options)


@app.command()
@takes("Timing", "Data", "Model", "Machine", "Output")
def benchmark(models: Models, options: Options) -> None:
    """How fast are they, and which of them differ?"""
    _do("benchmark", models, options)


@app.command()
@takes("Steps", "Data", "Model", "Explanation", "Timing", "Machine", "Output")
def run(model: Model, options: Options) -> None:
    """The whole chain: look, change, look again after every step, report."""
    _do("run", [model], options)


@app.command()
@takes("Budgets", "Steps", "Data", "Model", "Explanation", "Timing", "Machine", "Output")
def optimize(model: Model, options: Options) -> None:
    """Search the steps and their settings for the fastest artifact that keeps the budgets."""
    _do("optimize", [model], options)


@app.command()
@takes("Data", "Model", "Explanation", "Timing", "Machine", "Output")
def compare(before: Model, after: Model, options: Options) -> None:
    """Two models on the same rows: what differs, by how much, and is it more than chance?"""
    _do("compare", [before, after], options)


@app.command()
def report(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.", show_default=False)],
    form: Annotated[str, typer.Option("--format", help="html, json or md [all].", show_default=False)] = "",
) -> None:
    """Write the report of a run again."""
    from diag.render.write import write_again

    for path in write_again(run_folder, form):
        print(path)


@app.command()
@takes("Steps", "Data", "Model", "Explanation", "Timing", "Machine", "Output")
def init(
    options: Options,
    model: Annotated[Path | None, typer.Argument(help="The model's file.", show_default=False)] = None,
) -> None:
    """Write diag.toml from questions; what is given as a flag is not asked."""
    from diag.init import write_settings

    print(write_settings(model, options))


@app.command()
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, and nothing else.")] = False,  # noqa: FBT002 - a flag
) -> None:
    """What this machine can do, and what stands in the way."""
    from diag.doctor import examine

    examine(as_json=as_json)


@app.command()
@takes("Steps", "Machine", "Output")
def demo(options: Options) -> None:
    """Train a small net on scikit-learn's digits, and send it through the whole chain."""
    from diag.commands import run_demo

    run_demo(options, _typed())


def _do(command: str, paths: Sequence[Path], options: Options) -> None:
    from diag.commands import carry_out

    carry_out(command, paths, options, _typed())


def _typed() -> str:
    """The command as it was typed."""
    import shlex

    return shlex.join(["diag", *sys.argv[1:]])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code of DESIGN §4."""
    words = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    code = 0
    try:
        command = get_command(app)
        code = command.main(words, prog_name="diag", standalone_mode=False, default_map=_defaults(words)) or 0
        sys.stdout.flush()
    except DiagError as error:
        _say(str(error))
        for note in getattr(error, "__notes__", ()) if error.exit_code == OUR_FAULT else ():
            print(note.rstrip(), file=sys.stderr)
        code = error.exit_code
    except typer.Exit as done:
        code = done.exit_code
    except typer.TyperException as wrong:
        _say(_usage(wrong, words))
        code = wrong.exit_code
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except (
        BrokenPipeError,
        SystemExit,
    ):  # who reads our output has read enough, as head does; typer exits then
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception:  # noqa: BLE001  # the one boundary: whatever reaches it is our fault
        traceback.print_exc()
        _say("this is our fault; please send the lines above.")
        code = OUR_FAULT
    if code == INTERRUPTED:  # also what typer makes of a KeyboardInterrupt
        _say("interrupted; the same command goes on from the last whole step.")
    return code


def _say(text: str) -> None:
    """One line on stderr; what a file's names hold cannot act on the terminal."""
    from diag.render.figures import plain

    print(f"diag: {plain(text)}", file=sys.stderr)


def _usage(wrong: typer.TyperException, words: Sequence[str]) -> str:
    """What is wrong with the words that were typed, and what to type."""
    option = getattr(wrong, "option_name", "")
    close = getattr(wrong, "possibilities", None)
    if option and close:
        return f"There is no option '{option}'.{did_you_mean(option, close)}"
    message = wrong.format_message().strip().rstrip(".")
    if message.endswith("?"):
        return message
    command = words[0] if words[0] in _commands() else ""
    return f"{message}: {' '.join(filter(None, ('diag', command, '--help')))} says what it takes."


def _commands() -> list[str]:
    """The names of the commands, in order."""
    return [one.name or (one.callback.__name__ if one.callback else "") for one in app.registered_commands]


def _defaults(words: Sequence[str]) -> dict[str, dict[str, Value]]:
    """What ``diag.toml`` says, for the command that is typed."""
    command = next((word for word in words if not word.startswith("-")), "")
    if not command or command in UNCONFIGURED:
        return {}
    return {command: settings(_positional(words[words.index(command) + 1 :]))}


def _positional(words: Sequence[str]) -> list[str]:
    """The words that are no option and no option's value: the model's file."""
    flags = {f"--{one.name.replace('_', '-')}" for one in fields(Options) if one.type is bool} | {"--json"}
    found, value = [], False
    for word in words:
        if not value and not word.startswith("-"):
            found.append(word)
        value = not value and word.startswith("-") and "=" not in word and word not in flags
    return found


if __name__ == "__main__":
    sys.exit(main())
