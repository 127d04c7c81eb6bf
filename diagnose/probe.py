"""A probe runs the model and writes a named table, once per artifact, whoever needs it."""

from abc import ABC, abstractmethod
from typing import ClassVar

from study.catalog import Catalog
from study.progress import Progress
from study.view import View


class Probe(ABC):
    """A frozen, final dataclass: its fields are its settings, its docstring its title, ``run`` its work."""

    gives: ClassVar[str]
    """The table's name: ``run`` writes ``<artifact folder>/<gives>.parquet``, whole or not at all."""

    @abstractmethod
    def run(self, view: View, progress: Progress) -> None:
        """Write the table.

        Raises:
            SkipError: it cannot be made for this artifact; the message is the reason.
        """


PROBES: Catalog[Probe] = Catalog(
    "probe",
    {
        "weights": "diagnose.probes.weights:Weights",
        "predictions": "diagnose.probes.predictions:Predictions",
        "history": "diagnose.probes.history:HistoryOfTargets",
        "drawn": "diagnose.probes.drawn:Drawn",
        "divergence": "diagnose.probes.divergence:Divergence",
    },
)
"""By the name of the table that it gives."""
