"""ONNX Runtime, on the provider that was asked for and no other."""

import io
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self, TypeGuard, final

import numpy as np

from study.batches import checked_shapes, fixed_batch, lacking, matched, pieces, rows_of
from study.cores import cores
from study.errors import InputError, did_you_mean
from study.host import to_numpy
from study.runtime import Batch, Runtime
from study.subject import InputSpec, Machine, Model

if TYPE_CHECKING:
    import onnxruntime
    from numpy.typing import NDArray

CPU: Final = "CPUExecutionProvider"
CUDA: Final = "CUDAExecutionProvider"
TABLE: Final = 2
"""Axes of boxes, or of lines of numbers, of one image."""
_FATAL_ONLY: Final = 4
_DTYPES: Final = {
    "float": "float32",
    "double": "float64",
    "float16": "float16",
    "bool": "bool",
    "string": "str",
} | {f"{sign}int{bits}": f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}


@dataclass(frozen=True, slots=True)
class Tensor:
    """An input or output as the file declares it: each size a number, or the name of an axis of any size."""

    name: str
    shape: tuple[int | str, ...]
    dtype: str


@final
class OnnxRuntime(Runtime):
    """An ONNX model in a session of its own.

    Where the model fixes the batch size (``fixed_batch``), batches are cut into pieces of that size and the
    last one is filled up.
    """

    fixed_batch: int | None

    def __init__(
        self,
        model: Model,
        machine: Machine,
        session: "onnxruntime.InferenceSession",
        *,
        captures: bool = False,
    ) -> None:
        self.model, self.machine, self._captures = model, machine, captures
        self.inputs = tuple(
            InputSpec(
                node.name,
                tuple(size if _is_size(size) else None for size in node.shape),
                _dtype(node),
            )
            for node in session.get_inputs()
        )
        self.outputs = tuple(node.name for node in session.get_outputs())
        self.provider = session.get_providers()[0]
        self.fixed_batch = fixed_batch(self.inputs)
        self._session: Any = session
        nodes = session.get_outputs()
        lengths = [
            node.name for node in nodes if 0 < len(node.shape) <= TABLE and not _is_size(node.shape[0])
        ]
        self._lengths = lengths if self.fixed_batch == 1 else []
        self._lists: set[str] | None = None

    @classmethod
    def open(cls, model: Model, machine: Machine) -> Self:
        """Make the session.

        Raises:
            InputError: it is no valid model, or the provider is not there or does not really run it.
        """
        return cls._open(model, machine, {})

    @classmethod
    def open_to_capture(cls, model: Model, machine: Machine) -> Self:
        """Make a session that captures a CUDA graph with the first bound call, and replays it from then on.

        Never run on a GPU yet.

        Raises:
            InputError: as ``open``, or it runs on no CUDA device.
        """
        if not machine.device.startswith("cuda") or machine.provider not in ("", CUDA):
            raise InputError("A CUDA graph needs --device cuda.")
        return cls._open(model, machine, {"enable_cuda_graph": "1"})

    @classmethod
    def _open(cls, model: Model, machine: Machine, more: Mapping[str, str]) -> Self:
        import onnxruntime

        # What the library says of providers that it cannot load comes as an error here, not on the screen.
        onnxruntime.set_default_logger_severity(_FATAL_ONLY)
        wanted = machine.provider or (CUDA if machine.device.startswith("cuda") else CPU)
        known = onnxruntime.get_available_providers()
        if wanted not in known:
            raise InputError(f"ONNX Runtime has no provider '{wanted}'.{did_you_mean(wanted, known)}")
        if wanted == CUDA and hasattr(onnxruntime, "preload_dlls"):
            with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
                onnxruntime.preload_dlls()
        number = machine.device.partition(":")[2]
        settings = {"device_id": number, **more} if wanted == CUDA and number else dict(more)
        asked = [(wanted, settings)] + ([CPU] if wanted != CPU else [])
        try:
            session = onnxruntime.InferenceSession(str(model.path), _options(machine), providers=asked)
        except Exception as error:
            raise InputError(f"{model.path} cannot be run by ONNX Runtime: {_reason(error)}.") from error
        if session.get_providers()[0] != wanted:
            instead = f"--provider {CPU}" if machine.provider else "--device cpu"
            raise InputError(
                f"{wanted} cannot run on this machine, and ONNX Runtime fell back to "
                f"{session.get_providers()[0]}: use {instead}, or install its libraries."
            )
        return cls(model, machine, session, captures=bool(more))

    def __call__(self, batch: Batch) -> Batch:
        """Run one batch.

        Raises:
            InputError: the arrays do not fit the model; the sentence names what is expected.
        """
        return self._run(self._placed(batch))

    def bind(self, batch: Batch) -> Callable[[], None]:
        """A call for timing: inputs bound in the device's memory, outputs left there."""
        import onnxruntime

        placed = self._placed(batch)
        if not self._captures:
            self._run(placed)
        device, number = self._device()
        session, bound = self._session, []
        for piece in self._cut(placed):
            binding = session.io_binding()
            for name, array in piece.items():
                value = onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array), device, number)
                binding.bind_ortvalue_input(name, value)
            for name in self.outputs:
                binding.bind_output(name, device, number)
            if self._captures:  # a graph replays addresses: its outputs are given their place once
                session.run_with_iobinding(binding)
                for name, value in zip(self.outputs, binding.get_outputs(), strict=True):
                    binding.bind_ortvalue_output(name, value)
            bound.append(binding)

        def run() -> None:
            for binding in bound:
                session.run_with_iobinding(binding)
                binding.synchronize_outputs()

        return run

    def left_in_place(self, batch: Mapping[str, Any]) -> dict[str, "onnxruntime.OrtValue"]:
        """Run one batch of the model's names and dtypes; outputs stay where they are, to be fed again.

        An array is brought to the device; an ``OrtValue`` of an earlier call is taken as it is.
        """
        import onnxruntime

        device, number = self._device()
        binding = self._session.io_binding()
        for name, value in batch.items():
            if isinstance(value, np.ndarray):
                array = np.ascontiguousarray(value)
                placed = onnxruntime.OrtValue.ortvalue_from_numpy(array, device, number)
            else:
                placed = value
            binding.bind_ortvalue_input(name, placed)
        for name in self.outputs:
            binding.bind_output(name, device, number)
        self._session.run_with_iobinding(binding)
        binding.synchronize_outputs()
        return dict(zip(self.outputs, binding.get_outputs(), strict=True))

    def as_torch(self, names: tuple[str, ...] = ()) -> Callable[..., Any]:
        """Positional tensors -> the output, or a tuple of several, by way of numpy: no gradient passes."""
        import torch

        names = names or tuple(spec.name for spec in self.inputs)

        def call(*tensors: "torch.Tensor") -> Any:
            outputs = self(dict(zip(names, tensors, strict=False)))
            home = tensors[0].device
            given = tuple(torch.from_numpy(outputs[name]).to(home) for name in self.outputs)
            return given[0] if len(given) == 1 else given

        return call

    def declared(self) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """The inputs and the outputs with the names of the axes that may have any size."""
        return tuple(map(_tensor, self._session.get_inputs())), tuple(
            map(_tensor, self._session.get_outputs())
        )

    def close(self) -> None:
        """Let go of the session."""
        self._session = None

    def _device(self) -> tuple[str, int]:
        if self.provider != CUDA:
            return "cpu", 0
        return "cuda", int(self.machine.device.partition(":")[2] or 0)

    def _placed(self, batch: Batch) -> dict[str, "NDArray[Any]"]:
        """Arrays by the model's names, in its dtypes."""
        arrays = {name: to_numpy(array) for name, array in batch.items()}
        arrays = matched(arrays, [spec.name for spec in self.inputs])
        checked_shapes(arrays, self.inputs)
        dtypes = {spec.name: spec.dtype for spec in self.inputs}
        return {
            name: np.ascontiguousarray(_cast(name, array, dtypes[name])) for name, array in arrays.items()
        }

    def _cut(self, placed: Mapping[str, "NDArray[Any]"]) -> list[Mapping[str, "NDArray[Any]"]]:
        if self.fixed_batch is None or rows_of(placed) == self.fixed_batch:
            return [placed]
        return list(pieces(placed, self.fixed_batch))

    def _run(self, placed: Mapping[str, "NDArray[Any]"]) -> dict[str, "NDArray[Any]"]:
        rows = rows_of(placed)
        try:
            parts = [self._session.run(None, dict(piece)) for piece in self._cut(placed)]
        except Exception as error:
            given = ", ".join(
                f"{k} {'x'.join(map(str, v.shape))} {v.dtype}" for k, v in list(placed.items())[:3]
            )
            raise InputError(f"The model does not run on {given}: {_reason(error)}.") from error
        parts = [self._with_rows(part) for part in parts]
        if len(parts) == 1 and self.fixed_batch in (None, rows):
            return dict(zip(self.outputs, parts[0], strict=True))
        whole = {}
        for at, name in enumerate(self.outputs):
            if any(part[at].ndim == 0 or len(part[at]) != self.fixed_batch for part in parts):
                raise InputError(
                    f"The model takes {self.fixed_batch} rows at once and its output '{name}' does not have "
                    "one line a row: export it with a dynamic batch axis."
                )
            whole[name] = _joined([part[at] for part in parts])[:rows]
        return whole

    def _with_rows(self, outputs: "list[NDArray[Any]]") -> "list[NDArray[Any]]":
        """The outputs of one image with the axis of rows that a detector for single images leaves out.

        Such are those of a file that fixes the batch at one row and gives another number of lines. An image
        of nothing is asked too, since what is seen may hold one object each.
        """
        if not self._lengths:
            return outputs
        if self._lists is None:
            shapes = {spec: [size or 1 for size in spec.shape or ()] for spec in self.inputs}
            try:
                nothing = {spec.name: np.zeros(shape, spec.dtype) for spec, shape in shapes.items()}
                told = self._session.run(self._lengths, nothing)
            except Exception:  # noqa: BLE001 - a model may refuse zeros as it likes
                told = []
            self._lists = {name for name, array in zip(self._lengths, told, strict=False) if len(array) != 1}
        named = dict(zip(self.outputs, outputs, strict=True))
        self._lists |= {name for name in self._lengths if len(named[name]) != 1}
        if not self._lists:
            return outputs
        return [array[None] if name in self._lengths else array for name, array in named.items()]


