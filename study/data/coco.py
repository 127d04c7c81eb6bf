"""Images with the objects of a COCO file: ``images``, ``annotations`` and ``categories`` in one JSON."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Self, final

import numpy as np
from numpy.typing import NDArray

from study.boxes import SIDES, Truth, truths_of
from study.data.rows.pixels import Pixels, facts_of, read_image
from study.data.source import Rows, Source
from study.errors import InputError, few
from study.subject import Data

KEYS: Final = ("images", "annotations", "categories")
LISTS: Final = re.compile(rb'"(images|annotations|categories)"\s*:\s*\[\s*(\{|\])')
LOOKED_AT: Final = 65_536
"""Bytes of a file that tell what it is."""
TRIED: Final = 20
"""Images that tell where all of them lie."""
STRETCHED: Final = 0.02
"""An image whose sides are in another proportion than its entry says is not that image."""


@final
@dataclass(frozen=True)
class Coco(Source):
    """The images of one COCO file with their boxes; categories are in the order of their numbers.

    The images lie beside the file, in ``images/``, or in a folder that is called as the file is
    (``annotations/instances_val2017.json`` and ``val2017/``). Annotations of images that are not listed
    are left aside, as COCO's own evaluation leaves them.
    """

    root: Path
    """The folder that file names start from."""
    names: tuple[str, ...]
    truths: tuple[Truth, ...]
    classes: tuple[str, ...] = ()

    @classmethod
    def recognises(cls, data: Data) -> bool:
        """A COCO file, a folder with one in it or in its ``annotations/``, or one as a folder's label."""
        return bool(_files(data))

    @classmethod
    def open(cls, data: Data) -> Self:
        """Read the file. No image is decoded yet."""
        files = _files(data)
        if len(files) > 1:
            raise InputError(
                f"{data.source} holds {few(path.name for path in files)}: give one of them, e.g. {files[0]}."
            )
        file = files[0]
        images, annotations, categories = _read(file)
        if not images:
            raise InputError(f"{file} lists no images: give the file of a split that has some.")
        known, classes = _classes(file, categories)
        names = tuple(str(image["file_name"]) for image in images)
        folder = Path(data.source)
        root = _root(file, names, folder if folder.is_dir() else None)
        objects: dict[Any, list[Mapping[str, Any]]] = {image["id"]: [] for image in images}
        for annotation in annotations:
            objects.get(annotation.get("image_id"), []).append(annotation)
        if annotations and not any("bbox" in annotation for annotation in annotations):
            raise InputError(
                f"The annotations of {file} have no 'bbox' (captions, or outlines alone): give a file of "
                "instances with the box of each."
            )
        truths = tuple(_truth(image, objects[image["id"]], known) for image in images)
        return cls(root, names, truths, classes)

    def __len__(self) -> int:
        return len(self.names)

    def read(self, positions: NDArray[Any]) -> Rows:
        """Decode the images at these positions; one that cannot be decoded is a broken row."""
        images: list[Pixels] = []
        truths: list[Truth] = []
        whole: list[int] = []
        broken: dict[str, str] = {}
        for position in positions.tolist():
            name, truth = self.names[position], self.truths[position]
            try:
                image = read_image(self.root / name)
            except FileNotFoundError:
                broken[name] = "is not there"
                continue
            except Exception as error:  # noqa: BLE001 - decoders of damaged files raise whatever they meet
                broken[name] = f"is no whole image ({type(error).__name__})"
                continue
            height, width = image.shape[:2]
            said = truth.size or (height, width)
            if abs(said[0] * width - said[1] * height) > STRETCHED * said[0] * width:
                broken[name] = f"is {width}x{height} and its entry says {said[1]}x{said[0]}"
                continue
            images.append(image)
            truths.append(replace(truth, size=said))
            whole.append(position)
        return Rows(
            positions=np.array(whole, dtype=np.int64),
            ids=tuple(self.names[position] for position in whole),
            inputs={"image": images},
            labels=truths_of(truths),
            metadata=facts_of(images),
            broken=broken,
        )

    def labels(self) -> NDArray[Any] | None:
        """The objects of every image."""
        return truths_of(self.truths)


