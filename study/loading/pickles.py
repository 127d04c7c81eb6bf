"""What a pickle would call, read from its opcodes: nothing in it is ever run."""

import pickletools
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final

from study.errors import InputError, few
from study.loading.allowed import allowed

UNREADABLE: Final = "a name that is put together while it is read"
"""Stands for a global whose name is not written down as such: no honest writer makes one."""

_STRINGS: Final = frozenset(
    ["UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "STRING", "BINSTRING", "SHORT_BINSTRING"]
)
_PUTS: Final = {"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"}
_GETS: Final = {"GET", "BINGET", "LONG_BINGET"}
_LEGACY_MAGIC: Final = 0x1950A86A20F9469CFC6C
_LEGACY_PICKLES: Final = 5
"""A file of torch.save before 1.6: magic number, protocol, machine, the object, the keys of its storages."""
_ROOTS: Final = {
    "EMPTY_DICT": "dict",
    "DICT": "dict",
    "EMPTY_LIST": "list",
    "LIST": "list",
    "EMPTY_TUPLE": "tuple",
}
_PYTHON_2: Final = {"__builtin__": "builtins", "copy_reg": "copyreg"}


@dataclass(slots=True)
class Contents:
    """What the opcodes of a pickle say."""

    globals: set[str] = field(default_factory=set)
    root: str = ""
    """What the pickled object is: a global's name, or ``dict``, ``list``, ``tuple``; else empty."""
    legacy: bool = False
    """It is a file of torch.save before 1.6."""

    @property
    def foreign(self) -> set[str]:
        """Its globals but those that torch itself reads without running code of the file."""
        return {name for name in self.globals if not allowed(name)}

    @property
    def is_module(self) -> bool:
        """It is, or holds, whole ``nn.Module`` objects."""
        return any(name.startswith(("torch.nn.", "torch.ao.nn.")) for name in self.foreign)

    @property
    def is_mapping(self) -> bool:
        """It is a dictionary: a state dict, or what is around one."""
        return self.root in ("dict", "collections.OrderedDict")


def globals_of(stream: IO[bytes]) -> set[str]:
    """Every ``module.name`` that reading this pickle would look up.

    Raises:
        InputError: it is no pickle, or is cut off.
    """
    return contents_of(stream).globals


def contents_of(stream: IO[bytes]) -> Contents:
    """The globals and the root of a pickle, or of the five that a file of torch before 1.6 begins with.

    Raises:
        InputError: it is no pickle, or is cut off.
    """
    found = Contents()
    try:
        found.legacy = _read(stream, found)
        if found.legacy:
            for number in range(2, _LEGACY_PICKLES + 1):
                part = Contents()
                _read(stream, part)
                found.globals |= part.globals
                if number == _LEGACY_PICKLES - 1:
                    found.root = part.root
    except (ValueError, EOFError, IndexError, MemoryError, OverflowError) as error:
        raise InputError(f"the pickle is damaged or cut off ({str(error).splitlines()[0]})") from error
    return found


def _read(stream: IO[bytes], found: Contents) -> bool:
    """Collect globals, and say whether the pickle is the magic number of a legacy file.

    A name that a stack juggler hides is recorded as UNREADABLE, never guessed.

    STACK_GLOBAL takes its two names from the stack. Only what the two operations just before it pushed is
    known for sure, so anything else counts as unreadable.
    """
    memo: dict[int, str | None] = {}
    before: str | None = None
    last: str | None = None
    started = False
    legacy = False
    for code, argument, _ in pickletools.genops(stream):
        name = code.name
        legacy = legacy or (not started and argument == _LEGACY_MAGIC)
        if name in ("PROTO", "FRAME"):
            continue
        if name in _PUTS:
            memo[int(str(argument)) if name != "MEMOIZE" else len(memo)] = last
            continue
        pushed: str | None = None
        if name in ("GLOBAL", "INST"):
            pushed = _global(*str(argument).split(" ", 1))
            found.globals.add(pushed)
        elif name == "STACK_GLOBAL":
            pushed = UNREADABLE if before is None or last is None else _global(before, last)
            found.globals.add(pushed)
        elif name.startswith("EXT"):
            found.globals.add(UNREADABLE)
        if not started:
            started = name not in ("MARK", *_STRINGS)
            found.root = pushed if pushed is not None else _ROOTS.get(name, "")
        known = str(argument) if name in _STRINGS else memo.get(int(str(argument))) if name in _GETS else None
        before, last = last, known
    return legacy


def _global(module: str, name: str = "") -> str:
    return f"{_PYTHON_2.get(module, module)}.{name}"


def refuse_objects(path: Path) -> None:
    """Refuse an ``.npy`` or ``.npz`` file that holds Python objects, whose reading would run code.

    Raises:
        InputError: it does; the sentence names what would be called.
    """
    foreign: set[str] = set()
    objects = False
    with path.open("rb") as file:
        if zipfile.is_zipfile(file):
            file.seek(0)
            with zipfile.ZipFile(file) as archive:
                for member in archive.infolist():
                    with archive.open(member) as stream:
                        held = _objects(stream)
                    objects |= held is not None
                    foreign |= held or set()
        else:
            file.seek(0)
            held = _objects(file)
            objects = held is not None
            foreign = held or set()
    if objects:
        names = f" ({called(foreign)})" if foreign else ""
        raise InputError(
            f"{path} holds Python objects{names}, and reading them would run what the file says: "
            "save its columns as arrays of numbers or of fixed-width text."
        )


def _objects(stream: IO[bytes]) -> set[str] | None:
    """The globals of an object array's pickle; None where the array holds none."""
    from numpy.lib import format as npy

    try:
        version = npy.read_magic(stream)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        _, _, dtype = read(stream)
    except ValueError:
        return None
    return globals_of(stream) if dtype.hasobject else None


def called(foreign: set[str]) -> str:
    """At most three of the names, those that are most likely to do harm first."""
    ordered: list[str] = sorted(
        foreign, key=lambda name: (name.startswith(("torch.", "numpy.", "collections.")), name)
    )
    return few(ordered)
