"""Numbers as text: ``98.3 % [97.1, 99.0]``, with the unit and the digits that the interval deserves."""

import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, TypeAlias

from study.record import Better, Cell, Metric

Kind: TypeAlias = Literal[
    "percent", "points", "number", "score", "ms", "bytes", "times", "rate", "db", "unit"
]
MINUS = "\N{MINUS SIGN}"
TIMES = "\N{MULTIPLICATION SIGN}"


@dataclass(frozen=True, slots=True)
class Measure:
    """What a metric's name means to a reader."""

    label: str
    kind: Kind
    better: Better = "neither"


MEASURES: Mapping[str, Measure] = {
    "accuracy": Measure("accuracy", "percent", "higher"),
    "balanced_accuracy": Measure("balanced accuracy", "percent", "higher"),
    "top5_accuracy": Measure("top-5 accuracy", "percent", "higher"),
    "macro_precision": Measure("macro precision", "percent", "higher"),
    "macro_recall": Measure("macro recall", "percent", "higher"),
    "macro_f1": Measure("macro F1", "percent", "higher"),
    "micro_f1": Measure("micro F1", "percent", "higher"),
    "hamming_loss": Measure("Hamming loss", "percent", "lower"),
    "auroc": Measure("AUROC", "score", "higher"),
    "average_precision": Measure("average precision", "score", "higher"),
    "nll": Measure("negative log-likelihood", "score", "lower"),
    "brier": Measure("Brier score", "score", "lower"),
    "ece": Measure("calibration error (ECE)", "percent", "lower"),
    "mae": Measure("mean absolute error", "number", "lower"),
    "rmse": Measure("root mean squared error", "number", "lower"),
    "r2": Measure("R²", "score", "higher"),
    "smape": Measure("sMAPE", "number", "lower"),
    "mase": Measure("MASE", "number", "lower"),
    "bias": Measure("mean error", "number"),
    "mae_change": Measure("change of the mean absolute error", "number", "lower"),
    "pinball": Measure("pinball loss", "number", "lower"),
    "coverage": Measure("labels between the quantiles", "percent"),
    "skill_naive": Measure("error saved against the last value", "percent", "higher"),
    "skill_seasonal": Measure("error saved against the last season", "percent", "higher"),
    "loss": Measure("loss a token", "unit", "lower"),
    "perplexity": Measure("perplexity", "number", "lower"),
    "kl_divergence": Measure("divergence from the original (KL)", "unit", "lower"),
    "top_token_flips": Measure("likeliest token changed", "percent", "lower"),
    "perplexity_ratio": Measure("perplexity against the original's", "times", "lower"),
    "miou": Measure("mean IoU", "percent", "higher"),
    "dice": Measure("mean Dice", "percent", "higher"),
    "boundary_f1": Measure("boundary F", "percent", "higher"),
    "map": Measure("mean average precision", "percent", "higher"),
    "map50": Measure("mean average precision at overlap 0.5", "percent", "higher"),
    "map75": Measure("mean average precision at overlap 0.75", "percent", "higher"),
    "entity_precision": Measure("entity precision", "percent", "higher"),
    "entity_recall": Measure("entity recall", "percent", "higher"),
    "entity_f1": Measure("entity F1", "percent", "higher"),
    "entity_f1_cost": Measure("cost in entity F1", "percent", "lower"),
    "latency_p50_ms": Measure("latency p50", "ms", "lower"),
    "latency_p90_ms": Measure("latency p90", "ms", "lower"),
    "latency_p99_ms": Measure("latency p99", "ms", "lower"),
    "throughput_per_s": Measure("throughput", "rate", "higher"),
    "throughput_tokens_per_s": Measure("tokens a second", "rate", "higher"),
    "speedup": Measure("speedup", "times", "higher"),
    "peak_memory_bytes": Measure("peak memory", "bytes", "lower"),
    "size_bytes": Measure("size", "bytes", "lower"),
    "parameters": Measure("parameters", "number", "lower"),
    "agreement": Measure("agreement", "percent", "higher"),
    "negative_flip_rate": Measure("newly wrong", "percent", "lower"),
    "positive_flip_rate": Measure("newly right", "percent", "higher"),
    "worst_slice_drop": Measure("worst slice drop", "points", "lower"),
    "drop": Measure("what was lost", "points", "lower"),
    "relative_drop": Measure("what was lost", "percent", "lower"),
    "changed_share": Measure("answers changed", "percent", "lower"),
    "max_abs_error": Measure("largest output difference", "number", "lower"),
    "sqnr_db": Measure("signal to quantization noise", "db", "higher"),
    "attribution_rank_correlation": Measure("attribution rank correlation", "score", "higher"),
    "attribution_rank_correlation_p05": Measure("attribution rank correlation, p5", "score", "higher"),
    "attribution_top_overlap": Measure("attribution top overlap", "percent", "higher"),
}
"""The bare names of DESIGN §4; what is not here is shown by its unit."""

