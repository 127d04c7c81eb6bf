"""A check reads the tables it names and concludes; numpy and polars only."""

from abc import ABC, abstractmethod
from typing import ClassVar

from study.catalog import Catalog
from study.record import Record
from study.task import ROWS, Kind
from study.view import View


class Check(ABC):
    """A frozen, final dataclass: its fields are its settings, its docstring its title, ``check`` its work."""

    needs: ClassVar[tuple[str, ...]]
    """The tables that it reads."""
    kinds: ClassVar[frozenset[Kind]] = ROWS
    """The kinds of task that it is asked of."""
    compares: ClassVar[bool] = False
    """Reads the same tables of the origin too; not asked of the model as it came."""

    @abstractmethod
    def check(self, view: View) -> Record:
        """Conclude.

        Raises:
            SkipError: it cannot be looked for; the message is the reason.
        """


CHECKS: Catalog[Check] = Catalog(
    "check",
    {
        "data": "diagnose.checks.data:DataRows",
        "weights": "diagnose.checks.weights:Weights",
        "language": "diagnose.checks.language:Language",
        "divergence": "diagnose.checks.divergence:Divergence",
        "accuracy": "diagnose.checks.accuracy:Accuracy",
        "confusion": "diagnose.checks.confusion:Confusion",
        "horizons": "diagnose.checks.horizons:Horizons",
        "quantiles": "diagnose.checks.quantiles:Quantiles",
        "regions": "diagnose.checks.regions:RegionsOfClasses",
        "entities": "diagnose.checks.entities:EntitiesFound",
        "entity-errors": "diagnose.checks.entity_errors:EntityErrors",
        "detection": "diagnose.checks.detection:Detection",
        "detection-errors": "diagnose.checks.detection_errors:DetectionErrors",
        "calibration": "diagnose.checks.calibration:Calibration",
        "errors": "diagnose.checks.errors:Errors",
        "slices": "diagnose.checks.slices:Slices",
        "worst-images": "diagnose.checks.worst_images:WorstImages",
        "detection-agreement": "diagnose.checks.detection_agreement:DetectionAgreement",
        "agreement": "diagnose.checks.agreement:Agreement",
    },
)
"""In the order in which a section shows them; the key is the record's ``by``."""
