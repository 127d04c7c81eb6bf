"""From options to a request: shapes and numbers read, the plan parsed, and nothing opened yet."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import get_args

from diag.budgets import budgets_of, said_of
from diag.environment import two_runtimes
from diag.options import Options
from diag.plan import AS_IT_CAME, Plan, Step, given, parse
from diag.request import EVERYTHING, Explaining, Judging, Part, Request, Timing
from explain.method import METHODS
from export.settings import make_pass
from study import amounts
from study.errors import InputError, did_you_mean
from study.guess import require_task
from study.loading.sniff import identify, with_adapter
from study.subject import Data, InputSpec, Machine, Missing, Model

PARTS: dict[str, frozenset[Part]] = {
    "analyze": frozenset({"weights", "diagnose", "size"}),
    "explain": frozenset({"explain", "size"}),
    "export": frozenset({"size"}),
    "benchmark": frozenset({"latency", "size"}),
    "compare": EVERYTHING,
    "run": EVERYTHING,
    "optimize": EVERYTHING,
}
SENSITIVITY: frozenset[Part] = frozenset({"sensitivity"})
CHANGES: Mapping[str, str] = {"export": "onnx", "run": "onnx,int8"}
"""The commands that apply steps, and the steps that they apply when nobody says."""
PROVIDERS = tuple(
    f"{name}ExecutionProvider"
    for name in (
        *("CPU", "CUDA", "Tensorrt", "NvTensorRTRTX", "CoreML", "OpenVINO", "Dml", "Dnnl", "MIGraphX", "QNN"),
        *("VitisAI", "Xnnpack", "WebGpu", "ACL", "CANN", "Rknpu", "Nnapi", "VSINPU", "Js", "WebNN", "Azure"),
    )
)
"""What ONNX Runtime can be built with: a typing error is found before anything runs."""
SHAPE = re.compile(r"(?:(?P<name>[^=]+)=)?(?P<sizes>[\d?x]+)(?::(?P<dtype>\w+))?")
NEED_DATA = ("explain", "run", "compare", "optimize")
DTYPES = ("float32", "float64", "float16", "int64", "int32", "int8", "uint8", "bool")


def ask(
    command: str,
    models: Sequence[Model],
    options: Options,
    data: Data | None,
    training: Data | None,
    typed: str,
) -> Request:
    """The request for models and data that were identified.

    Raises:
        InputError: an option does not fit; nothing was opened or written.
    """
    if command in NEED_DATA and data is None:
        raise InputError(f"diag {command} needs rows to look at: give --data.")
    for method in options.method:
        METHODS.require(method)
    require_task(options.task)
    budgets = budgets_of(options) if command == "optimize" else ()
    notes = (*_bare(command, models), *said_of(budgets, options), *two_runtimes())
    if options.bundle is not None:
        _may_bundle(command, options)
    if command in CHANGES:
        plan = parse(CHANGES[command] if options.steps is None else options.steps, models[0].artifact)
    elif len(models) == 1:
        plan = Plan((Step(AS_IT_CAME, AS_IT_CAME, None),))
    else:
        plan = given([model.path.stem for model in models])
    return Request(
        command=command,
        models=tuple(models),
        plan=plan,
        parts=PARTS[command] | (SENSITIVITY if options.sensitivity and command in CHANGES else frozenset()),
        data=data,
        training=training,
        student=student_of(options, plan),
        judging=Judging(
            options.task,
            split(options.classes),
            options.sample,
            options.unlabelled,
            tuple(shape(text) for text in options.shape),
            options.output,
        ),
        explaining=Explaining(options.method, options.rows, options.target),
        machine=machine(options),
        batches=counts("--batch", options.batch),
        timing=Timing(options.compile, counts("--callers", options.callers)),
        budgets=budgets,
        recovery=recovery_of(options, training) if command == "optimize" else "",
        out=options.out,
        bundle=options.bundle,
        force=options.force,
        typed=typed,
        notes=notes,
    )


def _may_bundle(command: str, options: Options) -> None:
    """Refuse a bundle of nothing, or into a folder of other things, before anything runs."""
    from export.deployment.bundle import refuse_other

    if command not in (*CHANGES, "optimize"):
        raise InputError(f"diag {command} makes no artifact to bundle: give --bundle to diag export or run.")
    assert options.bundle is not None
    refuse_other(options.bundle, force=options.force)


def _bare(command: str, models: Sequence[Model]) -> tuple[str, ...]:
    """What a state dict without its module lacks: said where health alone is asked, refused elsewhere."""
    bare = [model.path for model in models if model.format == "weights"]
    if not bare:
        return ()
    if command != "analyze":
        raise InputError(
            f"{bare[0]} is a state dict, and diag {command} needs the module that it fits: "
            "give --arch module:factory."
        )
    said = (
        f"{bare[0]} is a state dict, so only the health of its weights is looked at: "
        "give --arch module:factory (and --data) for the rest."
    )
    return (said,)


def models_of(paths: Sequence[Path], options: Options) -> list[Model]:
    """The models in these files, each with its ``--arch`` (one for all, or one each)."""
    archs = _each(options.arch, paths, "--arch", "")
    arguments = _each(options.arch_args, paths, "--arch-args", "{}")
    keys = _each(options.weights, paths, "--weights", "")
    for text in arguments:
        _object(text, "--arch-args")
    found = [
        identify(path, arch=arch, arch_args=text, weights=key, trust=options.trust)
        for path, arch, text, key in zip(paths, archs, arguments, keys, strict=True)
    ]
    adapters = _each(options.adapter, paths, "--adapter", "")
    return [
        with_adapter(model, Path(folder)) if folder else model
        for model, folder in zip(found, adapters, strict=True)
    ]


def student_of(options: Options, plan: Plan) -> Model | None:
    """What ``--student`` says.

    Raises:
        InputError: a step needs it and it is not there, or its arguments are no JSON object.
    """
    if not options.student:
        if any(step.word == "distill" for step in plan.steps):
            raise InputError(
                "distill needs --student module:factory: the function that builds the smaller model."
            )
        return None
    _object(options.student_args, "--student-args")
    return Model(Path(), "pytorch", arch=options.student, arch_args=options.student_args, trust=options.trust)


def recovery_of(options: Options, training: Data | None) -> str:
    """What ``--recovery`` says, which every step that trains understands.

    Raises:
        InputError: it is no such settings, or there are no training rows.
    """
    if options.recovery:
        if training is None:
            raise InputError("--recovery says how to train: give the training rows too (--train).")
        make_pass(f"prune:0.3:{options.recovery}")
    return options.recovery


def data_of(source: str, options: Options) -> Data | None:
    """The data that ``--data`` or ``--train`` names; None where it names none."""
    if not source:
        return None
    if options.missing not in get_args(Missing):
        known = get_args(Missing)
        raise InputError(
            f"There is no way '{options.missing}' of --missing.{did_you_mean(options.missing, known)}"
        )
    return Data(
        source=source,
        label=options.label,
        columns=split(options.columns),
        preprocess=options.preprocess,
        group=options.group,
        missing=options.missing,  # type: ignore[arg-type]  # one of the three, as was just seen
        max_bad_rows=share(options.max_bad_rows),
        tokenizer=options.tokenizer,
        max_tokens=options.max_tokens,
        pad=options.pad,
        shapes=tuple(shape(text) for text in options.shape),
        seed=options.seed,
        trust=options.trust,
    )


def machine(options: Options) -> Machine:
    """Where models run.

    Raises:
        InputError: a device of no known kind, or a count below zero.
    """
    if not re.fullmatch(r"cpu|cuda(:\d+)?", options.device):
        raise InputError(f"There is no device '{options.device}': type cpu, cuda or cuda:0.")
    if options.provider and options.provider not in PROVIDERS:
        raise InputError(
            f"There is no provider '{options.provider}'.{did_you_mean(options.provider, PROVIDERS)}"
        )
    counts = {
        "--threads": options.threads,
        "--batch-size": options.batch_size,
        "--max-tokens": options.max_tokens,
    }
    for name, count in counts.items():
        if count < 0:
            raise InputError(f"{name} is {count}: give 1 or more, or leave it out.")
    if options.sample is not None and options.sample < 1:
        raise InputError(f"--sample is {options.sample}: give 1 or more, or leave it out.")
    return Machine(options.device, options.provider, options.threads, options.batch_size, options.seed)


def shape(text: str) -> InputSpec:
    """``[NAME=]1x3x224x224[:dtype]``; ``?`` stands where any size fits, and the batch may be of any."""
    match = SHAPE.fullmatch(text.strip())
    if match is None or not all(re.fullmatch(r"\d+|\?", size) for size in match["sizes"].split("x")):
        raise InputError(f"'{text}' is no shape: type for example 1x3x224x224 or ids=1x128:int64.")
    dtype = match["dtype"] or "float32"
    if dtype not in DTYPES:
        raise InputError(f"There is no dtype '{dtype}' for --shape.{did_you_mean(dtype, DTYPES)}")
    sizes = [None if size == "?" else int(size) for size in match["sizes"].split("x")]
    if any(size == 0 for size in sizes):
        raise InputError(f"'{text}' has a size of 0: every size is 1 or more.")
    return InputSpec(match["name"] or "", (None, *sizes[1:]), dtype)


def share(text: str) -> float:
    """``5%`` or ``0.05``.

    Raises:
        InputError: it is no share between 0 and 1.
    """
    value = amounts.share(text)
    if value is None:
        raise InputError(f"--max-bad-rows is '{text}': give a share such as 5% or 0.05.")
    return value


def counts(flag: str, text: str) -> tuple[int, ...]:
    """``1,8`` as numbers, in the order typed."""
    sizes = split(text)
    if not sizes or not all(size.isdigit() and int(size) > 0 for size in sizes):
        raise InputError(f"{flag} is '{text}': give sizes such as 1,8.")
    return tuple(dict.fromkeys(int(size) for size in sizes))


def split(text: str) -> tuple[str, ...]:
    """``a, b,c`` as its parts."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _each(values: tuple[str, ...], paths: Sequence[Path], flag: str, none: str) -> list[str]:
    """One value a model: none, the same for all, or as many as there are models."""
    if len(values) <= 1:
        return [*(values or (none,))] * len(paths)
    if len(values) != len(paths):
        raise InputError(
            f"{flag} is given {len(values)} times for {len(paths)} model{'s' if len(paths) > 1 else ''}: "
            "give it once, or once each."
        )
    return list(values)


def _object(text: str, flag: str) -> None:
    try:
        arguments = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(
            f"""{flag} is no JSON ({error.msg}): type for example '{{"depth": 20}}'."""
        ) from None
    if not isinstance(arguments, dict):
        raise InputError(f"""{flag} is no JSON object: type for example '{{"depth": 20}}'.""")
