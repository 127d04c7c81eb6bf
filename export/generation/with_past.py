"""A second file beside a language model's: the same with keys and values of the past, to write texts with.

It takes ``input_ids``, ``attention_mask`` (past and new), ``position_ids`` and ``past_key_values.N.key`` and
``.value`` (batch, heads, past, width; past 0 is a prefill), and gives the ``logits`` of the last token and
``present.N.key`` and ``.value``: the names of Optimum and onnxruntime-genai.
"""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from export.change import Change, Pass
from export.examples import Batch, examples_of
from export.generation.cached import MASK, POSITIONS, TOKENS, Cached
from export.generation.decoding import GIVEN, KEPT, Ids, decoder_of, names_of, with_past, without_past
from export.graphs.files import write_model
from export.graphs.nodes import tidy
from export.quiet import library
from export.size import readable
from export.verification.agreement import distance
from study.errors import InputError, SkipError
from study.loading.library import facts_of
from study.progress import Progress
from study.record import Metric, Record, Table, Verdict
from study.runtime import Runtime, open_runtime
from study.storage import GENERATION
from study.subject import InputSpec, Machine, Model, Subject

if TYPE_CHECKING:
    from torch import nn
    from torch.export import ExportedProgram

BY: Final = "cache"
TOKENS_WRITTEN: Final = 8
"""After each prompt, to compare."""
PROMPT: Final = 12
"""Tokens of the longest prompt that is compared."""
ROWS: Final = 8
AXES: Final = {TOKENS: "sequence", POSITIONS: "sequence", MASK: "total_sequence"}
PAST_AXIS: Final = "past_sequence"
TRACED: Final = (2, 3, 4)
"""Batch, new tokens and past that a model is traced with: torch takes 0 and 1 for constants."""


@dataclass(frozen=True, slots=True)
class Writing:
    """How far what is written with the cache is what is written without one."""

    texts: int
    same: int
    tokens: int
    error: float
    share: float
    """Of what is tolerated."""


@dataclass(frozen=True, slots=True)
class Made:
    """The second file, what it was compared with, and how much a token takes in its cache."""

    model: Model
    writing: Writing
    bytes_per_token: int


def added(
    change: Change,
    module: "nn.Module | ExportedProgram",
    subject: Subject,
    reference: Runtime,
    batch: Batch,
    out: Path,
) -> Change:
    """The change with the second file and its record, where the model is a language model."""
    import torch

    told = subject.task.kind if subject.task else facts_of(subject.model).task
    if told != "language":
        return change

    def make(folder: Path) -> Made:
        if subject.model.format != "pytorch" or not isinstance(module, torch.nn.Module):
            raise SkipError(f"the inputs of a {subject.model.format} model are fixed, and none is a past")
        cached = Cached.of(module)
        model = exported(cached, folder)
        prompts = prompts_of(batch, longest_of(subject))
        writing = compared(reference, model, reference.machine, prompts)
        if writing.share > 1:  # two tokens that are as likely as each other may change places
            raise SkipError(
                f"the export with past inputs was not kept: it writes {writing.same} of {writing.tokens} "
                f"tokens as the model does, and its logits differ by {writing.error:.2g}"
            )
        return Made(model, writing, cached.bytes_per_token)

    return _with(change, make, out / GENERATION, "the PyTorch model")


def applied(
    one: Pass, change: Change, subject: Subject, out: Path, machine: Machine, progress: Progress
) -> Change:
    """The change with the same pass applied to the second file too, and its record, where there is one."""
    given = subject.model.with_past
    if given is None or change.model.format != "onnx":
        return change

    def make(folder: Path) -> Made:
        if one.needs_calibration:
            raise SkipError("this step is calibrated with whole texts, and they show no past")
        fed = replace(subject, model=given, inputs=_inputs(given, machine), calibration=None, training=None)
        model = one.apply(fed, folder, machine, progress).model
        prompts = prompts_of(examples_of(subject, ROWS).batch, longest_of(subject))
        with open_runtime(change.model, machine) as reference:
            writing = compared(reference, model, machine, prompts)
        with open_runtime(model, machine) as runtime:
            return Made(model, writing, decoder_of(runtime).bytes_per_token)

    return _with(change, make, out / GENERATION, "this step's own model")


def longest_of(subject: Subject) -> int:
    """How many tokens the model takes; 0 where any number."""
    splits = (subject.judged, subject.calibration, subject.training)
    said = (split.data.longest for split in splits if split is not None)
    return next(said, facts_of(subject.model).longest)


def prompts_of(batch: Batch, longest: int) -> tuple[Ids, ...]:
    """The beginnings of the texts of a batch: one token, then more of them.

    Raises:
        SkipError: the rows are no tokens, or no text leaves room to write on.
    """
    if TOKENS not in batch:
        raise SkipError(f"its rows have no {TOKENS}")
    room = min(PROMPT, longest - TOKENS_WRITTEN) if longest else PROMPT
    mask = batch.get(MASK, np.ones_like(batch[TOKENS]))
    texts = [row[seen > 0][:room] for row, seen in zip(batch[TOKENS], mask, strict=True)]
    texts = sorted((text for text in texts if len(text)), key=len)
    if room < 1 or not texts:
        raise SkipError("no text leaves room to write on")
    return texts[-1][:1], texts[0], texts[-1]


