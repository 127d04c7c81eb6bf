"""What is studied: a model, the rows that judge it, and the machine. Plain data and paths.

All of it survives a child process and a resume; nothing here opens a file or imports a framework.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

from study.task import Task

Format: TypeAlias = Literal["pytorch", "torchscript", "exported", "onnx", "weights"]
Precision: TypeAlias = Literal["fp32", "fp16", "int8", "int4"]
Missing: TypeAlias = Literal["drop", "mean", "median"]


@dataclass(frozen=True, slots=True)
class InputSpec:
    """One named input: its shape with ``None`` where any size fits (the first is the batch), and its dtype.

    ``shape`` is ``None`` and ``dtype`` empty where the file does not say (an eager module).
    """

    name: str
    shape: tuple[int | None, ...] | None = None
    dtype: str = ""


@dataclass(frozen=True, slots=True)
class Model:
    """One model file, or a live module that the Python API was handed.

    ``format`` is ``pytorch`` (an eager module: a state dict with ``arch``, a pickled module, a live one, or
    what a library keeps in a format of its own), ``torchscript``, ``exported``, ``onnx``, or ``weights`` (a
    state dict alone: it has health, and cannot run).
    """

    path: Path
    format: Format
    precision: Precision = "fp32"
    sha256: str = ""
    bytes: int = 0
    arch: str = ""
    """``module:factory`` that builds the eager module that a state dict fits."""
    arch_args: str = "{}"
    """Keyword arguments of the factory, as JSON."""
    weights: str = ""
    """The key of the weights in a checkpoint that holds several sets of them; empty: chosen."""
    adapter: Path | None = None
    """A folder of low-rank changes (LoRA) that are added to the weights."""
    trust: bool = False
    """A full unpickle of ``path`` (or ``skeleton``) is allowed."""
    skeleton: Path | None = None
    """The pickled module that ``path``'s weights are put into, where there is no ``arch`` (a pruned one)."""
    live: str = ""
    """The key under which ``study.loading.live`` holds the module, in this process alone."""
    library: str = ""
    """The entry of ``study.loading.library.LIBRARIES`` that builds the module of ``path``; empty: torch."""
    with_past: "Model | None" = None
    """The same model with inputs and outputs for the keys and values of the past, where it writes texts."""

    @property
    def artifact(self) -> str:
        """Format with precision, as passes say what they take and give: ``onnx/int8``."""
        return f"{self.format}/{self.precision}"


@dataclass(frozen=True, slots=True)
class Data:
    """Where rows come from, and how they are to be read."""

    source: str
    """A path, or ``module:factory`` returning a ``Dataset`` or ``DataLoader``."""
    label: str = ""
    """The label's column, or the path of an array of labels."""
    columns: tuple[str, ...] = ()
    preprocess: str = ""
    """``module:function``: one raw row -> named arrays."""
    group: str = ""
    missing: Missing = "drop"
    max_bad_rows: float = 0.05
    """The fraction of broken rows that is left out without ado."""
    shapes: tuple[InputSpec, ...] = ()
    """What ``--shape`` said, the batch first."""
    fill: tuple[tuple[str, tuple[float, ...]], ...] = ()
    """What stands in for missing cells: an input's name and one number a column (fitted once, by intake)."""
    tokenizer: str = ""
    """A folder or file that turns texts into tokens (``study.tokens``)."""
    max_tokens: int = 0
    """Longer texts are cut to so many tokens; 0: no text is cut."""
    longest: int = 0
    """Texts of more tokens are no input of the model (found by intake); 0: any is."""
    pad: float | None = None
    """What fills rows up to the longest of their batch, where they are sequences of numbers."""
    gaps: bool = False
    """Of several labels a row may lack some (found by intake); else such a row has no label."""
    seed: int = 0
    trust: bool = False
    live: str = ""
    """The key under which ``study.loading.live`` holds arrays or a ``Dataset``, in this process alone."""


@dataclass(frozen=True, slots=True)
class Split:
    """Some rows of a source: their positions in it, ascending; ``None`` is all of them."""

    data: Data
    positions: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Machine:
    """Where models run. ``threads`` 0 means one a physical core; ``batch_size`` 0 means chosen by size."""

    device: str = "cpu"
    provider: str = ""
    threads: int = 0
    batch_size: int = 0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Subject:
    """A model with the rows that judge it and what its outputs mean.

    Passes fit to ``calibration`` and ``training`` and never to ``judged``.
    """

    model: Model
    judged: Split | None = None
    calibration: Split | None = None
    training: Split | None = None
    task: Task | None = None
    inputs: tuple[InputSpec, ...] = ()
    """The inputs as they are fed: names, shapes of one batch with ``None`` for the batch axis, dtypes."""
    student: Model | None = None
    """What is to be trained to answer as the model: its ``arch`` and ``arch_args``, without any file."""
    notes: tuple[str, ...] = field(default=())
    """What was guessed, to be said aloud."""


@dataclass(frozen=True, slots=True)
class Artifact:
    """The model of one step, and the folder of what was learnt of it."""

    name: str
    folder: Path
    model: Model
