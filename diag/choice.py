"""How a search ends: what was chosen, what was tried, why that lost, and what a fresh search may choose."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from statistics import NormalDist

from diag.candidates import NO_DIFFERENCE, Candidate, compared, front
from diag.policy import Budget, Reading
from diag.render.figures import count, figure
from study.errors import few
from study.record import Cell, Finding, Metric, Picture, Record, Table, Verdict

SEARCH = "search"
TRIED = "What was tried"


def search_record(tried: Sequence[Candidate], last: Candidate, budgets: Sequence[Budget]) -> Record:
    """The record of the last step: of the artifact that was chosen, or of the one that came nearest."""
    taken = tried[last.tried.step.parent or 0]
    fitting = [one for one in tried if one.fits(budgets)]
    best = front(tried)
    table, drawn = _tried(tried, taken, budgets, best), _drawn(tried)
    pictures = (Picture(drawn.title, "scatter", drawn.title, f"{taken.name} is where the search ended."),)
    record = Record(
        SEARCH,
        Verdict.NOTED,
        _chosen(taken, tried, fitting, best) if taken in fitting else _nothing(taken, tried, budgets),
        metrics=_metrics(taken, tried),
        findings=tuple(_overlapping(taken, fitting)),
        tables=(table, drawn) if len(drawn.rows) > 1 else (table,),
        pictures=pictures if len(drawn.rows) > 1 else (),
    )
    if taken in fitting:
        return record
    return replace(record, verdict=Verdict.BAD, findings=(_obstacle(taken, budgets),))


def nearest(candidates: Sequence[Candidate], budgets: Sequence[Budget]) -> Candidate:
    """The artifact that breaks the fewest budgets, and by the least; without any, the model as it came."""

    def short_of(one: Candidate) -> tuple[int, float, int]:
        broken = [reading for reading in one.readings(budgets) if not reading.passed]
        over = [
            reading.metric.value / reading.budget.most
            for reading in broken
            if reading.metric and reading.budget.most
        ]
        return len(broken), max(over, default=float("inf")), one.index

    return min((one for one in candidates if one.deployable), key=short_of, default=candidates[0])


def why(one: Candidate, chosen: Candidate, budgets: Sequence[Budget]) -> str:
    """What became of a candidate, in a few words."""
    if not one.made:
        told = next((record for record in one.tried.records if record.reason), None)
        return f"not made: {told.reason.splitlines()[0]}" if told else "not made"
    if one.changed_nothing:
        return "it changed nothing"
    stopped = one.surely_glanced(budgets)
    if stopped:
        return f"stopped early, on {stopped[0].metric.n if stopped[0].metric else 0} rows: {_words(stopped)}"
    if not one.deployable:
        return "on the way: no ONNX"
    broken = _broken(one, budgets)
    if broken:
        return f"{'stopped early: ' if one.stopped(budgets) else ''}{_words(broken)}"
    return "chosen" if one is chosen else f"keeps all budgets; {_against(chosen, one)}"


def _against(chosen: Candidate, one: Candidate) -> str:
    """Why one that keeps all budgets was not chosen."""
    word, ratio = compared(chosen, one)
    shown = f" ({figure('speedup', ratio).short})" if ratio else ""
    if word == "faster":
        return f"{chosen.name} is faster{shown}"
    smaller = one.size is not None and chosen.size is not None and one.size < chosen.size
    return f"{'smaller, not faster' if smaller else 'not faster'} than {chosen.name}{shown}"


def _broken(one: Candidate, budgets: Sequence[Budget]) -> list[Reading]:
    """The budgets that it does not keep; what was not measured since it was stopped is no news."""
    broken = [reading for reading in one.readings(budgets) if not reading.passed]
    known = [reading for reading in broken if reading.metric]
    return known if known and one.stopped(budgets) else broken


def _words(readings: Sequence[Reading]) -> str:
    return "; ".join(reading.words for reading in readings)


def _chosen(
    taken: Candidate, tried: Sequence[Candidate], fitting: Sequence[Candidate], best: Sequence[Candidate]
) -> str:
    artifacts = [one for one in tried if one.deployable and not one.changed_nothing]
    steps = ",".join(_steps(taken, tried))
    said = [f"{taken.name} is chosen: of {count(len(artifacts), 'artifact')} {len(fitting)} keep all budgets"]
    if len(fitting) > 1:
        said[0] += ", and none of these is measurably faster"
    beside = [one.name for one in best if one is not taken]
    if beside:
        said.append(f"Not beaten in quality, latency and size either: {few(beside)}")
    if steps:
        said.append(f"It is made again by --steps {steps}")
    return ". ".join(said) + "."


def _steps(one: Candidate, tried: Sequence[Candidate]) -> tuple[str, ...]:
    """What was typed on the way from the model as it came."""
    parent = one.tried.step.parent
    return () if parent is None else (*_steps(tried[parent], tried), one.typed)


def _nothing(taken: Candidate, tried: Sequence[Candidate], budgets: Sequence[Budget]) -> str:
    artifacts = [one for one in tried if one.deployable]
    if not artifacts:
        told = next((r.reason for one in tried for r in one.tried.records if r.reason and not one.made), "")
        reason = f": {told.splitlines()[0].rstrip('.')}" if told else ""
        return f"Nothing is chosen: no ONNX model could be made{reason}."
    broken = _broken(taken, budgets)
    return (
        f"Nothing is chosen: none of {count(len(artifacts), 'artifact')} keeps all budgets. "
        f"{taken.name} comes nearest ({_words(broken)})."
    )


def _obstacle(taken: Candidate, budgets: Sequence[Budget]) -> Finding:
    broken = _broken(taken, budgets)
    flags = " and ".join(reading.budget.flag for reading in broken)
    return Finding(
        what=f"no artifact keeps all budgets: {flags} stood in the way of {taken.name}, which came nearest",
        where=taken.name,
        effect=broken[0].metric if broken else None,
        cause=_words(broken),
        do=f"Give more room ({flags}), or training rows (--train): with them it prunes and recovers.",
    )


def _overlapping(taken: Candidate, fitting: Sequence[Candidate]) -> Iterator[Finding]:
    """The candidates that a fresh search may choose instead."""
    for one in fitting:
        word, ratio = compared(taken, one)
        if one is not taken and word == NO_DIFFERENCE:
            yield Finding(
                what=f"a fresh search may choose {one.name}: it keeps all budgets too, and its speed is not "
                f"measurably another than that of {taken.name}",
                where=one.name,
                effect=ratio,
                do="Nothing: both keep all budgets. The one that changes less is kept.",
            )


def _metrics(taken: Candidate, tried: Sequence[Candidate]) -> dict[str, Metric]:
    """How many were judged on the same rows, and the interval that holds for all of them at once."""
    judged = sum(
        one.deployable and one.latency is not None and one.quality() is not None for one in tried[1:]
    )
    metrics = {"candidates@search": Metric.exact(judged, len(tried))}
    lost = taken.quality()
    if lost is not None and lost.high > lost.low and judged > 1:
        level = 1 - (1 - lost.level) / judged
        wider = NormalDist().inv_cdf((1 + level) / 2) / NormalDist().inv_cdf((1 + lost.level) / 2)
        low, high = (lost.value + (end - lost.value) * wider for end in (lost.low, lost.high))
        metrics["drop@all_candidates"] = replace(lost, low=low, high=high, level=level)
    return metrics


def _tried(
    tried: Sequence[Candidate], chosen: Candidate, budgets: Sequence[Budget], best: Sequence[Candidate]
) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for one in tried:
        lost, time = one.quality(), one.latency
        rows.append(
            (
                one.name,
                why(one, chosen, budgets) if one.index or one.deployable else "as it came: no ONNX",
                lost.value if lost else None,
                lost.low if lost else None,
                lost.high if lost else None,
                time.value if time else None,
                time.low if time else None,
                time.high if time else None,
                one.size,
                one in best,
                tried[one.tried.step.parent].name if one.tried.step.parent is not None else "",
            )
        )
    return Table(
        TRIED,
        (
            "step",
            "what became of it",
            _lost(tried),
            "low",
            "high",
            "latency_p50_ms",
            "low",
            "high",
            "size_bytes",
            "on the front",
            "from",
        ),
        tuple(rows),
    )


def _lost(tried: Sequence[Candidate]) -> str:
    """The column of what was lost: points of a share, a relative change, or answers that changed."""
    found = next((lost for one in tried[1:] if (lost := one.quality())), None)
    return {"points": "drop", "%": "relative_drop"}.get(found.unit if found else "", "changed_share")


def _drawn(tried: Sequence[Candidate]) -> Table:
    points: list[tuple[Cell, ...]] = []
    for one in tried:
        lost, time = one.quality(), one.latency
        if one.deployable and lost and time:
            points.append((one.name, time.value, lost.value))
    return Table("What was lost, by latency", ("step", "latency_p50_ms", _lost(tried)), tuple(points))
