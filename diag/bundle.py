"""How a finished run's chosen artifact came about: what its deployment bundle says of it."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from diag.environment import environment
from diag.request import Request, data_hashes
from diag.state import State, StepState
from study.record import JSON, Record, metric_to_json
from study.storage import RunFolder

BARE: Final = re.compile(r"[a-z0-9_]+")
"""Metric names that mean the same everywhere."""


def provenance(state: State, request: Request, folder: RunFolder, chosen: int) -> dict[str, JSON]:
    """The steps that lead to an artifact, all hashes, seeds, the environment, and the figures of its look."""
    line = [chosen]
    while (parent := state.steps[line[0]].step.parent) is not None:
        line.insert(0, parent)
    facts = dict(state.facts)
    return {
        "command": state.command,
        "seed": request.machine.seed,
        "subject": {**facts, **state_of(request)},
        "steps": [_step(state.steps[index]) for index in line],
        "figures": _figures(folder.records(state.steps[chosen].folder) or ()),
        "environment": environment(request),
        "providers_used": list[JSON](sorted(state.providers)),
        "notes": [*request.plan.notes, *request.notes, *state.notes],
    }


def state_of(request: Request) -> dict[str, JSON]:
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