def _is_size(axis: object) -> TypeGuard[int]:
    return isinstance(axis, int) and axis > 0


def _dtype(node: Any) -> str:
    return _DTYPES.get(node.type.removeprefix("tensor(").rstrip(")"), "")


def _tensor(node: Any) -> Tensor:
    """Axes without a name are called after the tensor."""
    axes = enumerate(node.shape)
    shape = tuple(
        size if _is_size(size) else size if isinstance(size, str) and size else f"{node.name}_{axis}"
        for axis, size in axes
    )
    return Tensor(node.name, shape, _dtype(node))


def _joined(parts: "list[NDArray[Any]]") -> "NDArray[Any]":
    """The rows of several batches, filled up with zeros where some hold fewer detections."""
    widths = lacking([part.shape for part in parts])
    sides = [[(0, 0), *((0, size) for size in lacks)] for lacks in widths]
    return np.concatenate([np.pad(part, side) for part, side in zip(parts, sides, strict=True)])


def _options(machine: Machine) -> "onnxruntime.SessionOptions":
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = _FATAL_ONLY
    options.intra_op_num_threads = machine.threads or cores()
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    # Threads that spin between calls slow whatever else is timed beside them.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _cast(name: str, array: "NDArray[Any]", dtype: str) -> "NDArray[Any]":
    if not dtype:
        return array
    if dtype == "str":
        return array.astype(object)
    if array.dtype.kind not in "biufc":
        raise InputError(
            f"The input '{name}' takes {dtype} and the data holds {array.dtype}: turn it into numbers with "
            "--preprocess."
        )
    return array.astype(dtype, copy=False)


def _reason(error: Exception) -> str:
    """The library's sentence without its error code."""
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return line.rpartition("[ONNXRuntimeError] : ")[2].rstrip(".")[:300]
