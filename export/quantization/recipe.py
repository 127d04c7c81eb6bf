"""How static int8 is made: what may lessen the error is tried, and what does is kept."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from export.graphs.files import Graph, copied
from export.quantization.bias_correction import corrected
from export.quantization.calibration import Calibration
from export.quantization.equalisation import equalise, pairs_of
from export.quantization.isa import IntegerTypes
from export.quantization.observing import Observed, observe
from export.quantization.quantizing import activations, integers_of, quantized
from export.quantization.ranges import Ranges
from export.quantization.smoothing import channel_extremes, sites_of, smoothed
from export.quantization.trials import Judge, Trial

STRENGTHS: Final = (0.3, 0.5, 0.7)
"""SmoothQuant's alpha: how much of a channel's reach goes from the input to the weights."""
BETTER: Final = 0.98
"""What makes the graph more than a calibration must leave at most this share of the error."""


@dataclass(frozen=True, slots=True)
class Made:
    """A quantized graph, the float one and the ranges that it came of, and how far off it is."""

    trial: Trial
    graph: Graph
    source: Graph
    ranges: Ranges


@dataclass(slots=True)
class Recipe:
    """The trials on one model, in the order in which they are made; ``best`` is the one that is kept."""

    judge: Judge
    fit: Calibration
    types: IntegerTypes
    exclude: Sequence[str] = ()
    light: Sequence[str] = ()
    """Layers that are hardly any of the work."""
    size: int | None = None
    """The only batch size that the model takes."""
    tried: list[Trial] = field(default_factory=list)
    best: Made | None = None

    def cook(self, graph: Graph, methods: Sequence[str], *, plainly: bool = False) -> Made:
        """The graph in eight bits, by the best of these calibrators and by what lessens the error of that.

        ``plainly`` tries the calibrators alone.
        """
        observed = self._observed(graph, methods)
        for method in methods:
            best = self._try(method, graph, observed.ranges(method))
        if plainly:
            return best
        method = best.trial.what
        if pairs_of(graph):
            even = copied(graph)
            equalise(even)
            ranges = self._observed(even, (method,)).ranges(method)
            best = self._try(f"{method}, equalised", even, ranges, BETTER)
        self._smooth(best)
        self._spare()
        best = self._kept()
        changed = corrected(best.source, best.graph, self.fit, self.size)
        return self._try(f"{best.trial.what}, biases corrected", changed, best.ranges, BETTER)

    def _observed(self, graph: Graph, methods: Sequence[str]) -> Observed:
        counted = tuple(methods) != ("minmax",)
        return observe(graph, activations(graph), self.fit, counted=counted, size=self.size)

    def _smooth(self, before: Made) -> None:
        """Try SmoothQuant in several strengths; the rows are run once, for what each channel reaches."""
        sites = sites_of(before.source, integers_of(before.source, self.exclude))
        if not sites:
            return
        extremes = channel_extremes(before.source, sites, self.fit, self.size)
        for strength in STRENGTHS:
            graph, ranges = smoothed(before.source, sites, extremes, strength)
            what = f"{before.trial.what}, smoothed by {strength:g}"
            self._try(what, graph, {**before.ranges, **ranges}, BETTER)

    def _spare(self) -> None:
        """Try the light layers in float: they cost no time, and the last of them makes the answer."""
        before, exclude = self._kept(), self.exclude
        if not self.light:
            return
        self.exclude = (*exclude, *self.light)
        what = f"{before.trial.what}, light layers in float"
        if self._try(what, before.source, before.ranges, BETTER) is before:
            self.exclude = exclude

    def _try(self, what: str, source: Graph, ranges: Ranges, share: float = 1.0) -> Made:
        """Quantize so, and keep it where its error is less than this share of the best one's."""
        graph = quantized(source, ranges, self.types, self.exclude)
        trial = self.judge.judged(what, graph)
        self.tried.append(trial)
        if self.best is None or trial.error < share * self.best.trial.error:
            self.best = Made(trial, graph, source, ranges)
        return self.best

    def _kept(self) -> Made:
        if self.best is None:
            raise ValueError("nothing was tried")
        return self.best
