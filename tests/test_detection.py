"""Object detection: average precision against pycocotools, the layouts of outputs, and bad boxes."""

import contextlib
import io
from itertools import pairwise

import numpy as np
import polars as pl
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from diagnose.average_precision import interval, precisions, weights_of
from diagnose.detected import match, read_found
from study.boxes import BoxLayout, Truth, shared, truths_of
from study.data.opening import open_source
from study.data.rows.held import reader_of
from study.detections import detected, suppressed
from study.errors import InputError
from study.feed import Feed, Piece
from study.guess_boxes import guess_boxes, layout_of
from study.loading.calling import named_outputs
from study.readings.detection import Detection
from study.record import Verdict
from study.subject import Data, Split
from study.task import Task
from tests.prediction_tables import checked, view_of

CLASSES = ("cat", "dog", "eel", "fox")
NUMBERS = tuple(range(len(CLASSES)))
LAYOUT = BoxLayout("lines", "output", model_numbers=NUMBERS, data_numbers=NUMBERS)
TASK = Task("detection", "probabilities", CLASSES, "output", boxes=LAYOUT)
SIZE = 300


def images_of(count: int, seed: int = 0) -> tuple[list[Truth], list[np.ndarray]]:
    """Images with crowds, and finds near and far, of right and wrong classes; many scores are tied."""
    random = np.random.default_rng(seed)
    truths, finds = [], []
    for _ in range(count):
        objects = int(random.integers(0, 9))
        low = random.integers(0, 200, (objects, 2)).astype(float)
        boxes = np.hstack([low, low + random.integers(4, 140, (objects, 2))])
        numbers = random.integers(0, 3, objects)
        truths.append(Truth.of(boxes, numbers, crowd=random.random(objects) < 0.1))
        near = np.repeat(np.arange(objects), random.integers(0, 4, objects))
        moved = boxes[near] + random.normal(0, 6, (len(near), 4))
        far = random.integers(0, 200, (int(random.integers(0, 6)), 2)).astype(float)
        every = np.vstack([moved, np.hstack([far, far + random.integers(4, 90, far.shape)])])
        every[:, 2:] = np.maximum(every[:, 2:], every[:, :2] + 1)
        named = np.append(numbers[near], random.integers(0, 4, len(far)))
        wrong = random.random(len(named)) < 0.2
        named[wrong] = random.integers(0, 4, wrong.sum())
        score = np.round(random.uniform(0.05, 1, len(named)), 1)
        finds.append(np.hstack([every, score[:, None], named[:, None]]).astype(np.float32))
    return truths, finds


def table_of(truths: list[Truth], finds: list[np.ndarray]) -> pl.DataFrame:
    """The table that the probe would write, by its own reading."""
    most = max(len(one) for one in finds)
    padded = np.stack([np.pad(one, ((0, most - len(one)), (0, 0))) for one in finds])
    rows = reader_of([(np.zeros((3, 8, 8), np.float32), 0)] * len(truths), Data("")).read(
        np.arange(len(truths))
    )
    from dataclasses import replace

    piece = Piece(replace(rows, labels=truths_of(truths)), {"x": np.zeros((len(truths), 3, 8, 8))}, {})
    columns = Detection.columns(TASK, piece, {"output": padded})
    ids = {"position": pl.Series(range(len(truths)), dtype=pl.Int64), "id": list(rows.ids)}
    return pl.DataFrame({**ids, **columns})


