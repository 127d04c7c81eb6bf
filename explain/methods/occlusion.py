"""Hide a part and see how far the score falls."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING, Any, ClassVar, final

import numpy as np

from explain.layout import Part, coarse, on_map, parts
from explain.method import Attribution, Explained, Method, Needs
from explain.score import Hidden, baseline_row, scores_and_sizes
from explain.words import WORDS, Words
from study.errors import SkipError
from study.runtime import Runtime
from study.task import ROWS, Kind

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
    kinds: ClassVar[frozenset[Kind]] = ROWS | {"tokens", "language", "segmentation"}
    patches: int = 64
    """At most this many parts of an image or a sequence."""
    features: int = 200
    """At most this many parts of a table's row."""
    words: int = 128
    """At most this many parts of a text: neighbouring words of a longer one are hidden together."""

    def attribute(self, run: Runtime, rows: Explained) -> Attribution:
        hidden = (*(self._words(rows.words) if rows.words else ()), *self._parts(rows))
        asked: list[Hidden] = [(row, ()) for row in range(len(rows))]
        asked += [(row, ((name, part),)) for name, row, part, _ in hidden]
        every, every_size = scores_and_sizes(run, rows, asked)
        whole, left = np.split(every, [len(rows)])
        size, sizes = np.split(every_size, [len(rows)])
        values = {WORDS: rows.words.empty()} if rows.words else {}
        values |= {
            name: np.zeros((len(rows), *coarse(array.shape[1:])), np.float32)
            for name, array in rows.apart.items()
        }
        for (name, row, _, cells), score, other in zip(hidden, left, sizes, strict=True):
            fall = whole[row] - score
            if abs(fall) > ROUNDING * max(size[row], other):
                place: tuple[int | slice, ...] = (row, *cells)
                values[name if name in values else WORDS][place] = fall
        if not np.isfinite(every).all():
            raise SkipError("its scores are not finite")
        weights = {name: self._weights(array.shape[1:]) for name, array in rows.apart.items()}
        return Attribution("occlusion", rows.ids, values, None, rows.baseline_name, weights)

    def _weights(self, shape: tuple[int, ...]) -> "NDArray[Any]":
        """Each part counts once, however many cells it has."""
        weights = np.ones(coarse(shape))
        for part in parts(shape, patches=self.patches, features=self.features):
            place = on_map(part, shape)
            weights[place] = 1 / weights[place].size
        return weights

    def _parts(self, rows: Explained) -> Iterator[tuple[str, int, Part, Part]]:
        """What there is to hide and where its fall is kept, but for what already is the baseline."""
        for name, array in rows.apart.items():
            absent, shape = baseline_row(rows, name), array.shape[1:]
            for part in parts(shape, patches=self.patches, features=self.features):
                for row in range(len(rows)):
                    if not np.array_equal(array[row][part], absent[part]):
                        yield name, row, part, on_map(part, shape)

    def _words(self, words: Words) -> Iterator[tuple[str, int, Part, Part]]:
        """The tokens of each word, or of some neighbours."""
        for row, spans in enumerate(words.spans):
            together = max(1, ceil(len(spans) / self.words))
            for at in range(0, len(spans), together):
                some = spans[at : at + together]
                yield words.input, row, (slice(some[0][0], some[-1][1]),), (slice(at, at + len(some)),)
