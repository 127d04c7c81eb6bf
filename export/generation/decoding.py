"""Texts written token by token: with what a model kept of the past, or without."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias, final

import numpy as np

from export.generation.cached import MASK, POSITIONS, TOKENS, Cached
from study.errors import SkipError
from study.runtime import Runtime, to_numpy
from study.runtimes.ort import OnnxRuntime
from study.runtimes.pytorch import PyTorch

if TYPE_CHECKING:
    from numpy.typing import NDArray

Past: TypeAlias = Any
"""What a decoder kept, in its runtime's own form."""
Ids: TypeAlias = "NDArray[np.int64]"

KEPT: Final = "past_key_values."
GIVEN: Final = "present."


def names_of(prefix: str, count: int) -> tuple[str, ...]:
    """The names of so many keys and values, as Optimum and onnxruntime-genai know them."""
    return tuple(f"{prefix}{at // 2}.{'value' if at % 2 else 'key'}" for at in range(count))


class Decoder(ABC):
    """One open model that takes what it kept of the tokens before."""

    bytes_per_token: int
    """Of the cache."""

    @abstractmethod
    def __call__(
        self, tokens: Ids, mask: Ids, positions: Ids, past: Past = None
    ) -> "tuple[NDArray[Any], Past]":
        """The logits of the last token, (batch, vocabulary), and the past with these tokens added.

        ``mask`` is of the past and these tokens together. ``past`` is used up.
        """


@final
class TorchDecoder(Decoder):
    """A module, in its own way: without a past it begins a cache of its own."""

    def __init__(self, runtime: PyTorch) -> None:
        self._cached = Cached.of(runtime.module)
        self._runtime = runtime
        self.bytes_per_token = self._cached.bytes_per_token

    def __call__(
        self, tokens: Ids, mask: Ids, positions: Ids, past: Past = None
    ) -> "tuple[NDArray[Any], Past]":
        """As ``Decoder`` says; the past is the module's own cache."""
        import torch

        self._runtime.use_threads()
        home = self._cached.device
        ids, seen, places = (torch.from_numpy(array).to(home) for array in (tokens, mask, positions))
        with torch.inference_mode():
            logits, past = self._cached(ids, seen, places, past)
        return to_numpy(logits[:, -1]), past


@final
class OnnxDecoder(Decoder):
    """A graph with past inputs; keys and values stay where the session made them."""

    def __init__(self, runtime: OnnxRuntime) -> None:
        kept = [spec for spec in runtime.inputs if spec.name.startswith(KEPT)]
        if not kept:
            raise SkipError(f"{runtime.model.path.name} has no inputs {KEPT}0.key and on")
        self._runtime = runtime
        self._positions = POSITIONS in {spec.name for spec in runtime.inputs}
        self._kept = names_of(KEPT, len(kept))
        self._given = names_of(GIVEN, len(kept))
        self._empty = {
            spec.name: np.zeros([size or 0 for size in (spec.shape or ())], spec.dtype) for spec in kept
        }
        self.bytes_per_token = sum(
            array.itemsize * array.shape[1] * array.shape[3] for array in self._empty.values()
        )

    def __call__(
        self, tokens: Ids, mask: Ids, positions: Ids, past: Past = None
    ) -> "tuple[NDArray[Any], Past]":
        """As ``Decoder`` says; the past is of the session's own values, by the names of the inputs."""
        if past is None:
            past = {
                name: np.zeros((len(tokens), *array.shape[1:]), array.dtype)
                for name, array in self._empty.items()
            }
        fed = {TOKENS: tokens, MASK: mask, **({POSITIONS: positions} if self._positions else {}), **past}
        given = self._runtime.left_in_place(fed)
        past = {name: given[new] for name, new in zip(self._kept, self._given, strict=True)}
        logits: NDArray[Any] = given["logits"].numpy()
        return logits[:, -1], past


def decoder_of(runtime: Runtime) -> Decoder:
    """The decoder that an open model is.

    Raises:
        SkipError: it takes no past.
    """
    if isinstance(runtime, OnnxRuntime):
        return OnnxDecoder(runtime)
    if isinstance(runtime, PyTorch) and runtime.model.format == "pytorch":
        return TorchDecoder(runtime)
    raise SkipError(f"the inputs of a {runtime.model.format} model are fixed, and none of them is a past")


@dataclass(frozen=True, slots=True)
class Written:
    """What was written after some prompts: tokens (prompt, step) and logits (prompt, step, vocabulary)."""

    tokens: Ids
    logits: "NDArray[Any]"


def with_past(
    decoder: Decoder, prompts: Sequence[Ids], count: int, forced: "Ids | None" = None, first: int = 0
) -> Written:
    """``count`` tokens after each prompt, the likeliest each time, with a cache.

    Shorter prompts are filled up on the left. ``forced`` tokens (prompt, step) are read on instead of those
    that were written; ``first`` tokens of the prompts are read in a call of their own (0: in one call).
    """
    longest = max(len(prompt) for prompt in prompts)
    tokens = np.zeros((len(prompts), longest), np.int64)
    mask = np.zeros_like(tokens)
    for row, prompt in enumerate(prompts):
        tokens[row, longest - len(prompt) :] = prompt
        mask[row, longest - len(prompt) :] = 1
    past = None
    if first:
        _, past = decoder(tokens[:, :first], mask[:, :first], _positions(mask[:, :first]))
    logits, past = decoder(tokens[:, first:], mask, _positions(mask)[:, first:], past)
    written, said = [], []
    for step in range(count):
        said.append(logits)
        written.append(logits.argmax(axis=1))
        if step + 1 < count:
            new = written[-1] if forced is None else forced[:, step]
            mask = np.concatenate([mask, np.ones((len(prompts), 1), np.int64)], axis=1)
            logits, past = decoder(new[:, None], mask, _positions(mask)[:, -1:], past)
    return Written(np.stack(written, axis=1), np.stack(said, axis=1))


def without_past(runtime: Runtime, prompts: Sequence[Ids], count: int) -> Written:
    """The same by reading all of each text again for every token, one text at a time."""
    written, said = [], []
    for prompt in prompts:
        text, logits = prompt, []
        for _ in range(count):
            answer = to_numpy(runtime(whole(text, runtime))["logits"])[0, -1]
            logits.append(answer)
            text = np.append(text, answer.argmax())
        written.append(text[len(prompt) :])
        said.append(np.stack(logits))
    return Written(np.stack(written), np.stack(said))


def whole(text: Ids, runtime: Runtime) -> "Mapping[str, Ids]":
    """One text as a batch of what a model that scores texts takes."""
    batch = {TOKENS: text[None], MASK: np.ones((1, len(text)), np.int64)}
    return {spec.name: batch[spec.name] for spec in runtime.inputs if spec.name in batch}


def _positions(mask: Ids) -> Ids:
    """The place of each token in its own text."""
    places: Ids = np.maximum(mask.cumsum(axis=1) - 1, 0)
    return places
