"""Plug-ins by name: a class is named by a string, and imported when it is asked for."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Generic, TypeVar, cast

from study.errors import InputError, did_you_mean

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Catalog(Generic[T]):
    """What there is of one kind, in order: ``{"occlusion": "explain.methods.occlusion:Occlusion"}``."""

    kind: str
    entries: Mapping[str, str]

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __contains__(self, name: object) -> bool:
        return name in self.entries

    def require(self, name: str) -> None:
        """Refuse a name that there is not, without importing anything.

        Raises:
            InputError: there is none; the sentence names the closest one.
        """
        if name not in self.entries:
            raise InputError(f"There is no {self.kind} '{name}'.{did_you_mean(name, self.entries)}")

    def get(self, name: str) -> type[T]:
        """The class of that name.

        Raises:
            InputError: there is none; the sentence names the closest one.
        """
        self.require(name)
        module, _, attribute = self.entries[name].partition(":")
        return cast("type[T]", getattr(import_module(module), attribute))
