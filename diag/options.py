"""Every option there is: one field each, from which the command line, ``diag.toml`` and Python read it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

Group: TypeAlias = Literal["Model", "Data", "Steps", "Budgets", "Explanation", "Timing", "Machine", "Output"]
WITH_STEPS: tuple[str, ...] = ("export", "run", "init", "demo")
"""The commands whose steps are typed."""


def _option(
    default: Any,
    group: Group,
    text: str,
    metavar: str = "",
    *,
    flag: str = "",
    commands: tuple[str, ...] = (),
) -> Any:
    """A field with what ``--help`` says of it; ``commands`` are those of the group that have it (all)."""
    told = {"group": group, "text": text, "flag": flag, "metavar": metavar, "commands": commands}
    return field(default=default, metadata=told)


@dataclass(frozen=True, slots=True)
class Options:
    """What flags, ``diag.toml`` and ``diag.run(..., options=Options(...))`` may say."""

    data: str = _option(
        "", "Data", "What judges the model: a file, a folder of class folders, module:factory."
    )
    train: str = _option(
        "", "Data", "The data it was trained on, if at hand: calibrates and recovers.", "DATA"
    )
    label: str = _option(
        "", "Data", "The label's column or array, or a .npy of labels [label, target, y].", "COLUMN"
    )
    columns: str = _option(
        "",
        "Data",
        "The input columns, a,b,c [every other numeric one]; of several inputs image=file,cells=age+fare.",
        "A,B,C",
    )
    preprocess: str = _option(
        "", "Data", "module:function that turns one raw row into named arrays.", "MODULE:FUNCTION"
    )
    tokenizer: str = _option(
        "", "Data", "A folder or vocabulary that turns texts into tokens [the model's own].", "PATH"
    )
    max_tokens: int = _option(0, "Data", "Cut longer texts to so many tokens [none is cut].", "N")
    pad: float | None = _option(None, "Data", "What fills shorter rows of sequences up.", "NUMBER")
    group: str = _option("", "Data", "A column: rows of one group depend on each other.", "COLUMN")
    missing: str = _option(
        "drop", "Data", "Rows with missing values: drop, or fill by mean or median.", "HOW"
    )
    max_bad_rows: str = _option("5%", "Data", "More broken rows than this end the command.", "SHARE")
    task: str = _option(
        "", "Data", "classification, multilabel, regression, forecasting, language … [guessed].", "TASK"
    )
    classes: str = _option(
        "", "Data", "Class names, a,b,c, in the order of the outputs (of a forecast: its quantiles).", "A,B,C"
    )
    output: str = _option(
        "",
        "Data",
        "The model's output that is scored: its name, or its number from 0 [guessed, and said].",
        "NAME",
    )
    sample: int | None = _option(None, "Data", "Judge a seeded sample of so many rows.", "N")
    unlabelled: bool = _option(False, "Data", "There are no labels: look at what needs none.")
    arch: tuple[str, ...] = _option(
        (), "Model", "module:factory that builds what a state dict fits.", "MODULE:FACTORY"
    )
    arch_args: tuple[str, ...] = _option((), "Model", "Arguments of the factory, as JSON.", "JSON")
    weights: tuple[str, ...] = _option(
        (), "Model", "Which of several weight sets in a checkpoint: ema, state.model [said].", "KEY"
    )
    adapter: tuple[str, ...] = _option(
        (), "Model", "A LoRA adapter of peft, merged into the weights.", "FOLDER"
    )
    shape: tuple[str, ...] = _option(
        (), "Model", "[NAME=]1x3x224x224[:dtype], where no data says it.", "SHAPE"
    )
    trust: bool = _option(False, "Model", "Allow a full unpickle: it can run any code that is in the file.")
    steps: str | None = _option(
        None,
        "Steps",
        "A comma chains, (a|b) branches: prune:0.3,onnx,(int8|fp16) [onnx,int8; to export: onnx].",
        "STEPS",
        commands=WITH_STEPS,
    )
    student: str = _option(
        "", "Steps", "module:factory that builds the smaller model that distill trains.", "MODULE:FACTORY"
    )
    student_args: str = _option("{}", "Steps", "Arguments of that factory, as JSON.", "JSON")
    recovery: str = _option(
        "",
        "Steps",
        "How pruned models and students are trained: epochs=30:seconds=1800:augment=flip+shift.",
        "SETTINGS",
        commands=("optimize",),
    )
    sensitivity: bool = _option(
        False,
        "Steps",
        "After int8, what each layer costs in it, and which should stay in float.",
        commands=WITH_STEPS,
    )
    max_drop: str = _option(
        "",
        "Budgets",
        "Most points that the headline metric may lose; percent, where it is no share.",
        "POINTS",
    )
    max_flips: str = _option("", "Budgets", "Most rows that may be newly wrong, 1% or 0.01.", "SHARE")
    max_slice_drop: str = _option("", "Budgets", "Most points that the worst slice may lose.", "POINTS")
    max_latency: str = _option(
        "", "Budgets", "Most time of one call, 5ms (median) or p90=5ms; at the first size of --batch.", "TIME"
    )
    max_size: str = _option("", "Budgets", "The largest file, 5MB.", "SIZE")
    method: tuple[str, ...] = _option(
        (), "Explanation", "An attribution method [all that fit the model].", "METHOD"
    )
    rows: str = _option("", "Explanation", "errors, confident-errors, random, or row numbers 0,5,9.", "ROWS")
    target: str = _option(
        "", "Explanation", "Explain this class, or step h=3 [the predicted one, or the first].", "CLASS"
    )
    batch: str = _option("1", "Timing", "Batch sizes to time, 1,8.", "1,8")
    callers: str = _option("1", "Timing", "Callers side by side, to measure throughput with, 1,2,4.", "1,2")
    compile: bool = _option(False, "Timing", "Time torch.compile beside torch eager.")
    threads: int = _option(0, "Machine", "Threads of the model [one a physical core].", "N")
    device: str = _option("cpu", "Machine", "cpu, cuda or cuda:N.", "DEVICE")
    provider: str = _option("", "Machine", "The ONNX Runtime provider [by device].", "PROVIDER")
    batch_size: int = _option(0, "Machine", "Rows in one pass [by their size].", "N")
    seed: int = _option(0, "Machine", "Seeds every choice that is random.", "N")
    out: Path | None = _option(None, "Output", "The run folder [diag-runs/NAME-HASH].", "DIR")
    bundle: Path | None = _option(
        None,
        "Output",
        "A folder for the last artifact with all that serving it needs (docs/serving.md).",
        "DIR",
        commands=("export", "run", "optimize"),
    )
    force: bool = _option(False, "Output", "Replace what another run left in the folder.")
    dry_run: bool = _option(False, "Output", "Show the plan and an estimate, and stop.")
    as_json: bool = _option(False, "Output", "The report on stdout, and nothing else.", flag="--json")
    quiet: bool = _option(False, "Output", "Say nothing but errors.")
