"""``module:factory``: code of the user that returns a ``Dataset``, a ``DataLoader`` or arrays."""

import re
from pathlib import Path
from typing import Final, final

from study.data.rows.held import reader_of
from study.data.rows.samples import seeded
from study.data.source import Reader, Source
from study.subject import Data
from study.user_code import call_factory

SPEC: Final = re.compile(r"[^\s:]{2,}:[A-Za-z_][\w.]*")
"""Two letters before the colon: one is a drive of Windows."""


@final
class Factory(Source):
    """What the factory returned. It is called once a process, its random numbers seeded."""

    @classmethod
    def recognises(cls, data: Data) -> bool:
        """No file, but a module and a name."""
        return bool(SPEC.fullmatch(data.source)) and not Path(data.source).exists()

    @classmethod
    def open(cls, data: Data) -> Reader:
        """Import the module and call the factory."""
        with seeded(data.seed, 0):
            made = call_factory(data.source, what="--data")
        return reader_of(made, data)
