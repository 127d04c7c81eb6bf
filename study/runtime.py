"""What runs a model: one call, one bind, one close."""

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import lru_cache
from types import TracebackType
from typing import Any, Self, TypeAlias

from study.catalog import Catalog
from study.host import to_numpy as to_numpy  # noqa: PLC0414 - asked for here by those who call a runtime
from study.subject import Format, InputSpec, Machine, Model

Array: TypeAlias = Any
"""Speaks DLPack: a numpy array or a torch tensor; it stays on the device where it was computed."""
Batch: TypeAlias = Mapping[str, Array]
"""Named model inputs or outputs, rows first."""


class Runtime(ABC):
    """One open model on one machine; a context manager.

    ``inputs`` and ``outputs`` are the model's own names in order; shapes and dtypes where the file says them.
    """

    model: Model
    machine: Machine
    inputs: tuple[InputSpec, ...]
    outputs: tuple[str, ...]
    """Empty until the first call where only a call can tell (an eager module)."""
    optional: tuple[str, ...] = ()
    """Inputs that may be left out: they have a default of the model's own."""
    provider: str
    """What really runs it, e.g. ``cpu``, ``cuda:0``, ``CPUExecutionProvider``."""

    @classmethod
    @abstractmethod
    def open(cls, model: Model, machine: Machine) -> Self:
        """Load the model in eval mode. The framework is imported here."""

    @abstractmethod
    def __call__(self, batch: Batch) -> Batch:
        """Run one batch without gradients; arrays are moved to the device and cast to the inputs' dtypes."""

    @abstractmethod
    def bind(self, batch: Batch) -> Callable[[], None]:
        """A call for timing: inputs already in place; it returns when the work is done."""

    @abstractmethod
    def as_torch(self, names: tuple[str, ...] = ()) -> Callable[..., Any]:
        """The same model as a torch callable: positional input tensors -> the output tensor(s).

        ``names`` are those of the inputs in the order in which they will come; empty: the model's own.
        """

    def vocabulary(self) -> int:
        """Token ids must be below it; 0 where nothing says so."""
        return 0

    @abstractmethod
    def close(self) -> None:
        """Give back what was taken."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


RUNTIMES: Catalog[Runtime] = Catalog(
    "runtime",
    {
        "pytorch": "study.runtimes.pytorch:PyTorch",
        "onnxruntime": "study.runtimes.ort:OnnxRuntime",
    },
)


def runtime_of(form: Format) -> str:
    """The runtime that runs a format."""
    return "onnxruntime" if form == "onnx" else "pytorch"


def open_runtime(model: Model, machine: Machine) -> Runtime:
    """Open a model with the runtime of its format; the caller closes it."""
    return RUNTIMES.get(runtime_of(model.format)).open(model, machine)


class Runtimes:
    """The open runtimes of this process: asked for twice, opened once; the least recently used is closed."""

    def __init__(self, keep: int = 3) -> None:
        self._keep = keep
        self._open: OrderedDict[tuple[Model, Machine], Runtime] = OrderedDict()

    def get(self, model: Model, machine: Machine) -> Runtime:
        """The open runtime of this model on this machine."""
        key = (model, machine)
        if key not in self._open:
            while len(self._open) >= self._keep:
                self._open.popitem(last=False)[1].close()
            self._open[key] = open_runtime(model, machine)
        self._open.move_to_end(key)
        return self._open[key]

    def close(self) -> None:
        """Close them all, also when one of them fails to."""
        with ExitStack() as stack:
            while self._open:
                stack.callback(self._open.popitem()[1].close)


@lru_cache(maxsize=1)
def of_this_process() -> Runtimes:
    """The open runtimes of this process: a model opened for one call is open for the next."""
    return Runtimes()
