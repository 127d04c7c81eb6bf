"""Whether the verdicts of a latency race can be believed: an artifact beside itself, and beside slower ones.

Every comparison is a whole race with fresh processes, as ``diag benchmark`` runs it. The artifact is an ONNX
of equal convolutions one after the other; slower ones have more of them, and how much slower that is, is what
the races of that kind measured in the middle. Asked for: of 40 comparisons with itself at most 2 called
different; one slower by max(5 %, 3 x the noise floor) found in at least 36 of 40.
"""

import argparse
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from statistics import median

import numpy as np

from study.loading.sniff import identify
from study.progress import Progress
from study.subject import InputSpec, Machine, Model, Subject
from study.worker import Child, Inline

HERE = Path(__file__).resolve().parent
sys.path[:] = [place for place in sys.path if Path(place).resolve() != HERE]  # export.py hides the package
LAYERS, CHANNELS, SIZE = 100, 16, 10
COMPARISONS = 40
PROCESSES = 2
CURVE = (0.5, 0.75, 1.5)
"""Further points of the power curve, as multiples of the difference that must be found."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one race said: the word, the measured ratio, and the noise floor."""

    word: str
    ratio: float
    floor: float


def convolutions(path: Path, layers: int) -> Model:
    """An ONNX of so many 3x3 convolutions with a ReLU each."""
    from onnx import TensorProto, helper, numpy_helper, save

    rng = np.random.default_rng(0)
    shape = (CHANNELS, CHANNELS, 3, 3)
    weights = [rng.normal(size=shape).astype(np.float32) / CHANNELS for _ in range(layers)]
    nodes, name = [], "x"
    for number in range(layers):
        nodes.append(helper.make_node("Conv", [name, f"w{number}"], [f"c{number}"], pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"c{number}"], [f"r{number}"]))
        name = f"r{number}"
    axes = ["b", CHANNELS, SIZE, SIZE]
    made = helper.make_graph(
        nodes,
        "convolutions",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, axes)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, axes)],
        [numpy_helper.from_array(array, f"w{number}") for number, array in enumerate(weights)],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    save(model, str(path))
    return identify(path)


def compared(first: Model, second: Model, seed: int, threads: int, log: Path) -> Verdict:
    """One race of two artifacts, in fresh processes."""
    from export.timing.race import RULES, Contender
    from export.timing.record import race

    machine = Machine(threads=threads, seed=seed)
    inputs = (InputSpec("x", (None, CHANNELS, SIZE, SIZE), "float32"),)
    variables = {"OMP_NUM_THREADS": str(threads)}
    with ExitStack() as stack:
        contenders = [
            Contender(
                name,
                model,
                Subject(model, inputs=inputs),
                Inline(),
                tuple(stack.enter_context(Child(name, log, (), variables)) for _ in range(PROCESSES)),
            )
            for name, model in (("first", first), ("second", second))
        ]
        record = race(contenders, machine, (1,), Progress(), replace(RULES, windows=0, callers=()))
    words = ("no measurable difference", "faster", "slower")
    word = next(word for word in words if f"second: {word} " in record.summary)
    speedup = next(metric for name, metric in record.metrics.items() if name.startswith("speedup"))
    verdict = Verdict(word, speedup.value, record.metrics["latency_noise_floor"].value)
    print(f"{1 / verdict.ratio - 1:+.2%} floor {verdict.floor:.2%} {word}", file=sys.stderr, flush=True)
    return verdict


def told(what: str, verdicts: Sequence[Verdict]) -> str:
    """One line of the table."""
    words = Counter(verdict.word for verdict in verdicts)
    slower = 1 / median(verdict.ratio for verdict in verdicts) - 1
    floors = sorted(verdict.floor for verdict in verdicts)
    spread = f"{floors[0]:.1%} / {median(floors):.1%} / {floors[-1]:.1%}"
    counts = f"{words['slower']:>6} {words['faster']:>6} {words['no measurable difference']:>13}"
    return f"{what:<28} {len(verdicts):>5} {slower:>+10.1%} {counts}   {spread}"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--comparisons", type=int, default=COMPARISONS)
    options = parser.parse_args()
    count, began = options.comparisons, time.perf_counter()
    load = os.getloadavg()[0]
    print(f"{os.cpu_count()} cores, load {load:.1f} at the start, {options.threads} thread(s) a process")
    if load > (os.cpu_count() or 1) * 0.5:
        print("! Others use this machine: floors are wider than on an idle one.")
    heads = f"{'second artifact':<28} {'races':>5} {'measured':>10} slower faster no difference"
    print(f"{heads}   floor least / median / most", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        log, plain = work / "log.txt", convolutions(work / "plain.onnx", LAYERS)
        same = [compared(plain, plain, seed, options.threads, log) for seed in range(count)]
        print(told("the same file", same), flush=True)
        aim = max(0.05, 3 * median(verdict.floor for verdict in same))
        found: list[Verdict] = []
        for number, times in enumerate((1.0, *CURVE)):
            layers = LAYERS + ceil(LAYERS * aim * times)
            slow = convolutions(work / f"slow{number}.onnx", layers)
            races = count if times == 1.0 else count // 4
            verdicts = [compared(plain, slow, seed, options.threads, log) for seed in range(races)]
            found = found or verdicts
            print(told(f"{layers} layers for {LAYERS} ({times:g} x aim)", verdicts), flush=True)
    different = sum(verdict.word != "no measurable difference" for verdict in same)
    slower = sum(verdict.word == "slower" for verdict in found)
    print(f"difference that must be found: max(5 %, 3 x median floor) = {aim:.1%}")
    print(f"called different from itself: {different} of {count} (at most {count // 20})")
    print(f"found slower: {slower} of {count} (at least {count * 9 // 10})")
    print(f"load {os.getloadavg()[0]:.1f} at the end, {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
