"""Olive's int8 of an ONNX model, static and dynamic; run by an environment of its own that has ``olive-ai``.

python olive_int8.py MODEL.onnx CALIBRATION.npz OUT_FOLDER
"""

import json
import shutil
import sys
import time
from pathlib import Path

import numpy as np
from olive.data.registry import Registry
from olive.workflows import run

WAYS = {"static": "OnnxStaticQuantization", "dynamic": "OnnxDynamicQuantization"}


class Rows:
    """The calibration rows, one at a time, as Olive's loaders give them."""

    def __init__(self, path: str) -> None:
        with np.load(path) as arrays:
            self.arrays = dict(arrays)

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    def __getitem__(self, row: int) -> tuple[dict[str, np.ndarray], int]:
        return {name: array[row] for name, array in self.arrays.items()}, 0


@Registry.register_dataset()
def calibration_rows(data_dir: str, **_: object) -> Rows:
    return Rows(data_dir)


def quantize(model: Path, rows: Path, out: Path, way: str) -> dict[str, object]:
    """One of Olive's passes with its own defaults; what it took, or why it failed."""
    work = out / f"olive-{way}"
    shutil.rmtree(work, ignore_errors=True)
    settings: dict[str, object] = {"type": WAYS[way]}
    config: dict[str, object] = {
        "input_model": {"type": "OnnxModel", "model_path": str(model)},
        "passes": {"q": settings},
        "output_dir": str(work),
        "cache_dir": str(out / f"cache-{way}"),
        "evaluate_input_model": False,
        "log_severity_level": 3,
    }
    if way == "static":
        read = {"type": "calibration_rows", "params": {"data_dir": str(rows)}}
        config["data_configs"] = [{"name": "rows", "type": "DataContainer", "load_dataset_config": read}]
        settings["data_config"] = "rows"
    began = time.perf_counter()
    try:
        run(config)
        made = next(work.rglob("*.onnx"))
    except Exception as error:  # noqa: BLE001 - whatever the peer raises is its result
        return {"failed": f"{type(error).__name__}: {error}"}
    target = out / f"olive_{way}.onnx"
    shutil.copyfile(made, target)
    return {"model": str(target), "seconds": time.perf_counter() - began}


def main() -> None:
    model, rows, out = (Path(one).resolve() for one in sys.argv[1:])
    found = {way: quantize(model, rows, out, way) for way in WAYS}
    (out / "olive.json").write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
