"""What ``diag optimize`` ships beside torch eager, plain ONNX, int8 alone, and Olive's int8 of the same.

    python benchmarks/export.py --work FOLDER --cifar CIFAR.npz [--olive PYTHON] [--only resnet18,cnn]

Models are trained once and kept in the folder; everything is measured again. ``--olive`` names the Python of
an environment that has ``olive-ai``; without it those rows are left out. The CIFAR file holds ``x`` (rows of
32x32x3 bytes) and ``y``.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import binomtest

HERE = Path(__file__).resolve().parent
NETS = HERE / "nets"
sys.path[0] = str(NETS)  # this file's own folder would hide the package ``export``
SAMPLES = HERE.parent / "samples"
TOKENS, VOCABULARY = 128, 30522
CALIBRATION = 200


@dataclass(frozen=True)
class Case:
    """A model, how it is made, and what its search may lose."""

    name: str
    arch: str
    make: Callable[[Path, argparse.Namespace], None]
    folder: Path
    options: tuple[str, ...] = ()
    budgets: tuple[str, ...] = ("--max-drop", "2", "--max-flips", "0.5%")
    steps: str = "onnx,(int8|int8-dynamic)"
    prunes: bool = True
    """The search sees the training rows; without them it quantizes alone."""
    times: float = 0.0
    """How many times as fast as torch eager the search has to become; 0: as fast as the budgets allow."""


def make_resnet(work: Path, asked: argparse.Namespace) -> None:
    """1,600 rows to train on and 400 to judge, enlarged to 224x224; some twenty minutes of one core."""
    from trained import train_resnet

    with np.load(asked.cifar) as arrays:
        x, y = arrays["x"], arrays["y"].astype(np.int64)
    np.savez(work / "train.npz", x=x[:1600], y=y[:1600])
    np.savez(work / "test.npz", x=x[1600:2000], y=y[1600:2000])
    train_resnet(work / "train.npz", work / "test.npz", work / "model.pt")


def make_sample(name: str) -> Callable[[Path, argparse.Namespace], None]:
    """What the sample's own training writes."""

    def make(work: Path, _: argparse.Namespace) -> None:
        subprocess.run([sys.executable, str(SAMPLES / name / "train.py"), "--out", str(work)], check=True)

    return make


def make_encoder(work: Path, _: argparse.Namespace) -> None:
    """Random weights and random tokens: latency and error, no accuracy."""
    import nets
    import torch

    torch.save(nets.encoder().state_dict(), work / "model.pt")
    generator = np.random.default_rng(0)
    for name, rows in (("train", CALIBRATION), ("test", 200)):
        np.savez(work / f"{name}.npz", x=generator.integers(1000, VOCABULARY, (rows, TOKENS)))


CASES = (
    Case(
        "resnet18",
        "nets:resnet18",
        make_resnet,
        NETS,
        ("--preprocess", "nets:enlarged"),
        ("--max-drop", "2", "--recovery", "epochs=30:seconds=1500:features=1:augment=flip+shift"),
        times=8.5,
    ),
    Case("lstm", "train:row_reader", make_sample("digits_lstm"), SAMPLES / "digits_lstm"),
    Case("cnn", "train:digits_cnn", make_sample("digits_cnn"), SAMPLES / "digits_cnn"),
    Case(
        "encoder",
        "nets:encoder",
        make_encoder,
        NETS,
        ("--unlabelled",),
        ("--max-flips", "1%"),
        prunes=False,
    ),
)


