"""How much of a model's time each layer takes, by onnxruntime's own profiler.

onnxruntime renames what it fuses: a convolution in blocks of channels has neither its name nor its weights'
names left. So each kernel is brought home by its name, by the stored tensors that it reads, by their numbers
in any order, and at last by the tensor that it is named after.
"""

import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from export.examples import Batch
from export.graphs.files import Graph, hand_to_library
from export.graphs.layers import Layer
from export.graphs.nodes import TRANSPOSED, Node, array_of, stored
from export.quantization.audit import INTEGER_KERNELS, SUFFIX
from export.quiet import library
from study.cores import cores
from study.errors import SkipError
from study.record import Metric
from study.subject import Machine

if TYPE_CHECKING:
    from numpy.typing import NDArray

RUNS, LEAST_RUNS, COLD_RUNS = 50, 10, 5
RESAMPLES = 1000
AT_MOST_S = 5.0
"""Of one profile; slower models are run ``LEAST_RUNS`` times."""
KERNEL, RUN = "_kernel_time", "model_run"
MULTIPLIES = ("Conv", "Gemm", "MatMul", "LSTM", "GRU", "RNN", "Attention", "Gather")
FUSED = ("/MatMulAddFusion", "/MatMulScaleFusion/", "_nchwc", "_nhwc")
"""What onnxruntime's optimisers add to a name."""


@dataclass(frozen=True, slots=True)
class Shares:
    """Shares of the kernels' time, with intervals over ``runs`` calls; ``rest`` is what no layer takes."""

    of: Mapping[str, Metric]
    """By the layer's node; layers that no kernel could be brought home to are not in it."""
    rest: Metric
    total_ms: Metric
    runs: int


def latency_shares(
    graph: Graph, layers: Sequence[Layer], batches: Sequence[Batch], machine: Machine
) -> Shares:
    """Run the model on these batches in turn, and add up the kernels of each layer.

    Raises:
        SkipError: the machine is no CPU (kernels of other providers end after their call), or onnxruntime
            does not run the graph.
    """
    if machine.device != "cpu" or machine.provider not in ("", "CPUExecutionProvider"):
        raise SkipError("onnxruntime's profiler times kernels on the CPU alone")
    with tempfile.TemporaryDirectory() as folder, library("onnxruntime's profiler"):
        path = Path(folder) / "float.onnx"
        hand_to_library(graph, path)
        optimised, events = _profiled(path, batches, machine)
    owners = owners_of(graph, optimised, layers)
    times = _times(events, owners, {node.name for node in optimised.graph.node})
    return _shares(times)


def _profiled(path: Path, batches: Sequence[Batch], machine: Machine) -> tuple[Graph, list[dict[str, Any]]]:
    """The graph as it really runs, and the profiler's events."""
    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = machine.threads or cores()
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.enable_profiling = True
    options.profile_file_prefix = str(path.with_name("profile"))
    options.optimized_model_filepath = str(path.with_name("optimised.onnx"))
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    began = time.perf_counter()
    for run in range(COLD_RUNS + RUNS):
        session.run(None, dict(batches[run % len(batches)]))
        if run >= COLD_RUNS + LEAST_RUNS and time.perf_counter() - began > AT_MOST_S:
            break
    events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    return onnx.load(path.with_name("optimised.onnx"), load_external_data=False), events


def _times(
    events: Sequence[Mapping[str, Any]], owners: Mapping[str, str], known: set[str]
) -> "dict[str, NDArray[np.float64]]":
    """Microseconds of each layer (the empty name: no layer) in every run but the cold ones."""
    runs = sorted((one["ts"], one["ts"] + one["dur"]) for one in events if one["name"] == RUN)[COLD_RUNS:]
    starts = np.array([start for start, _ in runs])
    times: dict[str, NDArray[np.float64]] = defaultdict(lambda: np.zeros(len(runs)))
    for one in events:
        name = str(one["name"]).removesuffix(KERNEL)
        if one.get("cat") != "Node" or name == one["name"] or name not in known:
            continue  # what runs in the body of a loop is in the time of the loop already
        run = int(np.searchsorted(starts, one["ts"], side="right")) - 1
        if run >= 0:
            times[owners.get(name, "")][run] += one["dur"]
    return times


