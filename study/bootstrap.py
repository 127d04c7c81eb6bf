"""The bootstrap of statistics that depend on units through sums: one matrix product, seeded and bounded."""

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]
Matrix: TypeAlias = Any
"""Numbers (units, columns): a numpy array or a sparse one of scipy."""
Statistic: TypeAlias = Callable[[Floats], Floats]
"""Sums (replicates, columns) -> the statistics (replicates, any number)."""

REPLICATES = 1000
BLOCKS = 5000
"""More units than this are bootstrapped as this many random blocks: time and memory stay bounded."""
CHUNK_NUMBERS = 1_000_000


def bootstrap_sums(
    sums: Matrix,
    statistic: Statistic,
    *,
    groups: NDArray[Any] | None = None,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> Floats:
    """Replicates (replicates, k) of statistics that depend on the units through column sums.

    ``sums`` is (units, columns), dense or sparse: resampling units and adding them up again is one product
    of multinomial weights with them. With ``groups``, whole groups are resampled. For a paired difference
    of two models, put both models' columns side by side and subtract in ``statistic``.
    """
    rng = np.random.default_rng(seed)
    blocks = _blocks(sums, groups, rng)
    count, columns = blocks.shape
    chunk = max(1, CHUNK_NUMBERS // max(count, columns))
    parts = []
    for start in range(0, replicates, chunk):
        size = min(chunk, replicates - start)
        # Counting draws is five times as fast as drawing the counts (``multinomial``).
        drawn = rng.integers(0, count, size=(size, count)) + count * np.arange(size)[:, None]
        weights = np.bincount(drawn.ravel(), minlength=size * count).reshape(size, count).astype(np.float64)
        parts.append(np.asarray(statistic(np.asarray((blocks.T @ weights.T).T))).reshape(size, -1))
    return np.concatenate(parts)


def bootstrap(
    sums: Matrix,
    statistic: Statistic,
    *,
    groups: NDArray[Any] | None = None,
    replicates: int = REPLICATES,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[Floats, Floats]:
    """Percentile intervals, low and high of each statistic; replicates where it is undefined do not count.

    See ``bootstrap_sums``. A statistic that no replicate defines has NaN ends.
    """
    drawn = bootstrap_sums(sums, statistic, groups=groups, replicates=replicates, seed=seed)
    ends = np.full((2, drawn.shape[1]), np.nan)
    for column in range(drawn.shape[1]):
        defined = drawn[np.isfinite(drawn[:, column]), column]
        if len(defined):
            ends[:, column] = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return ends[0], ends[1]


def _blocks(sums: Matrix, groups: NDArray[Any] | None, rng: np.random.Generator) -> Matrix:
    """The sums of what is resampled: units, groups, or random blocks of either where there are very many."""
    n = sums.shape[0]
    code = np.arange(n) if groups is None else np.unique(groups, return_inverse=True)[1]
    count = int(code.max()) + 1 if n else 0
    if count <= BLOCKS and groups is None:
        return sums
    if count > BLOCKS:
        # Blocks of independent units are independent units: the replicates spread as they would one by one.
        code = (rng.permutation(count) % BLOCKS)[code]
        count = BLOCKS
    from scipy.sparse import csr_array

    member = csr_array((np.ones(n), (code, np.arange(n))), shape=(count, n))
    return member @ sums
