"""The axes of a graph's outputs that are as long as the inputs make them, written down as free.

torch's exporters may state the example's size (behind an LSTM, torch 2.13). ONNX Runtime computes what it
should all the same, but refuses the second call of a binding, whose outputs lie in memory of another size.
"""

from export.examples import EXAMPLE_ROWS, Axes, Batch, Examples, resized, typed
from export.graphs.files import Graph
from export.quiet import quiet
from study.runtime import Runtime, to_numpy


def free_outputs(
    graph: Graph, reference: Runtime, examples: Examples, loose: tuple[Axes, ...]
) -> tuple[str, ...]:
    """Run the model at another size of each free axis, and see which axes of its outputs change.

    Where one was stated wrongly, what was stated inside the graph goes too: it says the same. Those axes are
    named (``output.1``).
    """
    pair = examples.take(EXAMPLE_ROWS)
    before = _shapes(reference, pair) if loose else {}
    freed: list[str] = []
    for axes in loose:
        name, axis = axes[0]
        size = pair[name].shape[axis]
        after = _shapes(reference, resized(pair, axes, size // 2 + 1 if size > 1 else size + 1))
        for output in graph.graph.output:
            was, now = before.get(output.name, ()), after.get(output.name, ())
            stated = output.type.tensor_type.shape.dim
            for place in range(len(stated)):
                moved = len(was) == len(now) == len(stated) and was[place] != now[place]
                if moved and stated[place].HasField("dim_value"):
                    stated[place].dim_param = f"{output.name}_{place}"
                    freed.append(f"{output.name}.{place}")
                    del graph.graph.value_info[:]
    return tuple(freed)


def _shapes(reference: Runtime, batch: Batch) -> dict[str, tuple[int, ...]]:
    """Of each output; none where the model does not take the batch."""
    try:
        with quiet("a model"):
            outputs = reference(typed(batch, reference.inputs))
    except Exception:  # noqa: BLE001 -- a forward may raise anything, and verification says what
        return {}
    return {name: to_numpy(array).shape for name, array in outputs.items()}
