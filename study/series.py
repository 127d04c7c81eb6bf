"""How rows that are windows of a series overlap, and which input holds the past of a target."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]

SAMPLED: Final = 256
"""Rows in which all this is looked for."""
PAIRS: Final = 64
"""Neighbouring rows that are compared at each shift."""
LEAST: Final = 4
"""Steps that two histories must share, or fewer mean nothing."""
ALIKE: Final = 1e-4
"""Two values are the same up to so much of a history's spread."""
SEASONAL: Final = 0.3
"""The autocorrelation from which a peak is a season."""


@dataclass(frozen=True, slots=True)
class Column:
    """One series among the inputs: ``steps_last`` where the array is (rows, features, steps)."""

    name: str
    feature: int = 0
    steps_last: bool = False

    def of(self, batch: Mapping[str, NDArray[Any]]) -> Floats:
        """Its windows, (rows, steps)."""
        array = np.asarray(batch[self.name])
        if array.ndim == 2:  # noqa: PLR2004 - rows and steps
            return array.astype(np.float64)
        chosen = array[:, self.feature] if self.steps_last else array[:, :, self.feature]
        return chosen.astype(np.float64)

    def in_words(self, batch: Mapping[str, NDArray[Any]]) -> str:
        """``'x'``, or ``column 2 of 'x'`` (counted from 0) where there are several."""
        shape = batch[self.name].shape
        single = len(shape) == 2 or shape[1 if self.steps_last else 2] == 1  # noqa: PLR2004
        return f"'{self.name}'" if single else f"column {self.feature} of '{self.name}'"


@dataclass(frozen=True, slots=True)
class History:
    """Where a target's past stands: ``scale * column + shift`` is in the target's units."""

    column: Column
    scale: float = 1.0
    shift: float = 0.0

    def of(self, batch: Mapping[str, NDArray[Any]]) -> Floats:
        """The past of the target, (rows, steps)."""
        return self.scale * self.column.of(batch) + self.shift


def columns_of(batch: Mapping[str, NDArray[Any]]) -> list[Column]:
    """Every series among the inputs; of three axes, the steps are taken to lie on either."""
    found = []
    for name, array in batch.items():
        if array.dtype.kind != "f" or array.ndim not in (2, 3) or min(array.shape[1:]) < 1:
            continue
        if array.ndim == 2:  # noqa: PLR2004 - rows and steps
            found.append(Column(name))
            continue
        found += [Column(name, feature) for feature in range(array.shape[2])]
        found += [Column(name, feature, steps_last=True) for feature in range(array.shape[1])]
    return [column for column in found if column.of(batch).shape[1] > LEAST]


def stride_of(windows: Floats, positions: NDArray[np.int64]) -> int:
    """By how many steps a row's history moves on from that of the row before; 0: they do not follow."""
    pairs = np.flatnonzero(np.diff(positions) == 1)[:PAIRS]
    before, after = windows[pairs], windows[pairs + 1]
    telling = before.std(axis=1) > 0
    before, after = before[telling], after[telling]
    if len(before) < 2:  # noqa: PLR2004 - one pair may be alike by chance
        return 0
    for shift in range(1, windows.shape[1] - LEAST + 1):
        if continues(before, after, shift).mean() > 0.5:  # noqa: PLR2004 - of the pairs: a series may end
            return shift
    return 0


def continues(before: Floats, after: Floats, shift: int) -> NDArray[np.bool_]:
    """Whether each history is the one before it, moved on by so many steps."""
    gap = np.abs(before[:, shift:] - after[:, : before.shape[1] - shift])
    same: NDArray[np.bool_] = (gap <= ALIKE * before.std(axis=1)[:, None]).all(axis=1)
    return same


def follow(
    batch: Mapping[str, NDArray[Any]], columns: list[Column], positions: NDArray[np.int64]
) -> tuple[Column, int] | None:
    """The column that shows that rows are consecutive windows, and by how many steps they move on.

    A covariate that comes again (the hour of the day) may seem to move on by fewer: columns with many
    different values, among those of their array, are believed.
    """
    windows = {column: column.of(batch) for column in columns}
    counts = {column: len(np.unique(values)) for column, values in windows.items()}
    most: dict[tuple[str, bool], int] = {}
    for column, count in counts.items():
        array = column.name, column.steps_last
        most[array] = max(count, most.get(array, 0))
    for column in sorted(columns, key=lambda one: -counts[one]):
        if counts[column] >= most[column.name, column.steps_last] / 2:
            stride = stride_of(windows[column], positions)
            if stride:
                return column, stride
    return None


def shuffled(batch: Mapping[str, NDArray[Any]], columns: list[Column]) -> bool:
    """Whether rows share parts of their histories, in whatever order they stand.

    Asked of the longest column, of these the one with most different values: an hour of the day comes again.
    """
    every = [column.of(batch) for column in columns]
    if not every:
        return False
    windows = max(every, key=lambda values: (values.shape[1], len(np.unique(values))))
    length = min(8, windows.shape[1] - 1)
    if length < LEAST:
        return False
    seen: dict[bytes, int] = {}
    shared = set[int]()
    for row, values in enumerate(windows[:SAMPLED].astype(np.float32)):
        if values.std() == 0:
            continue
        for part in np.lib.stride_tricks.sliding_window_view(values, length):
            if part.std() == 0:
                continue
            other = seen.setdefault(part.tobytes(), row)
            if other != row:
                shared |= {row, other}
    return len(shared) * 10 >= min(len(windows), SAMPLED)


