"""Where two models that should compute the same begin to differ, with the torch module's name."""

import logging
import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Final

from export.change import Change
from export.examples import Batch, Examples, examples_of, fitting, typed
from export.examples import named as under_names
from export.graphs.cuts import Flow, floats_of, named
from export.graphs.files import Graph
from export.graphs.nodes import read_current
from export.quiet import quiet
from export.verification.bisection import Bisection, Gap, Point, Sum
from export.verification.readers import GraphReader, ModuleReader, module_ends
from study.errors import DiagError
from study.record import Finding, Metric, Record, Table, Verdict
from study.runtime import Runtime, open_runtime
from study.subject import InputSpec, Machine, Model, Subject

LOG = logging.getLogger(__name__)
INSIDE: Final = 0.1
"""Of what an output may differ by: a fault may grow on its way."""
BOUND: Final = 0.1
"""The relative error of an output, in length, from which on a change is said to be far off (20 dB)."""
ROWS: Final = 32
PIECE: Final = 4
BY: Final = "divergence"


@dataclass(frozen=True, slots=True)
class Divergence:
    """Where two models begin to differ.

    ``layer`` is a torch module with its nodes, ``gap`` how far off its answer is, ``points`` what was
    measured on the way, in the order of the graph. ``steepest`` is the layer that adds most, and what the
    relative error is before and behind it.
    """

    layer: str
    gap: Gap
    points: tuple[Point, ...]
    steepest: tuple[str, float, float] | None = None


def differs(gap: Gap) -> bool:
    """Whether a value of a model that should be the same is not."""
    return gap.share > INSIDE


def begins(find: Callable[[], Divergence | None]) -> str:
    """`` and begins at layer1.0.conv1 (node_Conv_3)``, for a sentence; empty where that cannot be told.

    Whatever goes wrong in looking for it is no reason to fail what was found already.
    """
    try:
        with quiet("what looks for the first divergence"):
            found = find()
    except Exception:  # a forward may raise anything, and so may onnxruntime
        LOG.info("the first divergence was not found", exc_info=True)
        return ""
    return f"; it begins at {found.layer}" if found else ""


def of_export(model: Model, reference: Runtime, batch: Batch) -> Divergence | None:
    """Where an export begins to differ from the torch module on a batch; None where that cannot be told.

    What can be compared are the ends of modules, where the export says which nodes are whose.
    """
    from study.runtimes.pytorch import PyTorch

    if not isinstance(reference, PyTorch) or model.format != "onnx" or reference.model.format != "pytorch":
        return None
    graph = read_current(model.path)
    flow = Flow.of(graph)
    row = {name: array[:1] for name, array in batch.items()}
    floats = floats_of(graph)
    ends = module_ends(flow, floats, reference, row)
    outputs = {value.name for value in graph.graph.output}
    ends = {value: module for value, module in ends.items() if value not in outputs}
    bisection = Bisection(
        flow,
        frozenset(floats),
        frozenset((*ends, *outputs)),
        ModuleReader(reference, ends),
        GraphReader(flow, inputs_of(graph)),
        lambda: (batch,),
        differs,
    )
    return _found(bisection)


def of_change(
    before: Graph,
    after: Graph,
    batches: Callable[[], Iterable[Batch]],
    bad: Callable[[Gap], bool],
) -> Divergence | None:
    """Where a changed graph begins to differ from the one that it was made from, as ``bad`` says.

    What can be compared are the values whose names both have. Of a value that the change rounds to integers,
    what is made of it again counts: a ReLU may be folded into the rounding.
    """
    flow, changed = Flow.of(before), Flow.of(after)
    here = floats_of(before)
    renamed = rounded(after)
    outputs = {value.name for value in before.graph.output}
    known = frozenset(name for name in {*here, *outputs} if name in changed.makers)
    inputs = inputs_of(before)
    readers = GraphReader(flow, inputs), GraphReader(changed, inputs, renamed)
    return _found(Bisection(flow, frozenset(here), known, *readers, batches, bad), steepest=True)


def inputs_of(graph: Graph) -> tuple[InputSpec, ...]:
    """The inputs of a graph whose types are stated."""
    import onnx

    return tuple(
        InputSpec(
            value.name,
            tuple(
                size.dim_value if size.HasField("dim_value") else None
                for size in value.type.tensor_type.shape.dim
            ),
            str(onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)),
        )
        for value in graph.graph.input
    )


