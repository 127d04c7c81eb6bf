"""Explain one artifact: each method on the same rows, whether to believe it, and drift from the origin."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import polars as pl

from explain import drift as drifts
from explain import saved, texts, trust
from explain.gallery import changes, gallery
from explain.method import METHODS, Attribution, Method
from explain.question import Question, ask
from explain.summary import features, sentence, share_metrics
from study.errors import SkipError, few
from study.progress import Progress
from study.record import Finding, Metric, Record, Verdict
from study.task import VALUES
from study.view import View

GRADIENT_FORMATS = ("pytorch", "torchscript", "exported")


def default_methods(view: View) -> tuple[str, ...]:
    """What is asked when nobody says: Occlusion always, and what the model as it came can be asked besides.

    A later step is asked the same, so that its record says what it could not be asked.
    """
    if view.origin is not None:
        return tuple(saved.load(view.origin.artifact.folder)) or ("occlusion",)
    found = ["occlusion"]
    if view.model.format in GRADIENT_FORMATS:
        found.append("integrated-gradients")
    if view.model.format == "pytorch" and _convolves(view):
        found.append("gradcam")
    return tuple(found)


def explain(
    view: View,
    methods: tuple[str, ...] = (),
    rows: str = "",
    progress: Progress = Progress(),
    target: str = "",
) -> tuple[Record, ...]:
    """A record a method, and one of drift where there is an origin; writes the attributions and pictures.

    Args:
        view: the artifact on its rows; the table of predictions of the model as it came must exist.
        methods: names in ``METHODS``; empty: ``default_methods``.
        rows: ``errors``, ``confident-errors``, ``random``, positions (``0,5,9``), or empty: a mix.
        progress: told after each method.
        target: a class by name or index; empty: the class that the model as it came predicted.

    Raises:
        InputError: no such method, row or class.
    """
    kind = view.task.kind
    every = {name: METHODS.get(name)() for name in methods or default_methods(view)}
    asked = {name: method for name, method in every.items() if kind in method.kinds}
    no_score = f"rows of a {kind} task have no single score that it could attribute"
    if asked:
        no_score = f"of a {kind} task it attributes nothing; {few(asked)} does"
    records = [Record.skipped(name, no_score) for name in every if name not in asked]
    if not asked:
        return tuple(records)
    try:
        question = ask(view, rows, target)
    except SkipError as reason:
        return (*records, *(Record.skipped(name, str(reason)) for name in asked))
    found: dict[str, Attribution] = {}
    for name, method in progress.over(asked.items(), "explaining", len(asked)):
        try:
            found[name] = method.attribute(view.runtime, question.rows)
        except SkipError as reason:
            records.append(Record.skipped(name, str(reason)))
        else:
            records.append(_record(view, method, question, found[name]))
    saved.save(view.artifact.folder, question.rows, found)
    if view.origin is not None:
        records.append(_drift(view, question, found))
    return tuple(records)


def _record(view: View, method: Method, question: Question, found: Attribution) -> Record:
    checks = [
        trust.completeness(found),
        trust.deletion(view.runtime, question.rows, found),
        _sanity(view, method, question, found),
    ]
    metrics: dict[str, Metric] = share_metrics(found, question)
    findings: list[Finding] = []
    for check in checks:
        metrics.update(check.metrics)
        findings.extend(check.findings)
    tables, bars = features(found, question)
    return Record(
        by=found.by,
        verdict=Verdict.NOTED if findings else Verdict.GOOD,
        summary=sentence(found, question),
        metrics=metrics,
        findings=tuple(findings),
        tables=tables,
        pictures=(*bars, *gallery(view, question, found)),
    )


def _sanity(view: View, method: Method, question: Question, found: Attribution) -> trust.Trust:
    """Of the model as it came alone, and of methods by gradients: it costs a second attribution."""
    if view.origin is not None or method.needs == "calls":
        return trust.Trust()
    try:
        return trust.sanity(view.runtime, method, question.rows, found)
    except SkipError:
        return trust.Trust()


def _drift(view: View, question: Question, found: Mapping[str, Attribution]) -> Record:
    assert view.origin is not None
    before = saved.load(view.origin.artifact.folder)
    pairs = {name: drifts.Pair(before[name], map_) for name, map_ in found.items() if name in before}
    unchanged = _unchanged(view, question)
    try:
        record = drifts.Drift().record(pairs, unchanged, question.shows)
    except SkipError as reason:
        return Record.skipped("drift", str(reason))
    method = drifts.leading(pairs)
    worst = drifts.Drift().worst(pairs[method], unchanged)
    before_and_after = (pairs[method].origin, pairs[method].artifact)
    shown = changes(view, question, *before_and_after, worst)
    tables, coloured = texts.changes(question, *before_and_after, worst)
    return replace(record, tables=(*record.tables, *tables), pictures=(*record.pictures, *shown, *coloured))


def _unchanged(view: View, question: Question) -> tuple[bool, ...]:
    """Whether the prediction of each explained row is that of the model as it came."""
    assert view.origin is not None
    chosen = pl.LazyFrame({"position": question.positions}, schema={"position": pl.Int64})
    both = chosen
    for number, look in enumerate((view.origin, view)):
        table = look.table("predictions").select("position", pl.col("prediction").alias(f"p{number}"))
        both = both.join(table, on="position", how="left", maintain_order="left")
    frame = both.collect()
    pairs = zip(frame["p0"].to_list(), frame["p1"].to_list(), strict=True)
    if view.task.kind in VALUES:
        # A number never stays the same to the last bit: one per cent is the same prediction.
        return tuple(bool(np.allclose(a, b, rtol=0.01, atol=0)) for a, b in pairs)
    if question.parts:
        return tuple(a[at] == b[at] for at, (a, b) in zip(question.parts, pairs, strict=True))
    if question.regions:
        both_lists = zip(question.regions, pairs, strict=True)
        return tuple(np.array_equal(np.array(a)[own], np.array(b)[own]) for own, (a, b) in both_lists)
    if question.spans:
        parts = [span.parts for span in question.spans]
        return tuple(a[own] == b[own] for own, (a, b) in zip(parts, pairs, strict=True))
    return tuple(a == b for a, b in pairs)


def _convolves(view: View) -> bool:
    from explain.methods.gradcam import convolutions
    from study.runtimes.pytorch import PyTorch

    run = view.runtime
    return isinstance(run, PyTorch) and bool(convolutions(run.module))
