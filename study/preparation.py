"""Raw rows (pixels, table cells, texts) -> named model inputs, kept apart so that both can be shown."""

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from study.channels import GREY, IMAGE_AXES, RGB, channels, channels_last, sides, turned
from study.data.rows.columns import must_have_tokenizer
from study.data.rows.pixels import as_input, is_images
from study.data.source import Column, Rows
from study.errors import InputError, few
from study.host import to_numpy
from study.matching import as_column, match_inputs
from study.ragged import Ragged, keep
from study.subject import Data, InputSpec
from study.texts import encode, joined, text_columns
from study.tokens import Tokenizer, Tokens, open_tokenizer

STEPS = 2
"""Axes of rows that are sequences: the rows themselves, and the steps."""
Input: TypeAlias = "NDArray[Any] | Ragged"


@dataclass(frozen=True, slots=True)
class Prepared:
    """Model inputs of the rows that are ``whole``; the others with the reason, by id."""

    inputs: Mapping[str, Input]
    whole: NDArray[np.bool_]
    broken: Mapping[str, str]
    tokens: tuple[Tokens, ...] = ()
    """Of each whole row, where its text became tokens."""
    encoded: frozenset[str] = frozenset()
    """The inputs that were made of texts."""

    @property
    def steps(self) -> NDArray[np.int64] | None:
        """How long each row is; None where all are of one length."""
        lengths = [column.lengths for column in self.inputs.values() if isinstance(column, Ragged)]
        return np.max(lengths, axis=0) if lengths else None


