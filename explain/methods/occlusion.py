"""Hide a part and see how far the score falls."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, final

import numpy as np

from explain.layout import Part, coarse, on_map, parts
from explain.method import Attribution, Explained, Method, Needs
from explain.score import baseline_row, scores_and_sizes
from study.errors import SkipError
from study.runtime import Runtime

if TYPE_CHECKING:
    from numpy.typing import NDArray

ROUNDING = 8 * float(np.finfo(np.float32).eps)


@final
@dataclass(frozen=True, slots=True)
class Occlusion(Method):
    """Occlusion: how far the score falls when a part of the input is replaced by the baseline.

    It only calls the model, so it is computed alike on every format. Every cell of a part is given the whole
    fall, as in Zeiler and Fergus (2014) and in Captum. A part that already is the baseline, and a fall that
    float32 cannot tell from none beside the row's largest output, count as 0: else rounding would rank
    what says nothing.
    """

    needs: ClassVar[Needs] = "calls"
    patches: int = 64
    """At most this many parts of an image or a sequence."""
    features: int = 200
    """At most this many parts of a table's row."""

    def attribute(self, run: Runtime, rows: Explained) -> Attribution:
        whole, size = scores_and_sizes(run, rows, tuple((row, ()) for row in range(len(rows))))
        hidden = tuple(self._hidden(rows))
        left, sizes = scores_and_sizes(run, rows, tuple((row, ((name, part),)) for name, row, part in hidden))
        values = {
            name: np.zeros((len(rows), *coarse(array.shape[1:])), np.float32)
            for name, array in rows.batch.items()
        }
        for (name, row, part), score, other in zip(hidden, left, sizes, strict=True):
            fall = whole[row] - score
            if abs(fall) > ROUNDING * max(size[row], other):
                place: tuple[int | slice, ...] = (row, *on_map(part, rows.batch[name].shape[1:]))
                values[name][place] = fall
        if not all(np.isfinite(array).all() for array in (whole, left)):
            raise SkipError("its scores are not finite")
        weights = {name: self._weights(array.shape[1:]) for name, array in rows.batch.items()}
        return Attribution("occlusion", rows.ids, values, None, rows.baseline_name, weights)

    def _weights(self, shape: tuple[int, ...]) -> "NDArray[Any]":
        """Each part counts once, however many cells it has."""
        weights = np.ones(coarse(shape))
        for part in parts(shape, patches=self.patches, features=self.features):
            place = on_map(part, shape)
            weights[place] = 1 / weights[place].size
        return weights

    def _hidden(self, rows: Explained) -> Iterator[tuple[str, int, Part]]:
        """What there is to hide, but for what already is the baseline."""
        for name, array in rows.batch.items():
            absent = baseline_row(rows, name)
            for part in parts(array.shape[1:], patches=self.patches, features=self.features):
                for row in range(len(rows)):
                    if not np.array_equal(array[row][part], absent[part]):
                        yield name, row, part
