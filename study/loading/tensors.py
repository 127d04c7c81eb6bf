"""The tensors of any model file, by the names that ``state_dict()`` gives them."""

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from study.errors import SkipError
from study.subject import Model

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray


def tensors(model: Model) -> "Iterator[tuple[str, NDArray[Any]]]":
    """Names and values, one tensor at a time; what is no tensor is left out.

    Types that numpy lacks (bfloat16, float8) come as float32, quantized tensors as the numbers that they
    stand for. Weights in a zip or safetensors file are mapped, not copied.

    Raises:
        InputError: the file cannot be read.
        SkipError: its weights are packed so that none can be seen.
    """
    if model.format == "onnx":
        from study.loading.onnx import read_initializers

        yield from read_initializers(model)
        return
    yield from arrays(_state(model), model)


def arrays(state: "Iterable[tuple[str, object]]", model: Model) -> "Iterator[tuple[str, NDArray[Any]]]":
    """The same of a state dict of the model, for whoever has it.

    Raises:
        SkipError: its weights are packed so that none can be seen.
    """
    seen = False
    for name, value in state:
        array = _array(value)
        if array is not None:
            seen = True
            yield name, array
    if not seen:
        raise SkipError(f"{model.path.name} shows no tensors: its weights are packed")


def _state(model: Model) -> "Iterator[tuple[str, object]]":
    from study.loading.states import read_checkpoint, state_of, unwrapped_names

    if model.format == "exported":
        from study.loading.exported import load_program

        yield from load_program(model).state_dict.items()
    elif model.format == "weights":
        yield from unwrapped_names(state_of(read_checkpoint(model), model.path, model.weights)).items()
    else:
        from study.loading.eager import load_module

        state: Mapping[str, object] = load_module(model).state_dict()
        yield from state.items()


def _array(value: object) -> "NDArray[Any] | None":
    import torch

    if not isinstance(value, torch.Tensor) or value.is_meta or value.is_nested:
        return None
    plain = value.detach()
    if plain.is_quantized:
        plain = plain.dequantize()
    if plain.layout is not torch.strided:
        plain = plain.to_dense()
    return _numpy(plain.cpu().resolve_conj().resolve_neg())


def _numpy(plain: "torch.Tensor") -> "NDArray[Any] | None":
    """None for bit fields and nibbles without a meaning of their own."""
    try:
        array: NDArray[Any] = plain.numpy()
    except TypeError:
        if not plain.is_floating_point():
            return None
        array = plain.float().numpy()
    return array
