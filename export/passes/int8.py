"""Eight bits, calibrated."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, final

from export.change import Change, Pass
from export.examples import row_shapes
from export.graphs.files import write_model
from export.graphs.layers import Layer, layers_of, light_layers
from export.graphs.nodes import read_current, tidy
from export.quantization.audit import audit_record, fates_of, lone_pairs
from export.quantization.calibration import Calibration, fewer_rows
from export.quantization.chosen import IN_FLOAT, LAYERS
from export.quantization.isa import IntegerTypes
from export.quantization.quantizing import chosen_nodes, prepared
from export.quantization.ranges import METHODS
from export.quantization.recipe import Recipe
from export.quantization.trials import Judge, trials_table
from study.batches import fixed_batch
from study.errors import InputError, did_you_mean
from study.progress import Progress
from study.record import Verdict
from study.runtime import open_runtime
from study.subject import Machine, Subject

AUTO = "auto"
SKIPPED = {
    op: f"onnxruntime has no calibrated int8 {op} (int8-dynamic quantizes LSTM alone)"
    for op in ("LSTM", "GRU", "RNN")
} | {"Gather": "an embedding is looked up and multiplies nothing"}
ASKED = "it was asked to stay in float"
SPARED = "it is hardly any of the work, and without it the error is less"


@final
@dataclass(frozen=True, slots=True)
class Int8(Pass):
    """Static int8: layers with stored weights, per channel, activation ranges from calibration rows."""

    takes: ClassVar[tuple[str, ...]] = ("onnx/fp32",)
    gives: ClassVar[str] = "onnx/int8"
    needs_calibration: ClassVar[bool] = True

    exclude: tuple[str, ...] = ()
    """Layers that stay in float, by their torch module or ONNX node."""
    calibrator: str = AUTO
    """``minmax``, ``percentile`` or ``entropy``; ``auto`` takes the one whose outputs are closest."""
    rows: int = 0
    """How many calibration rows; 0: all that there are."""

    quick: bool = False
    """Only the calibrator: nothing is equalised, smoothed, spared or corrected."""

    def apply(self, subject: Subject, out: Path, machine: Machine, progress: Progress) -> Change:
        import onnxruntime

        methods = _methods(self.calibrator)
        before = read_current(subject.model.path)
        tidy(before)
        with open_runtime(subject.model, machine) as runtime:
            inputs = runtime.inputs
        graph = prepared(before)
        excluded = chosen_nodes(graph, self.exclude)
        rows = Calibration(subject, inputs, progress, self.rows)
        types = IntegerTypes.of_this_machine()
        fit, held = rows.parts()
        judge = Judge.of(graph, held, len(held), subject.task)
        shapes = row_shapes(subject, inputs)
        light = _spared_at_no_cost([layer for layer in layers_of(before, shapes) if layer.op in LAYERS])
        recipe = Recipe(judge, fit, types, self.exclude, light, fixed_batch(inputs))
        kept = recipe.cook(graph, methods, plainly=self.quick)
        model = write_model(kept.graph, out, "int8")
        spared = light if len(recipe.exclude) > len(self.exclude) else ()
        left = {**dict.fromkeys(spared, SPARED), **dict.fromkeys(excluded, ASKED)}
        fates = fates_of(before, model.path, shapes, SKIPPED, left)
        audit = audit_record(before, fates)
        noted = (*lone_pairs(model.path), *fewer_rows(self.rows, len(rows)))
        record = replace(
            audit,
            verdict=Verdict.NOTED if noted else audit.verdict,
            findings=(*audit.findings, *noted),
            tables=(*audit.tables, trials_table("Calibrators", recipe.tried, kept.trial)),
        )
        provenance = {
            "onnxruntime": str(onnxruntime.__version__),
            "calibration": f"{kept.trial.what} over {len(fit)} rows; judged on {kept.trial.rows} others",
            **types.words,
        }
        return Change(model, (record,), provenance)


def _spared_at_no_cost(layers: Sequence[Layer]) -> tuple[str, ...]:
    """The light layers of a model whose others are products.

    onnxruntime multiplies those in integers whatever reads the answer; a Gemm or a convolution only where the
    answer is rounded again, for the next layer in integers.
    """
    light = light_layers(layers)
    others = (layer.op for layer in layers if layer.weights and layer.node not in light)
    return light if all(op == IN_FLOAT for op in others) else ()


def _methods(calibrator: str) -> tuple[str, ...]:
    if calibrator == AUTO:
        return tuple(METHODS)
    if calibrator not in METHODS:
        known = (*METHODS, AUTO)
        raise InputError(f"There is no calibrator '{calibrator}'.{did_you_mean(calibrator, known)}")
    return (calibrator,)
