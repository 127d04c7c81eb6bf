"""A pass takes a model and makes a new one; it writes new files and never touches its input."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from study.catalog import Catalog
from study.progress import Progress
from study.record import Record
from study.subject import Machine, Model, Subject
from study.task import EVERY, Kind


@dataclass(frozen=True, slots=True)
class Change:
    """The new model, what was learnt while it was made, and how it was made."""

    model: Model
    records: tuple[Record, ...] = ()
    provenance: Mapping[str, str] = field(default_factory=dict)
    """Library versions and settings that would make it again."""


class Pass(ABC):
    """A frozen, final dataclass: its fields are its settings, its docstring its title, ``apply`` its work.

    How settings are typed: ``export.settings``.

    Passes fit to ``subject.calibration`` (and ``subject.training``), never to ``subject.judged``: those rows
    they read, where there are no others, to compare two models alone.
    """

    takes: ClassVar[tuple[str, ...]]
    """Formats with precision: ``("pytorch/fp32",)``."""
    gives: ClassVar[str]
    kinds: ClassVar[frozenset[Kind]] = EVERY
    """The kinds of task whose models it takes."""
    needs_calibration: ClassVar[bool] = False
    argument: ClassVar[str] = ""
    """The field that a bare value after the colon sets (``ratio`` for ``prune:0.3``); empty: none."""

    @abstractmethod
    def apply(self, subject: Subject, out: Path, machine: Machine, progress: Progress) -> Change:
        """Write the new model into the folder ``out``.

        Raises:
            SkipError: this model cannot be changed so; the message is the reason.
        """


PASSES: Catalog[Pass] = Catalog(
    "step",
    {
        "onnx": "export.passes.onnx:Onnx",
        "fuse": "export.passes.fuse:Fuse",
        "fp16": "export.passes.fp16:Fp16",
        "int8": "export.passes.int8:Int8",
        "int8-dynamic": "export.passes.int8_dynamic:Int8Dynamic",
        "int4": "export.passes.int4:Int4",
        "prune": "export.passes.prune:Prune",
        "distill": "export.passes.distill:Distill",
    },
)
"""By the word that is typed in ``--steps``."""
