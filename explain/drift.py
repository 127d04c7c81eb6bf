"""How far the explanations of an artifact are from those of the model as it came."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING, Any, final

import numpy as np

from explain.method import Attribution
from study.errors import SkipError
from study.record import Better, Cell, Finding, Metric, Picture, Record, Table, Verdict
from study.statistics import mean_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

SILENT_SHARE = 1e-4
"""What is below this part of a map's largest value is noise of the arithmetic, not a rank."""
BARE = "occlusion"
"""Its metrics have the bare names: it runs on every format."""
REPLICATES = 1000
ROW_TABLE = "Rank correlation of the maps, by row"


@dataclass(frozen=True, slots=True)
class Pair:
    """The maps of one method on the same rows: of the model as it came and of the artifact."""

    origin: Attribution
    artifact: Attribution

    def correlations(self) -> "NDArray[Any]":
        """The rank correlation of each row's two maps."""
        return np.array([rank_correlation(a, b) for a, b in self._rows()])

    def overlaps(self) -> "NDArray[Any]":
        """The overlap of what is strongest in each row's two maps."""
        return np.array([top_overlap(a, b) for a, b in self._rows()])

    def _rows(self) -> "zip[tuple[NDArray[Any], NDArray[Any]]]":
        if self.origin.ids != self.artifact.ids or self.origin.baseline != self.artifact.baseline:
            raise SkipError(
                f"{self.origin.by} was asked of other rows, or of another baseline, at the origin"
            )
        if {name: map_.shape for name, map_ in self.origin.values.items()} != {
            name: map_.shape for name, map_ in self.artifact.values.items()
        }:
            raise SkipError(f"the maps of {self.origin.by} have other inputs or shapes than at the origin")
        return zip(flat(self.origin), flat(self.artifact), strict=True)


def leading(pairs: Mapping[str, Pair]) -> str:
    """The method that is spoken of: Occlusion, or the first."""
    return BARE if BARE in pairs else next(iter(pairs))


def flat(attribution: Attribution) -> "list[NDArray[Any]]":
    """Each row's attributions of all inputs as one line, in the order of the inputs' names.

    NaN, which stands where a text has no more words, is left out.
    """
    maps = [attribution.values[name] for name in sorted(attribution.values)]
    lines = np.concatenate([map_.reshape(len(map_), -1) for map_ in maps], axis=1).astype(np.float64)
    return [line[~np.isnan(line)] for line in lines]


def rank_correlation(a: "NDArray[Any]", b: "NDArray[Any]") -> float:
    """Spearman's correlation of two signed maps: Pearson's of their mid-ranks.

    Signed, because the sizes alone carry the input: |integrated gradients| of a network with random weights
    still correlate by 0.43 with the true ones. Two maps that say nothing (all cells equal) agree: 1; one
    that does and one that does not: 0.
    """
    from scipy.stats import rankdata

    first, second = (rankdata(_heard(map_)) for map_ in (a, b))
    if np.array_equal(first, second):
        return 1.0
    if not (np.ptp(first) and np.ptp(second)):
        return 0.0
    first, second = first - first.mean(), second - second.mean()
    return float(np.clip(first @ second / np.sqrt((first @ first) * (second @ second)), -1.0, 1.0))


def top_overlap(a: "NDArray[Any]", b: "NDArray[Any]") -> float:
    """The share of the strongest cells (by size) of one map that are among the strongest of the other.

    The strongest are 5 % of the cells, and at least five of them or half of a smaller map. Cells that tie
    with the last of them share its place, so that the patches of Occlusion count as patches.
    """
    first, second = (_top(np.abs(_heard(map_))) for map_ in (a, b))
    if first is None or second is None:
        return 1.0 if first is second else 0.0
    return float(np.minimum(first, second).sum() / first.sum())


