"""A report as `diag run` would write it, made by hand: four steps in two branches, and hostile names."""

import math
import random
import struct
import zlib
from pathlib import Path

from diag.render.report import ModelFacts, Report, Step, SubjectFacts
from study.record import Cell, Finding, Metric, Picture, Record, Table, Verdict

SCRIPT = "<script>alert(1)</script>"
IMAGE = '"><img src=x onerror=alert(1)>'
MARKED = "a|b `c` [d](http://evil.test) **e**\n# f"
ARABIC = "خطاب موحّد"
CHINESE = "很长的类别名称"
EMOJI = "🦊 fox 👩‍👩‍👧"
OVERRIDE = "safe\u202egnp.exe"
TERMINAL = "\x1b[31mred\x07"
HOSTILE = (SCRIPT, IMAGE, MARKED, ARABIC, CHINESE, EMOJI, OVERRIDE, TERMINAL)
CLASSES = (*HOSTILE, "a class name that is much longer than any label of a chart has room for", "9")
ROWS = 360
ACCURACY = {"as_it_came": 0.9833, "onnx": 0.9833, "int8": 0.9667, "fp16": 0.9833}
LATENCY = {"as_it_came": 0.412, "onnx": 0.133, "int8": 0.0712, "fp16": 0.141}
BYTES = {"as_it_came": 1_742_331, "onnx": 1_735_112, "int8": 441_870, "fp16": 869_204}


def make(folder: Path) -> Report:
    """The report, its pictures written below the folder."""
    steps = [
        _step("as_it_came", None, folder),
        _step("onnx", "as_it_came", folder),
        _step("int8", "onnx", folder),
        _step("fp16", "onnx", folder),
        Step(
            "prune_0_3",
            "as_it_came",
            None,
            (Record.skipped("prune:0.3", "pruning needs the eager module, and only TorchScript is at hand"),),
        ),
    ]
    return Report(
        subject=SubjectFacts("model.pt", "3f9a" * 16, "classification", CLASSES, ROWS),
        steps=tuple(steps),
        environment={
            "command": "diag run model.pt --data judged.npz --steps 'onnx,(int8|fp16)'",
            "run": "diag-runs/model-3f9a1c",
            "plan": ["onnx", "int8", "fp16", "prune:0.3"],
            "device": "cpu",
            "threads": 1,
            "seed": 0,
            "isa": ["avx2", "avx512f", "avx512_vnni"],
            "versions": {"diag": "0.1.0", "torch": "2.13.0", "onnxruntime": "1.31.1", "python": "3.11.2"},
            "providers": {"asked": "CPUExecutionProvider", "used": "CPUExecutionProvider"},
            "notes": [
                "The outputs are taken for logits of 10 classes (task classification).",
                "72 of 432 rows were held back for calibration.",
                f"The labels were read in sorted order: {', '.join(CLASSES[:3])} and 7 more.",
            ],
        },
    )


def _step(name: str, parent: str | None, folder: Path) -> Step:
    rng = random.Random(name)
    path = "model.pt" if parent is None else f"0{list(ACCURACY).index(name)}_{name}/model.onnx"
    records = [
        _weights(name), _accuracy(name, rng), _confusion(name, rng), _calibration(name, rng), _slices(name),
        _errors(name), _occlusion(name, folder), _latency(name, rng), _size(name),
        Record.skipped("robustness", "corruptions are for images, and the rows are tables"),
    ]  # fmt: skip
    if parent is not None:
        records += [_agreement(name), _drift(name), _audit(name)]
    kind = "pytorch" if parent is None else "onnx"
    return Step(
        name,
        parent,
        ModelFacts(path, kind, name.encode().hex().ljust(64, "0")[:64], BYTES[name]),
        tuple(records),
    )


def _weights(name: str) -> Record:
    if name != "int8":
        return Record("weights", Verdict.GOOD, "All 421,642 weights are finite and no unit is dead.")
    found = Finding(
        what="12 of 64 output channels of conv2 quantize to one scale although their ranges differ 41-fold",
        where="conv2.weight", rows=0, effect=Metric(41.0, 38.2, 44.1, 64, "x", "lower"), certainty=0.9993,
        cause="one outlying weight in channel 17 sets the range of the whole tensor",
        do="quantize conv2 per channel, or leave it in fp16",
        show="diag run model.pt --data judged.npz --steps int8 --only weights",
    )  # fmt: skip
    return Record("weights", Verdict.BAD, "One tensor loses most of its resolution.", findings=(found,))


