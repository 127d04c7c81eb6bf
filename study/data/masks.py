"""A folder of images beside a folder of their masks."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self, final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from study.data.rows.pixels import SUFFIXES, Pixels, read_image
from study.data.source import Rows, Source
from study.errors import InputError, few
from study.subject import Data

IMAGES: Final = "images"
MASKS: Final = ("masks", "labels", "annotations", "mask")
CLASSES: Final = "classes.txt"
IMAGE_AXES: Final = 4
PALETTE_MODES: Final = ("P", "L", "1", "I;16", "I")


@final
@dataclass(frozen=True)
class MaskFolder(Source):
    """Images with a mask each: a PNG of class numbers (grey or palette) of the same stem.

    ``classes.txt``, a name a line, names the classes. Where images are resized (``--shape``, or the model),
    masks are too, to the nearest pixel.
    """

    root: Path
    pairs: tuple[tuple[str, str], ...]
    """Image and mask, below the root, with slashes, sorted."""
    size: tuple[int, int] | None
    classes: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()

    @classmethod
    def recognises(cls, data: Data) -> bool:
        """A folder with ``images`` and ``masks`` (``labels``, ``annotations``) in it."""
        root = Path(data.source)
        return (root / IMAGES).is_dir() and bool(_masks_of(root))

    @classmethod
    def open(cls, data: Data) -> Self:
        """Pair the files by their stems. Nothing is decoded yet."""
        root = Path(data.source)
        masks = {Path(name).with_suffix("").as_posix(): name for name in _listed(root / _masks_of(root))}
        images = _listed(root / IMAGES)
        alone = [name for name in images if Path(name).with_suffix("").as_posix() not in masks]
        if not images or alone:
            missing = f"no mask for {few(alone)}" if alone else f"no images in {root / IMAGES}"
            raise InputError(f"{root} has {missing}: every image needs a mask of the same stem.")
        pairs = tuple(
            (f"{IMAGES}/{name}", f"{_masks_of(root)}/{masks[Path(name).with_suffix('').as_posix()]}")
            for name in images
        )
        named = root / CLASSES
        lines = named.read_text(encoding="utf-8").splitlines() if named.is_file() else []
        names = tuple(line.strip() for line in lines if line.strip())
        return cls(root, pairs, _size(data), names)

    def __len__(self) -> int:
        return len(self.pairs)

    def read(self, positions: NDArray[Any]) -> Rows:
        """Decode the images and masks at these positions; a pair that cannot be decoded is a broken row."""
        images: list[Pixels] = []
        masks: list[NDArray[Any]] = []
        broken: dict[str, str] = {}
        whole: list[int] = []
        for position in positions.tolist():
            name, mask_name = self.pairs[position]
            try:
                image, mask = read_image(self.root / name), read_mask(self.root / mask_name, self.size)
            except InputError:
                raise
            except Exception as error:  # noqa: BLE001 - decoders of damaged files raise whatever they meet
                broken[name] = f"or its mask is no whole image ({type(error).__name__})"
                continue
            if self.size is None and mask.shape != image.shape[:2]:
                broken[name] = f"is {_by(image.shape[:2])} and its mask {_by(mask.shape)}"
                continue
            images.append(image)
            masks.append(mask)
            whole.append(position)
        return Rows(
            positions=np.array(whole, dtype=np.int64),
            ids=tuple(self.pairs[position][0].partition("/")[2] for position in whole),
            inputs={"image": images},
            labels=_stacked(masks),
            metadata=pl.DataFrame(
                {"brightness": [float(image.mean()) / 255 for image in images]},
                schema={"brightness": pl.Float64},
            ),
            broken=broken,
        )

    def labels(self) -> NDArray[Any] | None:
        """The files of the masks: all masks at once might not fit into memory."""
        return np.array([mask for _, mask in self.pairs], dtype=object)


def read_mask(path: Path, size: tuple[int, int] | None) -> NDArray[Any]:
    """Class numbers (height, width), resized to the nearest pixel where a size is given.

    Raises:
        InputError: it is in colour.
        OSError: it is no whole image.
    """
    from PIL import Image

    with Image.open(path) as opened:
        opened.load()
        image: Image.Image = opened
        if image.mode not in PALETTE_MODES:
            raise InputError(
                f"The mask {path} is a picture in colour ({image.mode}): save masks as PNGs of class "
                "numbers, grey or with a palette."
            )
        if size and (image.height, image.width) != size:
            image = image.resize((size[1], size[0]), Image.Resampling.NEAREST)
        numbers = np.asarray(image)
    return numbers.astype(np.uint8) if numbers.dtype == bool else numbers


def _stacked(masks: list[NDArray[Any]]) -> NDArray[Any] | None:
    """Masks of one piece as one array.

    Raises:
        InputError: they differ in size.
    """
    sizes = {mask.shape for mask in masks}
    if len(sizes) > 1:
        raise InputError(
            f"The masks have different sizes ({few(_by(size) for size in sorted(sizes))}): give the one to "
            "resize images and masks to, e.g. --shape 1x3x224x224."
        )
    return np.stack(masks) if masks else np.zeros((0, 0, 0), dtype=np.uint8)


def _masks_of(root: Path) -> str:
    return next((name for name in MASKS if (root / name).is_dir()), "")


def _listed(folder: Path) -> list[str]:
    found: Iterable[Path] = folder.rglob("*")
    return sorted(
        path.relative_to(folder).as_posix()
        for path in found
        if path.suffix.lower() in SUFFIXES and path.is_file() and not path.name.startswith(".")
    )


def _size(data: Data) -> tuple[int, int] | None:
    """Height and width to resize to, where ``--shape`` or the model says it."""
    shapes = [spec.shape for spec in data.shapes if spec.shape is not None and len(spec.shape) == IMAGE_AXES]
    if len(shapes) != 1 or shapes[0][2] is None or shapes[0][3] is None:
        return None
    return shapes[0][2], shapes[0][3]


def _by(size: tuple[int, ...]) -> str:
    return "x".join(str(one) for one in size)
