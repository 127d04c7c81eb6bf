"""How long average precision and TIDE's errors take on as many boxes as COCO's validation split has.

    python benchmarks/detection.py [--images 5000] [--pairs 3]

5,000 images with 7 objects and 100 finds each, of 80 classes: our two checks on a prediction table, intervals
over the images included, beside pycocotools on the same boxes, which has no intervals and no error types.
Each runs in a process of its own, which gives its peak of resident memory too. The index of
pycocotools is not counted.
"""

import argparse
import contextlib
import io
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import polars as pl
from numpy.typing import NDArray

CLASSES, OBJECTS, FINDS, SIDE = 80, 7, 100, 640
MEGABYTE = 1024
"""In the kilobytes of ``getrusage``."""


@dataclass(frozen=True)
class Boxes:
    """Flat: objects and finds, ``OBJECTS`` and ``FINDS`` an image."""

    truth: NDArray[np.float64]
    truth_class: NDArray[np.int64]
    box: NDArray[np.float64]
    class_: NDArray[np.int64]
    score: NDArray[np.float64]


def boxes_of(images: int) -> Boxes:
    """A third of the finds lie near objects, most of them of their class; the others anywhere, and unsure."""
    random = np.random.default_rng(0)
    truth, truth_class = _anywhere(random, images * OBJECTS), random.integers(0, CLASSES, images * OBJECTS)
    box, class_ = _anywhere(random, images * FINDS), random.integers(0, CLASSES, images * FINDS)
    near = np.flatnonzero(random.random(images * FINDS) < 1 / 3)
    meant = near // FINDS * OBJECTS + random.integers(0, OBJECTS, len(near))
    box[near] = truth[meant] + random.normal(0, 8, (len(near), 4))
    box[:, 2:] = np.maximum(box[:, 2:], box[:, :2] + 1)
    same = near[random.random(len(near)) < 0.8]
    class_[same] = truth_class[same // FINDS * OBJECTS + (meant[np.isin(near, same)] % OBJECTS)]
    score = random.beta(1, 8, len(box))
    score[near] = random.beta(2, 2, len(near))
    return Boxes(truth, truth_class, box.astype(np.float32).astype(float), class_, score.astype(np.float32))


def _anywhere(random: np.random.Generator, count: int) -> NDArray[np.float64]:
    low = random.uniform(0, SIDE - 40, (count, 2))
    return np.hstack([low, low + np.exp(random.uniform(np.log(12), np.log(300), (count, 2)))])


def ours(boxes: Boxes, folder: Path) -> tuple[float, float]:
    """The mean average precision, and the seconds of the processor that both checks take."""
    from diagnose.check import CHECKS
    from study.runtime import Runtimes
    from study.subject import Artifact, Data, Machine, Model, Split, Subject
    from study.task import Task
    from study.view import View

    images = len(boxes.score) // FINDS

    def lists(values: NDArray[np.generic], each: int, kind: pl.DataType) -> pl.Series:
        return pl.Series(values.reshape(images, each)).arr.to_list().cast(pl.List(kind))

    pl.DataFrame(
        {
            "position": np.arange(images),
            "id": [str(image) for image in range(images)],
            "parts": pl.Series([OBJECTS] * images, dtype=pl.Int64),
            "truth_class": lists(boxes.truth_class, OBJECTS, pl.Int32()),
            "truth_box": lists(boxes.truth, OBJECTS * 4, pl.Float64()),
            "truth_area": lists(_areas(boxes.truth), OBJECTS, pl.Float64()),
            "truth_crowd": lists(np.zeros(len(boxes.truth), bool), OBJECTS, pl.Boolean()),
            "class": lists(boxes.class_, FINDS, pl.Int32()),
            "score": lists(boxes.score, FINDS, pl.Float32()),
            "box": lists(boxes.box, FINDS * 4, pl.Float32()),
            "lost": pl.Series([0] * images, dtype=pl.Int64),
        }
    ).write_parquet(folder / "predictions.parquet")
    model = Model(folder / "model.pt", "pytorch")
    task = Task("detection", "probabilities", tuple(str(one) for one in range(CLASSES)))
    subject = Subject(model=model, judged=Split(Data(source="rows.npz")), task=task)
    view = View(Artifact("as_it_came", folder, model), subject, Machine(), Runtimes())
    began = time.process_time()
    records = [CHECKS.get(name)().check(view) for name in ("detection", "detection-errors")]
    return records[0].metrics["map"].value, time.process_time() - began


def theirs(boxes: Boxes, _: Path) -> tuple[float, float]:
    """The same by pycocotools."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    images = len(boxes.score) // FINDS
    truth = COCO()
    objects = zip(_sides(boxes.truth), _areas(boxes.truth).tolist(), boxes.truth_class.tolist(), strict=True)
    truth.dataset = {
        "info": {},
        "images": [{"id": image} for image in range(images)],
        "categories": [{"id": number, "name": str(number)} for number in range(CLASSES)],
        "annotations": [
            {
                "id": at + 1,
                "image_id": at // OBJECTS,
                "category_id": number,
                "bbox": sides,
                "area": area,
                "iscrowd": 0,
            }
            for at, (sides, area, number) in enumerate(objects)
        ],
    }
    told = [
        {"image_id": at // FINDS, "category_id": number, "bbox": sides, "score": score}
        for at, (sides, number, score) in enumerate(
            zip(_sides(boxes.box), boxes.class_.tolist(), boxes.score.tolist(), strict=True)
        )
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        found = truth.loadRes(told)
        began = time.process_time()
        judge = COCOeval(truth, found, "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return float(judge.stats[0]), time.process_time() - began


def _sides(boxes: NDArray[np.float64]) -> list[list[float]]:
    return np.hstack([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]]).tolist()


def _areas(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def alone(
    run: Callable[[Boxes, Path], tuple[float, float]], images: int, queue: "multiprocessing.Queue"
) -> None:
    """In a process of its own: mean average precision, seconds, and the peak in MB."""
    boxes = boxes_of(images)
    with tempfile.TemporaryDirectory() as folder:
        value, seconds = run(boxes, Path(folder))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    queue.put((value, seconds, peak / MEGABYTE))


def main() -> None:
    """Both, turn by turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--pairs", type=int, default=3)
    asked = parser.parse_args()
    fresh = multiprocessing.get_context("spawn")
    told: dict[str, list[tuple[float, float, float]]] = {"diag": [], "pycocotools": []}
    for _ in range(asked.pairs):
        for name, run in (("diag", ours), ("pycocotools", theirs)):
            queue = fresh.Queue()
            process = fresh.Process(target=alone, args=(run, asked.images, queue))
            process.start()
            told[name].append(queue.get())
            process.join()
    for name, runs in told.items():
        value, seconds, peak = (median(one) for one in zip(*runs, strict=True))
        print(f"{name:12} mAP {value:.9f}  {seconds:6.1f} s  peak {peak:6.0f} MB")
    ratios = [a[1] / b[1] for a, b in zip(told["diag"], told["pycocotools"], strict=True)]
    spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
    print(f"diag / pycocotools: {median(ratios):.2f} times the processor time ({spread})")


if __name__ == "__main__":
    main()
