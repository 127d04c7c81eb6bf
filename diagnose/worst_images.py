"""The images on which a detector errs most, at the score from which its finds count."""

from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from diagnose.detected import HIT, Found, Places, best_score, only_sure, read_found
from diagnose.tide import TYPES, Errors, errors_of
from study.errors import SkipError
from study.view import View

Counts: TypeAlias = NDArray[np.int64]
SHOWN: Final = 6
"""Images that are drawn."""
WRONG: Final = tuple(name for name in TYPES if name != "missed")


@dataclass(frozen=True, slots=True, eq=False)
class Erring:
    """``found`` are the finds that are at least as sure as ``score``; counts have one entry an image."""

    score: float
    found: Found
    errors: Errors
    right: NDArray[np.bool_]
    """Which finds are."""

    def count(self, name: str) -> Counts:
        """Errors of one of TIDE's types, an image."""
        if name == "missed":
            return self._on(self.found.truth_image[self.errors.missed])
        return self._on(self.found.image[self.errors.type_ == name])

    @property
    def objects(self) -> Counts:
        """Those that could be found, an image."""
        return self._on(self.found.truth_image[self.errors.matching.counts])

    @property
    def hits(self) -> Counts:
        """Right finds an image."""
        return self._on(self.found.image[self.right])

    @property
    def order(self) -> Places:
        """The images with errors, those with most first."""
        wrong = sum((self.count(name) for name in TYPES), start=np.zeros(len(self.found), np.int64))
        order = np.argsort(-wrong, kind="stable")
        return order[wrong[order] > 0]

    def caption(self, image: int) -> str:
        """What is right and wrong in one image."""
        said = f"{self.hits[image]} of {self.objects[image]} found"
        wrong = [f"{n} {name}" for name in TYPES if (n := int(self.count(name)[image]))]
        return f"{said}; {', '.join(wrong)}" if wrong else said

    def _on(self, images: Places) -> Counts:
        return np.bincount(images, minlength=len(self.found)).astype(np.int64)


def erring(view: View) -> Erring:
    """The errors of a view's labelled images at the score that is best for the model as it came.

    Raises:
        SkipError: no image has boxes as its label.
    """
    whole = read_found(view)
    if not (~whole.truth_crowd & (whole.truth_class >= 0)).any():
        raise SkipError("no image has an object that could be found")
    score = best_score(whole if view.origin is None else read_found(view.origin))
    found = only_sure(whole, score)
    errors = errors_of(found)
    return Erring(score, found, errors, errors.matching.outcome[0] == HIT)


def ids_of(view: View, positions: Places) -> dict[int, Any]:
    """The names of the rows at these positions."""
    import polars as pl

    chosen = pl.Series(positions).implode()
    frame = (
        view.table("predictions").filter(pl.col("position").is_in(chosen)).select("position", "id").collect()
    )
    return dict(zip(frame["position"].to_list(), frame["id"].to_list(), strict=True))