@dataclass(frozen=True, slots=True)
class Preparation:
    """How the rows of one source become the inputs of one model.

    Without ``--preprocess`` arrays and tables are model inputs as they stand, but for their dtype and for
    channels that the model takes last; images become float32 in 0..1, (channels, height, width) or channels
    last, resized only where ``--shape`` or the model says to what; texts become tokens, and sequences of
    different lengths are filled up when a batch is made. Missing cells are filled where ``data.fill`` says
    with what; a row with a number that is not finite after that is broken.
    """

    data: Data
    inputs: tuple[InputSpec, ...]
    function: Callable[[Any], object] | None
    tokenizer: Tokenizer | None = None
    optional: tuple[str, ...] = ()
    """Inputs that are fed where the rows have something of that name."""

    @classmethod
    def open(
        cls,
        data: Data,
        inputs: tuple[InputSpec, ...],
        optional: tuple[str, ...] = (),
    ) -> Self:
        """Set it up.

        Raises:
            InputError: the function of ``--preprocess`` cannot be imported, or the tokenizer not be read.
        """
        function = _function(data.preprocess) if data.preprocess else None
        tokenizer = open_tokenizer(Path(data.tokenizer)) if data.tokenizer else None
        return cls(data, inputs, function, tokenizer, optional)

    @property
    def ragged(self) -> bool:
        """Whether rows may differ in length."""
        return self.data.pad is not None or (self.tokenizer is not None and self.function is None)

    def __call__(self, rows: Rows) -> Prepared:
        """Prepare some rows.

        Raises:
            InputError: none of them can be an input of this model (of another kind, size or name).
        """
        raw = {name: self._filled(name, column) for name, column in rows.inputs.items()}
        broken: dict[str, str] = {}
        whole = np.ones(len(rows), dtype=bool)
        if self.function is not None:
            raw, whole = self._by_function(raw, rows.ids, broken)
        fed: dict[str, Input] = {}
        tokens: tuple[Tokens, ...] = ()
        if self.tokenizer is not None and self.function is None:
            raw, fed, tokens, whole = self._tokenized(self.tokenizer, raw, rows.ids, broken)
        if not whole.any():
            return Prepared(self._empty(), whole, broken)
        encoded = frozenset(fed)
        specs = {spec.name: spec for spec in self.inputs if spec.name not in fed}
        names = match_inputs(raw, tuple(specs.values()), self.optional) if raw and (specs or not fed) else {}
        fed |= {
            name: self._input(raw[source], specs.get(name, InputSpec(name)), source)
            for name, source in names.items()
        }
        return replace(self._finite(fed, names, rows, whole, broken, tokens), encoded=encoded)

    def padded(self, inputs: Mapping[str, Input], places: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Some rows as one batch: filled up to the longest of them, or to what the model fixes."""
        shapes = {spec.name: spec.shape or () for spec in self.inputs}
        batch = {}
        for name, column in inputs.items():
            if isinstance(column, Ragged):
                shape = shapes.get(name, ())
                batch[name] = column.padded(places, shape[1] if len(shape) >= STEPS else None)
            else:
                batch[name] = column[places]
        return batch

    def _tokenized(
        self, tokenizer: Tokenizer, raw: Mapping[str, Column], ids: Sequence[str], broken: dict[str, str]
    ) -> tuple[dict[str, Column], dict[str, Input], tuple[Tokens, ...], NDArray[np.bool_]]:
        """The texts as token arrays; the other columns, and which rows are whole."""
        whole = np.ones(len(ids), dtype=bool)
        texts = text_columns(raw)
        if not texts:
            return dict(raw), {}, (), whole
        others = {name: column for name, column in raw.items() if name not in texts}
        taken = {*match_inputs(others, self.inputs)} & {*others}
        wanted = tuple(spec.name for spec in self.inputs if spec.name not in taken)
        made = encode(joined([raw[name] for name in texts]), tokenizer, self.data, wanted)
        broken |= {ids[place]: why for place, why in made.broken.items()}
        whole[list(made.broken)] = False
        places = np.flatnonzero(whole)
        kept = {
            name: column[places] if isinstance(column, np.ndarray) else [column[place] for place in places]
            for name, column in others.items()
        }
        return kept, dict(made.inputs), made.tokens, whole

    def _filled(self, name: str, column: Column) -> Column:
        """Missing cells replaced, column by column, where ``data.fill`` has numbers for this input."""
        found = dict(self.data.fill).get(name)
        if not found:
            return column
        fill = np.array(found)
        if isinstance(column, list):
            return [fill[0] if cell is None or cell != cell else cell for cell in column]  # noqa: PLR0124 - NaN
        return np.where(np.isnan(column), fill.astype(column.dtype), column)

    def _by_function(
        self, raw: Mapping[str, Column], ids: Sequence[str], broken: dict[str, str]
    ) -> tuple[dict[str, Column], NDArray[np.bool_]]:
        """Each raw row through the user's function; the rows on which it raises are broken."""
        assert self.function is not None
        made: list[dict[str, NDArray[Any]]] = []
        whole = np.ones(len(ids), dtype=bool)
        only = next(iter(raw)) if len(raw) == 1 and not _is_cells(raw) else ""
        for row, identity in enumerate(ids):
            cells = {name: column[row] for name, column in raw.items()}
            try:
                with redirect_stdout(sys.stderr):  # stdout holds results
                    made.append(_named(self.function(cells[only] if only else cells)))
            except Exception as error:  # noqa: BLE001 - code of the user
                first = (str(error).splitlines() or [""])[0]
                broken[identity] = f"{self.data.preprocess} raised {type(error).__name__}: {first}"
                whole[row] = False
        if not made:
            return {}, whole
        if any(list(other) != list(made[0]) for other in made):
            raise InputError(f"{self.data.preprocess} does not return the same names for every row.")
        return {name: self._stacked([row[name] for row in made]) for name in made[0]}, whole

    def _stacked(self, rows: list[NDArray[Any]]) -> Column:
        """What the function returned for some rows: one array, or a list of sequences that are filled up."""
        function, shapes = self.data.preprocess, {row.shape for row in rows}
        if rows[0].dtype.kind in "OUS":
            raise InputError(f"{function} must return numbers; it returned text.")
        if len(shapes) == 1:
            return np.stack(rows)
        if self.data.pad is not None and len({row.shape[1:] for row in rows}) == 1:
            return list(rows)
        raise InputError(
            f"{function} must return numbers of one shape for every row, or sequences and --pad be given; "
            f"it returned {few(sorted(str(shape) for shape in shapes))}."
        )

    def _input(self, column: Column, spec: InputSpec, source: str) -> Input:
        if isinstance(column, np.ndarray):
            return turned(as_column(column, spec), spec).astype(_dtype(column, spec), copy=False)
        if is_images(column):
            return self._images(column, spec).astype(spec.dtype or "float32", copy=False)
        if any(isinstance(cell, str) for cell in column) or text_columns({source: column}):
            raise must_have_tokenizer([source])
        rows = [np.asarray(cell) for cell in column]
        if rows[0].ndim and len({row.shape for row in rows}) == 1:
            return np.stack(rows).astype(_dtype(rows[0], spec), copy=False)
        if self.data.pad is not None and len({row.shape[1:] for row in rows}) == 1 and rows[0].ndim:
            kind = _dtype(rows[0], spec)
            return Ragged.of(rows, self.data.pad, kind)
        raise InputError(
            f"'{source}' holds rows of different sizes: give --pad with what fills shorter ones up, or "
            "--preprocess module:function, which turns a row into an array of one size."
        )

    def _images(self, images: list[Any], spec: InputSpec) -> NDArray[np.float32]:
        count, last = channels_of(images, spec), channels_last(spec.shape)
        size = self._size(spec)
        shapes = {image.shape[:2] for image in images}
        if size is None and len(shapes) > 1:
            some = few(f"{height}x{width}" for height, width in sorted(shapes))
            raise InputError(
                f"The images have different sizes ({some}): give the one to resize to, "
                f"e.g. --shape {f'1x224x224x{count}' if last else f'1x{count}x224x224'}."
            )
        first = np.stack([as_input(image, count, size) for image in images])
        return np.ascontiguousarray(np.moveaxis(first, 1, -1)) if last else first

    def _size(self, spec: InputSpec) -> tuple[int, int] | None:
        """Height and width to resize to: what ``data.shapes`` says (``--shape``, or the model itself)."""
        said = self.data.shapes
        only = said[0] if len(said) == 1 and (not said[0].name or len(self.inputs) <= 1) else None
        asked = next((given for given in said if given.name == spec.name), only)
        if asked is None or asked.shape is None or len(asked.shape) != IMAGE_AXES:
            return None
        height, width = sides(asked.shape)
        return None if height is None or width is None else (height, width)

    def _finite(
        self,
        batch: dict[str, Input],
        names: Mapping[str, str],
        given: Rows,
        whole: NDArray[np.bool_],
        broken: dict[str, str],
        tokens: tuple[Tokens, ...],
    ) -> Prepared:
        """Leave out the rows with a number that is not finite, and say where it is."""
        places = np.flatnonzero(whole)
        good = np.ones(len(places), dtype=bool)
        for name, column in batch.items():
            values = column.values if isinstance(column, Ragged) else column
            if values.dtype.kind not in "fc" or np.isfinite(values).all():
                continue
            rows = column.row if isinstance(column, Ragged) else column.__getitem__
            bad = np.array([not np.isfinite(rows(row)).all() for row in range(len(column))])
            for row in np.flatnonzero(bad & good).tolist():
                source = names.get(name, name)
                why = _why(source, given.features.get(source, ()), rows(row))
                broken[given.ids[places[row]]] = why
            good &= ~bad
        if good.all():
            return Prepared(batch, whole, broken, tokens)
        kept, chosen = whole.copy(), np.flatnonzero(good)
        kept[places[~good]] = False
        return Prepared(
            {name: keep(column, chosen) for name, column in batch.items()},
            kept,
            broken,
            tuple(tokens[row] for row in chosen) if tokens else (),
        )

    def _empty(self) -> dict[str, Input]:
        """No rows, with the axes of a batch where they are known."""
        return {
            spec.name: np.zeros(
                (0, *(axis or 0 for axis in (spec.shape or (0,))[1:])), dtype=spec.dtype or "float32"
            )
            for spec in self.inputs
        }


def _why(source: str, features: Sequence[str], row: NDArray[Any]) -> str:
    """What is not finite in one row of an input, by the names of its columns where they are known."""
    flat = row.reshape(-1)
    where = np.flatnonzero(~np.isfinite(flat))
    missing = bool(np.isnan(flat[where]).all())
    if len(features) == len(flat):
        what = few(features[place] for place in where.tolist())
        return f"{what} {'is missing' if missing else 'is infinite'}"
    return f"'{source}' holds {'NaN' if missing else 'infinite numbers'}"


def channels_of(images: list[Any], spec: InputSpec) -> int:
    """One channel or three: as the model takes them, else as the images have them."""
    shape = spec.shape
    known = channels(shape) if shape is not None and len(shape) == IMAGE_AXES else None
    if known in (GREY, RGB):
        return known
    if known is not None:
        raise InputError(
            f"The model takes {known} channels and images have one or three: "
            "give --preprocess module:function, which turns an image into an array."
        )
    return RGB if any(image.ndim == RGB for image in images) else GREY


def _dtype(column: NDArray[Any], spec: InputSpec) -> str:
    """As the model takes it; where that is not known, floats are float32 and integers int64."""
    if spec.dtype:
        return spec.dtype
    return {"f": "float32", "i": "int64", "u": "float32" if column.dtype == np.uint8 else "int64"}.get(
        column.dtype.kind, column.dtype.name
    )


def _is_cells(raw: Mapping[str, Column]) -> bool:
    """Columns of a table, whose row is a dictionary of cells even where there is one column alone."""
    return all(isinstance(column, list) and not is_images(column) for column in raw.values())


def _function(spec: str) -> Callable[[Any], object]:
    from study.user_code import import_attribute

    found = import_attribute(spec, "--preprocess")
    if not callable(found):
        raise InputError(f"--preprocess {spec} is no function of one row.")
    return found


def _named(made: object) -> dict[str, NDArray[Any]]:
    if isinstance(made, Mapping):
        return {str(name): to_numpy(value) for name, value in made.items()}
    return {"x": to_numpy(made)}
