"""Whether to believe an explanation: does it add up, does it name what matters, does it know the weights?"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from math import ceil
from typing import TYPE_CHECKING

import numpy as np

from explain.drift import flat, over_rows, rank_correlation
from explain.layout import Part, on_map, parts
from explain.method import Attribution, Explained, Method
from explain.score import Hidden, baseline_row, scores
from explain.words import WORDS
from study.errors import SkipError
from study.record import Finding, Metric
from study.runtime import Runtime
from study.statistics import share_of

if TYPE_CHECKING:
    from torch.nn import Module

ENOUGH_ROWS = 3
"""Of fewer rows, an interval says nothing."""
MATRIX = 2
SAME_MAP = 0.5
SANE_ROWS = 4
"""Maps of an unrelated model agree by less (rank correlations of 0.03 to 0.43 were measured)."""


@dataclass(frozen=True, slots=True)
class Trust:
    """What a check of an explanation found: its figures, and what speaks against the explanation."""

    metrics: Mapping[str, Metric] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()


def completeness(attribution: Attribution, tolerance: float = 0.05) -> Trust:
    """Whether each row's attributions sum to what they explain; nothing where no sum is promised."""
    error = attribution.completeness
    if error is None:
        return Trust()
    missed = [(float(error[at]), name) for at, name in enumerate(attribution.ids) if error[at] > tolerance]
    findings = tuple(
        Finding(
            what=f"the attributions of row {name} miss the change of the score by {100 * size:.0f} %",
            rows=1,
            do="read this row's map with care: the score is not smooth between the baseline and the row",
        )
        for size, name in sorted(missed, reverse=True)
    )
    metrics = {
        f"completeness_error@{attribution.by}": over_rows(error, better="lower"),
        f"complete_rows@{attribution.by}": share_of(error <= tolerance, better="higher"),
    }
    return Trust(metrics, findings)


def deletion(
    run: Runtime,
    rows: Explained,
    attribution: Attribution,
    *,
    share: float = 0.2,
    repeats: int = 5,
    seed: int = 0,
) -> Trust:
    """Whether deleting what was ranked first lowers the score more than deleting as much at random.

    What is deleted are words, or the parts of ``explain.layout.parts`` that are not the baseline already; the
    random draw is from the same parts, so that finding the background out is no merit. The figure is the
    mean, over rows, of the difference of both falls, in units of the score.
    """
    rng = np.random.default_rng(seed)
    first, drawn, held = _deletions(rows, attribution, share, repeats, rng)
    if len(held) < ENOUGH_ROWS:
        return Trust()
    named = scores(run, rows, first)
    chance = scores(run, rows, drawn).reshape(len(held), repeats).mean(axis=1)
    gain = over_rows(chance - named, better="higher", unit="score")
    findings: tuple[Finding, ...] = ()
    if gain.low <= 0:
        findings = (
            Finding(
                what=(
                    f"deleting what {attribution.by} ranks first lowers the score no more than "
                    "deleting as much at random"
                ),
                rows=len(held),
                effect=gain,
                do="do not rely on these maps: they do not name what the model uses",
            ),
        )
    return Trust({f"deletion_gain@{attribution.by}": gain}, findings)


def sanity(run: Runtime, method: Method, rows: Explained, attribution: Attribution, seed: int = 0) -> Trust:
    """Whether the maps change when the last layer is drawn anew (Adebayo et al. 2018).

    The first ``SANE_ROWS`` rows tell: a method that ignores the weights does so on every row.

    Raises:
        SkipError: the model is no eager module, or has no layer to draw anew.
    """
    from study.runtimes.pytorch import PyTorch

    if not isinstance(run, PyTorch) or run.model.format != "pytorch":
        raise SkipError("the layers of the model cannot be drawn anew: it is no eager module")
    few = rows.first(SANE_ROWS)
    with _redrawn(run, run.module, few, seed):
        random = method.attribute(run, few)
    pairs = zip(flat(attribution)[: len(few)], flat(random), strict=True)
    alike = np.array([rank_correlation(before, after) for before, after in pairs])
    metric = over_rows(alike, better="lower")
    findings: tuple[Finding, ...] = ()
    if metric.low > SAME_MAP:
        findings = (
            Finding(
                what=f"{attribution.by} gives much the same maps when the last layer is drawn anew",
                rows=len(rows),
                effect=metric,
                do="do not rely on these maps: they show the input more than what the model makes of it",
            ),
        )
    return Trust({f"sanity_rank_correlation@{attribution.by}": metric}, findings)


def _deletions(
    rows: Explained,
    attribution: Attribution,
    share: float,
    repeats: int,
    rng: np.random.Generator,
) -> tuple[list[Hidden], list[Hidden], list[int]]:
    """What is deleted: by rank (one a row), at random (``repeats`` a row); and the rows with a choice."""
    first: list[Hidden] = []
    drawn: list[Hidden] = []
    held: list[int] = []
    for row in range(len(rows)):
        ranked = sorted(_parts(rows, attribution, row), key=lambda found: -found[0])
        count = ceil(share * len(ranked))
        if count == len(ranked):
            continue
        held.append(row)
        places = [(name, part) for _, name, part in ranked]
        first.append((row, places[:count]))
        for _ in range(repeats):
            chosen = rng.choice(len(places), size=count, replace=False)
            drawn.append((row, [places[at] for at in chosen]))
    return first, drawn, held


def _parts(rows: Explained, attribution: Attribution, row: int) -> Iterator[tuple[float, str, Part]]:
    """The parts of a row that hold something, with their mean attribution."""
    for name, values in attribution.values.items():
        if name == WORDS and rows.words:
            for value, span in zip(values[row], rows.words.spans[row], strict=False):
                yield float(value), rows.words.input, (slice(*span),)
            continue
        array, absent = rows.batch[name][row], baseline_row(rows, name)
        for part in parts(array.shape):
            if not np.array_equal(array[part], absent[part]):
                place = part if values[row].shape == array.shape else on_map(part, array.shape)
                yield float(values[row][place].mean()), name, part


@contextmanager
def _redrawn(run: Runtime, module: "Module", rows: Explained, seed: int) -> Iterator[None]:
    """The weights of the last layer drawn anew, from a normal with their spread; then as they were."""
    import torch

    weight = module.get_parameter(f"{_last_layer(module, run, rows)}.weight")
    kept = weight.detach().clone()
    with torch.no_grad():
        drawn = torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed))
        weight.copy_(drawn * weight.std().cpu())
    try:
        yield
    finally:
        with torch.no_grad():
            weight.copy_(kept)


def _last_layer(module: "Module", run: Runtime, rows: Explained) -> str:
    """The name of the layer with a weight matrix that is called last."""
    called: list[str] = []
    with ExitStack() as stack:
        for name, layer in module.named_modules():
            weight = layer._parameters.get("weight")  # noqa: SLF001 - one that others compute is not redrawn
            if name and weight is not None and weight.ndim >= MATRIX:
                note = partial(_note, called, name)
                stack.callback(layer.register_forward_hook(note).remove)
        scores(run, rows, ((0, ()),))
    if not called:
        raise SkipError("the model has no layer with a weight matrix to draw anew")
    return called[-1]


def _note(called: list[str], name: str, _layer: "Module", _fed: object, _gave: object) -> None:
    called.append(name)