def _files(data: Data) -> list[Path]:
    """The COCO files that are meant; several where a folder holds several."""
    source, label = Path(data.source), Path(data.label)
    if source.is_file():
        return [source] if _is_coco(source) else []
    if not source.is_dir():
        return []
    if data.label and label.is_file():
        return [label] if _is_coco(label) else []
    found = [*source.glob("*.json"), *source.glob("annotations/*.json")]
    return sorted(path for path in found if _is_coco(path))


def _is_coco(path: Path) -> bool:
    """By its beginning: one object with lists of images, annotations or categories, and no object a line."""
    with path.open("rb") as file:
        start = file.read(LOOKED_AT).removeprefix(b"\xef\xbb\xbf").lstrip()
    if not start.startswith(b"{") or not LISTS.search(start):
        return False
    line, _, rest = start.partition(b"\n")
    try:
        first = json.loads(line)
    except ValueError:
        return True
    return not rest.strip() and isinstance(first, dict) and {*KEYS} <= {*first}


def _read(file: Path) -> tuple[Sequence[Mapping[str, Any]], ...]:
    """Images, annotations and categories.

    Raises:
        InputError: it is no JSON, or one of them is missing or no list of objects.
    """
    try:
        read = json.loads(file.read_text(encoding="utf-8-sig"))
    except (ValueError, UnicodeDecodeError) as error:
        raise InputError(f"{file} is damaged or cut off ({error}): copy or save it again.") from error
    needed = {"images": ("id", "file_name"), "annotations": (), "categories": ("id",)}
    for key, fields in needed.items():
        entries = read.get(key) if isinstance(read, dict) else None
        if not isinstance(entries, list):
            raise InputError(f"{file} has no list of '{key}': a COCO file has {few(KEYS)}.")
        if not all(isinstance(one, dict) and {*fields} <= {*one} for one in entries):
            lacks = f" without '{fields[-1]}'" if fields else " that is no object"
            raise InputError(f"{file} has an entry among '{key}'{lacks}: save it again as COCO has it.")
    return tuple(read[key] for key in KEYS)


def _classes(file: Path, categories: Iterable[Mapping[str, Any]]) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """The categories' numbers in order, and their names; a name that stands twice gets its number."""
    named = {one["id"]: str(one.get("name", one["id"])) for one in categories}
    if not named or not all(type(number) is int for number in named):
        raise InputError(f"{file} has no categories with whole numbers as 'id': save it as COCO has it.")
    numbers, every = tuple(sorted(named)), list(named.values())
    names = (
        named[number] if every.count(named[number]) == 1 else f"{named[number]} ({number})"
        for number in numbers
    )
    return numbers, tuple(names)


def _truth(image: Mapping[str, Any], objects: Sequence[Mapping[str, Any]], known: tuple[int, ...]) -> Truth:
    """The objects of one image; what is wrong with them becomes the fault."""
    height, width = image.get("height"), image.get("width")
    size = (int(height), int(width)) if height and width else None
    boxes: list[Sequence[Any]] = [one.get("bbox") or () for one in objects]
    if not all(len(box) == SIDES and all(isinstance(side, int | float) for side in box) for box in boxes):
        nothing = Truth.of((), (), size=size, known=known)
        return replace(nothing, fault="has an annotation whose 'bbox' is not x, y, width and height")
    corners = np.array(boxes, dtype=np.float64).reshape(-1, SIDES)
    stated = [one.get("area") for one in objects]
    areas = [box[2] * box[3] if area is None else area for area, box in zip(stated, boxes, strict=True)]
    corners[:, 2:] += corners[:, :2]
    return Truth.of(
        corners,
        [one.get("category_id", -1) for one in objects],
        crowd=[one.get("iscrowd") or 0 for one in objects],
        area=areas,
        size=size,
        known=known,
    )


def _root(file: Path, names: Sequence[str], given: Path | None) -> Path:
    """The first folder in which one of the first images lies.

    Raises:
        InputError: none does.
    """
    beside, above = file.parent, file.parent.parent
    split = re.sub(r"^(instances|person_keypoints|annotations)_", "", file.stem)
    folders = [beside, beside / "images", above, above / "images", beside / split, above / split]
    folders += [above / "images" / split, beside / "images" / split]
    if given is not None:
        folders = [given, given / "images", *folders]
    for folder in folders:
        if any((folder / name).is_file() for name in names[:TRIED]):
            return folder
    raise InputError(
        f"The images of {file} ({few(names)}) are neither beside it nor in {beside / 'images'}: put them "
        "there, or give their folder as --data and the file as --label."
    )
