"""An attribution method: which parts of an input spoke for an output."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

from explain.region import Region
from explain.summed import Summed
from explain.words import Words
from study.catalog import Catalog
from study.runtime import Runtime
from study.task import ROWS, Kind

if TYPE_CHECKING:
    from numpy.typing import NDArray

Needs: TypeAlias = Literal["calls", "gradients", "convolutions"]
"""``calls``: any runtime; ``gradients``: a torch model that is differentiable; ``convolutions``: an eager
module with convolutional layers."""


@dataclass(frozen=True, slots=True)
class Explained:
    """The rows to explain: their inputs, and for each row the output index whose score is attributed.

    Targets are the predictions of the model as it came, the same at every step, so that maps of two
    artifacts answer the same question.
    """

    ids: tuple[str, ...]
    batch: Mapping[str, "NDArray[Any]"]
    targets: "NDArray[Any]"
    """int64, one a row; all 0 where the output is a single number."""
    output_name: str = ""
    """The output that is scored; empty: the only or the first one."""
    baseline: Mapping[str, "NDArray[Any]"] = field(default_factory=dict)
    """What stands for absence: one row an input, without the batch axis; zeros for an input not named here.
    It belongs to the question: maps under two baselines differ more than a quantized model does."""
    baseline_name: str = "zero"
    flattened: bool = False
    """Whether the steps and targets of a forecast lie on axes of their own: targets count them in one."""
    words: Words | None = None
    """Of texts: what is attributed are their words."""
    steps: "NDArray[Any] | None" = None
    """Of rows with scores a step: the step whose scores are explained, one a row."""
    class_axis: int = -1
    """Where the classes of a step lie; 0: there is one score."""
    summed: Summed | None = None
    """Of rows whose score is a sum over parts of the output; ``targets`` says nothing then."""
    region: Region | None = None
    """Of images with scores a pixel: the pixels whose scores of the target class are averaged."""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def apart(self) -> "Mapping[str, NDArray[Any]]":
        """The inputs that are attributed cell by cell: all but those that a text became."""
        encoded = self.words.encoded if self.words else ()
        return {name: array for name, array in self.batch.items() if name not in encoded}

    def first(self, count: int) -> "Explained":
        """The first so many rows, with the same question."""
        batch = {name: array[:count] for name, array in self.batch.items()}
        words = self.words.first(count) if self.words else None
        steps = None if self.steps is None else self.steps[:count]
        summed = self.summed.first(count) if self.summed else None
        return replace(
            self,
            ids=self.ids[:count],
            batch=batch,
            targets=self.targets[:count],
            words=words,
            steps=steps,
            summed=summed,
            region=self.region.first(count) if self.region else None,
        )


@dataclass(frozen=True, slots=True)
class Attribution:
    """Signed attributions of the rows' inputs.

    ``values`` has one float32 array an attributed input, of that input's shape or, for a map of coarser
    grain (Grad-CAM), with a channel axis of 1; of texts the one array ``words``, a column a word, NaN behind
    the last word of a row. ``completeness`` is, a row, |sum of the attributions - (f(x) -
    f(baseline))| relative to |f(x) - f(baseline)| (or to a thousandth of the scores, where that is more), for
    methods that promise completeness; else None.
    """

    by: str
    ids: tuple[str, ...]
    values: Mapping[str, "NDArray[Any]"]
    completeness: "NDArray[Any] | None" = None
    baseline: str = ""
    """What stands for absence, in words: ``zero``, ``the mean of the rows``."""
    weights: Mapping[str, "NDArray[Any]"] = field(default_factory=dict)
    """How much a cell of one row's map counts in a sum, where cells share an attribution; else 1."""


class Method(ABC):
    """A frozen, final dataclass: its fields its settings, its docstring its title, ``attribute`` its work."""

    needs: ClassVar[Needs]
    kinds: ClassVar[frozenset[Kind]] = ROWS
    """The kinds of task whose scores it attributes."""

    @abstractmethod
    def attribute(self, run: Runtime, rows: Explained) -> Attribution:
        """Attribute the target output of each row to its inputs.

        Raises:
            SkipError: not on this model; the message is the reason.
        """


METHODS: Catalog[Method] = Catalog(
    "method",
    {
        "integrated-gradients": "explain.methods.integrated_gradients:IntegratedGradients",
        "gradcam": "explain.methods.gradcam:GradCAM",
        "occlusion": "explain.methods.occlusion:Occlusion",
    },
)
"""The name is as typed after ``--method`` and stands in metric names: ``…@gradcam``."""
