"""What can be seen of one tensor of a model without running it."""

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Role: TypeAlias = Literal["matrix", "vector", "running_mean", "running_var", "counter", "mask", "buffer"]

CHUNK = 1 << 20
LISTED = 100
"""The most indices of units that are kept."""
LONG = 4
"""Shorter rows are equal, or constant, by chance."""
SURE_TO_SHOW = 100.0
_BUFFERS = re.compile(
    r"(_scale|_zero_point|position_ids|num_batches_tracked|inv_freq|relative_position_index)$"
)
_CONSTANT = re.compile(r"val_\d+")
"""What torch's exporter calls the numbers that ``forward`` holds (and the weights that it transposed)."""


@dataclass(frozen=True, slots=True)
class TensorFacts:
    """One line of the weights table. A unit is a row of a matrix: all that shares its first index.

    Figures are over finite values and None where there are none. ``bad_at`` is the index of the first NaN or
    infinity, ``largest_at`` that of the largest magnitude. ``peak`` is the largest magnitude over the median
    one that is not zero; ``outlier`` over the root mean square of what is not zero, the (at most 16) largest
    left out. ``rms`` times the root of a row's length is ``gain``: about 1 in a layer that keeps the scale
    of what it is given. ``first_rank`` is the share of the sum of squares that one rank explains.
    ``same_as`` names an earlier tensor with the same bytes, ``shared`` says it is the same memory.
    """

    name: str
    role: Role
    shape: list[int]
    dtype: str
    size: int
    nan: int = 0
    inf: int = 0
    bad_at: str = ""
    zeros: float = 0.0
    low: float | None = None
    high: float | None = None
    mean: float | None = None
    std: float | None = None
    peak: float | None = None
    outlier: float | None = None
    largest_at: str = ""
    gain: float | None = None
    first_rank: float | None = None
    units: int = 0
    zero_units: int = 0
    zero_at: list[int] = field(default_factory=list)
    constant_units: int = 0
    constant_at: list[int] = field(default_factory=list)
    copied_units: int = 0
    """Units that equal an earlier one, zero and constant ones not counted."""
    copies: list[list[int]] = field(default_factory=list)
    same_as: str = ""
    shared: bool = False

    @property
    def is_parameter(self) -> bool:
        """Whether it counts as learnt, and was not counted before."""
        return self.role in ("matrix", "vector") and not self.shared

    @property
    def all_zero(self) -> bool:
        """Whether nothing but zeros is in it."""
        return self.size > 0 and self.zeros == 1.0


def tensor_facts(name: str, array: NDArray[Any], buffers: Collection[str] = ()) -> TensorFacts:
    """Look at one tensor; ``buffers`` names those that the module itself says are not learnt."""
    values = array.view(array.real.dtype).reshape(*array.shape, 2) if array.dtype.kind == "c" else array
    values = np.ascontiguousarray(values)
    role = _role(name, values, buffers)
    shape, size = [int(length) for length in array.shape], int(array.size)
    if values.dtype.kind not in "fiu" or not size:
        return TensorFacts(name, role, shape, str(array.dtype), size)
    flat = values.reshape(-1)
    nan, infinite = _not_finite(flat)
    bad = int(np.argmin(np.isfinite(flat))) if nan + infinite else -1
    figures = _figures(flat, whole=not nan + infinite)
    units = _Units.of(values) if role == "matrix" and not nan + infinite else _Units()
    row = values.size // max(1, values.shape[0]) if values.ndim else 1
    gain = figures.rms * float(np.sqrt(row)) if figures.rms is not None and role == "matrix" else None
    return TensorFacts(
        name=name,
        role=role,
        shape=shape,
        dtype=str(array.dtype),
        size=size,
        nan=nan,
        inf=infinite,
        bad_at=_index(bad, values.shape) if bad >= 0 else "",
        zeros=float(1 - np.count_nonzero(flat) / flat.size),
        low=figures.low,
        high=figures.high,
        mean=figures.mean,
        std=figures.std,
        peak=figures.peak,
        outlier=figures.outlier,
        largest_at=_index(figures.largest, values.shape),
        gain=gain,
        first_rank=_first_rank(values) if role == "matrix" and not nan + infinite else None,
        units=values.shape[0] if role == "matrix" else 0,
        zero_units=len(units.zero),
        zero_at=units.zero[:LISTED],
        constant_units=len(units.constant),
        constant_at=units.constant[:LISTED],
        copied_units=sum(len(group) - 1 for group in units.copies),
        copies=[group[:LISTED] for group in units.copies[:LISTED]],
    )