_BY_UNIT: Mapping[str, Kind] = {
    "ms": "ms", "bytes": "bytes", "B": "bytes", "x": "times", TIMES: "times", "per_s": "rate", "1/s": "rate",
    "dB": "db", "points": "points",
}  # fmt: skip
_BY_ENDING: tuple[tuple[str, Kind], ...] = (
    ("_ms", "ms"),
    ("_bytes", "bytes"),
    ("_per_s", "rate"),
    ("_rate", "percent"),
    ("_fraction", "percent"),
    ("_share", "percent"),
    ("accuracy", "percent"),
    ("confidence", "percent"),
    ("recall", "percent"),
    ("precision", "percent"),
    ("f1", "percent"),
    ("certainty", "percent"),
    ("drop", "points"),
)
_STEPS: Mapping[Kind, tuple[tuple[float, str], ...]] = {
    "ms": ((1e4, "s"), (0.0, "ms")),
    "bytes": ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (0.0, "B")),
    "rate": ((0.0, "/s"),),
    "times": ((0.0, TIMES),),
    "db": ((0.0, "dB"),),
    "points": ((0.0, "points"),),
    "percent": ((0.0, "%"),),
}
_FACTORS = {"s": 1e-3, "GB": 1e-9, "MB": 1e-6, "kB": 1e-3, "%": 100.0, "points": 100.0}
_HIDDEN = frozenset("\u061c\u200e\u200f\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_SIDE = re.compile(r"(^|[ _])(low|high|before|after)$")
_HUGE = 1e12
_MOST_DIGITS = 6
_UNSEEN = re.compile("[^\x20-\x7e]")


@dataclass(frozen=True, slots=True)
class Figure:
    """A number as it is shown; ``value`` is for sorting, ``interval`` is empty for an exact one."""

    text: str
    interval: str
    n: int
    value: float
    level: float = 0.95

    @property
    def short(self) -> str:
        """Value and interval."""
        return f"{self.text} {self.interval}".strip()

    @property
    def full(self) -> str:
        """Value, interval and how many units it stands on."""
        return f"{self.short}, n {self.n:,}" if self.interval else self.text


@lru_cache(maxsize=4096)
def measure(name: str, unit: str = "") -> Measure:
    """What a name means; a qualifier stays: ``latency_p50_ms@batch=8`` is ``latency p50, batch=8``."""
    bare, _, qualifier = name.partition("@")
    bare = bare.replace(" ", "_")
    tail = f", {qualifier}" if qualifier else ""
    if bare in MEASURES:
        known = MEASURES[bare]
        return Measure(known.label + tail, known.kind, known.better)
    kind = _BY_UNIT.get(unit) or next((kind for end, kind in _BY_ENDING if bare.endswith(end)), None)
    if unit and not kind:
        kind = "unit"
    named = bare.removesuffix("_ms").removesuffix("_bytes").removesuffix("_per_s")
    return Measure((named or bare).replace("_", " ") + tail, kind or "number")


def figure(name: str, metric: Metric, *, signed: bool = False) -> Figure:
    """The metric as it is shown; ``signed`` for a difference."""
    kind = measure(name, metric.unit).kind
    unit = metric.unit if kind == "unit" else _unit(kind, metric.value)
    factor = _FACTORS.get(unit, 1.0) if kind != "unit" else 1.0
    value, low, high = (number * factor for number in (metric.value, metric.low, metric.high))
    digits = _digits(kind, value, low, high, metric.n)
    text = with_unit(decimal(value, digits, signed=signed), unit)
    exact = metric.low == metric.high == metric.value
    interval = "" if exact else f"[{decimal(low, digits)}, {decimal(high, digits)}]"
    return Figure(text, interval, metric.n, metric.value, metric.level)


def with_unit(text: str, unit: str) -> str:
    """``3.1x`` and ``12.1 ms``: a unit stands off its number, but the sign of a multiple does not."""
    if not unit:
        return text
    return f"{text}{unit}" if unit in (TIMES, "/s") else f"{text}\N{NO-BREAK SPACE}{unit}"


def decimal(value: float, digits: int, *, signed: bool = False) -> str:
    """Fixed digits, commas in the thousands, a true minus; what is tiny or huge in powers of ten."""
    tiny = digits >= _MOST_DIGITS and abs(value) < 10.0 ** (1 - _MOST_DIGITS)
    shortened = value and (tiny or abs(value) >= _HUGE)
    text = powers(f"{value:.1e}") if shortened else f"{value:,.{digits}f}"
    if not text.strip("-0.,"):
        text = text.lstrip("-")
    elif signed and value > 0:
        text = f"+{text}"
    return text.replace("-", MINUS)


def powers(text: str) -> str:
    """``1e-6`` for ``1e-06``."""
    return re.sub(r"e\+?(-?)0*(\d)", r"e\1\2", text)


def number(value: float) -> str:
    """A bare number: four significant digits, whole ones whole."""
    if not math.isfinite(value):
        return str(value)
    return decimal(value, 0 if value == int(value) else _significant(value, 4))


def cell(value: Cell, column: str) -> str:
    """A table's cell: numbers by what their column is called, nothing as nothing."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return value
    kind = measure(column).kind
    if kind in ("percent", "points", "ms", "bytes", "times") and math.isfinite(value):
        return figure(column, Metric.exact(float(value), n=0)).text
    return number(value)


def meanings(columns: Sequence[str]) -> tuple[str, ...]:
    """For each column of a table the name that says how its numbers are shown.

    ``low`` and ``high`` are of the measure before them (``recall low`` of the recall), and ``confidence
    before`` is a confidence.
    """
    found: list[str] = []
    measured = ""
    for column in columns:
        name = _SIDE.sub("", column)
        if name != column:
            found.append(name or measured)
            continue
        measured = column if measure(column).kind != "number" else measured
        found.append(column)
    return tuple(found)


def count(n: int, noun: str) -> str:
    """``1 row``, ``1,234 rows``."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def certainty(value: float) -> str:
    """A probability without false precision: ``99 % sure``, never ``100 %`` unless it is."""
    if value >= 1:
        return "certain"
    if value > 0.999:  # noqa: PLR2004  it would round to 100 %
        return "over 99.9 % sure"
    return f"{math.floor(value * 1000) / 10:g}\N{NO-BREAK SPACE}% sure"


def capitalized(text: str) -> str:
    """With a capital at its beginning, and no other letter changed."""
    return text[:1].upper() + text[1:]


def plain(text: str) -> str:
    """The text without what is not seen but acts: control, direction and half characters become one sign.

    A terminal obeys the first, a reader's eye the second, and the third has no UTF-8. A tab or a line's end
    is a space.
    """
    if not _UNSEEN.search(text):
        return text
    return "".join(_visible(letter) for letter in text)


def _visible(letter: str) -> str:
    if letter in "\t\n\r":
        return " "
    acts = letter in _HIDDEN or unicodedata.category(letter) in ("Cc", "Cs")
    return "\N{REPLACEMENT CHARACTER}" if acts else letter


def _unit(kind: Kind, value: float) -> str:
    return next((unit for least, unit in _STEPS.get(kind, ()) if abs(value) >= least), "")


def _digits(kind: Kind, value: float, low: float, high: float, n: int) -> int:
    if kind in ("percent", "points"):
        return 1 if n < 10_000 or high == low else 2  # noqa: PLR2004  more rows earn another digit
    if low == high and kind == "score":
        return 3
    if low == high:
        whole = value == int(value) and (kind in ("number", "unit") or abs(value) < 1000)  # noqa: PLR2004
        return 0 if whole else _significant(value, 3)
    # Two digits of a width that begins with 1 or 2, else one: more would be noise.
    wide = max(0, -math.floor(math.log10((high - low) / 3)))
    return min(_MOST_DIGITS, max(wide, _significant(value, 2)), _significant(value, 4))


def _significant(value: float, digits: int) -> int:
    """Digits after the point that show so many significant ones."""
    if value == 0:
        return 0
    return min(_MOST_DIGITS, max(0, digits - 1 - math.floor(math.log10(abs(value)))))
