"""How much memory calibration takes: its peak with many images over that with few, for every calibrator.

    python benchmarks/calibration.py [--few 200] [--many 2000] [--pixels 64]

Each runs in a process of its own; the peak is the largest resident set that the system saw of it, beside that
of the same process before the first row.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:] = [place for place in sys.path if Path(place).resolve() != HERE]  # export.py hides the package

BATCH = 32
WIDTHS = (16, 32, 64, 64)


def main() -> None:
    """Print a line for each calibrator and number of images."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--few", type=int, default=200)
    parser.add_argument("--many", type=int, default=2000)
    parser.add_argument("--pixels", type=int, default=64)
    parser.add_argument("--child", nargs=3, default=None, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        path, method, images = asked.child
        print(json.dumps(measured(Path(path), method, int(images), asked.pixels)))
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.onnx"
        save_net(path, asked.pixels)
        for method in ("minmax", "percentile", "entropy"):
            peaks = {}
            for images in (asked.few, asked.many):
                words = ["--pixels", str(asked.pixels), "--child", str(path), method, str(images)]
                made = subprocess.run([sys.executable, __file__, *words], check=True, capture_output=True)
                told = json.loads(made.stdout.splitlines()[-1])
                peaks[images] = told["peak"]
                print(f"{method:10} {images:5} images: {told['peak'] / 1e6:.0f} MB, {told['seconds']:.0f} s")
            print(f"{method:10} ratio {peaks[asked.many] / peaks[asked.few]:.2f} (to reach: at most 2)")


def measured(path: Path, method: str, images: int, pixels: int) -> dict[str, float]:
    """The peak of this process in bytes, and how long calibration took."""
    from export.graphs.nodes import read_current, tidy
    from export.quantization.quantizing import calibrate, prepared

    class Images:
        """Random images, made as they are asked for, the same each time."""

        def __iter__(self) -> "Iterator[dict[str, np.ndarray]]":
            for start in range(0, images, BATCH):
                count = min(BATCH, images - start)
                drawn = np.random.default_rng(start).standard_normal((count, 3, pixels, pixels))
                yield {"x": drawn.astype(np.float32)}

    graph = read_current(path)
    tidy(graph)
    graph = prepared(graph)
    began = time.monotonic()
    calibrate(graph, Images(), method)
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"peak": float(peak), "seconds": time.monotonic() - began}


def save_net(path: Path, pixels: int) -> None:
    """Four convolutions and a linear layer, with random weights."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    nodes, weights, before, name = [], [], 3, "x"
    for place, width in enumerate(WIDTHS):
        drawn = rng.standard_normal((width, before, 3, 3)).astype(np.float32) / (3 * before**0.5)
        weights.append(numpy_helper.from_array(drawn, f"w{place}"))
        nodes.append(helper.make_node("Conv", [name, f"w{place}"], [f"h{place}"], pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"h{place}"], [f"r{place}"]))
        before, name = width, f"r{place}"
    weights.append(numpy_helper.from_array(rng.standard_normal((before, 10)).astype(np.float32), "head"))
    nodes += [
        helper.make_node("GlobalAveragePool", [name], ["pool"]),
        helper.make_node("Flatten", ["pool"], ["flat"]),
        helper.make_node("Gemm", ["flat", "head"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, pixels, pixels])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 10])],
        weights,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)


if __name__ == "__main__":
    main()
