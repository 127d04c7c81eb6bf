"""Models of other libraries, kept in a format of their own, that are torch modules once they are built."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from study.catalog import Catalog
from study.loading.live import held
from study.subject import InputSpec, Model

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, slots=True)
class Facts:
    """What a model's own files say of it; what they do not say is empty."""

    task: str = ""
    """A word for ``--task``."""
    classes: tuple[str, ...] = ()
    inputs: tuple[InputSpec, ...] = ()
    """The inputs that it is fed, in the order of ``forward``."""
    output: str = ""
    """The output that is scored."""
    tokenizer: str = ""
    """The folder that its tokenizer lies in."""
    vocabulary: int = 0
    """Token ids must be below it."""
    longest: int = 0
    """It takes no more tokens than this."""
    unprunable: str = ""
    """Why its layers cannot be made narrower; empty where they may be."""
    notes: tuple[str, ...] = ()
    """What was decided while it was read, to be said aloud."""


class Library(ABC):
    """One library's format: recognised by what is in the file or folder, without importing the library."""

    @classmethod
    @abstractmethod
    def recognises(cls, path: Path) -> bool:
        """Whether the file or folder is of this library."""

    @classmethod
    @abstractmethod
    def files(cls, path: Path) -> list[Path]:
        """The files that decide what the model computes.

        Raises:
            InputError: one is missing, or would run code when it is read.
        """

    @classmethod
    @abstractmethod
    def facts(cls, path: Path) -> Facts:
        """What its files say, read without importing the library."""

    @classmethod
    @abstractmethod
    def is_live(cls, thing: object) -> bool:
        """Whether a live object must be built anew as the library's files are, without importing the library.

        Raises:
            InputError: it is one of the library's that cannot be run here.
        """

    @classmethod
    @abstractmethod
    def facts_of_live(cls, thing: object) -> Facts:
        """What a live model says, as its file would."""

    @classmethod
    @abstractmethod
    def build(cls, model: Model) -> "nn.Module":
        """The module with its weights, on the CPU; of a live model, one that nobody else holds.

        Raises:
            InputError: it cannot be built, or the library is not installed.
        """


LIBRARIES: Catalog[Library] = Catalog(
    "model library",
    {
        "huggingface": "study.loading.huggingface:HuggingFace",
        "keras": "study.loading.keras:Keras",
    },
)
"""In the order in which they are asked whether they recognise a file."""


def library_of(path: Path) -> str:
    """The library whose format a file or folder is; empty where it is none's."""
    names = (name for name in LIBRARIES if LIBRARIES.get(name).recognises(path))
    return next(names, "")


def facts_of(model: Model) -> Facts:
    """What the model's own files say of it, or the live model itself."""
    if not model.library:
        return Facts()
    library = LIBRARIES.get(model.library)
    return library.facts_of_live(held(model.live)) if model.live else library.facts(model.path)


def library_of_live(thing: object) -> str:
    """The library whose live model this is; empty where it is none's, or as good as torch's own."""
    return next((name for name in LIBRARIES if LIBRARIES.get(name).is_live(thing)), "")