def _accuracy(name: str, rng: random.Random) -> Record:
    value = ACCURACY[name]
    metrics = {
        "accuracy": Metric(value, value - 0.0192, value + 0.0091, ROWS, "", "higher"),
        "macro_f1": Metric(value - 0.0012, value - 0.021, value + 0.008, ROWS, "", "higher"),
        "auroc": Metric(0.99931, 0.99852, 0.99976, ROWS, "", "higher"),
        "nll": Metric(0.0612, 0.0421, 0.0893, ROWS, "", "lower"),
        "brier": Metric(0.02713, 0.0191, 0.0367, ROWS, "", "lower"),
    }
    recalls: list[tuple[Cell, ...]] = []
    for label in CLASSES:
        recall = min(1.0, value - 0.04 + rng.random() * 0.06)
        recalls.append((label, recall, max(0.0, recall - 0.05), min(1.0, recall + 0.03), rng.randint(30, 41)))
    x = [at / 40 for at in range(41)]
    roc = tuple((at, 1 - (1 - at) ** 12, 1 - (1 - at) ** 8) for at in x)
    return Record(
        "accuracy", Verdict.NOTED, f"{value:.1%} of {ROWS} rows are right; '{CLASSES[3]}' is worst.",
        metrics=metrics,
        tables=(
            Table("Recall by class", ("class", "recall", "low", "high", "rows"), tuple(recalls)),
            Table("ROC", ("false positive rate", "macro", "worst class"), roc),
        ),
        pictures=(
            Picture("Recall by class", "bars", "Recall by class", "Recall is lowest for the fourth class."),
            Picture("ROC, one against the rest", "lines", "ROC", "Both curves stay near the corner."),
        ),
    )  # fmt: skip


def _confusion(name: str, rng: random.Random) -> Record:
    size = len(CLASSES)
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (
            label,
            *(
                34 if row == column else int(rng.random() < 0.07) * rng.randint(1, 3)
                for column in range(size)
            ),
        )
        for row, label in enumerate(CLASSES)
    )
    found = Finding(
        what=f"'{CLASSES[0]}' is taken for '{CLASSES[7]}' in 3 of 36 rows",
        where=f"label = {CLASSES[0]}", rows=36,
        effect=Metric(0.0833, 0.0287, 0.2183, 36, "", "lower"), certainty=0.962,
        cause="their nearest training rows are mixed", do="look at these rows; some labels may be wrong",
        show="diag explain model.pt --data judged.npz --rows 17,93,211",
    )  # fmt: skip
    return Record(
        "confusion", Verdict.NOTED, "One pair of classes makes a third of the errors.", findings=(found,),
        tables=(Table("Confusion", ("label", *CLASSES), rows),),
        pictures=(Picture("Confusion", "heatmap", "Confusion", "Most of the mass is on the diagonal."),),
    )  # fmt: skip


