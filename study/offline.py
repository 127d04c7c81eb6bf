"""Libraries that would ask a hub, and talk while they load: kept off the net and off the screen."""

import io
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Final

SETTINGS: Final = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
}
"""Read by Hugging Face's libraries when they are imported."""


@contextmanager
def offline() -> Iterator[None]:
    """What is imported and loaded inside asks no hub; what it prints and warns of is dropped."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    with (
        warnings.catch_warnings(),
        redirect_stdout(io.StringIO()),
        redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        yield
