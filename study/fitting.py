"""How the data's rows fit the model's inputs, found out by running a few of them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from study.batches import lacking
from study.channels import IMAGE_AXES, channels_last, sides
from study.data.rows.pixels import is_images
from study.data.text import Text
from study.errors import InputError, few
from study.feed import Feed, Piece
from study.host import to_numpy
from study.loading.bags import OFFSETS
from study.matching import match_inputs
from study.runtime import Runtime
from study.subject import Data, InputSpec, Split
from study.texts import text_columns

TRIED = 64
"""Rows that are run to learn what the outputs look like."""
FIRST, PIECE = 2, 16
"""Rows of the first call, which tells how large outputs are, and of the others."""
ENOUGH_BYTES = 2**24
"""Of outputs: more of them say nothing new."""
MIXED = 4
"""Inputs of integers of which each may be measurements or indices."""
OF_TEXTS = ("attention_mask", "token_type_ids", "lengths")
DTYPE_WORDS = ("dtype", "scalar type", "Long", "Expected tensor for argument")


@dataclass(frozen=True, slots=True)
class Fit:
    """The inputs as they are fed, what the model gave for a few rows, and what was decided."""

    data: Data
    inputs: tuple[InputSpec, ...]
    outputs: Mapping[str, NDArray[Any]]
    piece: Piece
    notes: tuple[str, ...]


def fit_inputs(runtime: Runtime, data: Data, positions: NDArray[np.int64]) -> Fit:
    """Feed a few rows, spread over these positions, in each way that they may be meant; the first that runs.

    Raises:
        InputError: no row can be used, or none of the ways fits the model.
    """
    known = _with_shapes((*runtime.inputs, *_said_of_texts(runtime, data)), data)
    data = _resized(data, known)
    spread = positions[np.unique(np.linspace(0, len(positions) - 1, min(TRIED, len(positions))).astype(int))]
    failures = []
    for inputs, said in _ways(data, known, spread, runtime.optional):
        piece = Feed.open(Split(data), inputs, runtime.optional).at(spread)
        _must_fit(piece.batch, inputs)
        outputs, why = _run(runtime, piece)
        if outputs is not None:
            fed = tuple(_spec(name, array, piece) for name, array in piece.batch.items())
            return Fit(data, fed, outputs, piece, (*said, *_notes(piece, inputs, data)))
        failures.append(why)
    # Of several attempts the wrong dtypes are of our making; what else is wrong is what the user must know.
    telling = [why for why in failures if not any(word in why for word in DTYPE_WORDS)]
    raise InputError((telling or failures)[0])


def _said_of_texts(runtime: Runtime, data: Data) -> tuple[InputSpec, ...]:
    """What a model could do without, and needs where texts are filled up."""
    if not data.tokenizer or data.preprocess:
        return ()
    return tuple(InputSpec(name) for name in runtime.optional if name in OF_TEXTS)


def _ways(
    data: Data, known: tuple[InputSpec, ...], spread: NDArray[np.int64], optional: tuple[str, ...]
) -> Iterator[tuple[tuple[InputSpec, ...], tuple[str, ...]]]:
    """What the model does not say of its inputs, each way that it may be.

    Integers are measurements or indices: floats first, since what takes indices (an embedding) refuses them.
    One number a row is fed as it is, else as a column. Images have as many channels as their files, else the
    other number.
    """
    piece = Feed.open(Split(data), known, optional).at(spread)
    _must_have_rows(piece)
    specs = {spec.name: spec for spec in known}
    fed = {name: specs.get(name, InputSpec(name)) for name in piece.batch}
    integers = [
        name
        for name, spec in fed.items()
        if not spec.dtype and piece.batch[name].dtype.kind in "iu" and name not in piece.encoded
    ]
    narrow = [name for name, spec in fed.items() if not spec.shape and _is_number(piece, name)]
    wide = {name: replace(fed[name], shape=(None, 1)) for name in narrow}
    for columns in ({}, wide) if wide else ({},):
        for measured in _subsets(integers):
            floats = {name: replace((fed | columns)[name], dtype="float32") for name in measured}
            said = [f"The integers of {few(measured)} are fed as float32."] if measured else []
            said += [f"The numbers of {few(columns)} are fed as one column."] if columns else []
            changed = tuple((specs | columns | floats).values()) if columns or floats else known
            yield changed, tuple(said)
    sources = {} if data.preprocess else _sources(piece, known)
    for name, source in sources.items():
        if is_images(piece.rows.inputs[source]) and fed[name].shape is None:
            other = 1 if piece.batch[name].shape[1] > 1 else 3
            said = [f"The images are fed {'in grey' if other == 1 else 'as RGB'}, as the model takes them."]
            spec = InputSpec(name, (None, other, None, None), "float32")
            yield tuple((specs | {name: spec}).values()), tuple(said)


def _is_number(piece: Piece, name: str) -> bool:
    """Whether an input is one number a row, as it was given."""
    return piece.batch[name].ndim == 1 and name not in piece.encoded


def _subsets(names: list[str]) -> Iterator[tuple[str, ...]]:
    """All of them, then fewer and fewer, then none; of many, all or none."""
    sizes = range(len(names), -1, -1) if len(names) <= MIXED else (len(names), 0)
    for size in sizes:
        yield from combinations(names, size)


def _sources(piece: Piece, known: tuple[InputSpec, ...]) -> dict[str, str]:
    """The raw input of each model input that is one."""
    texts = text_columns(piece.rows.inputs) if piece.encoded else []
    raw = {name: column for name, column in piece.rows.inputs.items() if name not in texts}
    if len(raw) == len(piece.batch) == 1:
        return {next(iter(piece.batch)): next(iter(raw))}
    specs = {spec.name: spec for spec in known}
    wanted = [specs.get(name, InputSpec(name)) for name in piece.batch if name not in piece.encoded]
    return match_inputs(raw, wanted) if raw and wanted else {}


def _with_shapes(inputs: tuple[InputSpec, ...], data: Data) -> tuple[InputSpec, ...]:
    """The model's inputs with what ``--shape`` adds where the model does not say it itself."""
    said = {given.name: given for given in data.shapes}
    if len(data.shapes) == 1 and len(inputs) == 1:
        said[inputs[0].name] = data.shapes[0]
    found = []
    for spec in inputs:
        given = said.get(spec.name)
        if given is None:
            found.append(spec)
            continue
        shape = (None, *given.shape[1:]) if given.shape else None
        found.append(InputSpec(spec.name, spec.shape or shape, spec.dtype or given.dtype))
    return tuple(found)


