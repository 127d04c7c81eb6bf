"""A folder of class folders of images."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self, final

import numpy as np
from numpy.typing import NDArray

from study.data.rows.pixels import SUFFIXES, Pixels, facts_of, read_image
from study.data.source import Rows, Source
from study.errors import InputError, few
from study.subject import Data

SPLITS: Final = frozenset(
    {"train", "training", "val", "valid", "validation", "test", "testing", "dev", "eval"}
)


@final
@dataclass(frozen=True)
class ImageFolder(Source):
    """Images by path; the label is the name of the folder below the root (none where images lie in it)."""

    root: Path
    paths: tuple[str, ...]
    """Below the root, with slashes, sorted."""
    classes: tuple[str, ...] = ()

    @classmethod
    def recognises(cls, data: Data) -> bool:
        """Any folder: what is missing in it is said on opening."""
        return Path(data.source).is_dir()

    @classmethod
    def open(cls, data: Data) -> Self:
        """List the images. Nothing is decoded yet."""
        root = Path(data.source)
        paths = sorted(
            path.relative_to(root).as_posix()
            for path in root.rglob("*")
            if path.suffix.lower() in SUFFIXES and path.is_file() and not path.name.startswith(".")
        )
        if not paths:
            raise InputError(f"The folder {root} holds no images: it should hold a folder of images a class.")
        inside = sorted({path.partition("/")[0] for path in paths if "/" in path})
        if inside and {name.lower() for name in inside} <= SPLITS:
            raise InputError(
                f"The folder {root} holds {few(inside)}: give one of them, e.g. {root / inside[-1]}."
            )
        if not inside:
            return cls(root, tuple(paths))
        return cls(root, tuple(path for path in paths if "/" in path), tuple(inside))

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, positions: NDArray[Any]) -> Rows:
        """Decode the images at these positions; one that cannot be decoded is a broken row."""
        images: list[Pixels] = []
        broken: dict[str, str] = {}
        whole: list[int] = []
        for position in positions.tolist():
            path = self.paths[position]
            try:
                images.append(read_image(self.root / path))
                whole.append(position)
            except Exception as error:  # noqa: BLE001 - decoders of damaged files raise whatever they meet
                # A path in Pillow's message would be this machine's: only the kind of the failure is kept.
                kind = "no image" if "identify" in str(error) else f"a damaged image ({type(error).__name__})"
                broken[path] = f"is {kind}"
        return Rows(
            positions=np.array(whole, dtype=np.int64),
            ids=tuple(self.paths[position] for position in whole),
            inputs={"image": images},
            labels=self._names(whole) if self.classes else None,
            metadata=facts_of(images),
            broken=broken,
        )

    def labels(self) -> NDArray[Any] | None:
        """The folder names."""
        return self._names(range(len(self))) if self.classes else None

    def _names(self, positions: Iterable[int]) -> NDArray[Any]:
        return np.array([self.paths[position].partition("/")[0] for position in positions], dtype=object)