def by_pycocotools(truths: list[Truth], finds: list[np.ndarray]) -> COCOeval:
    def sides(box: np.ndarray) -> list[float]:
        return [float(box[0]), float(box[1]), float(box[2] - box[0]), float(box[3] - box[1])]

    objects = [
        {
            "image_id": image,
            "category_id": int(number),
            "bbox": sides(box),
            "area": float(area),
            "iscrowd": int(crowd),
        }
        for image, truth in enumerate(truths)
        for box, number, area, crowd in zip(truth.boxes, truth.numbers, truth.area, truth.crowd, strict=True)
    ]
    coco = COCO()
    coco.dataset = {
        "images": [{"id": image} for image in range(len(truths))],
        "categories": [{"id": number, "name": name} for number, name in enumerate(CLASSES)],
        "annotations": [{"id": at + 1, **one} for at, one in enumerate(objects)],
        "info": {},
    }
    told = [
        {
            "image_id": image,
            "category_id": int(line[5]),
            "bbox": sides(line[:4].astype(float)),
            "score": float(line[4]),
        }
        for image, lines in enumerate(finds)
        for line in lines
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
        judge = COCOeval(coco, coco.loadRes(told), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return judge


@pytest.mark.parametrize("seed", range(4))
def test_average_precision_is_that_of_pycocotools(tmp_path, seed):
    truths, finds = images_of(80, seed)
    record = checked("detection", view_of(tmp_path, TASK, table_of(truths, finds)))
    judge = by_pycocotools(truths, finds)
    names = ("map", "map50", "map75", "map@small", "map@medium", "map@large")
    for name, wanted in zip(names, judge.stats[:6], strict=True):
        metric = record.metrics[name]
        assert metric.value == pytest.approx(wanted, abs=1e-6), name
        assert metric.low < metric.value < metric.high
        assert metric.n == 80
    each = {row[0]: row[1] for row in record.tables[0].rows}
    for number, name in enumerate(CLASSES[:3]):
        assert each[name] == pytest.approx(judge.eval["precision"][:, :, number, 0, 2].mean(), abs=1e-6)
    assert "fox" not in each  # no object is one


def test_looks_are_average_precision_of_the_images_drawn_again(tmp_path):
    truths, finds = images_of(30, 5)
    found = read_found(view_of(tmp_path / "all", TASK, table_of(truths, finds)))
    weights = weights_of(30, None)
    looks = precisions(found, match(found), weights)
    for look in (1, 2, 3):
        # An image drawn twice stands there twice: it is two images.
        drawn = np.repeat(np.arange(30), weights[look].astype(int)).tolist()
        judge = by_pycocotools([truths[at] for at in drawn], [finds[at] for at in drawn])
        assert looks.mean()[look] == pytest.approx(judge.stats[0], abs=2e-3)  # ties are in another order
    several = weights_of(30, np.arange(30) // 3)
    assert all((several[:, at : at + 3] == several[:, at : at + 1]).all() for at in range(0, 30, 3))


def test_the_interval_holds_the_value_of_many_more_images(tmp_path):
    truths, finds = images_of(1600, 9)

    def looks(chosen: slice, name: str) -> tuple[np.ndarray, int]:
        found = read_found(view_of(tmp_path / name, TASK, table_of(truths[chosen], finds[chosen])))
        return precisions(found, match(found), weights_of(len(found), None)).mean(), len(found)

    whole = looks(slice(None), "all")[0][0]
    inside = 0
    for start in range(0, 1600, 80):
        one = interval(*looks(slice(start, start + 80), str(start)))
        inside += one.low <= whole <= one.high
    assert inside >= 16  # of 20


def test_overlap_and_suppression_are_those_of_plain_loops():
    random = np.random.default_rng(0)
    low = random.uniform(0, 50, (60, 2))
    boxes = np.hstack([low, low + random.uniform(1, 40, (60, 2))])

    def overlap(a: np.ndarray, b: np.ndarray) -> float:
        width, height = (max(0.0, min(a[2 + k], b[2 + k]) - max(a[k], b[k])) for k in (0, 1))
        return width * height / (sum((c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)) - width * height)

    assert np.allclose(shared(boxes[:-1], boxes[1:]), [overlap(a, b) for a, b in pairwise(boxes)])
    numbers = random.integers(0, 2, 60)
    kept: list[int] = []
    for at in range(60):
        if all(numbers[at] != numbers[other] or overlap(boxes[other], boxes[at]) <= 0.3 for other in kept):
            kept.append(at)
    assert suppressed(boxes, numbers, 0.3, 100).tolist() == kept


def fed(truths: list[Truth], rows: int) -> Piece:
    from dataclasses import replace

    given = reader_of([(np.zeros((3, 8, 8), np.float32), 0)] * rows, Data("")).read(np.arange(rows))
    return Piece(replace(given, labels=truths_of(truths)), {"x": np.zeros((rows, 3, SIZE, SIZE))}, {})


def lists_of(finds: list[np.ndarray], offset: int = 0) -> dict[str, np.ndarray]:
    most = max(len(one) for one in finds)
    padded = np.stack([np.pad(one, ((0, most - len(one)), (0, 0))) for one in finds])
    count = np.array([len(one) for one in finds])
    labels = padded[..., 5].astype(np.int64) + offset
    return {"boxes": padded[..., :4], "labels": labels, "scores": padded[..., 4], "num": count}


@pytest.mark.parametrize("offset", [0, 1])
def test_each_layout_says_the_same(offset):
    truths, finds = images_of(20, 3)
    labels = truths_of(truths)
    lists = lists_of(finds, offset)
    lines = np.concatenate([lists["boxes"], lists["scores"][..., None], lists["labels"][..., None]], axis=2)
    shares = dict(lists) | {"boxes": lists["boxes"] / SIZE}
    for outputs, form in ((lists, "lists"), ({"output": lines}, "lines"), (shares, "lists")):
        task, said = guess_boxes(fed(truths, 20), outputs, labels, CLASSES)
        assert task.boxes is not None
        assert task.boxes.form == form
        assert task.boxes.model_numbers == tuple(range(offset, offset + 4))
        assert "detection of 4 classes" in said[0]
        for one, wanted in zip(detected(task.boxes, task.output, outputs, (SIZE, SIZE)), finds, strict=True):
            order = np.argsort(-wanted[:, 4], kind="stable")
            assert np.allclose(one.boxes, wanted[order, :4], atol=1e-3)
            assert (one.numbers - offset).tolist() == wanted[order, 5].tolist()


@pytest.mark.parametrize("logits", [False, True])
@pytest.mark.parametrize("last", [False, True])
def test_raw_scores_are_suppressed(last, logits):
    truths, finds = images_of(20, 3)
    raw = np.zeros((20, 60, 8), np.float32)
    for image, lines in enumerate(finds):
        raw[image, : len(lines), :2] = (lines[:, :2] + lines[:, 2:4]) / 2
        raw[image, : len(lines), 2:4] = lines[:, 2:4] - lines[:, :2]
        raw[image, np.arange(len(lines)), 4 + lines[:, 5].astype(int)] = np.clip(lines[:, 4], 0, 0.99)
    if logits:
        with np.errstate(divide="ignore"):
            raw[..., 4:] = np.maximum(np.log(raw[..., 4:] / (1 - raw[..., 4:])), -20)
    outputs = {"output0": raw.swapaxes(1, 2) if last else raw}
    task, _ = guess_boxes(fed(truths, 20), outputs, truths_of(truths), CLASSES)
    assert task.boxes is not None
    assert (task.boxes.form, task.boxes.anchors_last) == ("raw", last)
    assert task.output == ("logits" if logits else "probabilities")
    for one, lines in zip(detected(task.boxes, task.output, outputs, (SIZE, SIZE)), finds, strict=True):
        order = np.argsort(-np.clip(lines[:, 4], 0, 0.99), kind="stable")
        kept = suppressed(lines[order, :4].astype(float), lines[order, 5], 0.7, 300)
        assert len(one) == len(kept)
        assert np.allclose(one.scores, np.clip(lines[order][kept, 4], 0, 0.99), atol=1e-5)


@pytest.mark.parametrize("raw", [True, False])
def test_a_second_score_that_is_saturated_is_no_class(raw):
    """Large boxes in the corner: centre and size could be two corners, and a score of 0 or 1 a class."""
    random = np.random.default_rng(0)
    size = random.uniform(150, 200, (20, 30, 2))
    middle = size / 2 + random.uniform(0, 20, size.shape)
    first = random.uniform(0.1, 0.9, (20, 30, 1))
    second = (random.random((20, 30, 1)) < 0.5).astype(float)
    corners = np.concatenate([middle - size / 2, middle + size / 2], axis=2)
    output = np.concatenate([*((middle, size) if raw else (corners,)), first, second], axis=2)
    truths = [Truth.of(corners[row, :3], second[row, :3, 0].astype(int)) for row in range(20)]
    assert layout_of({"output": output}, 2)[0].form == "lines"  # without the truth
    task, _ = guess_boxes(fed(truths, 20), {"output": output}, truths_of(truths), CLASSES[:2])
    assert task.boxes is not None
    assert task.boxes.form == ("raw" if raw else "lines")


def test_lists_of_finds_are_filled_up():
    sizes = (3, 0, 5)
    random = np.random.default_rng(0)
    answer = [
        {
            "boxes": torch.tensor(np.sort(random.random((size, 4)))),
            "labels": torch.arange(size) + 1,
            "scores": torch.tensor(random.random(size)),
            "masks": torch.zeros(size, 1, 8, 8),
        }
        for size in sizes
    ]
    outputs = {name: tensor.numpy() for name, tensor in named_outputs(answer, "")}
    assert {name: array.shape for name, array in outputs.items()} == {
        "boxes": (3, 5, 4),
        "labels": (3, 5),
        "scores": (3, 5),
    }
    found = detected(BoxLayout("lists", *outputs), "probabilities", outputs, (8, 8))
    for one, given in zip(found, answer, strict=True):
        order = np.argsort(-given["scores"].numpy())
        assert one.boxes.tolist() == given["boxes"].numpy()[order].tolist()
        assert one.numbers.tolist() == given["labels"].numpy()[order].tolist()


def test_what_is_no_detector_is_refused():
    truths, _ = images_of(4)
    with pytest.raises(InputError, match="hold no detections"):
        guess_boxes(fed(truths, 4), {"output": np.zeros((4, 10))}, truths_of(truths), CLASSES)
    with pytest.raises(InputError, match="for 3 classes"):
        guess_boxes(fed(truths, 4), {"output": np.zeros((4, 7, 99))}, truths_of(truths), CLASSES)


@pytest.mark.parametrize(
    ("boxes", "numbers", "why"),
    [
        ([[5, 5, 2, 9]], [0], "ends before it begins"),
        ([[5, 5, np.nan, 9]], [0], "not finite"),
        ([[50, 5, 60, 9]], [0], "outside its image of 40x30"),
        ([[5, 5, 6, 9]], [7], "unknown category 7"),
        ([[5, 5, 6, 9]], [0, 1], "1 boxes and 2 labels"),
        ([[5, 5, 6]], [0], "instead of"),
    ],
)
def test_bad_boxes_are_counted_out_by_id(boxes, numbers, why):
    truth = Truth.of(np.array(boxes), np.array(numbers), size=(30, 40), known=(0, 1))
    assert why in truth.fault


def test_arrays_and_datasets_give_the_same_objects(tmp_path):
    boxes = np.array(
        [[[1, 1, 5, 5], [0, 0, 0, 0]], [[2, 2, 6, 7], [1, 1, 3, 3]], [[4, 4, 1, 1], [0, 0, 0, 0]]], float
    )
    labels = np.array([[1, -1], [0, 2], [1, -1]])
    images = np.zeros((3, 1, 8, 8), np.float32)
    np.savez(tmp_path / "boxes.npz", image=images, boxes=boxes, labels=labels)
    split = Split(Data(str(tmp_path / "boxes.npz")))
    pairs = [
        (
            images[at],
            {
                "boxes": torch.tensor(boxes[at][labels[at] >= 0]),
                "labels": torch.tensor(labels[at][labels[at] >= 0]),
            },
        )
        for at in range(3)
    ]
    piece = next(Feed.open(split, ()).pieces(8))
    assert "ends before it begins" in piece.broken["2"]
    assert list(piece.rows.inputs) == ["image"]
    read = open_source(split.data).labels()
    other = reader_of(pairs, Data("")).labels()
    assert read is not None
    assert other is not None
    for first, second in zip(read, other, strict=True):
        assert first.boxes.tolist() == second.boxes.tolist()
        assert first.numbers.tolist() == second.numbers.tolist()


def test_a_drop_since_the_model_as_it_came_is_a_fault(tmp_path):
    truths, finds = images_of(120, 2)
    origin = view_of(tmp_path / "came", TASK, table_of(truths, finds))
    worse = [np.hstack([one[:, :4] + 12, one[:, 4:]]).astype(np.float32) for one in finds]
    now = checked("detection", view_of(tmp_path / "now", TASK, table_of(truths, worse), origin))
    assert now.verdict is Verdict.BAD
    assert "fell by" in now.findings[0].what
    same = checked("detection", view_of(tmp_path / "same", TASK, table_of(truths, finds), origin))
    assert same.verdict is Verdict.NOTED  # equal, but 120 images cannot exclude a drop of a point
    assert same.metrics["score@best_f1"] == checked("detection", origin).metrics["score@best_f1"]
