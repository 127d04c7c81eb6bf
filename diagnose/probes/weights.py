"""What can be seen of each tensor of the model."""

import hashlib
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, final

import numpy as np
import polars as pl
from polars.datatypes import DataTypeClass

from diagnose.probe import Probe
from diagnose.tensor_facts import TensorFacts, tensor_facts
from study.errors import SkipError
from study.progress import Progress
from study.storage import written
from study.subject import Model
from study.view import View

if TYPE_CHECKING:
    from numpy.typing import NDArray

SMALL = 1 << 20
SCHEMA: dict[str, pl.DataType | DataTypeClass] = {
    "name": pl.String,
    "role": pl.String,
    "shape": pl.List(pl.Int64),
    "dtype": pl.String,
    "size": pl.Int64,
    "nan": pl.Int64,
    "inf": pl.Int64,
    "bad_at": pl.String,
    "zeros": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "mean": pl.Float64,
    "std": pl.Float64,
    "peak": pl.Float64,
    "outlier": pl.Float64,
    "largest_at": pl.String,
    "gain": pl.Float64,
    "first_rank": pl.Float64,
    "units": pl.Int64,
    "zero_units": pl.Int64,
    "zero_at": pl.List(pl.Int64),
    "constant_units": pl.Int64,
    "constant_at": pl.List(pl.Int64),
    "copied_units": pl.Int64,
    "copies": pl.List(pl.List(pl.Int64)),
    "same_as": pl.String,
    "shared": pl.Boolean,
}


@final
@dataclass(frozen=True, slots=True)
class Weights(Probe):
    """The tensors of the model, one line each; nothing is run and no data is needed."""

    gives: ClassVar[str] = "weights"

    def run(self, view: View, progress: Progress) -> None:
        each, buffers = _tensors(view.model)
        seen = _Seen()
        lines = [
            asdict(seen.placed(tensor_facts(name, array, buffers), array))
            for name, array in progress.over(each, "looking at the weights", 0)
        ]
        if not lines:
            raise SkipError("the model holds no tensors")
        with written(view.artifact.folder / f"{self.gives}.parquet") as beside:
            pl.DataFrame(lines, schema=SCHEMA).write_parquet(beside)


def _tensors(model: Model) -> "tuple[Iterator[tuple[str, NDArray[Any]]], Collection[str]]":
    """The tensors, and the names that the module itself says are not learnt; the other formats do not say."""
    from study.loading.tensors import arrays, tensors

    if model.format not in ("pytorch", "torchscript"):
        return tensors(model), ()
    from study.loading.eager import load_module

    module = load_module(model)
    buffers = {name for name, _ in module.named_buffers(remove_duplicate=False)}
    return arrays(module.state_dict().items(), model), buffers


class _Seen:
    """The tensors so far, by their bytes: which are the same, and which lie in the same memory."""

    def __init__(self) -> None:
        self._first: dict[tuple[bytes, str, tuple[int, ...]], tuple[str, set[int]]] = {}
        self._alive: list[NDArray[Any]] = []

    def placed(self, facts: TensorFacts, array: "NDArray[Any]") -> TensorFacts:
        if array.dtype.kind not in "fciub" or not array.size:
            return facts
        if array.nbytes < SMALL:
            # Its memory must not be given to the next tensor, or the two would seem to share it. Large
            # ones are views of the file or module, which holds them all.
            self._alive.append(array)
        key = (_digest(array), str(array.dtype), array.shape)
        place = int(array.__array_interface__["data"][0])
        name, places = self._first.setdefault(key, (facts.name, {place}))
        if name == facts.name:
            return facts
        shared = place in places
        places.add(place)
        return replace(facts, same_as=name, shared=shared)


def _digest(array: "NDArray[Any]") -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(array).data, digest_size=16).digest()
