"""What the commands have in common: ask, do or show the plan, and tell the result."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from diag.ask import CHANGES, ask, data_of, models_of
from diag.console import watching
from diag.estimate import estimate
from diag.flow import LOOKS, Result, run
from diag.ladder import CHEAP
from diag.options import Options
from diag.plan import parse
from diag.policy import Figures, judged
from diag.request import Request
from diag.search import goal_of
from study.errors import GateError
from study.progress import Progress
from study.record import Verdict
from study.worker import Child


def carry_out(command: str, paths: Sequence[Path], options: Options, typed: str) -> None:
    """Do what was typed, and print the result."""
    data, training = data_of(options.data, options), data_of(options.train, options)
    request = ask(command, models_of(paths, options), options, data, training, typed)
    if options.dry_run:
        print(plan_in_words(request, estimate(request)))
        return
    with watching(quiet=options.quiet) as watcher:
        result = run(request, watcher)
    tell(result, options)
    if command == "optimize":
        must_have_chosen(result)


def must_have_chosen(result: Result) -> None:
    """End with exit code 1 where no artifact keeps the budgets.

    Raises:
        GateError: none does, or the one that was chosen does not when it is looked at again.
    """
    last = result.report.steps[-1]
    for record in filter(None, (last.record("search"), last.record("budgets"))):
        if record.verdict is Verdict.BAD:
            raise GateError(record.summary)


def tell(result: Result, options: Options) -> None:
    """The result on stdout: the report as JSON, the table of steps, or nothing."""
    if options.as_json:
        from diag.render.json import render

        print(render(result.report, result.folder), end="")
    elif not options.quiet:
        from diag.render.terminal import show

        show(result.report, result.folder)
        model = result.folder / "model.onnx"
        if model.exists():
            print(f"Model: {model}")


def plan_in_words(request: Request, seconds: float | None) -> str:
    """What would be done, step by step, where it would lie, and about how long it would take."""
    if request.budgets:
        return search_in_words(request, seconds)
    steps = request.plan.steps
    lines = [
        f"diag {request.command}: {len(steps)} step{'s' if len(steps) > 1 else ''} into {request.folder()}"
    ]
    for index, step in enumerate(steps):
        made = f"{step.typed} of {steps[step.parent].name}" if step.parent is not None else "as it is"
        looks = ", ".join(LOOKS[part] for part in LOOKS if part in request.parts)
        lines.append(f"  {request.plan.folder(index)}: {made}; {looks}")
    lines.extend(request.plan.notes)
    return "\n".join([*lines, *_needs(request, seconds)])


def _needs(request: Request, seconds: float | None) -> list[str]:
    """The rows that it would take to calibrate, and the time."""
    said = []
    changes = request.command in CHANGES or request.budgets
    if changes and request.needs_calibration() and request.training is None:
        said.append(
            "A fifth of the rows, at most 512, would be held back to calibrate: give --train to keep them."
        )
    if seconds is not None:
        said.append(f"It would take about {_rounded(seconds)}.")
    return said


def search_in_words(request: Request, seconds: float | None) -> str:
    """The budgets, what would be tried first, and on what the rest depends."""
    goal = goal_of(request)
    first = ", ".join(step for step in CHEAP if step != "fp16" or goal.device != "cpu")
    readings = judged(goal.budgets, Figures({}, {}, ""))
    kept = ", ".join(f"{one.budget.flag} {one.most.text}" for one in readings)
    lines = [
        f"diag optimize: a search into {request.folder()}",
        f"  keeps: {kept}",
        f"  tries first: {first}",
        "  then, as their figures ask for it: int4, layers left in float"
        + (", fewer channels" if goal.training else " (and with --train fewer channels)")
        + "; each is judged at once and dropped when a budget is surely broken",
        "  ends with: the fastest that keeps all, looked at whole",
        *request.notes,
    ]
    return "\n".join([*lines, *_needs(request, seconds)])


def run_demo(options: Options, typed: str) -> None:
    """Train the demo's net in the run folder's ``sample``, and send it through the chain."""
    from diag.demo import DemoFiles

    folder = options.out or Path("diag-runs") / "demo"
    sample = folder.with_name(f"{folder.name}-sample")
    files = DemoFiles(sample / "model.pt", sample / "test.npz", sample / "train.npz", DEMO_ARCH)
    if options.dry_run:
        plan = parse(CHANGES["run"] if options.steps is None else options.steps, "pytorch/fp32")
        made = ", ".join(step.typed for step in plan.steps[1:])
        print(f"diag demo: a small CNN, trained on scikit-learn's digits, through {made} into {folder}")
        return
    if options.force and sample.exists():
        shutil.rmtree(sample)
    if not all(path.exists() for path in (files.model, files.data, files.train)):
        with watching(quiet=options.quiet) as watcher, Child("demo", sample / "log.txt") as worker:
            watcher.note("Training a small CNN on scikit-learn's digits.")
            worker.call(_trained, sample, options.seed, progress=watcher.progress)
    chosen = replace(options, data=str(files.data), train=str(files.train), arch=(files.arch,), out=folder)
    carry_out("run", [files.model], chosen, typed)


DEMO_ARCH = "diag.demo:digits_cnn"


def _trained(folder: Path, seed: int, _progress: Progress) -> None:
    from diag.demo import make_demo

    make_demo(folder, seed=seed)


def _rounded(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds > 90 else f"{max(seconds, 1):.0f} s"  # noqa: PLR2004
