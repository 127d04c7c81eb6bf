"""The settings of a fit, and what came of it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from study.augmentation import must_be_ways
from study.errors import InputError
from study.record import Metric
from study.statistics import share_of, share_of_parts

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Fit:
    """How long and how hard to fit.

    ``learning_rate`` 0: of three rates that are tried for some steps, the one that is best on the held-out
    rows. ``distillation`` is the share of the teacher in the loss (all of it where rows have no labels),
    ``features`` the weight of hidden layers beside it, ``augment`` some of ``flip``, ``shift``, ``mix``.
    ``patience`` is in epochs, 0 half of them all, at least three.
    """

    epochs: int = 10
    seconds: float = 120.0
    learning_rate: float = 0.0
    batch_size: int = 64
    held_out: float = 0.1
    patience: int = 0
    distillation: float = 0.5
    temperature: float = 2.0
    features: float = 0.0
    augment: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        """A setting outside its range is found before anything runs."""
        must_be_ways(self.augment)
        positive = {"epochs": self.epochs, "batch": self.batch_size, "temperature": self.temperature}
        for name, value in positive.items():
            if value <= 0:
                raise InputError(f"{name}={value:g} must be above 0.")
        known = {"seconds": self.seconds, "rate": self.learning_rate, "features": self.features}
        for name, value in known.items():
            if value < 0:
                raise InputError(f"{name}={value:g} must not be below 0.")
        if not 0 <= self.distillation <= 1:
            raise InputError(f"teacher={self.distillation:g} is a share: it must lie between 0 and 1.")


@dataclass(frozen=True, slots=True)
class Judged:
    """The loss on the held-out rows, and how often the module decides there as its teacher does."""

    loss: float
    agreement: Metric | None = None

    @classmethod
    def of(cls, loss: float, hits: "NDArray[Any]", answers: "NDArray[Any]") -> Self:
        """``answers`` of each row and, where there is a teacher, how many of them are as its."""
        if not len(hits) or not answers.sum():
            return cls(loss)
        one_each = bool((answers == 1).all())
        told = share_of(hits, better="higher") if one_each else share_of_parts(hits, answers, better="higher")
        return cls(loss, told)


@dataclass(frozen=True, slots=True)
class Fitted:
    """What the fit did. ``rows`` trained it, ``held_out`` ones judged it and chose its weights."""

    epochs: int
    rows: int
    held_out: int
    before: Judged
    after: Judged
    ended: str
    learning_rate: float
    hints: tuple[str, ...] = ()
    """The hidden layers that were compared with the teacher's."""
