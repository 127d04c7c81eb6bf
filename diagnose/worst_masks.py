"""The images on which a segmentation errs most, or says something else than before: which, and drawn."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np
import polars as pl
from numpy.typing import NDArray

from diagnose.images_drawn import image_of, picture_of, save
from diagnose.judged import class_name
from diagnose.masks_drawn import WRONG, Palette, class_map, marked
from diagnose.regions import OBJECT, overlaps
from study.compare_parts import join_parts
from study.errors import SkipError, counted
from study.progress import Progress
from study.record import Cell, Picture, Record, Table, Verdict
from study.regions import background, counted_pixels
from study.view import View

if TYPE_CHECKING:
    from PIL import Image

Line: TypeAlias = tuple[str, str, str]
"""Title, path below the run folder, what is to be seen."""
SHOWN: Final = 8
"""Images that are drawn, of at most five pictures each."""
SIDE: Final = 240
"""The longest side of a picture: four of them stand side by side on the page."""
MISSED: Final = 0.5
"""An object of which less is right is missed."""
FIXED: Final = (0, 114, 178)
STILL: Final = (128, 128, 128)
WORST: Final = "Images with most errors"
SUMS: Final = 3


@dataclass(frozen=True, slots=True, eq=False)
class Worst:
    """Rows of the prediction table; everything has one entry an image.

    ``wrong`` and ``overlap`` (the mean intersection over union of the classes that occur) are None, and
    ``missed`` (class, pixels, right) is empty, where there is no mask; ``changed`` pixels are answered
    otherwise than by the model as it came.
    """

    ids: list[str]
    position: NDArray[np.int64]
    parts: NDArray[np.int64]
    wrong: NDArray[np.int64] | None
    overlap: NDArray[np.float64] | None
    confidence: NDArray[np.float64]
    missed: list[NDArray[np.int64]]
    changed: NDArray[np.int64] | None

    @property
    def order(self) -> list[int]:
        """The images that are worth seeing, by turns of what they are worst in."""
        turns = [_largest(self.changed)] if self.changed is not None else []
        if self.wrong is None or self.overlap is None:
            return _by_turns([*turns, np.argsort(self.confidence, kind="stable").tolist()])
        sizes = np.array([int(one[:, 1].max(initial=0)) for one in self.missed])
        by_overlap = np.argsort(self.overlap, kind="stable")
        turns += [by_overlap[self.wrong[by_overlap] > 0].tolist(), _largest(sizes), _largest(self.wrong)]
        return _by_turns(turns)


def read_worst(view: View) -> Worst:
    """What tells which images are worst.

    Raises:
        SkipError: there is no table, or no pixel in it.
    """
    table = view.table("predictions").filter(pl.col("parts") > 0)
    labelled = "objects" in table.collect_schema().names()
    wanted = ["id", "position", "parts", "hits", "confidence", *(("objects",) if labelled else ())]
    frame = table.select(*wanted, *(("class_sums",) if labelled else ())).collect()
    if not len(frame):
        raise SkipError("no image has a pixel that counts")
    judged = labelled and not frame["hits"].null_count()
    sums = np.array(frame["class_sums"].to_list(), np.float64) if judged else None
    objects = frame["objects"].to_list() if judged else [[]] * len(frame)
    each = [np.array(one, np.int64).reshape(-1, OBJECT) for one in objects]
    parts = frame["parts"].to_numpy()
    return Worst(
        ids=frame["id"].to_list(),
        position=frame["position"].to_numpy(),
        parts=parts,
        wrong=parts - frame["hits"].to_numpy() if judged else None,
        overlap=None if sums is None else np.nanmean(overlaps(sums)[0], axis=1),
        confidence=frame["confidence"].cast(pl.Float64).fill_null(0.0).to_numpy(),
        missed=[one[one[:, 2] < MISSED * one[:, 1]] for one in each],
        changed=_changed(view, frame["position"].to_numpy()),
    )


def worst_masks(view: View) -> Record:
    """The record of what ``draw_masks`` has drawn, with the legend of the colours.

    Raises:
        SkipError: there is no table, or no pixel in it.
    """
    seen = read_worst(view)
    pictures = tuple(Picture(title, "image", *rest) for title, *rest in view.table("drawn").collect().rows())
    if not pictures:
        return Record("worst-images", Verdict.GOOD, f"Every pixel of {len(seen.ids)} images is right.")
    palette = palette_of(view)
    clear = class_name(view.task, back) if (back := background(view.task)) >= 0 else ""
    said = f"Drawn over {counted(min(SHOWN, len(seen.order)), 'image')}, a colour a class"
    said += f" ('{clear}' is left clear)." if clear else "."
    if seen.wrong is not None:
        said = f"{counted(int((seen.wrong > 0).sum()), 'image')} of {len(seen.ids)} have wrong pixels. {said}"
        said += " Wrong pixels are vermilion."
    if seen.changed is not None:
        said += " Pixels that changed since the model as it came are vermilion where that made them wrong, "
        said += "blue where it made them right, else grey." if seen.wrong is not None else "grey."
    legend = tuple((class_name(view.task, at), name) for at, name in palette.names.items())
    tables = (_table(seen), Table("Colours of the classes", ("class", "colour"), legend))
    return Record("worst-images", Verdict.NOTED, said, tables=tables, pictures=pictures)


def draw_masks(view: View, progress: Progress) -> list[Line]:
    """Of each of the worst images: itself, and over it truth, prediction, what is wrong and what changed.

    Raises:
        SkipError: no input is an image, or there are no predictions.
    """
    seen = read_worst(view)
    places, feed, palette = seen.order[:SHOWN], view.judged(), palette_of(view)
    lines: list[Line] = []
    for place in progress.over(places, "drawing", len(places)):
        position = int(seen.position[place])
        piece = feed.at(np.array([position]))
        if not len(piece):
            continue
        below = picture_of(image_of(piece), SIDE)
        title, stem = _title(view, seen, place), f"row-{position}-masks"
        lines.append((f"{title} · input", save(view, f"{stem}-input", below), f"The image {title}"))
        for part, text, layer in _layers(view, position, palette, below.size):
            lines.append((f"{title} · {part}", save(view, f"{stem}-{part}", layer), f"{text}: {title}"))
    return lines


def palette_of(view: View) -> Palette:
    """The classes by how often they are there or named, the same at every step; no background."""
    origin = view.origin or view
    table = origin.table("predictions")
    back = background(view.task)
    sums = table.select(pl.col("class_sums").list.to_array(SUMS * max(view.task.width, 2))).collect()
    totals = sums["class_sums"].to_numpy().sum(axis=0)
    both = totals.reshape(SUMS, -1)[:2].sum(axis=0)
    order = np.argsort(-both, kind="stable").tolist()
    return Palette.of([at for at in order if both[at] and at != back])


def _layers(
    view: View, position: int, palette: Palette, size: tuple[int, int]
) -> "Iterator[tuple[str, str, Image.Image]]":
    """What lies over one image: its name, what it is, and the layer."""
    label, said = _maps(view, position)
    judged = bool((label >= 0).any())
    if judged:
        yield "truth", "What the pixels are", class_map(label, palette, size)
    yield "prediction", "What they are taken for", class_map(said, palette, size)
    wrong = (label != said) & (label >= 0)
    if judged:
        yield "wrong", "The pixels that are wrong", marked([(wrong, WRONG)], said.shape, size)
    if view.origin is None:
        return
    before = _maps(view.origin, position)[1]
    if before.shape == said.shape:
        other = before != said
        marks = [(other, STILL), (other & (said == label), FIXED), (other & (before == label), WRONG)]
        yield "changed", "The pixels that are answered otherwise", marked(marks, said.shape, size)


def _maps(view: View, position: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Label and prediction of an image's pixels, (height, width); -1 where they do not count."""
    columns = ("label", "prediction", "skipped", "size")
    row = view.table("predictions").filter(pl.col("position") == position).select(columns).collect()
    label, said, skipped, size = (row[name].explode().drop_nulls().to_numpy() for name in columns)
    counts = counted_pixels(skipped, size)
    maps = []
    for values in (label, said):
        whole = np.full(int(np.prod(size)), -1, dtype=np.int64)
        whole[counts] = values
        maps.append(whole.reshape(tuple(size)))
    return maps[0], maps[1]


