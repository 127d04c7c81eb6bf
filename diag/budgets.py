"""The budgets that ``--max-drop`` and its like say, read and refused before anything runs."""

from collections.abc import Iterator

from diag.options import Options
from diag.policy import LATENCY, QUALITY, Budget
from study.amounts import milliseconds, share, size
from study.errors import InputError

USUAL = "1"
"""The drop in points that may be where nobody says how much the answers may suffer."""
PERCENTILES = {"p50": LATENCY, "p90": "latency_p90_ms", "p99": "latency_p99_ms"}


def budgets_of(options: Options) -> tuple[Budget, ...]:
    """All that were given.

    Raises:
        InputError: none was, one is no amount, or it reads labels where there are none.
    """
    budgets = tuple(_given(options))
    if not budgets:
        raise InputError(
            "diag optimize needs a budget, for example --max-drop 0.5, --max-latency 5ms or --max-size 5MB."
        )
    if not any(budget.kind in QUALITY for budget in budgets):
        budgets = (Budget("flips" if options.unlabelled else "drop", float(USUAL) / 100), *budgets)
    if options.unlabelled:
        for flag, text in (("--max-drop", options.max_drop), ("--max-slice-drop", options.max_slice_drop)):
            if text:
                raise InputError(
                    f"{flag} needs labels, and --unlabelled says there are none: use --max-flips."
                )
    return budgets


def said_of(budgets: tuple[Budget, ...], options: Options) -> tuple[str, ...]:
    """What was taken for granted."""
    typed = {"drop": options.max_drop, "flips": options.max_flips, "slice": options.max_slice_drop}
    taken = [one.flag for one in budgets if one.kind in typed and not typed[one.kind]]
    if not taken:
        return ()
    unit = "%" if taken[0] == "--max-flips" else ""
    return (f"No budget says what the answers may lose: {taken[0]} {USUAL}{unit} is taken.",)


def _given(options: Options) -> Iterator[Budget]:
    if options.max_drop:
        yield Budget("drop", _points("--max-drop", options.max_drop) / 100)
    if options.max_flips:
        most = share(options.max_flips)
        if most is None or (most == 1 and "%" not in options.max_flips):
            raise InputError(
                f"--max-flips is '{options.max_flips}': give a share of the rows such as 1% or 0.01."
            )
        yield Budget("flips", most)
    if options.max_slice_drop:
        yield Budget("slice", _points("--max-slice-drop", options.max_slice_drop) / 100)
    if options.max_latency:
        yield _latency(options.max_latency)
    if options.max_size:
        most = size(options.max_size)
        if most is None:
            raise InputError(f"--max-size is '{options.max_size}': give a size such as 5MB or 300kB.")
        yield Budget("size", most)


def _points(flag: str, text: str) -> float:
    try:
        points = float(text.strip().removesuffix("%"))
    except ValueError:
        points = -1.0
    if not 0 <= points <= 100:  # noqa: PLR2004 - all of them
        raise InputError(f"{flag} is '{text}': give points from 0 to 100, such as 0.5.")
    return points


def _latency(text: str) -> Budget:
    percentile, equals, time = text.rpartition("=")
    most = milliseconds(time)
    metric = PERCENTILES.get(percentile.strip().lower(), "") if equals else LATENCY
    if most is None or not metric:
        raise InputError(f"--max-latency is '{text}': give a time of one call such as 5ms, 0.2s or p90=5ms.")
    return Budget("latency", most, metric)