def proves_forecast(batch: Mapping[str, NDArray[Any]], targets: Floats, positions: NDArray[np.int64]) -> bool:
    """Whether rows are consecutive windows, and all (rows, steps, targets) come back as history later."""
    columns = columns_of(batch)
    found = follow(batch, columns, positions)
    if found is None:
        return False
    each = (targets[:, :, target] for target in range(targets.shape[2]))
    return all(any(True for _ in _proven(batch, one, columns, positions, found[1])) for one in each)


def histories(
    batch: Mapping[str, NDArray[Any]],
    targets: Floats,
    columns: list[Column],
    positions: NDArray[np.int64],
    stride: int,
) -> tuple[History, ...] | None:
    """The past of each of (rows, steps, targets); None where one of them is not found among the inputs.

    Where rows are consecutive windows, what was to be forecast comes back as history: that proves it, scaled
    or not. Else the column of the same scale is taken whose last value is nearest to the first step ahead, or
    the only one where it is like the only target.
    """
    found = []
    for target in range(targets.shape[2]):
        wanted = targets[:, :, target]
        proven = next(_proven(batch, wanted, columns, positions, stride), None)
        one = proven or _nearest(batch, wanted[:, 0], columns)
        if one is None and len(columns) == targets.shape[2] == 1:
            one = _alone(columns[0], columns[0].of(batch), wanted)
        if one is None:
            return None
        found.append(one)
    return tuple(found)


def _proven(
    batch: Mapping[str, NDArray[Any]],
    wanted: Floats,
    columns: list[Column],
    positions: NDArray[np.int64],
    stride: int,
) -> Iterator[History]:
    if not stride:
        return
    for column in columns:
        windows = column.of(batch)
        steps, horizon = windows.shape[1], wanted.shape[1]
        ahead = max(1, min(-(-horizon // stride), steps // stride))
        if ahead >= len(windows):
            continue
        first = np.flatnonzero(positions[ahead:] - positions[:-ahead] == ahead)
        start, count = steps - ahead * stride, min(horizon, ahead * stride)
        if not len(first) or start < 0:
            continue
        seen = windows[first + ahead, start : start + count]
        known = wanted[first, :count]
        scale, shift = _line(seen, known)
        spread = float(known.std())
        # The median row: where a series ends and the next begins, rows do not follow.
        gap = np.median(np.abs(scale * seen + shift - known).max(axis=1))
        if spread > 0 and scale > 0 and gap <= 10 * ALIKE * spread:
            same = abs(scale - 1) < 10 * ALIKE and abs(shift) < 10 * ALIKE * spread
            yield History(column) if same else History(column, scale, shift)


def _line(seen: Floats, known: Floats) -> tuple[float, float]:
    """``known = scale * seen + shift``, by the medians of the rows where they lie on a line."""
    apart = np.ptp(seen, axis=1)
    if not (apart > 0).any() or seen.shape[1] < 2:  # noqa: PLR2004 - a line needs two points
        pooled = seen.ravel(), known.ravel()
        variance = float(pooled[0].var())
        scale = float(np.cov(*pooled, bias=True)[0, 1]) / variance if variance > 0 else 0.0
        return scale, float(np.median(pooled[1] - scale * pooled[0]))
    rows = np.flatnonzero(apart > 0)
    centred = seen[rows] - seen[rows].mean(axis=1, keepdims=True)
    slopes = (centred * known[rows]).sum(axis=1) / (centred**2).sum(axis=1)
    scale = float(np.median(slopes))
    return scale, float(np.median(known[rows] - scale * seen[rows]))


def _nearest(batch: Mapping[str, NDArray[Any]], first: Floats, columns: list[Column]) -> History | None:
    base = float(np.median(np.abs(first - np.median(first))))
    gaps = sorted(
        ((float(np.median(np.abs(first - column.of(batch)[:, -1]))), at) for at, column in enumerate(columns))
    )
    if not gaps or gaps[0][0] >= base / 2:
        return None
    rivals = [gap for gap, at in gaps[1:] if columns[at].steps_last == columns[gaps[0][1]].steps_last]
    clear = not rivals or rivals[0] > 2 * gaps[0][0]
    return History(columns[gaps[0][1]]) if clear else None


def _alone(column: Column, windows: Floats, wanted: Floats) -> History | None:
    spread, theirs = float(windows.std()), float(wanted.std())
    near = abs(float(windows.mean() - wanted.mean())) < spread / 2
    return History(column) if near and spread / 2 < theirs < 2 * spread else None


def season_of(windows: Floats) -> int:
    """The lag of the highest peak of the autocorrelation of histories without their trends; 0: none."""
    steps = windows.shape[1]
    if steps < 2 * LEAST:
        return 0
    time = np.arange(steps) - (steps - 1) / 2
    centred = windows - windows.mean(axis=1, keepdims=True)
    left = centred - np.outer(centred @ time / (time @ time), time)
    variance = float(np.square(left).mean())
    if variance <= 1e-12 * float(np.square(windows).mean()):
        return 0
    lags = range(steps // 2 + 1)
    alike = np.array([float((left[:, lag:] * left[:, : steps - lag]).mean()) for lag in lags]) / variance
    peaks = [
        lag
        for lag in lags[2:-1]
        if alike[lag] >= SEASONAL and alike[lag] > alike[lag - 1] and alike[lag] >= alike[lag + 1]
    ]
    return max(peaks, key=lambda lag: alike[lag], default=0)
