"""Where the time of ``diag run`` goes: starts and imports, model passes, library calls, the rest.

The real command runs in its real processes; a sampling thread in each (``sampler/sitecustomize.py``) says
what its main thread does. Waiting for another process is not counted: that time is counted where it is spent.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

HERE = Path(__file__).parent
SAMPLES = HERE.parent / "samples"
KINDS = ("starts and imports", "model passes", "library calls")


def measure(name: str, arch: str, steps: str) -> tuple[float, Counter[str], int]:
    """Train the sample where it is not, run the chain on it, and add up what its processes did."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        quiet = {"check": True, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        subprocess.run([sys.executable, str(SAMPLES / name / "train.py"), "--out", folder], **quiet)
        (work / "sums").mkdir()
        paths = os.pathsep.join([str(HERE / "sampler"), str(SAMPLES / name)])
        environment = {**os.environ, "PYTHONPATH": paths, "DIAG_SAMPLES": str(work / "sums")}
        command = [sys.executable, "-m", "diag.cli", "run", "model.pt", "--arch", arch, "--data", "test.npz"]
        command += ["--train", "train.npz", "--steps", steps, "--out", "run", "--quiet"]
        began = time.perf_counter()
        subprocess.run(command, cwd=work, env=environment, **quiet)
        took = time.perf_counter() - began
        sums: Counter[str] = Counter()
        files = list((work / "sums").glob("*.json"))
        for file in files:
            sums.update(json.loads(file.read_text()))
        return took, sums, len(files)


def main() -> None:
    steps = sys.argv[1] if len(sys.argv) > 1 else "onnx,int8"
    for name, arch in (("digits_cnn", "train:digits_cnn"), ("digits_resnet", "train:resnet18")):
        took, sums, processes = measure(name, arch, steps)
        busy = sum(seconds for kind, seconds in sums.items() if kind != "waiting")
        rest = busy - sum(sums[kind] for kind in KINDS)
        print(f"{name}, {steps}: {took:.1f} s in {processes} processes, {busy:.1f} s of work")
        for kind in KINDS:
            print(f"  {kind:<20} {sums[kind]:6.1f} s  {sums[kind] / busy:5.1%}")
        print(f"  {'the rest':<20} {rest:6.1f} s  {rest / busy:5.1%}  (aim: under 10 %)")
        for kind, seconds in sums.most_common():
            if kind.startswith("rest: ") and seconds > 0.004 * busy:
                print(f"    {kind.removeprefix('rest: '):<50} {seconds:5.1f} s")


if __name__ == "__main__":
    main()
