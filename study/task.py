"""What outputs mean: labels, losses, and the columns of a prediction table. numpy only."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

Kind: TypeAlias = Literal["binary", "multiclass", "multilabel", "regression"]
Output: TypeAlias = Literal["logits", "probabilities", "log-probabilities", "value"]


@dataclass(frozen=True, slots=True)
class Task:
    """What the scored output means.

    ``binary`` has one score a row (a logit or a probability of the second class); a two-column output is
    ``multiclass``. ``output_name`` is the model's output that is scored.
    """

    kind: Kind
    output: Output
    classes: tuple[str, ...] = ()
    output_name: str = ""

    @property
    def name(self) -> str:
        """What ``report.json`` calls it: classification, multilabel or regression."""
        return "classification" if self.kind in ("binary", "multiclass") else self.kind
