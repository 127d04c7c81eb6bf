"""Diagnose, explain, shrink and time a trained PyTorch model; look again after every step.

``import diag; diag.run(model, data, steps=["onnx", "int8"])`` does what ``diag run`` does, and so do
``analyze``, ``explain``, ``export``, ``benchmark``, ``optimize``, ``compare`` and ``report``.
"""

from diag.api import analyze, benchmark, compare, explain, export, optimize, report, run
from diag.options import Options

__all__ = ["Options", "analyze", "benchmark", "compare", "explain", "export", "optimize", "report", "run"]
