"""A first look at few rows, none of which judges: enough to see that an artifact is no good."""

from collections.abc import Mapping
from dataclasses import replace

from diag.render.summary import HEADLINES
from diag.work import Job, Seen, look
from study.feed import Feed
from study.progress import Progress
from study.record import Metric, Record, Verdict
from study.splits import sampled
from study.subject import Split, Subject

GLANCE = "@glance"
"""The ending of metrics that stand on these rows."""
ROWS = 256
CHECKS = (
    "language",
    "accuracy",
    "horizons",
    "regions",
    "entities",
    "detection",
    "detection-agreement",
    "agreement",
)
"""The checks that give what a budget reads."""
HEADS = {name for names in HEADLINES.values() for name in names}
READ = {*HEADS, *(f"{name}@change" for name in HEADS), "negative_flip_rate", "agreement"}


def glance(job: Job, progress: Progress) -> Record:
    """What the budgets read, on a seeded part of the rows that calibrate.

    The artifact may have been fitted to them, so it looks better here than on other rows: one that breaks a
    budget even here is no good. The rows that judge stay unseen, and judge no candidate twice.
    """
    split = _few(job.seen.subject, job.machine.seed)
    if split is None:
        return Record.skipped("glance", "no rows were kept to calibrate with")
    origin = _on(job.origin, split) if job.origin else None
    shown = replace(
        job,
        seen=_on(job.seen, split),
        origin=origin,
        parent=None,
        parts=frozenset({"diagnose"}),
        checks=CHECKS,
    )
    looked = look(shown, progress)
    metrics: Mapping[str, Metric] = {
        f"{name}{GLANCE}": metric
        for record in looked.records
        for name, metric in record.metrics.items()
        if name in READ
    }
    if not metrics:
        reasons = [record.reason for record in looked.records if record.reason]
        return Record.skipped("glance", reasons[0] if reasons else "nothing that a budget reads is measured")
    said = f"A first look at {looked.rows} rows that calibrate and do not judge."
    return Record("glance", Verdict.NOTED, said, metrics=metrics)


def _few(subject: Subject, seed: int) -> Split | None:
    """A seeded part of the calibration rows."""
    split = subject.calibration
    if split is None:
        return None
    positions = sampled(Feed.open(split, subject.inputs).positions, ROWS, seed)
    return replace(split, positions=tuple(positions.tolist())) if len(positions) else None


def _on(seen: Seen, split: Split) -> Seen:
    """The same artifact, judged on these rows alone."""
    artifact = replace(seen.artifact, folder=seen.artifact.folder / "glance")
    return Seen(artifact, replace(seen.subject, judged=split, training=None))
