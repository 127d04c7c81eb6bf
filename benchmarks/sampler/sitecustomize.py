"""Loaded by every Python process that finds this folder on its path: what does its main thread do?

A thread looks at the main thread's stack some 200 times a second and adds the time since its last look to
what it sees. It writes the sums when the process ends.
"""

import atexit
import json
import os
import sys
import threading
import time
from pathlib import Path

EVERY_S = 0.005
KEEP_EVERY_S = 0.1
"""A worker ends without Python's own farewell: what it did is kept as it goes."""
OUT = os.environ.get("DIAG_SAMPLES")

IMPORTS = ("<frozen importlib._bootstrap>", "<frozen importlib._bootstrap_external>")
LIBRARIES = (
    "/torch/onnx/",
    "/torch/export/",
    "/onnxscript/",
    "/onnx_ir/",
    "/onnx/",
    "/onnxruntime/quantization/",
    "/onnxruntime/transformers/",
    "/torch_pruning/",
    "/torch/_export/",
    "/torch/_functorch/",
)
OPENING = ("/onnxruntime/capi/onnxruntime_inference_collection.py:_create_inference_session",)
MODEL = (
    "/study/runtimes/pytorch.py",
    "/study/runtimes/ort.py",
    "/captum/",
    "/study/training.py",
    "/torch/nn/modules/module.py:_call_impl",
    "/torch/autograd/",
    "/onnxruntime/capi/onnxruntime_inference_collection.py:run",
)
WAITING = (
    *("/multiprocessing/connection.py:", "/selectors.py:select", "/subprocess.py:"),
    *("/socket.py:recv_fds", "/study/nursery.py:wait", "/study/nursery.py:_answer"),
)


def kind(stack):
    """What a stack, innermost first, is busy with."""
    if any(mark in stack[0] for mark in WAITING):
        return "waiting"
    if any(frame.startswith(IMPORTS) for frame in stack):
        return "starts and imports"
    if any(mark in frame for frame in stack for mark in (*LIBRARIES, *OPENING)):
        return "library calls"
    if any(mark in frame for frame in stack for mark in MODEL):
        return "model passes"
    ours = next(
        (f for f in stack if any(f"/{p}/" in f for p in ("study", "diagnose", "explain", "export", "diag"))),
        stack[0],
    )
    return "rest: " + "/".join(ours.rsplit("/", 2)[-2:])


def frames(frame):
    found = []
    while frame is not None:
        found.append(f"{frame.f_code.co_filename}:{frame.f_code.co_name}")
        frame = frame.f_back
    return found


def watch(main, sums):
    last = kept = time.perf_counter()
    while True:
        time.sleep(EVERY_S)
        frame = sys._current_frames().get(main)
        now = time.perf_counter()
        if frame is not None:
            name = kind(frames(frame))
            sums[name] = sums.get(name, 0.0) + now - last
        last = now
        if now - kept > KEEP_EVERY_S:
            keep(sums)
            kept = now


def keep(sums):
    beside = Path(OUT, f".{os.getpid()}")
    beside.write_text(json.dumps(sums))
    beside.replace(Path(OUT, f"{os.getpid()}.json"))


def started_s():
    """Seconds that this process took until it came here, by the kernel's clock."""
    ticks = int(Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()[19])
    return float(Path("/proc/uptime").read_text().split()[0]) - ticks / os.sysconf("SC_CLK_TCK")


def begin(sums):
    threading.Thread(target=watch, args=(threading.main_thread().ident, sums), daemon=True).start()
    atexit.register(keep, sums)


if OUT:
    begin({"starts and imports": started_s()})
    os.register_at_fork(after_in_child=lambda: begin({}))
