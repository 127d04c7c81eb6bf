"""Which layers should stay in float: the fewest that bring the quantized model within a tolerance.

The layers are ranked by what each costs alone for the time that it could save, and the joint model is
measured for ever longer beginnings of that ranking: doubled until one is within the tolerance, then halved;
at last each layer is given back that the others can do without.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final

from export.sensitivity.alone import LayerCost, Sensitivity
from export.sensitivity.effects import Effect

TRIALS: Final = 16
CERTAIN: Final = 0.005
"""Fewer decisions that changed, at the lower end of their interval, rank no layer."""
LEAST_SQNR_DB: Final = 20.0
"""Where a task decides nothing that could change: an error of a tenth of the output."""


@dataclass(frozen=True, slots=True)
class Tolerance:
    """What quantization may cost on the calibration rows; None: anything."""

    changed: float | None = 0.005
    """The share of decisions that are others."""
    drop: float | None = None
    """Of the task's metric."""
    sqnr_db: float | None = None

    def holds(self, effect: Effect) -> bool:
        """Whether it costs no more; a figure that is asked for and not there holds nothing but one case.

        A task without decisions is held to ``LEAST_SQNR_DB`` instead of ``changed``.
        """
        least = self.sqnr_db
        if self.changed is not None and effect.changed is None:
            least = LEAST_SQNR_DB if least is None else least
        elif self.changed is not None and effect.changed and effect.changed.value > self.changed:
            return False
        if self.drop is not None and (effect.drop is None or effect.drop.value > self.drop):
            return False
        return least is None or effect.noise <= 10 ** (-least / 10)


USUAL: Final = Tolerance()


@dataclass(frozen=True, slots=True)
class Trial:
    """The joint model with these layers in float."""

    left: tuple[LayerCost, ...]
    effect: Effect


@dataclass(frozen=True, slots=True)
class Proposal:
    """What should stay in float; ``reached`` says whether that is within the tolerance."""

    left: tuple[LayerCost, ...]
    effect: Effect
    reached: bool
    trials: tuple[Trial, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """As they are typed after ``int8:exclude=``."""
        return tuple(cost.name for cost in self.left)


def ranked(costs: Sequence[LayerCost]) -> list[LayerCost]:
    """The layer first whose exclusion promises most for the latency that it costs.

    A loss of the task's metric (of decisions, where there are no labels) counts where it is beyond chance;
    else the noise in the output does.
    """
    return sorted(costs, key=lambda cost: (_loss(cost) / cost.latency, cost.alone.noise / cost.latency))[::-1]


def _loss(cost: LayerCost) -> float:
    """What the layer alone costs, where its interval says that it does."""
    drop, changed = cost.alone.drop, cost.alone.changed
    if drop is not None:
        return max(0.0, drop.low)
    return changed.low if changed is not None and changed.low > CERTAIN else 0.0


def proposed(
    found: Sensitivity,
    effect: Callable[[Collection[str]], Effect],
    tolerance: Tolerance = USUAL,
    trials: int = TRIALS,
) -> Proposal:
    """Search; ``effect`` measures the joint model with these nodes in float, at most ``trials`` times."""
    search = _Search(effect, tolerance, trials)
    search.made.append(Trial((), found.whole))
    if tolerance.holds(found.whole):
        return search.result((), reached=True)
    order = ranked(found.layers)
    count = search.shortest(order)
    if not count:
        best = min(search.made, key=lambda trial: trial.effect.noise)
        return search.result(best.left, reached=False)
    return search.result(search.thinned(order[:count]), reached=True)


class _Search:
    """The trials that were made so far."""

    def __init__(
        self, effect: Callable[[Collection[str]], Effect], tolerance: Tolerance, trials: int
    ) -> None:
        self._effect, self._tolerance, self._trials = effect, tolerance, trials
        self.made: list[Trial] = []

    def holds(self, left: Sequence[LayerCost]) -> bool:
        """Measure one exclusion; nothing holds any more when the trials are used up."""
        if len(self.made) > self._trials:
            return False
        self.made.append(Trial(tuple(left), self._effect([cost.layer.node for cost in left])))
        return self._tolerance.holds(self.made[-1].effect)

    def shortest(self, order: Sequence[LayerCost]) -> int:
        """How many of the first layers are enough; 0 where none is, or the trials do not reach so far."""
        fails, count = 0, 1
        while not self.holds(order[:count]):
            if count == len(order) or len(self.made) > self._trials:
                return 0
            fails, count = count, min(2 * count, len(order))
        while count - fails > 1:
            middle = (fails + count) // 2
            if self.holds(order[:middle]):
                count = middle
            else:
                fails = middle
        return count

    def thinned(self, left: Sequence[LayerCost]) -> tuple[LayerCost, ...]:
        """Without each layer that the others can do without, the one that costs least alone first."""
        kept = list(left)
        for cost in sorted(left, key=lambda cost: cost.alone.noise):
            fewer = [one for one in kept if one is not cost]
            if fewer and self.holds(fewer):
                kept = fewer
        return tuple(kept)

    def result(self, left: Sequence[LayerCost], *, reached: bool) -> Proposal:
        """The proposal, with the effect that was measured for it."""
        effect = next(trial.effect for trial in self.made if trial.left == tuple(left))
        return Proposal(tuple(left), effect, reached, tuple(self.made))