def _calibration(name: str, rng: random.Random) -> Record:
    bins = tuple(
        (at / 10 + 0.05, min(1, at / 10 + 0.08), max(0, at / 10 - 0.1), min(1, at / 10 + 0.2), 4 + at**3 // 4)
        for at in range(10)
    )
    confidences = tuple((1 - rng.random() ** 4 * 0.7,) for _ in range(ROWS))
    return Record(
        "calibration", Verdict.GOOD, "Confidence and accuracy agree within what 360 rows can tell.",
        metrics={"ece": Metric(0.0117, 0.0081, 0.0242, ROWS, "", "lower")},
        tables=(
            Table("Reliability", ("confidence", "accuracy", "low", "high", "rows"), bins),
            Table("Confidences", ("confidence",), confidences),
        ),
        pictures=(
            Picture("Reliability", "reliability", "Reliability", "The bins lie along the diagonal."),
            Picture("Confidence of all rows", "ecdf", "Confidences", "Half of the rows are over 99 % sure."),
        ),
    )  # fmt: skip


def _slices(name: str) -> Record:
    found = Finding(
        what="errs 4.1 times as often as elsewhere", where="site = C & shift = night", rows=41,
        effect=Metric(0.122, 0.031, 0.213, 41, "", "lower"), certainty=0.991,
        cause="only 9 of its rows are in the training split", do="collect more rows of this slice",
        show="diag analyze model.pt --data judged.npz --slice 'site = C & shift = night'",
    )  # fmt: skip
    rows = tuple((f"age in [{at}, {at + 10})", 40 - at // 3, 0.02 + at / 900) for at in range(0, 90, 10))
    return Record(
        "slices", Verdict.NOTED, "One slice of 26 errs more often than by chance.", findings=(found,),
        tables=(Table("Slices", ("slice", "rows", "error_rate"), rows),),
    )  # fmt: skip


def _errors(name: str) -> Record:
    rows = tuple(
        (f"row-{at}", CLASSES[at % 10], CLASSES[(at + 3) % 10], 0.99 - at / 300, 4.2 - at / 50)
        for at in range(140)
    )
    return Record(
        "errors", Verdict.NOTED, "6 rows are wrong, two of them with more than 99 % confidence.",
        tables=(Table("Worst errors", ("id", "label", "prediction", "confidence", "loss"), rows),),
    )  # fmt: skip


def _latency(name: str, rng: random.Random) -> Record:
    p50 = LATENCY[name]
    speed = LATENCY["as_it_came"] / p50
    times = tuple((p50 * (1 + rng.expovariate(6)),) for _ in range(200))
    return Record(
        "latency", Verdict.NOTED, f"Half of the calls take at most {p50:.3f} ms at batch 1 on one thread.",
        metrics={
            "latency_p50_ms": Metric(p50, p50 * 0.97, p50 * 1.04, 200, "ms", "lower"),
            "latency_p99_ms": Metric(p50 * 2.1, p50 * 1.8, p50 * 2.9, 200, "ms", "lower"),
            "latency_p50_ms@batch=8": Metric(p50 * 4.3, p50 * 4.1, p50 * 4.7, 200, "ms", "lower"),
            "throughput_per_s": Metric(1000 / p50, 960 / p50, 1040 / p50, 200, "per_s", "higher"),
            "speedup": Metric(speed, speed * 0.95, speed * 1.06, 200, "x", "higher"),
        },
        tables=(Table("Calls", ("latency_ms",), times),),
        pictures=(Picture("How long a call takes", "ecdf", "Calls", "Nine of ten are near the median."),),
    )  # fmt: skip


def _size(name: str) -> Record:
    size = Metric.exact(BYTES[name], 1, "bytes", "lower")
    parameters = Metric.exact(421_642, 1, "", "lower")
    return Record(
        "size",
        Verdict.NOTED,
        "The file and its weights.",
        metrics={"size_bytes": size, "parameters": parameters},
    )


def _agreement(name: str) -> Record:
    worse = 0.0194 if name == "int8" else 0.0
    better = 0.0028 if name == "int8" else 0.0
    rows = tuple((f"row-{at}", CLASSES[at % 10], CLASSES[at % 10], CLASSES[(at + 1) % 10]) for at in range(8))
    return Record(
        "agreement", Verdict.NOTED, "8 of 360 predictions differ from the model as it came.",
        metrics={
            "agreement": Metric(1 - worse - better, 0.957, 0.991, ROWS, "", "higher"),
            "negative_flip_rate": Metric(worse, max(0.0, worse - 0.01), worse + 0.02, ROWS, "", "lower"),
            "positive_flip_rate": Metric(better, 0.0, better + 0.012, ROWS, "", "higher"),
            "max_abs_error": Metric.exact(0.731 if name == "int8" else 3.1e-6, ROWS, "", "lower"),
        },
        tables=(Table("Flips", ("id", "label", "before", "after"), rows),),
    )  # fmt: skip


def _drift(name: str) -> Record:
    value = 0.934 if name == "int8" else 0.9998
    rows = tuple((1 - at**2 / 900, f"row-{at}") for at in range(12))
    return Record(
        "drift", Verdict.NOTED, "Explanations rank the pixels almost as before.",
        metrics={
            "attribution_rank_correlation": Metric(value, value - 0.01, min(1, value + 0.008), 64),
            "attribution_top_overlap": Metric(0.91, 0.88, 0.94, 64, "", "higher"),
        },
        tables=(Table("By row", ("rank correlation (occlusion)", "row"), rows),),
        pictures=(Picture("How much the maps changed", "ecdf", "By row", "From the most changed row up."),),
    )  # fmt: skip


def _occlusion(name: str, folder: Path) -> Record:
    pictures = []
    step = folder / f"0{list(ACCURACY).index(name)}_{name}" / "pictures"
    step.mkdir(parents=True, exist_ok=True)
    for at in (17, 93, 211):
        title = f"row {at}: {CLASSES[at % 9]}, taken for {CLASSES[(at + 1) % 9]}"
        (step / f"row-{at}.png").write_bytes(png(28, at))
        (step / f"row-{at}-occlusion.png").write_bytes(
            png(28, at + 7 * list(ACCURACY).index(name), alpha=True)
        )
        stem = f"{step.parent.name}/pictures/row-{at}"
        pictures += [
            Picture(f"{title} · input", "image", f"{stem}.png", f"The input: {title}"),
            Picture(
                f"{title} · occlusion",
                "image",
                f"{stem}-occlusion.png",
                f"What speaks for the score: {title}",
            ),
        ]
    return Record("occlusion", Verdict.NOTED, "3 rows were explained.", pictures=tuple(pictures))


def _audit(name: str) -> Record:
    layers = tuple((f"features.{at}.conv", 9216 * (at + 1), "int8" if at % 5 else "fp32") for at in range(24))
    return Record(
        "audit", Verdict.GOOD, "All that should be quantized is.",
        tables=(Table("Layers", ("layer", "bytes", "precision"), layers),),
        pictures=(Picture("Bytes by layer", "bars", "Layers", "Later layers are larger."),),
    )  # fmt: skip


def png(side: int, seed: int, *, alpha: bool = False) -> bytes:
    """A real picture, made without a library."""
    rng = random.Random(seed)
    phase, wave = rng.random() * 6, rng.random() / 2 + 0.2
    lines = b""
    for y in range(side):
        lines += b"\0"
        for x in range(side):
            shade = 0.5 + 0.5 * math.sin(phase + wave * x) * math.cos(phase - wave * y)
            level = int(255 * shade)
            lines += (
                bytes((220, 40, 30, level * 3 // 4)) if alpha else bytes((level, level, 255 - level // 2))
            )

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", side, side, 8, 6 if alpha else 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(lines))
        + chunk(b"IEND", b"")
    )
