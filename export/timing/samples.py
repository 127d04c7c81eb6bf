"""``latency.json``: every sample of a race, so that anyone may judge it again.

``read`` gives it back. Format 1::

    {"format": 1, "seed": 0, "threads": 2, "environment": {...}, "load": [1.2, 0.8, 0.5],
     "contenders": [{"name": "onnx", "format": "onnx/fp32", "way": "", "sha256": "...", "provider": "...",
                     "starts": [{"process_s": 0.1, "import_s": 0.2, "load_s": 0.1, "first_s": 0.01}],
                     "peak_memory_bytes": [1]}],
     "races": [{"batch": 1, "inputs": {"origin": "...", "rows": ["0"], "shapes": [{"x": [1, 3]}]},
                "shown": [0], "order": [[1, 0]], "nanoseconds": [[[[5, 6]]]], "control": null,
                "steady": true, "windows": [{"callers": 1, "calls": [[9]], "nanoseconds": [[100]]}]}]}
``nanoseconds`` is by contender, process, round and call; ``shown`` says which batch a round showed, ``order``
``nanoseconds`` is by contender, process, round and call; ``shown`` says which batch a round showed, ``order``
its visits as they came (the processes counted through, a control's visit last).
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from export.timing.race import Contender, Raced
from study.cores import cores
from study.record import JSON
from study.storage import write_text
from study.subject import Machine

if TYPE_CHECKING:
    from numpy.typing import NDArray

NAME = "latency.json"
FORMAT = 1


@dataclass(frozen=True, slots=True)
class Samples:
    """What ``latency.json`` holds of one batch size: nanoseconds (process, round, call) by contender."""

    batch: int
    names: tuple[str, ...]
    nanoseconds: "tuple[NDArray[np.int64], ...]"
    shown: tuple[int, ...]
    """Which batch each round showed."""
    order: tuple[tuple[int, ...], ...]


def read(path: Path) -> tuple[Samples, ...]:
    """The samples of each batch size of a ``latency.json``, or of the one in a step's folder."""
    data: dict[str, Any] = json.loads((path / NAME if path.is_dir() else path).read_text(encoding="utf-8"))
    if data["format"] != FORMAT:
        raise ValueError(f"{path} is of format {data['format']}, and this reads format {FORMAT}")
    names = tuple(one["name"] for one in data["contenders"])
    return tuple(
        Samples(
            race["batch"],
            names,
            tuple(np.array(times, dtype=np.int64) for times in race["nanoseconds"]),
            tuple(race["shown"]),
            tuple(map(tuple, race["order"])),
        )
        for race in data["races"]
    )


def keep(
    into: Path,
    raced: Sequence[Raced],
    machine: Machine,
    environment: dict[str, JSON],
) -> None:
    """Write ``latency.json``, on one line."""
    data: dict[str, JSON] = {
        "format": FORMAT,
        "seed": machine.seed,
        "threads": machine.threads or cores(),
        "environment": environment,
        "load": [round(load, 2) for load in os.getloadavg()] if hasattr(os, "getloadavg") else [],
        "contenders": [_contender(one, raced[0], number) for number, one in enumerate(raced[0].contenders)],
        "races": [_race(one) for one in raced],
    }
    write_text(into / NAME, json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":")))


def _contender(one: Contender, raced: Raced, number: int) -> JSON:
    runner = raced.runners[number]
    return {
        "name": one.name,
        "format": one.model.artifact,
        "way": one.way,
        "sha256": one.model.sha256,
        "provider": runner.started[0].provider,
        "starts": [
            {
                "process_s": started.process_s,
                "import_s": started.import_s,
                "load_s": started.load_s,
                "first_s": warmed.first_s,
            }
            for started, warmed in zip(runner.started, runner.warm, strict=True)
        ],
        "peak_memory_bytes": list[JSON](runner.peaks),
    }


def _race(one: Raced) -> JSON:
    return {
        "batch": one.batch,
        "inputs": {
            "origin": one.inputs.origin,
            "rows": list[JSON](one.inputs.rows),
            "shapes": one.inputs.shapes,
        },
        "shown": list[JSON](one.shown),
        "order": [list[JSON](order) for order in one.order],
        "nanoseconds": [runner.nanoseconds.tolist() for runner in one.runners],
        "control": None if one.control is None else one.control.tolist(),
        "steady": one.steady,
        "windows": [
            {
                "callers": callers,
                "calls": [list[JSON](each.calls) for each in windows],
                "nanoseconds": [list[JSON](each.nanoseconds) for each in windows],
            }
            for callers, windows in one.windows
        ],
    }