def _resized(data: Data, known: tuple[InputSpec, ...]) -> Data:
    """The image size that the model itself fixes goes where ``--shape`` would stand."""
    if data.shapes:
        return data
    fixed = tuple(
        spec
        for spec in known
        if spec.shape is not None and len(spec.shape) == IMAGE_AXES and None not in sides(spec.shape)
    )
    return replace(data, shapes=fixed)


def must_run(runtime: Runtime, inputs: tuple[InputSpec, ...]) -> None:
    """Feed zeros of these shapes.

    Raises:
        InputError: the model refuses them.
    """
    fixed = {spec.name: spec.shape[0] if spec.shape else None for spec in runtime.inputs}
    batch = {
        spec.name: np.zeros((fixed.get(spec.name) or 2, *(axis or 1 for axis in spec.shape[1:])), spec.dtype)
        for spec in inputs
        if spec.shape is not None
    }
    try:
        runtime(batch)
    except InputError:
        raise
    except Exception as error:
        fed = few(f"{name} {_shape(array.shape)} {array.dtype}" for name, array in batch.items())
        line = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise InputError(f"The model does not run on {fed} ({line}): give the --shape it takes.") from error


def _must_have_rows(piece: Piece) -> None:
    if len(piece):
        return
    ids = few(piece.broken)
    why = next(iter(piece.broken.values()), "there are none")
    raise InputError(
        f"None of the {len(piece.broken)} rows that were tried can be used ({ids}: {why}): "
        "mend them, or give other --data."
    )


def _must_fit(batch: Mapping[str, NDArray[Any]], inputs: tuple[InputSpec, ...]) -> None:
    """Compare with the shapes that the model says."""
    for spec in inputs:
        if spec.shape is None or spec.name not in batch:
            continue
        given = batch[spec.name].shape
        wanted = spec.shape
        same = len(given) == len(wanted) and all(
            axis is None or axis == size for axis, size in zip(wanted[1:], given[1:], strict=True)
        )
        if not same:
            raise InputError(
                f"The model takes '{spec.name}' as {_shape(wanted)} and the data gives {_shape(given)}"
                f"{_hint(wanted, given)}."
            )


def _hint(wanted: tuple[int | None, ...], given: tuple[int, ...]) -> str:
    fixed = [axis for axis in wanted[1:] if axis is not None]
    if len(fixed) < len(wanted) - 1:
        return ": give --preprocess module:function"
    if len(wanted) == len(given) == IMAGE_AXES and (given[3], given[1], given[2]) == tuple(fixed):
        return ": the channels are last; move them with --preprocess module:function"
    if np.prod(fixed) == np.prod(given[1:]):
        return ": the same numbers in another shape; reshape each row with --preprocess module:function"
    return ": choose the inputs with --columns, or give --preprocess module:function"


