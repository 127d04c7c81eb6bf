"""One artifact on its rows: what probes, checks and methods are handed."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

from study.errors import SkipError
from study.runtime import Runtime, Runtimes
from study.subject import Artifact, Machine, Model, Subject
from study.task import Task

if TYPE_CHECKING:
    from study.feed import Feed


@dataclass(frozen=True, slots=True)
class View:
    """One artifact: its tables, its runtime, its rows, and what it is compared with.

    ``origin`` is the view of the model as it came (every comparison is with it; None for itself) and
    ``parent`` the view before this step.
    """

    artifact: Artifact
    subject: Subject
    machine: Machine
    runtimes: Runtimes
    origin: "View | None" = None
    parent: "View | None" = None

    @property
    def model(self) -> Model:
        """The artifact's model."""
        return self.artifact.model

    @property
    def task(self) -> Task:
        """What the outputs mean.

        Raises:
            SkipError: there is no data that would tell.
        """
        if self.subject.task is None:
            raise SkipError("there is no data to say what the outputs mean")
        return self.subject.task

    @property
    def runtime(self) -> Runtime:
        """The model, open; shared with whoever asked before."""
        return self.runtimes.get(self.model, self.machine)

    def judged(self) -> "Feed":
        """The rows that judge the model, as batches."""
        from study.feed import Feed

        if self.subject.judged is None:
            raise SkipError("no data was given")
        return Feed.open(self.subject.judged, self.subject.inputs)

    def training(self) -> "Feed | None":
        """The rows that it was trained on, if at hand."""
        from study.feed import Feed

        split = self.subject.training
        return Feed.open(split, self.subject.inputs) if split else None

    def table(self, name: str) -> pl.LazyFrame:
        """A named table of this artifact, lazily scanned.

        Raises:
            SkipError: no probe has written it.
        """
        path = self.artifact.folder / f"{name}.parquet"
        if not path.exists():
            raise SkipError(f"there are no {name}: the probe that makes them could not run")
        return pl.scan_parquet(path)
