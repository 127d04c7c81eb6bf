"""What each layer costs when it alone is quantized, and what is won when it alone is not.

A model is calibrated once and quantized many times. Errors of several layers do not add, so what is proposed
to stay in float is measured jointly.
"""

import re
import tempfile
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from math import log2
from pathlib import Path
from typing import Final

from export.examples import row_shapes
from export.graphs.files import hand_to_library
from export.graphs.layers import Layer, layers_of
from export.graphs.nodes import read_current, tidy
from export.quantization.calibration import Calibration
from export.quantization.chosen import LAYERS, left_in_float
from export.quantization.isa import IntegerTypes
from export.quantization.observing import observe
from export.quantization.quantizing import activations, chosen_nodes, operators, prepared, quantized
from export.quantization.ranges import METHODS, Ranges
from export.sensitivity.effects import ROWS_AT_MOST, Effect, Rows
from export.sensitivity.shares import Shares, latency_shares
from study.batches import fixed_batch
from study.errors import SkipError
from study.progress import Progress
from study.record import Metric
from study.runtime import open_runtime
from study.subject import Machine, Model, Subject

AUTO: Final = "auto"
MOST_LAYERS = 64
"""Those with the most MACs are measured."""
WORK = 10**13
"""MACs of all calls together: some minutes on two cores."""
LEAST_ROWS = 32
PROFILED_ROWS = 8
LEAST_SHARE = 2**-10
TYPED = re.compile(r"[^\s(),|:+=]+")
"""A name that can stand in ``int8:exclude=a+b``."""


@dataclass(frozen=True, slots=True)
class LayerCost:
    """One layer: what it costs alone in int8, and what all the others cost while it alone stays in float."""

    layer: Layer
    name: str
    """Its torch module where no other layer has the same, else its ONNX node."""
    alone: Effect
    without: Effect
    share: Metric | None
    """Of the float model's latency, over ``n`` runs; None where it could not be measured."""

    @property
    def latency(self) -> float:
        """Its share of the latency, to the nearest power of two: a clock never says the same twice."""
        return float(2.0 ** round(log2(max(self.share.value if self.share else 1.0, LEAST_SHARE))))


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """Every layer's cost in the order of the graph, and that of all together."""

    layers: tuple[LayerCost, ...]
    whole: Effect
    unmeasured: tuple[str, ...]
    """Layers that were left out, having the fewest MACs."""
    calibrator: str
    shares: Shares | None
    unshared: str = ""
    """Why there are no shares of the latency."""


class Bench:
    """A float model, calibrated once; ``effect`` quantizes it, whole or in part, as often as one likes."""

    def __init__(
        self,
        subject: Subject,
        machine: Machine,
        progress: Progress,
        calibrator: str = AUTO,
        exclude: Sequence[str] = (),
        rows: int = 0,
    ) -> None:
        """Calibrate; ``auto`` takes the calibrator whose outputs are closest when all layers are quantized.

        Layers that ``exclude`` names stay in float, and are none of those that are asked about.

        Raises:
            SkipError: there are no calibration rows or no layers, or onnxruntime refuses the graph.
        """
        self._machine = machine
        before = read_current(subject.model.path)
        tidy(before)
        with open_runtime(subject.model, machine) as runtime:
            inputs = runtime.inputs
        self.graph = prepared(before)
        self._excluded = frozenset(chosen_nodes(self.graph, exclude))
        left = {*left_in_float(self.graph, operators(), self._excluded)}
        sizes = row_shapes(subject, inputs)
        every = [one for one in layers_of(self.graph, sizes) if one.op in LAYERS and not one.inside]
        self.layers = tuple(one for one in every if one.node not in left)
        if not self.layers:
            raise SkipError("the model has no layer that static int8 quantizes")
        self.measured = tuple(sorted(self.layers, key=lambda one: -(one.macs or 0))[:MOST_LAYERS])
        self.rows = Rows(subject, machine, rows=rows or _affordable(self.layers, len(self.measured)))
        self._float, self._types = before, IntegerTypes.of_this_machine()
        self._known: dict[frozenset[str], Effect] = {}
        fit, _ = Calibration(subject, inputs, progress).parts()  # as the step has it
        self.calibrator, self._ranges = self._calibrated(fit, fixed_batch(inputs), calibrator)

    def _calibrated(self, rows: Calibration, size: int | None, calibrator: str) -> tuple[str, Ranges]:
        methods = tuple(METHODS) if calibrator == AUTO else (calibrator,)
        counted = methods != ("minmax",)
        observed = observe(self.graph, activations(self.graph), rows, counted=counted, size=size)
        noises: dict[str, float] = {}
        for method in methods:
            self._ranges = observed.ranges(method)
            noises[method] = self._effect(frozenset()).noise if len(methods) > 1 else 0.0
        best = min(noises, key=lambda method: noises[method])
        return best, observed.ranges(best)

    def effect(self, left: Collection[str] = ()) -> Effect:
        """What all layers cost but those whose nodes are left in float, on the rows of this bench."""
        key = frozenset(left)
        if key not in self._known:
            self._known[key] = self._effect(key)
        return self._known[key]

    def _effect(self, left: frozenset[str]) -> Effect:
        graph = quantized(self.graph, self._ranges, self._types, sorted(left | self._excluded))
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            hand_to_library(graph, path)
            return self.rows.effect(Model(path, "onnx", "int8"))

    def shares(self) -> tuple[Shares | None, str]:
        """The layers' shares of the float model's latency, or why there are none."""
        try:
            batches = self.rows.first(PROFILED_ROWS)
            return latency_shares(self._float, self.layers, batches, self._machine), ""
        except SkipError as skipped:
            return None, str(skipped)


def _affordable(layers: Collection[Layer], measured: int) -> int:
    """How many rows each of the calls may see."""
    row = sum(layer.macs or 0 for layer in layers)
    if not row:
        return ROWS_AT_MOST
    return max(LEAST_ROWS, min(ROWS_AT_MOST, WORK // (row * (2 * measured + 1))))


def sensitivity(bench: Bench, progress: Progress) -> Sensitivity:
    """Measure every layer both ways: two quantized models a layer, each on all rows of the bench."""
    every = {layer.node for layer in bench.layers}
    shares, unshared = bench.shares()
    what = f"sensitivity of {len(bench.measured)} layers on {len(bench.rows)} rows"
    names = names_of(bench.layers)
    costs = [
        LayerCost(
            layer,
            names[layer.node],
            bench.effect(every - {layer.node}),
            bench.effect({layer.node}),
            shares.of.get(layer.node) if shares else None,
        )
        for layer in progress.over(bench.measured, what, len(bench.measured))
    ]
    order = [layer.node for layer in bench.layers]
    costs.sort(key=lambda cost: order.index(cost.layer.node))
    measured = {cost.layer.node for cost in costs}
    unmeasured = tuple(names[node] for node in order if node not in measured)
    return Sensitivity(tuple(costs), bench.effect(), unmeasured, bench.calibrator, shares, unshared)


def names_of(layers: Collection[Layer]) -> dict[str, str]:
    """What each layer (by its node) is called in ``int8:exclude=``: there, a module means all within it."""
    inside = Counter(prefix for layer in layers for prefix in _prefixes(layer.module))
    return {
        layer.node: layer.module
        if layer.module and inside[layer.module] == 1 and TYPED.fullmatch(layer.module)
        else layer.node
        for layer in layers
    }


def _prefixes(module: str) -> list[str]:
    """``a``, ``a.b`` and ``a.b.c`` of ``a.b.c``."""
    parts = module.split(".")
    return [".".join(parts[: count + 1]) for count in range(len(parts))]
