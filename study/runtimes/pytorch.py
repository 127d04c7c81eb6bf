"""Torch: eager modules, TorchScript and exported programs, in eval mode."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self, final

import numpy as np

from study.batches import checked_shapes, fixed_batch, lacking, matched, pieces, rows_of
from study.cores import cores
from study.errors import InputError
from study.loading.calling import Signature, named_outputs, of_module, of_program, of_script
from study.loading.eager import load_module
from study.loading.found_lists import takes_list
from study.loading.library import facts_of
from study.runtime import Batch, Runtime
from study.subject import Machine, Model

if TYPE_CHECKING:
    import torch
    from torch import nn


@final
class PyTorch(Runtime):
    """A torch model on one device.

    Parameters take no gradients; ``as_torch`` gives those of inputs. Where the file fixes the batch size
    (``fixed_batch``), batches are cut into pieces of that size and the last one is filled up.
    """

    module: "nn.Module"
    """The module that is called; hooks may be put on its layers."""
    fixed_batch: int | None

    def __init__(self, model: Model, machine: Machine, module: "nn.Module", how: Signature) -> None:
        import torch

        self.model, self.machine, self.module = model, machine, module
        self.inputs, self.outputs = how.inputs, ()
        self.optional = how.optional or ()
        self.device = torch.device(machine.device)
        self.provider = str(self.device)
        self.fixed_batch = fixed_batch(how.inputs)
        self._how = how
        self._threads = machine.threads or cores()
        dtypes = (tensor.dtype for tensor in _tensors(module) if tensor.is_floating_point())
        self._float = next(dtypes, torch.float32)
        self._as_float: set[str] = set()

    @classmethod
    def open(cls, model: Model, machine: Machine) -> Self:
        """Load the model in eval mode.

        Raises:
            InputError: it cannot be loaded, or there is no such device.
        """
        import torch

        if machine.device.startswith("cuda") and not torch.cuda.is_available():
            raise InputError(f"Torch finds no GPU for --device {machine.device}: use --device cpu.")
        try:
            device = torch.device(machine.device)
        except RuntimeError:
            raise InputError(f"There is no device '{machine.device}': use --device cpu or cuda:0.") from None
        if model.format == "exported":
            module, how = of_program(model, device)
        else:
            module = load_module(model)
            how = of_script(module) if model.format == "torchscript" else of_module(module)
            stated = facts_of(model).inputs
            how = replace(how, inputs=stated) if stated else how
        module.to(device)
        for parameter in module.parameters():
            parameter.requires_grad = False
        return cls(model, machine, module, how)

    def __call__(self, batch: Batch) -> Batch:
        """Run one batch without gradients.

        Raises:
            InputError: the arrays do not fit the model; the sentence has torch's reason.
        """
        import torch

        with torch.inference_mode():
            return self._outputs(self._placed(batch))

    def bind(self, batch: Batch) -> Callable[[], None]:
        """A call for timing: inputs on the device, cut to the fixed batch size where there is one."""
        import torch

        placed = self._placed(batch)
        self._outputs_checked(placed)  # decides once how integers are taken
        cut = self._cut({name: self._typed(name, value) for name, value in placed.items()})
        call, device = self._how.call, self.device

        def run() -> None:
            with torch.inference_mode():
                for piece in cut:
                    call(piece)
            if device.type == "cuda":
                torch.cuda.synchronize(device)

        return run

    def as_torch(self, names: tuple[str, ...] = ()) -> Callable[..., Any]:
        """Positional input tensors -> the output, or a tuple of several; gradients reach the inputs."""
        names = names or (*(spec.name for spec in self.inputs), *(self._how.optional or ()))

        def call(*tensors: "torch.Tensor") -> Any:
            placed = self._placed(dict(zip(names, tensors, strict=False)))
            outputs = tuple(self._outputs(placed).values())
            return outputs[0] if len(outputs) == 1 else outputs

        return call

    def vocabulary(self) -> int:
        """The rows of its largest embedding."""
        from torch import nn

        rows = (
            len(layer.weight)
            for layer in self.module.modules()
            if isinstance(layer, nn.Embedding | nn.EmbeddingBag)
        )
        return max(rows, default=0)

    def use_threads(self) -> None:
        """Compute with as many threads as were asked for: for those who call ``module`` themselves."""
        import torch

        if torch.get_num_threads() != self._threads:
            torch.set_num_threads(self._threads)

    def compile(self) -> None:
        """Have torch.compile make the module's calls; the first one, and any of a new shape, takes long.

        Raises:
            InputError: it is no eager module, or there is no C++ compiler to compile for the CPU.
        """
        import os
        import shutil

        import torch

        if self.model.format != "pytorch":
            raise InputError(
                f"{self.model.path} is {self.model.format}, and torch.compile takes eager modules."
            )
        compilers = filter(None, (os.environ.get("CXX"), "g++", "clang++"))
        if self.device.type == "cpu" and not any(map(shutil.which, compilers)):
            raise InputError(
                "There is no C++ compiler (g++ or clang++), which torch.compile needs on the CPU."
            )
        # module.compile() would do nothing here: torch 2.13 skips the frame that it compiles.
        compiled = of_module(self.module, torch.compile(self.module))
        self._how = replace(self._how, call=compiled.call)

    def must_be_compiled(self) -> None:
        """After the first call.

        Raises:
            InputError: torch.compile made no graph, and the module ran as it is.
        """
        from torch._dynamo.utils import counters

        if not counters["stats"]["unique_graphs"]:
            raise InputError("torch.compile made no graph of the module, which ran as it is.")

    def close(self) -> None:
        """Let go of the module, and of the device's memory."""
        import torch

        self.module = torch.nn.Module()
        self._how = Signature(self.inputs, (), lambda _: None)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _placed(self, batch: Batch) -> dict[str, "torch.Tensor"]:
        """Tensors on the device, by the model's names, in the dtypes that the file states."""
        import torch

        self.use_threads()
        names = [spec.name for spec in self.inputs]
        arrays = matched(batch, names, self._how.optional)
        checked_shapes(arrays, self.inputs)
        dtypes = {spec.name: spec.dtype for spec in self.inputs}
        placed = {}
        for name, array in arrays.items():
            tensor = _tensor(name, array).to(self.device)
            stated = dtypes.get(name)
            if stated:
                tensor = tensor.to(getattr(torch, stated))
            elif tensor.is_floating_point():
                tensor = tensor.to(self._float)
            placed[name] = tensor
        return placed

    def _typed(self, name: str, tensor: "torch.Tensor") -> "torch.Tensor":
        return tensor.to(self._float) if name in self._as_float else tensor

    def _cut(self, placed: Mapping[str, "torch.Tensor"]) -> list[Mapping[str, "torch.Tensor"]]:
        if self.fixed_batch is None or rows_of(placed) == self.fixed_batch:
            return [placed]
        return list(pieces(placed, self.fixed_batch))

    def _outputs(self, placed: Mapping[str, "torch.Tensor"]) -> dict[str, "torch.Tensor"]:
        """The named outputs.

        Whether whole numbers are indices or measurements only the model knows. They are tried as they are;
        a model that refuses them is tried with floats, and what it takes is remembered.
        """
        whole = {name for name, value in placed.items() if not _inexact(value)} - self._as_float
        typed = {name: self._typed(name, value) for name, value in placed.items()}
        try:
            return self._run(typed)
        except (RuntimeError, IndexError, ValueError, TypeError, AttributeError) as error:
            if not whole or any(spec.dtype for spec in self.inputs):
                raise self._misfit(typed, error) from error
            first = error
        try:
            outputs = self._run({name: value.to(self._float) for name, value in typed.items()})
        except (RuntimeError, IndexError, ValueError, TypeError):
            raise self._misfit(typed, first) from first
        self._as_float |= whole
        return outputs

    def _outputs_checked(self, placed: Mapping[str, "torch.Tensor"]) -> None:
        import torch

        with torch.inference_mode():
            self._outputs(placed)

    def _run(self, placed: Mapping[str, "torch.Tensor"]) -> dict[str, "torch.Tensor"]:
        rows = rows_of(placed)
        parts = [dict(named_outputs(self._how.call(piece), "")) for piece in self._cut(placed)]
        outputs = parts[0]
        if len(parts) > 1 or self.fixed_batch not in (None, rows):
            for name, value in outputs.items():
                if not value.ndim or len(value) != self.fixed_batch:
                    raise ValueError(f"the output '{name}' does not have one line a row")
            outputs = {name: _joined([part[name] for part in parts])[:rows] for name in outputs}
        if not outputs:
            raise TypeError("forward returned no tensor")
        self.outputs = tuple(outputs)
        return outputs

    def _misfit(self, placed: Mapping[str, "torch.Tensor"], error: Exception) -> InputError:
        import torch

        given = ", ".join(
            f"{name} {'x'.join(map(str, value.shape))} {str(value.dtype).removeprefix('torch.')}"
            for name, value in list(placed.items())[:3]
        )
        if isinstance(error, torch.OutOfMemoryError):
            return InputError(
                f"{self.provider} has too little memory for {given}: use a smaller --batch-size."
            )
        if takes_list(self.module, error):
            return InputError(
                "The model takes a list of images and not a batch of them: wrap it in a module whose "
                "forward(images) takes (rows, channels, height, width) and hands list(images) on."
            )
        if "index out of range" in str(error):
            return InputError(
                f"The model does not run on {given}: an index is beyond the rows of an embedding: give the "
                "--tokenizer that it was trained with, or columns that are its indices."
            )
        line = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        return InputError(
            f"The model does not run on {given}: {line[:300]}: give data of the shape and dtype that it "
            "takes, or bring it there with --preprocess."
        )


def _tensor(name: str, array: Any) -> "torch.Tensor":
    import torch

    if isinstance(array, torch.Tensor):
        return array
    plain = np.ascontiguousarray(array)
    if plain.dtype.kind not in "biufc":
        raise InputError(
            f"The input '{name}' holds {plain.dtype}, not numbers: turn it into numbers with --preprocess."
        )
    if not plain.flags.writeable or not plain.dtype.isnative or np.ndim(array) == 0:
        plain = np.array(array, dtype=plain.dtype.newbyteorder("="))
    return torch.from_numpy(plain)


def _joined(parts: "list[torch.Tensor]") -> "torch.Tensor":
    """The rows of several batches, filled up with zeros where some hold fewer detections."""
    import torch

    widths = lacking([tuple(part.shape) for part in parts])
    sides = [[side for size in reversed(lacks) for side in (0, size)] for lacks in widths]
    return torch.cat([torch.nn.functional.pad(*pair) for pair in zip(parts, sides, strict=True)])


def _inexact(tensor: "torch.Tensor") -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def _tensors(module: "nn.Module") -> Iterator["torch.Tensor"]:
    yield from module.parameters()
    yield from module.buffers()