def compared(reference: Runtime, model: Model, machine: Machine, prompts: Sequence[Ids]) -> Writing:
    """What a model writes with a cache, and ``reference`` without one: a text at a time, and all together."""
    first = without_past(reference, prompts, TOKENS_WRITTEN)
    groups = [[at] for at in range(len(prompts))] + [[*range(len(prompts))]]
    same, tokens, error, share = 0, 0, 0.0, 0.0
    with open_runtime(model, machine) as runtime:
        decoder = decoder_of(runtime)
        for group in groups:
            texts = [prompts[at] for at in group]
            half = len(texts[0]) // 2 if len(texts) == 1 else 0
            written = with_past(decoder, texts, TOKENS_WRITTEN, first.tokens[group], half)
            same += int((written.tokens == first.tokens[group]).sum())
            tokens += written.tokens.size
            far, tolerated = distance(first.logits[group], written.logits, model.precision)
            error, share = max(error, far), max(share, far / tolerated)
    return Writing(len(prompts), same, tokens, error, share)


def _inputs(model: Model, machine: Machine) -> tuple[InputSpec, ...]:
    """The inputs with sizes that fit each other, the batch free."""
    _, new, past = TRACED
    sizes = {TOKENS: (new,), POSITIONS: (new,), MASK: (past + new,)}
    with open_runtime(model, machine) as runtime:
        return tuple(
            replace(spec, shape=(None, *sizes.get(spec.name, _with_size(spec, past))))
            for spec in runtime.inputs
        )


def _with_size(spec: InputSpec, past: int) -> tuple[int | None, ...]:
    """The axes of keys or values after the batch, the one of the tokens set."""
    return tuple(size or past for size in (spec.shape or ())[1:])


def exported(cached: Cached, out: Path) -> Model:
    """The graph of a call with a past, its axes free.

    Raises:
        SkipError: torch cannot export it.
    """
    import onnx_ir
    import torch

    rows, new, past = TRACED
    kept = len(cached.sizes)
    places = torch.arange(past, past + new)[None].repeat(rows, 1)
    arguments = (
        places % 2,
        torch.ones((rows, past + new), dtype=torch.int64),
        places,
        [torch.zeros(rows, heads, past, width, dtype=cached.dtype) for heads, width in cached.sizes],
    )
    free = torch.export.Dim.AUTO
    axes = {0: free, 1: free}
    with library("torch's dynamo exporter"), cached.flat():
        program = torch.onnx.export(
            cached.module,
            arguments,
            dynamo=True,
            dynamic_shapes=(axes, axes, axes, [{0: free, 2: free}] * kept),
            input_names=[TOKENS, MASK, POSITIONS, *names_of(KEPT, kept)],
            output_names=["logits", *names_of(GIVEN, kept)],
            verbose=False,
        )
    assert program is not None
    names: dict[str, str] = {}
    for value in program.model.graph.inputs:
        for axis, size in enumerate(value.shape or ()):
            if isinstance(size, onnx_ir.SymbolicDim) and size.value is not None:
                names.setdefault(size.value, AXES.get(value.name or "", PAST_AXIS) if axis else "batch")
    program.rename_axes(dict(names))
    graph = onnx_ir.to_proto(program.model)
    tidy(graph)
    return write_model(graph, out, "fp32")


def _with(change: Change, make: Callable[[Path], Made], folder: Path, than: str) -> Change:
    """The change with the second file, hashed, and what was compared; or with why there is none."""
    try:
        made = make(folder)
    except (SkipError, InputError) as error:  # the first file is whole, whatever becomes of the second
        shutil.rmtree(folder, ignore_errors=True)
        return replace(change, records=(*change.records, Record.skipped(BY, str(error))))
    name = f"{folder.name}/{made.model.path.name}"
    provenance = {**change.provenance, "with past": f"{name}, sha256 {made.model.sha256}"}
    model = replace(change.model, with_past=made.model)
    return Change(model, (*change.records, _record(made, name, than)), provenance)


def _record(made: Made, name: str, than: str) -> Record:
    writing, kept = made.writing, made.bytes_per_token
    exact = writing.same == writing.tokens
    told = f"the same {writing.tokens} tokens" if exact else f"{writing.same} of {writing.tokens} tokens"
    summary = (
        f"With a key/value cache ({name}) it writes {told} as {than} does that reads a whole text again for "
        f"each; logits differ by at most {writing.error:.2g}. The cache takes {readable(kept)} a token."
    )
    metrics = {
        "agreement@generation": Metric.exact(writing.same / writing.tokens, writing.texts, "", "higher"),
        "max_abs_error@generation": Metric.exact(writing.error, writing.texts, "", "lower"),
        "bytes_per_token@generation": Metric.exact(kept, 1, "B", "lower"),
        "size_bytes@generation": Metric.exact(made.model.bytes, 1, "B", "lower"),
    }
    rows = ((name, made.model.bytes, made.model.sha256),)
    file = Table("The model with a key/value cache", ("file", "bytes", "sha256"), rows)
    return Record(BY, Verdict.GOOD if exact else Verdict.NOTED, summary, metrics=metrics, tables=(file,))
