"""What the outputs of a detector mean: where boxes, labels and scores lie, and how classes are numbered."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from study.boxes import SIDES, BoxLayout, Floats, Truth, shared
from study.detections import Detected, detected
from study.errors import InputError, did_you_mean, few
from study.feed import Piece
from study.host import to_numpy
from study.queries import queries_layout, query_scale
from study.scale import each_for_itself, tolerance_of
from study.task import Output, Task

MATCHED = 0.5
SHARES = 2.0
"""No box in pixels is smaller than this in all images; no share is larger."""
LINE = 6
"""x1, y1, x2, y2, score, class."""
LAYOUTS = (
    "boxes, labels and scores as padded arrays or as a dictionary an image, one array (rows, detections, 6) "
    "of x1, y1, x2, y2, score, class, YOLO's (rows, 4 + classes, anchors), or DETR's logits and pred_boxes"
)


def guess_boxes(
    piece: Piece,
    outputs: Mapping[str, Any],
    labels: NDArray[Any] | None,
    classes: tuple[str, ...] = (),
    source_classes: tuple[str, ...] = (),
) -> tuple[Task, tuple[str, ...]]:
    """The task, and what was guessed, in sentences; ``labels`` are all those of the data.

    Raises:
        InputError: the outputs are in no known layout, or classes and outputs contradict each other.
    """
    arrays = {name: to_numpy(output) for name, output in outputs.items()}
    truths = [truth for truth in (() if labels is None else labels) if isinstance(truth, Truth)]
    if labels is not None and not truths:
        raise InputError(
            "Labels are no boxes: give 'boxes' (rows, boxes, 4) and 'labels' (rows, boxes) in .npz, or a "
            "dataset of (image, {boxes, labels})."
        )
    data, names = _numbers(truths, classes, source_classes)
    layout, width = layout_of(arrays, len(names))
    if width and not names:
        data, names = tuple(range(width)), tuple(str(number) for number in range(width))
    scale: Output = "probabilities"
    size = fed_size(piece)
    if layout.form == "lines" and len(names) == LINE - SIDES:
        layout, width = _lines_or_anchors(layout, arrays, piece, size)
    if layout.form == "raw":
        scores = _scores(layout, arrays[layout.boxes])
        scale = each_for_itself(scores, tolerance_of(arrays[layout.boxes]))
    elif layout.form == "queries":
        scale = query_scale(layout, arrays[layout.scores])
    layout = replace(layout, shares=layout.form == "queries" or _are_shares(layout, arrays, size))
    found = detected(layout, scale, arrays, size)
    layout, said = _numbered(replace(layout, data_numbers=data), width, found, piece, names, classes)
    words = {
        "lists": "boxes, labels and scores",
        "lines": "lines of box, score and class",
        "raw": "a box and scores an anchor, of which duplicates are suppressed here",
        "queries": f"a box and {layout.scores} a query" + ", the last for no object" * layout.absent,
    }
    sentence = f"The task is detection of {len(names)} classes: the output has {words[layout.form]}"
    sentence += ", boxes as shares of the image" if layout.shares else ", boxes in pixels of the input"
    sized = any(truth.size not in (None, size) for truth in truths)
    sentence += "; they are stretched back to the size of each image." if sized else "."
    return Task("detection", scale, names, layout.boxes, boxes=layout), (sentence, *said)


def layout_of(arrays: Mapping[str, NDArray[Any]], classes: int) -> tuple[BoxLayout, int]:
    """Where boxes, labels and scores lie, and how many classes the outputs tell apart (0: they do not say).

    Raises:
        InputError: they are in no known layout.
    """
    queries = queries_layout(arrays, classes)
    if queries:
        return queries
    boxes = _named(arrays, ("box",), lambda array: array.ndim == 3 and array.shape[-1] == SIDES)  # noqa: PLR2004
    if boxes:
        return _lists(arrays, boxes), 0
    for name, array in arrays.items():
        if array.ndim != 3:  # noqa: PLR2004 - rows, detections, numbers
            continue
        if array.shape[-1] == LINE and _are_lines(array):
            return BoxLayout("lines", name, count=_count(arrays)), 0
        raw = _raw(name, array, classes)
        if raw:
            return raw
    shapes = few(f"{name} {array.shape}" for name, array in arrays.items())
    if any(array.ndim == 2 and array.shape[1] in (SIDES, LINE) for array in arrays.values()):  # noqa: PLR2004
        raise InputError(
            f"The outputs {shapes} are the detections of one image without an axis of images: return (1, "
            "detections, 6), or a list of dictionaries with boxes, labels and scores, one for every image."
        )
    raise InputError(f"The outputs {shapes} hold no detections that are known: return {LAYOUTS}.")


def _named(arrays: Mapping[str, NDArray[Any]], words: tuple[str, ...], fits: Any) -> str:
    """The array that fits and is called so; else the first one that fits."""
    fitting = [name for name, array in arrays.items() if fits(array)]
    return next((name for name in fitting if any(word in name.lower() for word in words)), "") or next(
        iter(fitting), ""
    )


def _lists(arrays: Mapping[str, NDArray[Any]], boxes: str) -> BoxLayout:
    def one_a_box(array: NDArray[Any]) -> bool:
        return array.shape == arrays[boxes].shape[:2]

    def whole(array: NDArray[Any]) -> bool:
        return one_a_box(array) and bool(array.dtype.kind in "iu" or (array == np.round(array)).all())

    labels = _named(arrays, ("label", "class"), whole)
    others = {name: array for name, array in arrays.items() if name != labels}
    scores = _named(others, ("score", "conf"), lambda array: one_a_box(array) and array.dtype.kind == "f")
    if not labels or not scores:
        lacks = "labels" if not labels else "scores"
        raise InputError(f"The model gives boxes in '{boxes}' but no {lacks} of them: return {LAYOUTS}.")
    return BoxLayout("lists", boxes, labels, scores, _count(arrays))


def _count(arrays: Mapping[str, NDArray[Any]]) -> str:
    """One whole number a row: how many detections are no filling."""
    return next(
        (
            name
            for name, array in arrays.items()
            if array.dtype.kind in "iu" and array.size == len(array) and array.ndim
        ),
        "",
    )


def _are_lines(array: NDArray[Any]) -> bool:
    lines = array.reshape(-1, LINE)
    lines = lines[np.isfinite(lines).all(axis=1) & (lines[:, 4] > 0)]
    # A net may turn boxes round where it is not sure of them; whole numbers as classes are the stronger sign.
    ordered = (lines[:, 2:4] >= lines[:, :2]).all(axis=1).sum() * 2 >= len(lines)
    return bool(ordered and (lines[:, 5] == np.round(lines[:, 5])).all() and (lines[:, 4] <= 1).all())


def _lines_or_anchors(
    layout: BoxLayout, arrays: Mapping[str, NDArray[Any]], piece: Piece, size: tuple[int, int]
) -> tuple[BoxLayout, int]:
    """Of two classes: a second score that is 0 or 1 everywhere looks like a class; the boxes tell."""
    ways = [(layout, 0), (BoxLayout("raw", layout.boxes), LINE - SIDES)]

    def hits(way: BoxLayout) -> int:
        seen = replace(way, shares=_are_shares(way, arrays, size))
        pairs = _pairs(detected(seen, "probabilities", arrays, size), piece)
        return sum(_matched(one, truth, None, size) for one, truth in pairs)

    return max(ways, key=lambda way: hits(way[0]))  # the first of two that are alike: lines


def _raw(name: str, array: NDArray[Any], classes: int) -> tuple[BoxLayout, int] | None:
    """YOLO's: the axis that holds 4 + classes numbers (5 + classes where there is an objectness)."""
    for columns, last in ((array.shape[1], True), (array.shape[2], False)):
        for objectness in (False, True):
            width = columns - SIDES - objectness
            if classes and width == classes:
                return BoxLayout("raw", name, anchors_last=last, objectness=objectness), width
    columns, last = min((array.shape[1], True), (array.shape[2], False))
    if columns > SIDES and not classes:
        return BoxLayout("raw", name, anchors_last=last), columns - SIDES
    if columns > SIDES and max(array.shape[1:]) > 2 * columns:
        raise InputError(
            f"The output '{name}' has {columns} numbers an anchor for {columns - SIDES} classes (less 1: "
            f"objectness), and the data has {classes}: give --classes in the order of the model's scores."
        )
    return None


