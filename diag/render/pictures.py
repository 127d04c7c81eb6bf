"""Images of the run folder: each is in the page once, and maps lie over the rows that they are of."""

import base64
import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from study.record import Picture

SIDE = 196
"""Small pictures are shown enlarged, by whole pixels, to at most this."""
_MOST = 48
_MOST_BYTES = 400_000
_BUDGET = 4_000_000
"""Bytes of all pictures of a page."""
_PNG = b"\x89PNG\r\n\x1a\n"
_HEAD = 24


@dataclass(frozen=True, slots=True)
class Kept:
    """One PNG, as a data URI, in its own pixels."""

    source: str
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Image:
    """What is shown in one place: a row and the map over it. ``why`` says why it is not shown."""

    part: str
    text: str
    layers: tuple[str, ...] = ()
    native: tuple[int, int] = (0, 0)
    why: str = ""

    @property
    def width(self) -> int:
        """On the page."""
        return self.native[0] * self._times

    @property
    def height(self) -> int:
        """On the page."""
        return self.native[1] * self._times

    @property
    def _times(self) -> int:
        return max(1, SIDE // max(*self.native, 1))


@dataclass(frozen=True, slots=True)
class Set:
    """Images of one thing."""

    name: str
    images: tuple[Image, ...]

    @property
    def overlaid(self) -> bool:
        """There are maps to take away."""
        return any(len(image.layers) > 1 for image in self.images)


@dataclass(slots=True)
class Album:
    """The pictures of a page; they are read from the run folder, and left out with a word without one."""

    folder: Path | None
    kept: dict[str, Kept] = field(default_factory=dict)
    spent: int = 0

    def sets(self, pictures: Sequence[Picture]) -> tuple[tuple[Set, ...], int]:
        """The images of a record in sets of one thing, and how many more there are than are shown.

        ``row 5 · input``, ``row 5 · as it came`` and ``row 5 · int8`` are one set; where the first has the
        extent of the others they are its maps, and lie over it.
        """
        every = [picture for picture in pictures if picture.kind == "image"]
        named: dict[str, list[Image]] = {}
        for picture in every[:_MOST]:
            name, parted, part = picture.title.rpartition(" · ")
            image = self._image(picture, part if parted else "")
            named.setdefault(name if parted else picture.title, []).append(image)
        sets = tuple(Set(name, _laid_over(images)) for name, images in named.items())
        return sets, max(0, len(every) - _MOST)

    def _image(self, picture: Picture, part: str) -> Image:
        data, why = self._read(picture.source)
        if not data:
            return Image(part, picture.text or picture.title, why=why)
        width, height = struct.unpack(">II", data[16:_HEAD])
        identity = "p-" + hashlib.sha256(data).hexdigest()[:10]
        if identity not in self.kept:
            self.spent += len(data)
            source = "data:image/png;base64," + base64.b64encode(data).decode("ascii")
            self.kept[identity] = Kept(source, width, height)
        return Image(part, picture.text or picture.title, (identity,), (width, height))

    def _read(self, source: str) -> tuple[bytes, str]:
        """The PNG's bytes, or why it cannot be shown."""
        if self.folder is None:
            return b"", f"it lies in the run folder as {source}"
        root = self.folder.resolve()
        path = (root / source).resolve()
        # A report.json from a stranger must not carry other files of this machine into the page.
        if not path.is_relative_to(root) or not path.is_file():
            return b"", f"{source} is not in the run folder"
        if path.stat().st_size > min(_MOST_BYTES, _BUDGET - self.spent):
            return b"", f"too large for the page: it lies in the run folder as {source}"
        data = path.read_bytes()
        good = data.startswith(_PNG) and len(data) > _HEAD
        return (data, "") if good else (b"", f"{source} is no PNG")


def _laid_over(images: Sequence[Image]) -> tuple[Image, ...]:
    base, *maps = images
    if base.part != "input" or not base.layers or not maps:
        return tuple(images)
    laid = [replace(one, layers=base.layers + one.layers) for one in maps if one.native == base.native]
    return tuple(laid) if len(laid) == len(maps) else tuple(images)
