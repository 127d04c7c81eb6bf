"""The worker's part of timing generation: a prompt read, tokens written one by one, the clock beside it."""

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from export.examples import examples_of
from export.generation.cached import MASK, TOKENS
from export.generation.decoding import Decoder, Ids, decoder_of, whole
from export.generation.with_past import longest_of
from export.timing.seats import COLD_S
from study.errors import SkipError
from study.progress import Progress
from study.runtime import Runtime, of_this_process, open_runtime
from study.subject import Machine, Model, Subject

ROWS = 64
"""Texts that the prompt is put together of."""
LONGEST_PROMPT, MOST_WRITTEN = 128, 16
"""Tokens; a prompt takes half of what the model takes at most."""
LEAST_WRITTEN = 4
WARMING = 2


@dataclass(frozen=True, slots=True)
class Entry:
    """One model at one batch size, on its rows."""

    model: Model
    subject: Subject
    machine: Machine
    batch: int


@dataclass(frozen=True, slots=True)
class Visit:
    """Nanoseconds: of reading the prompt, of each token after it, and of scoring it without a cache."""

    prefill: int
    decode: tuple[int, ...]
    again: int


@dataclass(frozen=True, slots=True)
class Ready:
    """A model that is ready to be timed: its last visit while it was warmed, and what it reads and keeps."""

    visit: Visit
    prompt: int
    bytes_per_token: int
    provider: str


_READY: dict[Entry, tuple[Decoder, Callable[[], None], Ids]] = {}
"""The decoders that are ready to be timed, in this process."""
_OPENED: list[Runtime] = []
"""What was opened for them: the few runtimes that a process keeps open would be too few for a race."""


def ready(entry: Entry, _progress: Progress) -> Ready:
    """Open the model with a cache, and the one without, and write a little.

    Raises:
        SkipError: it has no cache, or takes too few tokens to write any.
    """
    if entry.model.format == "onnx" and entry.model.with_past is None:
        raise SkipError(
            "no file with a key/value cache lies beside this ONNX; where a step made it, its record 'cache' "
            "says why"
        )
    scoring = writing = of_this_process().get(entry.model, entry.machine)
    if entry.model.with_past is not None:
        writing = open_runtime(entry.model.with_past, entry.machine)
        _OPENED.append(writing)
    decoder = decoder_of(writing)
    prompt, count = _prompt(entry)
    _READY[entry] = decoder, scoring.bind(whole(prompt, scoring)), prompt
    for _ in range(WARMING):
        last = visit(entry, count, Progress())
    return Ready(last, len(prompt), decoder.bytes_per_token, scoring.provider)


def visit(entry: Entry, count: int, _progress: Progress) -> Visit:
    """Read the prompt, write ``count`` tokens, and score the prompt without a cache.

    The prompt is read before, uncounted: that brings back the caches that another contender used meanwhile.
    """
    decoder, again, prompt = _READY[entry]
    size = len(prompt)
    mask = np.ones((1, size + count), np.int64)
    places = np.arange(size + count, dtype=np.int64)[None]
    back = time.perf_counter() + COLD_S
    decoder(prompt[None], mask[:, :size], places[:, :size])
    while time.perf_counter() < back:
        decoder(prompt[None], mask[:, :size], places[:, :size])
    collecting = gc.isenabled()
    gc.disable()
    try:
        times = [time.perf_counter_ns()]
        logits, past = decoder(prompt[None], mask[:, :size], places[:, :size])
        token = logits.argmax(axis=1)
        times.append(time.perf_counter_ns())
        for at in range(size, size + count):
            logits, past = decoder(token[:, None], mask[:, : at + 1], places[:, at : at + 1], past)
            token = logits.argmax(axis=1)
            times.append(time.perf_counter_ns())
        again()
        times.append(time.perf_counter_ns())
    finally:
        if collecting:
            gc.enable()
    prefill, *decode, scored = np.diff(times).tolist()
    return Visit(prefill, tuple(decode), scored)


def release(_progress: Progress) -> None:
    """Forget the decoders, and close what was opened for them."""
    _READY.clear()
    while _OPENED:
        _OPENED.pop().close()


def _prompt(entry: Entry) -> tuple[Ids, int]:
    """The judged texts, one after the other, as long as it goes; and how many tokens may be written after."""
    shown = entry.subject
    rows = examples_of(replace(shown, calibration=shown.judged or shown.calibration), ROWS).batch
    if TOKENS not in rows:
        raise SkipError(f"its rows have no {TOKENS}")
    seen = rows.get(MASK, np.ones_like(rows[TOKENS])) > 0
    longest = longest_of(shown) or int(seen.sum(axis=1).max())
    size = min(LONGEST_PROMPT, longest // 2)
    count = min(MOST_WRITTEN, longest - size)
    if count < LEAST_WRITTEN:
        raise SkipError(f"it takes {longest} tokens, too few to write any after a prompt")
    return np.resize(rows[TOKENS][seen], size).astype(np.int64), count
