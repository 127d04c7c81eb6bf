"""A vocabulary of 50,000 tokens: predictions and divergence, in less memory than all logits take."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
VOCABULARY, TEXTS, WORDS = 50_000, 200, 64
NET = f"""
from torch import nn

class Wide(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = nn.Embedding({VOCABULARY}, 8), nn.Linear(8, {VOCABULARY})

    def forward(self, x):
        return self.decoder(self.encoder(x))
"""
PEAK = """
import resource, subprocess, sys
done = subprocess.run([sys.executable, "-m", "diag.cli", *sys.argv[1:]])
print("peak", resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(done.returncode)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in kilobytes on Linux alone")
def test_all_logits_are_never_in_memory(tmp_path: Path) -> None:
    (tmp_path / "wide_nets.py").write_text(NET)
    words = [f"w{at}" for at in range(VOCABULARY)]
    (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n")
    random = np.random.default_rng(0)
    texts = [" ".join(random.choice(words, WORDS)) for _ in range(TEXTS)]
    pl.DataFrame({"text": texts}).write_ndjson(tmp_path / "texts.jsonl")
    weights = {
        "encoder.weight": torch.zeros(VOCABULARY, 8),
        "decoder.weight": torch.zeros(VOCABULARY, 8),
        "decoder.bias": torch.linspace(-1, 1, VOCABULARY),
    }
    torch.save(weights, tmp_path / "model.pt")
    typed = (
        "run model.pt --arch wide_nets:Wide --data texts.jsonl --tokenizer vocab.txt --pad 0 --task language"
    )
    done = subprocess.run(
        [sys.executable, "-c", PEAK, *typed.split(), "--steps", "onnx", "--out", "run"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len(pl.read_parquet(tmp_path / "run" / "01_onnx" / "divergence.parquet")) == TEXTS
    peak = int(done.stdout.rpartition("peak ")[2]) * 1024
    every = TEXTS * WORDS * VOCABULARY * 4
    assert peak < 0.75 * every, f"{peak / 1e9:.2f} GB, and all logits of one model are {every / 1e9:.2f} GB"