def _shares(times: "Mapping[str, NDArray[np.float64]]") -> Shares:
    """Of the middle half of each kernel's runs: one that the machine interrupts would outweigh the others."""
    names = list(times)
    each = np.column_stack([times[name] for name in names])
    runs = len(each)
    if not each.any():
        raise SkipError("onnxruntime's profiler timed no kernel")
    generator = np.random.default_rng(0)
    drawn = [_middle(each[generator.integers(0, runs, runs)]) for _ in range(RESAMPLES)]
    again, now = np.array(drawn), _middle(each)
    ends = np.quantile(again / again.sum(axis=1, keepdims=True), [0.025, 0.975], axis=0)
    found = {
        name: Metric(float(value), min(float(low), float(value)), max(float(high), float(value)), runs)
        for name, value, low, high in zip(names, now / now.sum(), *ends, strict=True)
    }
    low, high = np.quantile(again.sum(axis=1) / 1e3, [0.025, 0.975])
    value = float(now.sum() / 1e3)
    whole = Metric(value, min(float(low), value), max(float(high), value), runs, "ms", "lower")
    return Shares(found, found.pop("", Metric.exact(0.0, runs)), whole, runs)


def _middle(runs: "NDArray[np.float64]") -> "NDArray[np.float64]":
    """The mean of the middle half of each column."""
    quarter = len(runs) // 4
    middle: NDArray[np.float64] = np.sort(runs, axis=0)[quarter : len(runs) - quarter].mean(axis=0)
    return middle


def owners_of(graph: Graph, optimised: Graph, layers: Sequence[Layer]) -> dict[str, str]:
    """Which layer (by its node) each kernel of the optimised graph belongs to, by the kernel's name."""
    home = _Home(graph, layers)
    tensors = stored(optimised)
    return {node.name: owner for node in optimised.graph.node if (owner := home.of(node, tensors))}


class _Home:
    """Brings kernels home to the layers of a graph."""

    def __init__(self, graph: Graph, layers: Sequence[Layer]) -> None:
        self._nodes = {layer.node for layer in layers}
        self._made_by = {name: node for node in graph.graph.node for name in node.output if name}
        self._readers: dict[str, set[str]] = defaultdict(set)
        self._prints: dict[tuple[int, float, float], set[str]] = defaultdict(set)
        weights = stored(graph)
        for node in graph.graph.node:
            if node.name not in self._nodes:
                continue
            for name in node.input[1:] if node.op_type != "MatMul" else node.input:
                if name in weights:
                    self._readers[name].add(node.name)
                    self._prints[_print(weights[name])].add(node.name)

    def of(self, kernel: Node, tensors: Mapping[str, Any]) -> str:
        """The node of the layer; empty where it is none's."""
        if kernel.name in self._nodes:
            return str(kernel.name)
        plain = _plain(kernel.name)
        if plain in self._nodes:
            return plain
        if not _multiplies(kernel.op_type):
            return ""
        read = [_plain_tensor(name) for name in kernel.input if name]
        for owners in (
            *(self._readers.get(name, set()) for name in read),
            *(self._prints.get(_print(tensors[name]), set()) for name in kernel.input if name in tensors),
        ):
            if len(owners) == 1:
                return next(iter(owners))
        return self._behind(plain) or next(filter(None, map(self._behind, kernel.output)), "")

    def _behind(self, name: str) -> str:
        """The nearest layer that a tensor of the original graph was computed by, if there is but one."""
        waiting, seen, found = [name], {name}, list[str]()
        while waiting and not found:
            makers = [self._made_by[one] for one in waiting if one in self._made_by]
            found = [maker.name for maker in makers if maker.name in self._nodes]
            waiting = [one for maker in makers for one in maker.input if one and one not in seen]
            seen.update(waiting)
        return found[0] if len(found) == 1 else ""


def _multiplies(op: str) -> bool:
    return op.startswith(INTEGER_KERNELS) or any(word in op for word in MULTIPLIES)


def _plain(name: str) -> str:
    for added in FUSED:
        name = name.removesuffix(added)
    return SUFFIX.sub("", name)


def _plain_tensor(name: str) -> str:
    return name.removesuffix("_quantized").removesuffix(TRANSPOSED)


def _print(tensor: Any) -> tuple[int, float, float]:
    """What stays of the numbers of a tensor in any order and with zeros between them."""
    if tensor.data_type != 1 or not tensor.dims or tensor.data_location == 1:
        return (0, 0.0, float(id(tensor)))
    numbers = array_of(tensor).astype(np.float64).ravel()
    there = numbers[numbers != 0]
    return len(there), float(np.sort(there).sum()), float(np.sort(np.abs(there)).sum())