def diag(case: Case, work: Path, *words: str) -> float:
    """Run the command as a user does; the seconds that it took."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE.parent), str(case.folder)])}
    began = time.perf_counter()
    command = [sys.executable, "-m", "diag.cli", *words, "--quiet", "--force"]
    done = subprocess.run(command, cwd=work, env=environment, check=False)
    if done.returncode not in (0, 1):
        raise SystemExit(f"diag {' '.join(words)} ended with {done.returncode}")
    return time.perf_counter() - began


def inputs(case: Case, rows: Path) -> np.ndarray:
    """The rows as the model takes them."""
    import nets

    with np.load(rows) as arrays:
        x = arrays["x"]
    return np.stack([nets.enlarged(row)["x"] for row in x]) if "--preprocess" in case.options else x


def outputs(model: Path, x: np.ndarray) -> np.ndarray:
    """What an ONNX model says, ten rows at a time."""
    import onnxruntime

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return np.concatenate(
        [session.run(None, {name: x[start : start + 10]})[0] for start in range(0, len(x), 10)]
    )


def torch_outputs(case: Case, work: Path, x: np.ndarray) -> np.ndarray:
    """What the module says."""
    import torch

    sys.path.insert(0, str(case.folder))
    module = __import__(case.arch.partition(":")[0])
    net = getattr(module, case.arch.partition(":")[2])()
    sys.path.pop(0)
    sys.modules.pop("train", None)
    net.load_state_dict(torch.load(work / "model.pt", weights_only=True))
    net.eval()
    with torch.inference_mode():
        return np.concatenate(
            [net(torch.from_numpy(x[start : start + 10])).numpy() for start in range(0, len(x), 10)]
        )


@dataclass(frozen=True)
class Faith:
    """How far an artifact is from the module on the judged rows."""

    changed: int
    rows: int
    error: float
    drop: tuple[float, float, float] | None

    def __str__(self) -> str:
        most = binomtest(self.changed, self.rows).proportion_ci(0.95, "exact").high
        text = f"{self.changed}/{self.rows} decisions changed (at most {most:.2%})"
        text += f", output error {self.error:.2%}"
        if self.drop:
            text += ", accuracy fell by {:.2f} points [{:.2f}, {:.2f}]".format(*self.drop)
        return text


def faith(wanted: np.ndarray, got: np.ndarray, truth: np.ndarray | None, seed: int = 0) -> Faith:
    """Decisions, the relative error of the outputs, and the paired drop with its bootstrap interval."""
    error = float(np.linalg.norm(wanted - got) / np.linalg.norm(wanted))
    before, after = wanted.argmax(1), got.argmax(1)
    drop = None
    if truth is not None:
        lost = 100.0 * ((before == truth).astype(float) - (after == truth))
        picked = np.random.default_rng(seed).integers(0, len(lost), (4000, len(lost)))
        low, high = np.quantile(lost[picked].mean(axis=1), [0.025, 0.975])
        drop = (float(lost.mean()), float(low), float(high))
    return Faith(int((before != after).sum()), len(before), error, drop)


def olive(python: str, work: Path, plain: Path, x: np.ndarray, name: str) -> dict[str, Path]:
    """Olive's artifacts, by name; what failed is printed."""
    np.savez(work / "calibration.npz", **{name: x})
    environment = {**os.environ, "OLIVE_DISABLE_TELEMETRY": "1"}
    words = [python, str(HERE / "olive_int8.py"), str(plain), str(work / "calibration.npz"), str(work)]
    subprocess.run(words, env=environment, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    found: dict[str, Path] = {}
    for way, told in json.loads((work / "olive.json").read_text()).items():
        if "model" in told:
            found[f"olive_{way}"] = Path(told["model"])
            print(f"  Olive {way}: {told['seconds']:.0f} s")
        else:
            print(f"  Olive {way} failed: {told['failed'][:200]}")
    return found


def records_of(run: Path) -> dict[str, dict[str, Any]]:
    """The record of the clock, by step."""
    report = json.loads((run / "report.json").read_text())
    return {
        step["name"]: next(record for record in step["records"] if record["by"] == "latency")
        for step in report["steps"]
    }


def speedups(run: Path) -> dict[str, tuple[str, ...]]:
    """Of each artifact, its latency and how many times faster it is than each one before it."""
    told = {}
    for name, record in records_of(run).items():
        lines = [
            f"{metric} {_interval(one)}"
            for metric, one in record["metrics"].items()
            if metric.startswith(("latency_p50", "speedup"))
        ]
        told[name] = (*lines, record["summary"])
    return told


def _interval(metric: dict[str, float]) -> str:
    return f"{metric['value']:.3g} [{metric['low']:.3g}, {metric['high']:.3g}] {metric['unit']}"


def measure(case: Case, asked: argparse.Namespace) -> None:
    """One model, all sides."""
    work = asked.work / case.name
    work.mkdir(parents=True, exist_ok=True)
    if not (work / "model.pt").exists():
        case.make(work, asked)
    print(f"{case.name}", flush=True)
    given = ("model.pt", "--arch", case.arch, "--data", "test.npz", *case.options)
    make_ours(case, work, given, keep=asked.keep)
    placed = {}
    for step, path in artifacts_of(case, work, asked.olive).items():
        placed[step] = work / f"{step}.onnx"
        placed[step].write_bytes(path.read_bytes())
    files = [path.name for path in placed.values()]
    diag(case, work, "benchmark", "model.pt", *files, *given[1:], "--out", "timed")
    x = inputs(case, work / "test.npz")
    with np.load(work / "test.npz") as arrays:
        truth = arrays.get("y")
    wanted = torch_outputs(case, work, x)
    for step, lines in speedups(work / "timed").items():
        print(f"  {step}")
        if step in placed:
            print(f"    {faith(wanted, outputs(placed[step], x), truth)}")
        for line in lines:
            print(f"    {line}")
    sys.stdout.flush()


def make_ours(case: Case, work: Path, given: tuple[str, ...], *, keep: bool) -> None:
    """ONNX and eight bits alone, and what the search ships; the seconds that each takes."""
    trained = (*given, "--train", "train.npz")
    if not (keep and (work / "plain" / "report.json").exists()):
        took = diag(case, work, "export", *trained, "--steps", case.steps, "--out", "plain")
        print(f"  onnx and int8 alone: {took:.0f} s")
    budgets = case.budgets
    if case.times:
        diag(case, work, "benchmark", *given, "--out", "eager")
        eager = records_of(work / "eager")["as_it_came"]["metrics"]["latency_p50_ms"]["value"]
        budgets += ("--max-latency", f"{eager / case.times:.3g}ms")
    rows = trained if case.prunes else given
    took = diag(case, work, "optimize", *rows, *budgets, "--out", "optimized")
    print(f"  diag optimize {' '.join(budgets)}: {took:.0f} s", flush=True)


def artifacts_of(case: Case, work: Path, peer: str) -> dict[str, Path]:
    """Ours and, where ``peer`` is a Python with Olive, its own, by name."""
    import onnxruntime

    plain = next((work / "plain").glob("*_onnx/model.onnx"))
    artifacts = {"onnx": plain}
    for step in ("int8", "int8_dynamic"):
        artifacts.update((step, path) for path in (work / "plain").glob(f"*_{step}/model.onnx"))
    if peer:
        name = onnxruntime.InferenceSession(plain, providers=["CPUExecutionProvider"]).get_inputs()[0].name
        artifacts |= olive(peer, work, plain, inputs(case, work / "train.npz")[:CALIBRATION], name)
    if (work / "optimized" / "model.onnx").exists():
        artifacts["optimized"] = work / "optimized" / "model.onnx"
    return artifacts


TEXTS = "text_bert"
TOLD = ("accuracy", "accuracy@change", "agreement", "negative_flip_rate", "latency_p50_ms")


def measure_texts(asked: argparse.Namespace) -> None:
    """The trained BERT of the samples: what eight bits cost it, on the texts that judge it."""
    work = asked.work / TEXTS
    work.mkdir(parents=True, exist_ok=True)
    if not (work / "bert").exists():
        make_sample(TEXTS)(work, asked)
    case = Case(TEXTS, "", make_sample(TEXTS), SAMPLES / TEXTS)
    columns = ("--label", "package", "--group", "module", "--max-tokens", "64")
    rows = ("--data", "test.csv", "--train", "train.csv")
    diag(case, work, "run", "bert", *rows, *columns, "--steps", "onnx,(int8|int8-dynamic)", "--out", "plain")
    print(TEXTS)
    for step in json.loads((work / "plain" / "report.json").read_text())["steps"]:
        metrics = {name: one for record in step["records"] for name, one in record["metrics"].items()}
        told = [f"{name} {_interval(metrics[name])}" for name in metrics if name in TOLD or "speedup" in name]
        print(f"  {step['name']}: {', '.join(told)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--cifar", type=Path)
    parser.add_argument("--olive", default="")
    parser.add_argument("--keep", action="store_true", help="what was exported before is not made again")
    parser.add_argument("--only", default=",".join([*(case.name for case in CASES), TEXTS]))
    asked = parser.parse_args()
    asked.work = asked.work.resolve()
    for case in CASES:
        if case.name in asked.only.split(","):
            measure(case, asked)
    if TEXTS in asked.only.split(","):
        measure_texts(asked)


if __name__ == "__main__":
    main()