def _scores(layout: BoxLayout, array: NDArray[Any]) -> Floats:
    anchors = array.swapaxes(1, 2) if layout.anchors_last else array
    scores = anchors[..., SIDES:].reshape(-1, anchors.shape[-1] - SIDES).astype(np.float64)
    finite: Floats = scores[np.isfinite(scores).all(axis=1)]
    return finite


def _are_shares(layout: BoxLayout, arrays: Mapping[str, NDArray[Any]], size: tuple[int, int]) -> bool:
    array = arrays[layout.boxes]
    array = array.swapaxes(1, 2) if layout.anchors_last else array
    boxes = array[..., :SIDES]
    boxes = boxes[np.isfinite(boxes)]
    return bool(boxes.size) and bool(np.abs(boxes).max() <= SHARES) and min(size) > 2 * SHARES


def fed_size(piece: Piece) -> tuple[int, int]:
    """Height and width of the image that the model was fed.

    Raises:
        InputError: no input is an image.
    """
    image = next((array for array in piece.batch.values() if array.ndim == 4), None)  # noqa: PLR2004 - an image
    if image is None:
        raise InputError("A detector is fed images, (rows, channels, height, width): no input is one.")
    last = image.shape[3] in (1, 3) and image.shape[1] not in (1, 3)
    height, width = image.shape[1:3] if last else image.shape[2:]
    return int(height), int(width)