@final
@dataclass(frozen=True, slots=True)
class Drift:
    """Whether the artifact still looks at what the model as it came looked at.

    GOOD when even the worst twentieth of the rows keeps ``good``. BAD only when, at 95 %, the mean over at
    least ``enough`` rows is below ``bad``: pruning 70 % of a network's weights gave 0.54, random weights
    0.05, and int8 that kept the accuracy 0.97 (`Park et al. 2020 <https://arxiv.org/abs/2010.15054>`_ saw
    the same: compression deforms attributions while predictions hold, hence the tail).
    """

    good: float = 0.9
    bad: float = 0.5
    enough: int = 8
    shown: int = 5

    def record(self, pairs: Mapping[str, Pair], unchanged: Sequence[bool], show: Sequence[str]) -> Record:
        """One record for all methods; ``unchanged`` and ``show`` are a row's: same prediction, command.

        Raises:
            SkipError: there is no method that was asked of both.
        """
        if not pairs:
            raise SkipError("no method explained both the model as it came and this one")
        metrics: dict[str, Metric] = {}
        for method, pair in pairs.items():
            metrics.update(_metrics(method, pair))
        method = leading(pairs)
        tail, mean = (metrics[_name(key, method)] for key in ("_p05", ""))
        return Record(
            by="drift",
            verdict=self._verdict(tail, mean),
            summary=(
                f"The maps of {method} and those of the model as it came have a rank correlation of "
                f"{mean.value:.3f} on average and {tail.value:.3f} at the worst twentieth of {mean.n} rows "
                "(1: the same, about 0: unrelated)"
            ),
            metrics=metrics,
            findings=self._findings(method, pairs[method], unchanged, show),
            tables=(_table(method, pairs[method], unchanged),),
            pictures=(
                Picture(
                    title="How much the maps changed",
                    kind="ecdf",
                    source=ROW_TABLE,
                    text=f"The rank correlation of each row's maps by {method}, from the most changed row up",
                ),
            ),
        )

    def worst(self, pair: Pair, unchanged: Sequence[bool]) -> list[int]:
        """The rows whose maps changed most though their prediction did not, the most changed first."""
        correlation = pair.correlations()
        order = [int(at) for at in np.argsort(correlation, kind="stable")]
        return [at for at in order if unchanged[at] and correlation[at] < self.good][: self.shown]

    def _verdict(self, tail: Metric, mean: Metric) -> Verdict:
        if mean.high < self.bad and mean.n >= self.enough:
            return Verdict.BAD
        return Verdict.GOOD if tail.value >= self.good else Verdict.NOTED

    def _findings(
        self, method: str, pair: Pair, unchanged: Sequence[bool], show: Sequence[str]
    ) -> tuple[Finding, ...]:
        correlation = pair.correlations()
        return tuple(
            Finding(
                what=(
                    f"row {pair.origin.ids[at]} keeps its prediction, and its map by {method} changed: "
                    f"rank correlation {correlation[at]:.2f}"
                ),
                rows=1,
                effect=Metric.exact(float(correlation[at]), 1, better="higher"),
                do="look at both maps before trusting this artifact where the model was trusted",
                show=show[at],
            )
            for at in self.worst(pair, unchanged)
        )


def over_rows(values: "NDArray[Any]", better: Better, unit: str = "") -> Metric:
    """The mean over the explained rows with its interval; of one row, the figure of this row alone."""
    if len(values) == 1:
        return Metric.exact(float(values[0]), 1, unit, better)
    return mean_of(values, better=better, unit=unit)


def _metrics(method: str, pair: Pair) -> dict[str, Metric]:
    correlation = pair.correlations()
    return {
        _name("", method): over_rows(correlation, better="higher"),
        _name("_p05", method): _worst_twentieth(correlation),
        _name("", method, "attribution_top_overlap"): over_rows(pair.overlaps(), better="higher"),
    }


def _name(suffix: str, method: str, stem: str = "attribution_rank_correlation") -> str:
    return f"{stem}{suffix}" if method == BARE else f"{stem}{suffix}@{method}"


def _worst_twentieth(correlation: "NDArray[Any]", seed: int = 0) -> Metric:
    """The 5th percentile over the rows, with its bootstrap interval."""
    rng = np.random.default_rng(seed)
    drawn = correlation[rng.integers(len(correlation), size=(REPLICATES, len(correlation)))]
    value = float(np.quantile(correlation, 0.05))
    low, high = np.quantile(np.quantile(drawn, 0.05, axis=1), (0.025, 0.975))
    return Metric(value, min(value, float(low)), max(value, float(high)), len(correlation), "", "higher")


def _table(method: str, pair: Pair, unchanged: Sequence[bool]) -> Table:
    correlation, overlap = pair.correlations(), pair.overlaps()
    rows: list[tuple[Cell, ...]] = [
        (
            float(correlation[at]),
            pair.origin.ids[at],
            float(overlap[at]),
            "the same" if unchanged[at] else "changed",
        )
        for at in np.argsort(correlation, kind="stable")
    ]
    return Table(ROW_TABLE, (f"rank correlation ({method})", "row", "top overlap", "prediction"), tuple(rows))


def _heard(map_: "NDArray[Any]") -> "NDArray[Any]":
    """The map with what is lost in the noise of its arithmetic set to 0, so that it ties."""
    size = np.abs(map_)
    return np.where(size <= SILENT_SHARE * size.max(initial=0.0), 0.0, map_)


def _top(size: "NDArray[Any]") -> "NDArray[Any] | None":
    """How much of each cell is among the strongest (1, 0, or a share at a tie); None where all is silent."""
    if not size.any():
        return None
    count = max(ceil(0.05 * len(size)), min(5, ceil(len(size) / 2)))
    edge = np.partition(size, len(size) - count)[len(size) - count]
    above, tied = size > edge, size == edge
    return np.asarray(above + tied * ((count - above.sum()) / tied.sum()))
