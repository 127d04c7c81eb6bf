"""What may be chosen: artifacts with their figures, which of two is faster, and the ones that none beats."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from diag.glance import GLANCE
from diag.growing import Tried
from diag.policy import LATENCY, QUALITY, SIZE, Budget, Figures, Reading, drop, flips, judged
from export.timing.verdicts import LEAST_FLOOR, Comparison, differs
from study.record import Metric

FLOOR = "latency_noise_floor"
NO_DIFFERENCE: Comparison = "no measurable difference"


@dataclass(frozen=True, slots=True)
class Candidate:
    """One step, its place in the plan, and its figures beside those of the model as it came."""

    index: int
    tried: Tried
    figures: Figures

    @property
    def name(self) -> str:
        """Of its step."""
        return self.tried.step.name

    @property
    def typed(self) -> str:
        """Its step as typed."""
        return self.tried.step.typed

    @property
    def made(self) -> bool:
        """Whether there is a model."""
        return bool(self.tried.format)

    @property
    def deployable(self) -> bool:
        """An ONNX model; others are on the way to one."""
        return self.tried.format == "onnx"

    @property
    def size(self) -> float | None:
        """Bytes."""
        return self.value(SIZE)

    @property
    def latency(self) -> Metric | None:
        """Milliseconds of one call, the median."""
        return self.figures.metrics.get(LATENCY)

    @property
    def changed_nothing(self) -> bool:
        """Its step ran, and quantized no layer or fused no node."""
        fused = self.tried.record("fuse")
        return self.value("parameters_in_int8@audit") == 0.0 or (fused is not None and not fused.tables)

    def quality(self) -> Metric | None:
        """What was lost: of the headline metric, else answers that changed; less is better."""
        if self.figures.itself:
            return Metric.exact(0.0, 0, better="lower")
        return drop(self.figures) or flips(self.figures.metrics)[0]

    def readings(self, budgets: Sequence[Budget]) -> tuple[Reading, ...]:
        """Each budget."""
        return judged(budgets, self.figures)

    def glanced(self, budgets: Sequence[Budget]) -> tuple[Reading, ...]:
        """The budgets that could be read on few rows; the others are left out."""
        few = _ending(self.figures.metrics, GLANCE)
        origin = _ending(self.figures.origin, GLANCE)
        glance = Figures(few, origin, self.figures.task) if few else None
        readings = judged(budgets, glance) if glance else ()
        return tuple(one for one in readings if one.metric is not None)

    def surely_glanced(self, budgets: Sequence[Budget]) -> tuple[Reading, ...]:
        """The budgets that few rows are enough to call broken."""
        return tuple(one for one in self.glanced(budgets) if one.state == "surely beyond")

    def stopped(self, budgets: Sequence[Budget]) -> tuple[Reading, ...]:
        """The budgets that it surely breaks, by what is known so far."""
        known = tuple(one for one in self.readings(budgets) if one.state == "surely beyond")
        return known + self.surely_glanced(budgets)

    def fits(self, budgets: Sequence[Budget]) -> bool:
        """Whether it may be chosen: all budgets are kept, and none of them for want of a figure."""
        if not self.deployable or self.changed_nothing:
            return False
        return not self.surely_glanced(budgets) and all(one.passed for one in self.readings(budgets))

    def loses(self, budgets: Sequence[Budget]) -> bool:
        """Whether it answers too badly, however fast and small; few rows say so only where they are sure."""
        asked = [budget for budget in budgets if budget.kind in QUALITY]
        beyond = any(one.metric and not one.passed for one in self.readings(asked))
        return beyond or bool(self.surely_glanced(asked))

    def value(self, name: str) -> float | None:
        """Of one of its metrics; None where it was not measured."""
        metric = self.figures.metrics.get(name)
        return metric.value if metric else None


def _ending(metrics: Mapping[str, Metric], end: str) -> dict[str, Metric]:
    return {name.removesuffix(end): metric for name, metric in metrics.items() if name.endswith(end)}


def candidates_of(tried: Sequence[Tried]) -> tuple[Candidate, ...]:
    """Every step in order, as a candidate."""
    origin = tried[0].metrics() if tried else {}
    task = tried[0].task if tried else ""
    return tuple(
        Candidate(index, one, Figures(one.metrics(), origin, task, itself=index == 0))
        for index, one in enumerate(tried)
    )


def compared(one: Candidate, other: Candidate) -> tuple[Comparison, Metric | None]:
    """Whether ``one`` is faster than ``other``, and by how much where they were timed in the same race.

    Where they were not, only medians whose intervals lie apart differ.
    """
    forth = one.figures.metrics.get(f"speedup@{other.name}")
    if forth is not None:
        return differs(forth, _floor(one)), forth
    back = other.figures.metrics.get(f"speedup@{one.name}")
    if back is not None and back.low > 0:
        turned = Metric(1 / back.value, 1 / back.high, 1 / back.low, back.n, back.unit, back.better)
        return differs(turned, _floor(other)), turned
    mine, theirs = one.latency, other.latency
    if mine is None or theirs is None:
        return NO_DIFFERENCE, None
    if mine.high * (1 + LEAST_FLOOR) < theirs.low:
        return "faster", None
    return ("slower", None) if theirs.high * (1 + LEAST_FLOOR) < mine.low else (NO_DIFFERENCE, None)


def _floor(one: Candidate) -> float:
    """How far from 1 a model's ratio to itself came in this race."""
    floor = one.figures.metrics.get(FLOOR)
    return floor.value if floor else LEAST_FLOOR


def best(candidates: Sequence[Candidate], budgets: Sequence[Budget]) -> Candidate | None:
    """The one to keep of all that keep the budgets."""
    return fastest([one for one in candidates if one.fits(budgets)])


def fastest(candidates: Sequence[Candidate]) -> Candidate | None:
    """Each takes the place of the one before only if it is measurably faster."""
    kept: Candidate | None = None
    for one in candidates:
        if kept is None or compared(one, kept)[0] == "faster":
            kept = one
    return kept


def front(candidates: Sequence[Candidate]) -> tuple[Candidate, ...]:
    """Those that no other beats: none is at least as good in quality, latency and size, and better in one.

    Quality and size are compared as they were measured on the same rows and files, latency by intervals.
    """
    whole = [
        one for one in candidates if one.deployable and None not in (one.quality(), one.latency, one.size)
    ]
    return tuple(one for one in whole if not any(_beats(other, one) for other in whole if other is not one))


def _beats(one: Candidate, other: Candidate) -> bool:
    mine, theirs = one.quality(), other.quality()
    assert mine is not None
    assert theirs is not None
    gaps = (mine.value - theirs.value, (one.size or 0.0) - (other.size or 0.0))
    speed = compared(one, other)[0]
    if speed == "slower" or max(gaps) > 0:
        return False
    return speed == "faster" or min(gaps) < 0