def _run(runtime: Runtime, piece: Piece) -> tuple[dict[str, NDArray[Any]] | None, str]:
    """The outputs of these rows on the host, or why the model refused them.

    Of the first rows alone where outputs are large (a score a token of a vocabulary, or a pixel).
    """
    size = runtime.machine.batch_size or PIECE
    parts: dict[str, list[NDArray[Any]]] = {}
    starts = [0, *range(FIRST, len(piece), size)]
    for start, stop in zip(starts, [*starts[1:], len(piece)], strict=True):
        if sum(array.nbytes for arrays in parts.values() for array in arrays) > ENOUGH_BYTES:
            break
        batch = {name: array[start:stop] for name, array in piece.batch.items()}
        rows = stop - start
        try:
            outputs = runtime(batch)
        except InputError as error:
            return None, str(error)
        except Exception as error:  # noqa: BLE001 - each framework raises its own on inputs that do not fit
            line = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
            return None, _misfit(piece, line)
        for name, output in outputs.items():
            array = to_numpy(output)
            array = array.reshape(1, *array.shape) if rows == 1 and not array.ndim else array
            if array.ndim and len(array) == rows:
                parts.setdefault(name, []).append(array)
    if not parts:
        return None, _misfit(piece, "no output has one line a row")
    return {name: np.concatenate(_alike(arrays)) for name, arrays in parts.items()}, ""


def _alike(arrays: list[NDArray[Any]]) -> list[NDArray[Any]]:
    """Outputs of as many detections a row as there were in each batch, filled up with zeros."""
    shapes = [array.shape for array in arrays]
    if len({len(shape) for shape in shapes}) > 1:
        return arrays
    return [
        np.pad(array, [(0, 0), *((0, size) for size in lacks)])
        for array, lacks in zip(arrays, lacking(shapes), strict=True)
    ]


def _misfit(piece: Piece, why: str) -> str:
    fed = few(f"{name} {_shape(array.shape)} {array.dtype}" for name, array in piece.batch.items())
    return (
        f"The model does not run on these rows, fed as {fed} ({why}): "
        "give --preprocess module:function, or other --columns."
    )


def _spec(name: str, array: NDArray[Any], piece: Piece) -> InputSpec:
    sizes = (None, *array.shape[2:]) if name in piece.ragged else array.shape[1:]
    return InputSpec(name, (None, *sizes), array.dtype.name)


def _notes(piece: Piece, inputs: tuple[InputSpec, ...], data: Data) -> tuple[str, ...]:
    """What was done with the rows that is not plain to see."""
    notes = []
    most = data.max_tokens
    if piece.tokens and Text.recognises(data):
        size = max(map(len, piece.tokens))
        notes.append(f"The text is read in windows of {size} tokens; a shorter last one is left out.")
    elif most and piece.tokens:
        long = sum(len(one) == most for one in piece.tokens)
        notes.append(f"Texts are cut to {most} tokens: {long} of {len(piece)} that were tried had so many.")
    if OFFSETS in piece.encoded:
        notes.append(
            f"'{OFFSETS}' is fed the number of tokens of each text, and the texts are filled up to one "
            "length: the bag of embeddings is computed from these."
        )
    if data.preprocess:
        return tuple(notes)
    several = len(piece.batch) > 1
    for name, source in _sources(piece, inputs).items():
        column, fed = piece.rows.inputs[source], piece.batch[name]
        if several and name != source:
            notes.append(f"'{source}' of the data is fed as the model's '{name}'.")
        if is_images(column):
            which = f"of '{source}' " if several else ""
            notes.append(f"The images {which}are fed as {_shape(fed.shape)} in 0 to 1.")
        elif isinstance(column, np.ndarray) and channels_last(fed.shape) and column.shape != fed.shape:
            notes.append(
                f"The rows of '{source}', {_shape(column.shape)}, are fed as {_shape(fed.shape)}: "
                "the model takes the channels last."
            )
        is_bytes = isinstance(column, np.ndarray) and column.dtype == np.uint8
        if is_bytes and fed.dtype.kind == "f" and fed.max(initial=0) > 1:
            notes.append(
                f"The bytes of '{source}' (0 to {int(np.max(column))}) are fed as they stand, unscaled: "
                "give --preprocess where the model was trained on scaled ones."
            )
    return tuple(notes)


def _shape(shape: tuple[int | None, ...]) -> str:
    """``(rows, 3, 32, 32)``."""
    return f"({', '.join(['rows', *('any' if axis is None else str(axis) for axis in shape[1:])])})"