def _role(name: str, values: NDArray[Any], buffers: Collection[str]) -> Role:
    last = name.rpartition(".")[2]
    for role in ("running_mean", "running_var"):
        if last.endswith(role):
            return "running_mean" if role == "running_mean" else "running_var"
    if last == "num_batches_tracked":
        return "counter"
    if last.endswith("mask") or _looks_like_mask(values):
        return "mask"
    # An 8-bit matrix is a quantized weight; other whole numbers are tables of positions, shapes and the like.
    whole = values.dtype.kind != "f" and not (values.dtype.itemsize == 1 and values.ndim > 1)
    constant = values.ndim < 2 and _CONSTANT.fullmatch(name)  # noqa: PLR2004 - a folded transpose is a matrix
    if name in buffers or whole or values.ndim == 0 or constant or _BUFFERS.search(name):
        return "buffer"
    # A row of ones before and after it does not make a vector a matrix (a class token is 1 x 1 x d).
    return "matrix" if sum(length > 1 for length in values.shape) > 1 and values.shape[0] > 1 else "vector"


def _looks_like_mask(values: NDArray[Any]) -> bool:
    """Zeros and ones, or zeros and one very negative number (an additive attention mask): both of the two."""
    if values.dtype.kind != "f" or values.size < 2 or not _two_valued(values.reshape(-1)[:CHUNK]):  # noqa: PLR2004
        return False
    low, high = float(values.min()), float(values.max())
    if (low, high) != (0.0, 1.0) and not (low <= -1e3 and high == 0.0):  # noqa: PLR2004 - no weight is so low
        return False
    return all(_two_valued(part) for part in _chunks(values.reshape(-1)))


def _two_valued(part: NDArray[Any]) -> bool:
    low, high = part.min(), part.max()
    return bool(((part == low) | (part == high)).all())


def _not_finite(flat: NDArray[Any]) -> tuple[int, int]:
    if flat.dtype.kind != "f":
        return 0, 0
    nan = infinite = 0
    for part in _chunks(flat):
        if not np.isfinite(part).all():
            nan += int(np.isnan(part).sum())
            infinite += int(np.isinf(part).sum())
    return nan, infinite


@dataclass(frozen=True, slots=True)
class _Figures:
    low: float | None = None
    high: float | None = None
    mean: float | None = None
    std: float | None = None
    rms: float | None = None
    peak: float | None = None
    outlier: float | None = None
    largest: int = 0


def _figures(flat: NDArray[Any], *, whole: bool) -> _Figures:
    """Of the finite values; sums are in float64, a chunk at a time."""
    known = np.isfinite(flat) if not whole else None
    finite = flat if known is None else flat[known]
    if not finite.size:
        return _Figures()
    total = squares = 0.0
    with np.errstate(over="ignore"):
        for part in _chunks(finite):
            numbers = part.astype(np.float64)
            total += float(numbers.sum())
            squares += float(numbers @ numbers)
    mean, rms = total / finite.size, float(np.sqrt(squares / finite.size))
    low, high = int(finite.argmin()), int(finite.argmax())
    largest = low if abs(float(finite[low])) > abs(float(finite[high])) else high
    top = abs(float(finite[largest]))
    median = _median(finite)
    return _Figures(
        low=float(finite[low]),
        high=float(finite[high]),
        mean=_finite(mean),
        std=_finite(float(np.sqrt(max(0.0, squares / finite.size - mean**2)))),
        rms=_finite(rms),
        peak=_finite(top / median) if median else None,
        outlier=_outlier(finite, top, rms),
        largest=largest if known is None else int(np.flatnonzero(known)[largest]),
    )