def _numbers(
    truths: list[Truth], asked: tuple[str, ...], own: tuple[str, ...]
) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """What the data calls its classes, and their names."""
    known = next((truth.known for truth in truths if truth.known), ())
    seen = sorted({int(number) for truth in truths for number in truth.numbers})
    if known and len(own) == len(known):
        return known, own
    names = asked or own
    if not names:
        return tuple(seen), tuple(str(number) for number in seen)
    first = 1 if seen and seen[0] >= 1 and seen[-1] == len(names) else 0
    if seen and (seen[0] < 0 or seen[-1] >= len(names) + first):
        raise InputError(
            f"The boxes have the class {seen[-1] if seen[0] >= 0 else seen[0]} and {len(names)} classes are "
            "named: classes are counted from 0 in the order of --classes."
        )
    return tuple(range(first, first + len(names))), names


def _numbered(
    layout: BoxLayout,
    width: int,
    found: list[Detected],
    piece: Piece,
    names: tuple[str, ...],
    asked: tuple[str, ...],
) -> tuple[BoxLayout, tuple[str, ...]]:
    """What the model calls each class: as ``--classes`` says, else what makes most boxes match."""
    count = len(names)
    if asked and asked != names:
        unknown = [name for name in names if name not in asked]
        if unknown:
            raise InputError(
                f"The data's class '{unknown[0]}' is not in --classes.{did_you_mean(unknown[0], asked)}"
            )
        return replace(layout, model_numbers=tuple(asked.index(name) for name in names)), ()
    own, places = layout.data_numbers, tuple(range(count))
    ways = {places: "places from 0", tuple(range(1, count + 1)): "places from 1"}
    ways = (
        ways | {own: "the data's own numbers"} if width == count else {own: "the data's own numbers"} | ways
    )
    fitting = [way for way in ways if not width or max(way, default=0) < width]
    if not fitting:
        raise InputError(f"The model tells {width} classes apart and the data has {count}: give --classes.")
    hits = dict.fromkeys(fitting, 0)
    for one, truth in _pairs(found, piece):
        for way in fitting:
            hits[way] += _matched(one, truth, dict(zip(way, own, strict=True)), fed_size(piece))
    best = max(fitting, key=lambda way: hits[way])
    said = (
        ""
        if best == own == places
        else f"The model's classes are taken as {ways[best]} in the order of the data's."
    )
    return replace(layout, model_numbers=best), (said,) if said else ()


def _pairs(found: list[Detected], piece: Piece) -> Iterator[tuple[Detected, Truth]]:
    labels = piece.rows.labels
    yield from () if labels is None else zip(found, labels, strict=False)


def _matched(one: Detected, truth: Truth, to_data: dict[int, int] | None, size: tuple[int, int]) -> int:
    """Truths that have a detection of their class on them; of any class where the classes are not known."""
    if not len(one) or not len(truth):
        return 0
    boxes = to_image(one.boxes, size, truth.size)
    first, second = np.repeat(np.arange(len(one)), len(truth)), np.tile(np.arange(len(truth)), len(one))
    share = shared(boxes[first], truth.boxes[second])
    hit = share >= MATCHED
    if to_data is not None:
        number = np.array([to_data.get(int(each), -1) for each in one.numbers])
        hit &= number[first] == truth.numbers[second]
    return len(np.unique(second[hit]))


def to_image(boxes: Floats, fed: tuple[int, int], size: tuple[int, int] | None) -> Floats:
    """From pixels of the model's input to those of the image, which was stretched to it."""
    if size is None or size == fed:
        return boxes
    height, width = size[0] / fed[0], size[1] / fed[1]
    stretched: Floats = boxes * np.array([width, height, width, height])
    return stretched
