"""How much memory large checkpoints take: ``diag analyze`` and ``diag export``, beside the file's size.

    python benchmarks/memory.py [--gigabytes 1.5] [--only analyze|analyze-arch|analyze-data|export]

The peak is that of the command with all its child processes: resident pages, those of mapped files included,
counted once where processes share them (PSS), read every 50 ms.
"""

import argparse
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import torch

NET = """
from torch import nn


def build(layers, width=4096):
    parts = [part for _ in range(layers) for part in (nn.Linear(width, width, bias=False), nn.ReLU())]
    return nn.Sequential(*parts, nn.Linear(width, 10))
"""
WIDTH = 4096
LAYER = 4 * WIDTH * WIDTH
ROWS = 200
EVERY_S = 0.05


@dataclass(frozen=True)
class Peak:
    """Bytes at the highest, and how long the command took."""

    bytes: int
    seconds: float


def main() -> None:
    """Make a checkpoint, and measure each command on it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=1.5)
    parser.add_argument("--only", default="")
    asked = parser.parse_args()
    layers = max(1, round(asked.gigabytes * 1e9 / LAYER))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "big_net.py").write_text(NET)
        checkpoint = folder / "big.pt"
        state = {f"{2 * at}.weight": torch.randn(WIDTH, WIDTH) / WIDTH**0.5 for at in range(layers)}
        state |= {f"{2 * layers}.weight": torch.randn(10, WIDTH), f"{2 * layers}.bias": torch.zeros(10)}
        torch.save(state, checkpoint)
        del state
        size = checkpoint.stat().st_size
        rows = {"x": torch.randn(ROWS, WIDTH).numpy(), "y": torch.randint(10, (ROWS,)).numpy()}
        np.savez(folder / "rows.npz", **rows)
        arch = ["--arch", "big_net:build", "--arch-args", f'{{"layers": {layers}}}']
        commands = {
            "analyze": ["analyze", "big.pt"],
            "analyze-arch": ["analyze", "big.pt", *arch],
            "analyze-data": ["analyze", "big.pt", *arch, "--data", "rows.npz"],
            "export": ["export", "big.pt", *arch, "--shape", f"1x{WIDTH}"],
        }
        nothing = peak_of(["analyze", "--help"], folder)
        print(f"a checkpoint of {size / 1e9:.2f} GB; diag --help: {nothing.bytes / 1e9:.2f} GB")
        for what, words in commands.items():
            if asked.only in ("", what):
                peak = peak_of([*words, "--out", f"run-{what}", "--quiet"], folder)
                ratio = peak.bytes / size
                print(
                    f"{what:13} {peak.bytes / 1e9:.2f} GB, {ratio:.2f} times the file, {peak.seconds:.0f} s"
                )


def peak_of(words: list[str], folder: Path) -> Peak:
    """Run ``diag`` with these words, and watch it."""
    began = time.monotonic()
    command = [sys.executable, "-c", "from diag.cli import main; raise SystemExit(main())", *words]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL)
    done, peak = threading.Event(), 0
    while not done.is_set():
        peak = max(peak, resident(process.pid))
        if process.poll() is not None:
            done.set()
        time.sleep(EVERY_S)
    if process.returncode:
        raise SystemExit(f"diag {' '.join(words)} ended with {process.returncode}")
    return Peak(peak, time.monotonic() - began)


def resident(pid: int) -> int:
    """The bytes of a process and of all below it, shared pages counted once."""
    try:
        parent = psutil.Process(pid)
        return sum(_pss(one) for one in (parent, *parent.children(recursive=True)))
    except psutil.NoSuchProcess:
        return 0


def _pss(process: psutil.Process) -> int:
    try:
        return int(process.memory_full_info().pss)
    except psutil.Error:
        return 0


if __name__ == "__main__":
    main()