def _median(finite: NDArray[Any]) -> float:
    """The median magnitude that is not zero, of at most some 100,000 evenly spaced values."""
    some = np.abs(finite[:: max(1, finite.size // 100_000)].astype(np.float64))
    some = some[some > 0]
    return float(np.median(some)) if some.size else 0.0


def _outlier(finite: NDArray[Any], top: float, rms: float) -> float | None:
    # Of so many values, 16 that stand out by a thousand raise the mean square above this.
    if top == 0 or (finite.size > CHUNK and top < SURE_TO_SHOW * rms):
        return _finite(top / rms) if rms else None
    magnitudes = np.abs(finite.astype(np.float64))
    magnitudes = magnitudes[magnitudes > 0]
    left_out = min(16, max(1, magnitudes.size // 100))
    rest = np.partition(magnitudes, magnitudes.size - left_out)[: magnitudes.size - left_out]
    usual = float(np.sqrt(np.mean(np.square(rest)))) if rest.size else 0.0
    return _finite(top / usual) if usual else None


@dataclass(frozen=True, slots=True)
class _Units:
    """Numbers of the units that are zero, constant, or groups of equal ones."""

    zero: list[int] = field(default_factory=list)
    constant: list[int] = field(default_factory=list)
    copies: list[list[int]] = field(default_factory=list)

    @classmethod
    def of(cls, values: NDArray[Any]) -> "_Units":
        """Of the rows; constant and equal ones where rows are long enough for that to be no chance."""
        rows = values.reshape(values.shape[0], -1)
        there = rows.any(axis=1)
        zero = np.flatnonzero(~there).tolist()
        if rows.shape[1] < LONG:
            return cls(zero, [], [])
        constant = there & (rows == rows[:, :1]).all(axis=1)
        telling = np.flatnonzero(there & ~constant)
        return cls(zero, np.flatnonzero(constant).tolist(), _equal_rows(rows, telling))


def _equal_rows(rows: NDArray[Any], among: NDArray[np.int64]) -> list[list[int]]:
    """Groups of rows with the same bytes, each in order."""
    # Nearly all rows differ in their first few values: only the others are compared whole.
    for width in (LONG, rows.shape[1]):
        keys = np.ascontiguousarray(rows[among, :width]).view(
            np.dtype((np.void, width * rows.dtype.itemsize))
        )
        _, group, counts = np.unique(keys.reshape(-1), return_inverse=True, return_counts=True)
        several = counts[group] > 1
        among, group = among[several], group[several]
    order = np.argsort(group, kind="stable")
    cuts = np.flatnonzero(np.diff(group[order])) + 1
    return sorted(part.tolist() for part in np.split(among[order], cuts) if len(part))


def _first_rank(values: NDArray[Any]) -> float | None:
    """The largest singular value's share of the sum of squares, by power iteration; not of small matrices."""
    rows = values.reshape(values.shape[0], -1)
    top = float(np.abs(rows).max())
    if min(rows.shape) < LONG or top == 0:
        return None
    matrix = rows.astype(np.float32) if rows.dtype.kind != "f" or rows.dtype.itemsize < LONG else rows
    if not 1e-6 < top < 1e6:  # noqa: PLR2004 - squares would leave the range
        matrix = matrix / top
    vector = np.random.default_rng(0).standard_normal(rows.shape[1]).astype(matrix.dtype)
    largest = 0.0
    for _ in range(8):
        image = matrix @ (vector / np.linalg.norm(vector))
        largest = float(np.linalg.norm(image))
        if largest == 0:
            return None
        vector = (image / largest) @ matrix
    squares = sum(float(np.square(part.astype(np.float64)).sum()) for part in _chunks(matrix.reshape(-1)))
    return min(1.0, largest**2 / squares)


def _chunks(flat: NDArray[Any]) -> Iterator[NDArray[Any]]:
    return (flat[start : start + CHUNK] for start in range(0, flat.size, CHUNK))


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _index(place: int, shape: tuple[int, ...]) -> str:
    """``3,17``: an index as one types it."""
    return ",".join(str(int(one)) for one in np.unravel_index(place, shape))