def rounded(graph: Graph) -> dict[str, str]:
    """What is made again of each value that is rounded to integers, by the value's name."""
    outputs = {value.name for value in graph.graph.output}
    rounding = {
        node.output[0]: node.input[0] for node in graph.graph.node if node.op_type == "QuantizeLinear"
    }
    return {
        rounding[node.input[0]]: node.output[0]
        for node in graph.graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in rounding
        if rounding[node.input[0]] not in outputs
    }


def _found(bisection: Bisection, *, steepest: bool = False) -> Divergence | None:
    found = bisection.first()
    if found is None:
        return None
    low, high = found
    layer, gap = named(bisection.nodes(low, high)), bisection.worst(high)
    most = None
    if steepest and (pair := bisection.steepest()) is not None:
        start, end = pair
        before = bisection.worst(start).relative if start >= 0 else 0.0
        most = (named(bisection.nodes(start, end)), before, bisection.worst(end).relative)
    return Divergence(layer, gap, bisection.points(), most)


def explained(word: str, change: Change, before: Subject, machine: Machine) -> Change:
    """The change of an ONNX model, with a record of where it goes wrong if its outputs are far off.

    ``word`` is the step's, ``before`` the subject that it was given.
    """
    after = change.model
    if before.model.format != "onnx" or after.format != "onnx" or after.precision == "fp32":
        return change
    try:
        record = _far_off(word, before, after, replace(machine, device="cpu", provider=""))
    except DiagError as error:
        record = Record.skipped(BY, str(error))
    return replace(change, records=(*change.records, record)) if record else change


def _far_off(word: str, before: Subject, after: Model, machine: Machine) -> Record | None:
    """None where no output is further off than ``BOUND``."""
    examples = examples_of(before, ROWS, machine.seed)

    def pieces() -> Iterator[Batch]:
        for start in range(0, examples.rows, PIECE):
            part = {name: array[start : start + PIECE] for name, array in examples.batch.items()}
            yield from fitting(typed(under_names(part, inputs), inputs), inputs)

    with open_runtime(before.model, machine) as first, open_runtime(after, machine) as second:
        inputs = first.inputs
        sums = {name: Sum() for name in first.outputs}
        for batch in pieces():
            wanted, given = first(batch), second(batch)
            for name, one in sums.items():
                if wanted[name].dtype.kind == "f" and name in given:
                    one.add(wanted[name], given[name])
    gaps = [one.gap() for one in sums.values() if one.seen]
    worst = max(gaps, key=lambda gap: gap.relative, default=Gap())
    if not worst.relative > BOUND:
        return None
    graphs = read_current(before.model.path), read_current(after.path)
    found = of_change(*graphs, pieces, lambda gap: gap.relative > BOUND)
    return _record(word, worst, found, examples)


def _record(word: str, worst: Gap, found: Divergence | None, examples: Examples) -> Record:
    said = worst.fault or f"off by {worst.relative:.1%} of their size"
    summary = f"The outputs are {said} on {examples.origin}"
    metrics = {}
    if math.isfinite(worst.relative):
        metrics["relative_error@outputs"] = Metric.exact(worst.relative, examples.rows, better="lower")
    if found is None:
        return Record(
            BY, Verdict.NOTED, f"{summary}; no layer was found at which that begins.", metrics=metrics
        )
    summary += f": more than {BOUND:.0%} from {found.layer} on."
    where = [(found.layer, f"From here on values are off by more than {BOUND:.0%}.")]
    if found.steepest is not None:
        layer, low, high = found.steepest
        where.append((layer, f"The error grows most here: from {low:.1%} to {high:.1%}."))
    findings = tuple(Finding(what, layer, do=_advice(word, layer)) for layer, what in where)
    measured = [one for one in found.points if math.isfinite(one.gap.relative)]
    rows = tuple((one.layer, one.gap.relative, one.gap.sqnr_db) for one in measured)
    table = Table("Relative error along the model", ("after", "relative error", "SQNR (dB)"), rows)
    return Record(BY, Verdict.NOTED, summary, metrics=metrics, findings=findings, tables=(table,))


def _advice(word: str, layer: str) -> str:
    if word == "int8":
        names = re.split(" and | to ", layer.partition(" (")[0])
        return f"Try --steps int8:exclude={'+'.join(names)}."
    return "Leave this step out, or keep this layer as it was."
