"""From a model and its data to a subject: rows to judge, inputs as they are fed, the task; all said aloud."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from study.batches import said_of_batch
from study.boxes import is_truths
from study.data.opening import open_source
from study.data.rows.columns import must_be_there, no_texts
from study.data.source import Reader
from study.errors import InputError, few
from study.feed import Feed, has_label
from study.fitting import Fit, fit_inputs, must_run
from study.guess import guess_task, has_gaps
from study.guess_boxes import guess_boxes
from study.guess_series import CONTINUES, is_forecast, may_be_forecast
from study.loading.library import Facts, facts_of
from study.loading.states import said_of_weights
from study.missing import fit_fill
from study.runtime import Runtime
from study.series import SAMPLED
from study.splits import MOST, held_back, sampled, stratified
from study.subject import Data, InputSpec, Model, Split, Subject
from study.texts import refuse_vocabulary, text_columns
from study.tokens import open_tokenizer

Labels = NDArray[Any] | None
LOOKED_AT = 64
"""Rows that tell whether there are texts."""
WITHOUT_LABELS = ("language",)
"""Tasks whose rows are their own labels."""


def take_in(
    model: Model,
    runtime: Runtime | None,
    data: Data | None,
    training: Data | None = None,
    *,
    task: str = "",
    classes: tuple[str, ...] = (),
    output_name: str = "",
    sample: int | None = None,
    hold_out: bool = False,
    seed: int = 0,
    unlabelled: bool = False,
    shapes: tuple[InputSpec, ...] = (),
) -> Subject:
    """The subject of a run.

    ``runtime`` is the open model (None for bare weights, of which nothing is run). ``hold_out`` says that a
    step needs calibration rows: from ``training`` where it is given, else held back from those that judge.
    ``unlabelled`` allows data without labels. Without data, ``shapes`` (``--shape``) say what is fed.

    Raises:
        InputError: the data cannot be read, has no labels, or does not fit the model.
    """
    chosen = said_of_weights(model)
    if data is None:
        inputs = inputs_of_shapes(runtime, shapes)
        if runtime is not None and shapes and inputs:
            must_run(runtime, inputs)
        return Subject(model, inputs=inputs, notes=chosen)
    data, asked = replace(data, shapes=shapes or data.shapes), data.tokenizer
    if asked and data.preprocess:
        raise InputError("--preprocess makes the arrays of a row itself: leave --tokenizer out.")
    facts = facts_of(model)
    task = task or facts.task
    data = _with_tokenizer(data, facts, runtime)
    source = open_source(data)
    columns = _columns_by_name(source, data, runtime)
    if columns != data.columns:
        data = replace(data, columns=columns)
        training = training and replace(training, columns=columns)
        source = open_source(data)
    labels = source.labels()
    data = replace(data, gaps=has_gaps(labels, task))
    if not unlabelled and task not in WITHOUT_LABELS:
        _must_have_labels(source, labels, data)
    training = training and _with_tokenizer(
        replace(training, shapes=training.shapes or shapes), facts, runtime
    )
    held = held_back(labels, len(source), seed) if hold_out and training is None else None
    positions, said = _judged(len(source), held, sample, seed)
    said = (*chosen, *said)
    whole = positions if len(positions) < len(source) else None
    data = fit_fill(data, Split(training) if training else Split(data, _plain(whole)))
    subject = Subject(model, Split(data, _plain(whole)), notes=said)
    if runtime is not None:
        if asked and not text_columns(source.read(positions[:LOOKED_AT]).inputs):
            raise no_texts(asked)
        fit = fit_inputs(runtime, data, positions)
        _must_have_group(fit.piece.rows.metadata.columns, data)
        named = classes or facts.classes
        task, told = _or_forecasting(task, named, labels, fit, positions)
        if task == "detection" or is_truths(labels):
            meaning, guessed = guess_boxes(fit.piece, fit.outputs, labels, named, source.classes)
        else:
            meaning, guessed = guess_task(
                _telling(labels, fit.piece.rows.labels),
                fit.outputs,
                asked=task,
                classes=named,
                source_classes=source.classes,
                output_name=output_name or (facts.output if facts.output in fit.outputs else ""),
            )
        left_out = () if facts.inputs else _left_out(runtime, fit)
        left_out = (*left_out, *said_of_batch(runtime.inputs))
        data = replace(fit.data, gaps=meaning.kind == "multilabel")
        notes = (*facts.notes, *told, *guessed, *fit.notes, *left_out, *said)
        subject = replace(
            subject, judged=Split(data, _plain(whole)), task=meaning, inputs=fit.inputs, notes=notes
        )
    if training is not None:
        fed = replace(training, shapes=data.shapes, fill=data.fill, gaps=data.gaps)
        return replace(subject, training=Split(fed), calibration=_calibration_of(fed, seed))
    calibration = Split(data, _plain(held)) if held is not None and len(held) else None
    return replace(subject, calibration=calibration)


def not_judged(subject: Subject, seed: int = 0) -> Subject:
    """The same with the rows that would judge it as training rows, which calibrate and recover."""
    assert subject.judged is not None
    training = subject.judged.data
    return replace(
        subject, judged=None, training=Split(training), calibration=_calibration_of(training, seed)
    )


def _or_forecasting(
    asked: str, classes: tuple[str, ...], labels: Labels, fit: Fit, positions: NDArray[np.int64]
) -> tuple[str, tuple[str, ...]]:
    """The task that was asked for, or forecasting where the first rows show it, which is said."""
    if asked or classes or not may_be_forecast(labels, fit.outputs):
        return asked, ()
    first = Feed.open(Split(fit.data), fit.inputs).at(positions[:SAMPLED])
    return ("forecasting", (CONTINUES,)) if is_forecast(first) else ("", ())


def _columns_by_name(source: Reader, data: Data, runtime: Runtime | None) -> tuple[str, ...]:
    """``--columns``; else the arrays that are called as the inputs, where some are of one number a row.

    Nobody else could tell these from metadata.
    """
    if data.columns or data.preprocess or runtime is None:
        return data.columns
    first = source.read(np.arange(1))
    if not all(isinstance(column, np.ndarray) for column in first.inputs.values()) or first.features:
        return ()
    there = {*first.inputs, *first.metadata.columns}
    names = [spec.name for spec in runtime.inputs]
    if not there.issuperset(names):
        return ()
    fed = tuple(name for name in dict.fromkeys((*names, *runtime.optional)) if name in there)
    return () if set(fed) <= {*first.inputs} else fed


def _left_out(runtime: Runtime, fit: Fit) -> tuple[str, ...]:
    """The inputs that the model has defaults for and the data does not give."""
    left = [name for name in runtime.optional if name not in fit.piece.batch]
    if not left:
        return ()
    return (f"Left to the model's defaults, since the data does not give it: {few(left)}.",)


def _telling(labels: Labels, told: Labels) -> Labels:
    """All labels or, where these are the names of files that hold them, those of some rows."""
    return told if labels is not None and told is not None and told.ndim != labels.ndim else labels


def inputs_of_shapes(runtime: Runtime | None, shapes: tuple[InputSpec, ...]) -> tuple[InputSpec, ...]:
    """The inputs where no data says them: the model's own, with what ``--shape`` adds; else none.

    Raises:
        InputError: ``--shape`` names no input of the model, or contradicts it.
    """
    known = runtime.inputs if runtime else ()
    if len(shapes) == 1 and len(known) <= 1:
        name = known[0].name if known else shapes[0].name or "x"
        shapes = (replace(shapes[0], name=name),)
    if known:
        must_be_there([given.name for given in shapes], [spec.name for spec in known], "--shape")
    said = {given.name: given for given in shapes}
    found = []
    for spec in known or shapes:
        given = said.get(spec.name, spec)
        shape = _merged(spec, given)
        if shape is not None and None not in shape[1:]:
            found.append(InputSpec(spec.name, (None, *shape[1:]), spec.dtype or given.dtype or "float32"))
    return tuple(found) if len(found) == len(known or shapes) else ()


def _merged(spec: InputSpec, given: InputSpec) -> tuple[int | None, ...] | None:
    """The model's shape, its open axes as ``--shape`` says."""
    if spec.shape is None or given.shape is None:
        return spec.shape or given.shape
    pairs = list(zip(spec.shape, given.shape, strict=False))
    differ = any(axis is not None and asked is not None and axis != asked for axis, asked in pairs[1:])
    if differ or len(spec.shape) != len(given.shape):
        raise InputError(f"The model takes '{spec.name}' as {spec.shape}, and --shape says {given.shape}.")
    return tuple(asked if axis is None else axis for axis, asked in pairs)


