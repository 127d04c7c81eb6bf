"""How a finished run's chosen artifact came about: what its deployment bundle says of it."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from diag.artifact import chosen
from diag.environment import environment
from diag.request import Request, data_hashes
from diag.state import State, StepState
from export.deployment.bundle import Shipment
from study.errors import OutputError
from study.record import JSON, Record, metric_to_json
from study.storage import RunFolder
from study.subject import Subject

BARE: Final = re.compile(r"[a-z0-9_]+")
"""Metric names that mean the same everywhere."""


def shipment(
    state: State, request: Request, folder: RunFolder, subject_of: Callable[[int], Subject]
) -> Shipment:
    """The last artifact of a finished run, for ``request.bundle``; ``subject_of`` gives that of a step.

    Raises:
        OutputError: there is no artifact to hand over.
    """
    assert request.bundle is not None
    try:
        index = chosen(state.steps, folder)
    except OutputError as reason:
        raise OutputError(f"There is no bundle: {reason}; {folder.path / 'report.html'} says why.") from None
    told = provenance(state, request, folder, index)
    name, subject = state.steps[index].name, subject_of(index)
    return Shipment(name, subject, request.machine, request.bundle, told, request.force)


def provenance(state: State, request: Request, folder: RunFolder, index: int) -> dict[str, JSON]:
    """The steps that lead to an artifact, all hashes, seeds, the environment, and the figures of its look."""
    line = [index]
    while (parent := state.steps[line[0]].step.parent) is not None:
        line.insert(0, parent)
    facts = dict(state.facts)
    return {
        "command": state.command,
        "seed": request.machine.seed,
        "subject": {**facts, **_given(request)},
        "steps": [_step(state.steps[at]) for at in line],
        "figures": _figures(folder.records(state.steps[index].folder) or ()),
        "environment": environment(request),
        "providers_used": list[JSON](sorted(state.providers)),
        "notes": [*request.plan.notes, *request.notes, *state.notes],
    }


def _given(request: Request) -> dict[str, JSON]:
    """The model as it came and the data, by their hashes."""
    model = request.models[0]
    return {
        "model": model.path.name,
        "sha256": model.sha256,
        "arch": model.arch,
        "data": _data(request, "data"),
        "train": _data(request, "training"),
    }


def _data(request: Request, which: str) -> JSON:
    data = request.data if which == "data" else request.training
    if data is None:
        return None
    return {"source": Path(data.source).name, "sha256": list[JSON](data_hashes(data))}


def _step(state: StepState) -> JSON:
    model = state.model
    assert model is not None
    return {
        "name": state.name,
        "typed": state.step.typed,
        "made_by": dict[str, JSON](state.provenance),
        "format": model.format,
        "precision": model.precision,
        "sha256": model.sha256,
        "bytes": model.bytes,
    }


def _figures(records: Sequence[Record]) -> JSON:
    """Every bare metric with its interval, by the record that it stands in."""
    found: dict[str, JSON] = {}
    for record in records:
        bare = {name: metric for name, metric in record.metrics.items() if BARE.fullmatch(name)}
        if bare:
            found[record.by] = {name: metric_to_json(metric) for name, metric in bare.items()}
    return found
