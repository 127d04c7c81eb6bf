"""The attributions of one artifact in one file: ``attributions.npz``, without a pickle in it.

Arrays ``<method>/<input>`` (rows first), ``completeness:<method>``, ``baseline:<method>``, and ``ids`` and
``targets``, which all methods share.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from explain.method import Attribution, Explained
from study.storage import written

FILE = "attributions.npz"


def save(folder: Path, rows: Explained, attributions: Mapping[str, Attribution]) -> None:
    """Write them into an artifact's folder, whole or not at all."""
    arrays = {"ids": np.array(rows.ids, dtype=np.str_), "targets": rows.targets}
    for method, found in attributions.items():
        arrays |= {f"{method}/{name}": values for name, values in found.values.items()}
        arrays[f"baseline:{method}"] = np.array(found.baseline)
        if found.completeness is not None:
            arrays[f"completeness:{method}"] = found.completeness
    with written(folder / FILE) as beside, beside.open("wb") as stream:
        np.savez_compressed(stream, allow_pickle=False, **arrays)


def load(folder: Path) -> dict[str, Attribution]:
    """What was saved, by method; empty where nothing was."""
    path = folder / FILE
    if not path.exists():
        return {}
    with np.load(path, allow_pickle=False) as file:
        ids = tuple(str(name) for name in file["ids"])
        values: dict[str, dict[str, np.ndarray]] = {}
        for key in file.files:
            method, slash, name = key.partition("/")
            if slash:
                values.setdefault(method, {})[name] = file[key]
        return {
            method: Attribution(
                by=method,
                ids=ids,
                values=maps,
                completeness=file[key] if (key := f"completeness:{method}") in file.files else None,
                baseline=str(file[f"baseline:{method}"]),
            )
            for method, maps in values.items()
        }