def _title(view: View, seen: Worst, place: int) -> str:
    """Which image it is, and what is wrong with it."""
    told = [f"row {seen.ids[place]}"]
    if seen.wrong is not None and seen.overlap is not None:
        told.append(f"{seen.wrong[place]} of {seen.parts[place]} pixels wrong")
        told.append(f"mean IoU {100 * seen.overlap[place]:.0f} %")
        missed = seen.missed[place]
        if len(missed):
            index, pixels, right = missed[np.argmax(missed[:, 1])].tolist()
            told.append(f"missed: '{class_name(view.task, index)}' ({right} of {pixels} pixels right)")
    else:
        told.append(f"mean confidence {100 * seen.confidence[place]:.0f} %")
    if seen.changed is not None:
        told.append(f"{seen.changed[place]} changed")
    return ", ".join(told)


def _table(seen: Worst) -> Table:
    """The images that are drawn, in numbers."""
    columns = ["row", "pixels", "mean confidence"]
    if seen.wrong is not None:
        columns += ["wrong pixels", "mean IoU", "missed objects"]
    columns += ["changed pixels"] if seen.changed is not None else []
    rows: list[tuple[Cell, ...]] = []
    for place in seen.order[:SHOWN]:
        cells: list[Cell] = [seen.ids[place], int(seen.parts[place]), float(seen.confidence[place])]
        if seen.wrong is not None and seen.overlap is not None:
            cells += [int(seen.wrong[place]), float(seen.overlap[place]), len(seen.missed[place])]
        cells += [int(seen.changed[place])] if seen.changed is not None else []
        rows.append(tuple(cells))
    return Table(WORST if seen.wrong is not None else "Images that are drawn", tuple(columns), tuple(rows))


def _changed(view: View, position: NDArray[np.int64]) -> NDArray[np.int64] | None:
    """The pixels of each image that are answered otherwise than by the model as it came."""
    if view.origin is None:
        return None
    both = join_parts(view.origin.table("predictions"), view.table("predictions"))
    found = np.zeros(len(position), dtype=np.int64)
    _, at, other = np.intersect1d(position, both.position, return_indices=True)
    found[at] = (both.parts - both.same)[other]
    return found


def _largest(values: NDArray[Any]) -> list[int]:
    """Places of what is above zero, the largest first."""
    order = np.argsort(-values, kind="stable")
    return [int(at) for at in order[values[order] > 0]]


def _by_turns(lists: Sequence[Sequence[int]]) -> list[int]:
    """The first of each list, then the second of each, each place once."""
    return list(dict.fromkeys(at for at in chain(*zip_longest(*lists)) if at is not None))