def refuse_bad_rows(broken: Mapping[str, str], total: int, limit: float) -> None:
    """Refuse data of which more rows are broken (id -> why) than ``--max-bad-rows`` allows.

    Raises:
        InputError: they are too many; the sentence names three of them.
    """
    if len(broken) <= limit * total:
        return
    why = next(iter(broken.values()))
    enough = int(np.ceil(100 * len(broken) / total))
    raise InputError(
        f"{len(broken)} of {total} rows cannot be used ({few(broken)}; the first {why}), more than "
        f"--max-bad-rows {100 * limit:g}% allows: mend them, or give --max-bad-rows {enough}%."
    )


def _with_tokenizer(data: Data, facts: Facts, runtime: Runtime | None) -> Data:
    """The data with the model's own tokenizer where none was given, and the longest text that it takes.

    Raises:
        InputError: the tokenizer cannot be read, or has more tokens than the model.
    """
    given = data.tokenizer or facts.tokenizer
    if not given:
        return data
    vocabulary = facts.vocabulary or (0 if data.preprocess else runtime.vocabulary() if runtime else 0)
    refuse_vocabulary(open_tokenizer(Path(given)), vocabulary, given)
    return replace(data, tokenizer=given, longest=facts.longest)


def _judged(
    rows: int, held: NDArray[np.int64] | None, sample: int | None, seed: int
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """The positions of the rows that judge, and what was left out of them."""
    positions, said = np.arange(rows), []
    if held is not None and len(held):
        positions = np.setdiff1d(positions, held)
        said.append(
            f"{len(held)} of {rows} rows are held back for calibration (seed {seed}) and do not judge."
        )
    if sample is not None:
        if sample < 1:
            raise InputError(f"--sample {sample} leaves no row to judge: give a number from 1.")
        chosen = sampled(positions, sample, seed)
        if len(chosen) < len(positions):
            said.append(f"{len(chosen)} of {len(positions)} rows are judged: a sample (seed {seed}).")
        positions = chosen
    return positions, tuple(said)


def _calibration_of(training: Data, seed: int) -> Split:
    """A stratified part of the training rows, at most 512; all of them where there are few."""
    source = open_source(training)
    rows = len(source)
    return Split(training, None if rows <= MOST else _plain(stratified(source.labels(), rows, MOST, seed)))


def _plain(positions: NDArray[np.int64] | None) -> tuple[int, ...] | None:
    return None if positions is None else tuple(positions.tolist())


def _must_have_labels(source: Reader, labels: Labels, data: Data) -> None:
    if labels is not None and has_label(labels, gaps=data.gaps).any():
        return
    first = source.read(np.arange(1))
    stacked = [column for columns in first.features.values() for column in columns]
    names = (*(stacked or first.inputs), *first.metadata.columns)
    there = f" (it has {few(names)})" if names else ""
    what = (
        f"every label in '{data.label}' is missing"
        if labels is not None
        else f"the data has no labels{there}"
    )
    raise InputError(
        f"{what[0].upper()}{what[1:]}: say with --label where they are, "
        "or give --unlabelled for what can be done without."
    )


def _must_have_group(columns: list[str], data: Data) -> None:
    if data.group:
        must_be_there([data.group], columns, "--group")
