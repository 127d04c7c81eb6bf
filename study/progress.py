"""How far a long piece of work has come, told to whoever shows it."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

Listener: TypeAlias = Callable[[str, int, int], None]
"""What is being done, steps done, steps in all (0 where unknown)."""
T = TypeVar("T")


def _silent(_what: str, _done: int, _total: int) -> None:
    """Nobody listens."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Tells a listener; silent without one."""

    tell: Listener = _silent

    def over(self, items: Iterable[T], what: str, total: int) -> Iterator[T]:
        """The items, telling after each how many of ``total`` are done."""
        self.tell(what, 0, total)
        for done, item in enumerate(items, start=1):
            yield item
            self.tell(what, done, total)
