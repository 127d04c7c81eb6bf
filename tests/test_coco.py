"""COCO files as data: the same average precision as pycocotools has from the same file, and bad files."""

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from study.boxes import BoxLayout
from study.data.opening import open_source
from study.errors import InputError
from study.feed import Feed
from study.guess_boxes import guess_boxes
from study.readings.detection import Detection
from study.subject import Data, InputSpec, Split
from study.task import Task
from tests.prediction_tables import checked, view_of
from tests.test_detection import images_of

NUMBERS = (3, 7, 20, 44)
NAMES = ("cat", "dog", "eel", "fox")
FED = 300


def written(folder: Path, count: int = 40) -> tuple[Path, list[np.ndarray]]:
    """Images of mixed sizes beside their file, and finds (boxes in pixels of the images)."""
    random = np.random.default_rng(4)
    truths, finds = images_of(count, 4)
    (folder / "images").mkdir(parents=True)
    images, annotations, scaled = [], [], []
    for at, (truth, lines) in enumerate(zip(truths, finds, strict=True)):
        width, height = (int(side) for side in random.integers(200, 500, 2))
        stretch = np.tile([width / 400, height / 400], 2)
        Image.new("L", (width, height), at).save(folder / "images" / f"{at:03}.png")
        images.append({"id": 100 + at, "file_name": f"{at:03}.png", "height": height, "width": width})
        for box, number, crowd in zip(truth.boxes * stretch, truth.numbers, truth.crowd, strict=True):
            sides = [*box[:2].tolist(), *(box[2:] - box[:2]).tolist()]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": 100 + at,
                    "category_id": NUMBERS[number],
                    "bbox": sides,
                    "area": 0.7 * sides[2] * sides[3],  # that of an outline
                    "iscrowd": int(crowd),
                }
            )
        lines[:, :4] *= stretch
        scaled.append(lines)
    categories = [{"id": number, "name": name} for number, name in zip(NUMBERS, NAMES, strict=True)]
    whole = {"info": {}, "images": images, "annotations": annotations, "categories": categories[::-1]}
    (folder / "instances.json").write_text(json.dumps(whole))
    return folder / "instances.json", scaled


def by_pycocotools(file: Path, finds: list[np.ndarray]) -> COCOeval:
    told = [
        {
            "image_id": 100 + at,
            "category_id": NUMBERS[int(line[5])],
            "bbox": [*line[:2].tolist(), *(line[2:4] - line[:2]).tolist()],
            "score": float(line[4]),
        }
        for at, lines in enumerate(finds)
        for line in lines.astype(float)
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(file))
        judge = COCOeval(truth, truth.loadRes(told), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return judge


def test_average_precision_from_a_file_is_that_of_pycocotools(tmp_path):
    file, finds = written(tmp_path)
    spec = InputSpec("x", (None, 1, FED, FED), "float32")
    feed = Feed.open(Split(Data(str(file), shapes=(spec,))), (spec,))
    assert open_source(Data(str(file))).classes == NAMES
    most = max(map(len, finds))
    frames = []
    for piece in feed.pieces(16):
        place = piece.rows.positions
        lines = np.zeros((len(piece), most, 6))
        for row, at in enumerate(place.tolist()):
            one = finds[at].astype(np.float64)
            height, width = piece.rows.labels[row].size
            one[:, :4] *= np.tile([FED / width, FED / height], 2)
            lines[row, : len(one)] = one
        layout = BoxLayout("lines", "output", model_numbers=(0, 1, 2, 3), data_numbers=NUMBERS)
        task = Task("detection", "probabilities", NAMES, "output", boxes=layout)
        columns = Detection.columns(task, piece, {"output": lines})
        ids = {"position": pl.Series(place, dtype=pl.Int64), "id": list(piece.rows.ids)}
        frames.append(pl.DataFrame({**ids, **columns}))
    guessed, said = guess_boxes(piece, {"output": lines}, feed.labels(), (), NAMES)
    assert guessed.boxes == layout
    assert "stretched back to the size of each image" in said[0]
    assert said[1] == "The model's classes are taken as places from 0 in the order of the data's."
    record = checked("detection", view_of(tmp_path / "view", task, pl.concat(frames)))
    judge = by_pycocotools(file, finds)
    names = ("map", "map50", "map75", "map@small", "map@medium", "map@large")
    for name, wanted in zip(names, judge.stats[:6], strict=True):
        assert record.metrics[name].value == pytest.approx(wanted, abs=1e-9), name


@pytest.mark.parametrize("place", ["the file", "the folder", "beside", "split", "label"])
def test_images_are_found(tmp_path, place):
    file, _ = written(tmp_path / "made", 6)
    images, label, source = file.parent / "images", "", file
    if place == "the folder":
        source = file.parent
    elif place == "beside":
        source = file.replace(images / "_annotations.coco.json").parent
    elif place == "split":
        (tmp_path / "made" / "annotations").mkdir()
        source = file.replace(tmp_path / "made" / "annotations" / "instances_val2017.json")
        images.replace(tmp_path / "made" / "val2017")
    elif place == "label":
        label = str(file.replace(tmp_path / "elsewhere.json"))
        source = images
    rows = open_source(Data(str(source), label=label)).read(np.arange(6))
    assert len(rows) == 6
    assert rows.ids[0] == "000.png"
    assert sorted(rows.metadata.columns) == ["brightness", "height", "width"]


def changed(file: Path, **parts: object) -> Path:
    file.write_text(json.dumps({**json.loads(file.read_text()), **parts}))
    return file


def test_what_is_wrong_with_a_file_is_said(tmp_path):
    file, _ = written(tmp_path / "a", 6)
    whole = json.loads(file.read_text())
    outlines = [{key: value for key, value in one.items() if key != "bbox"} for one in whole["annotations"]]
    for parts, why in (
        ({"annotations": outlines}, "have no 'bbox'"),
        ({"images": []}, "lists no images"),
        ({"categories": []}, "no categories"),
        ({"images": [{"id": 1}]}, "an entry among 'images' without 'file_name'"),
        ({"images": [{"id": 1, "file_name": "gone.png"}]}, "put them there"),
    ):
        with pytest.raises(InputError, match=why):
            open_source(Data(str(changed(file, **{**whole, **parts}))))
    file.write_text(json.dumps(whole)[:-30])
    with pytest.raises(InputError, match="damaged or cut off"):
        open_source(Data(str(file)))
    file.write_text(json.dumps(whole, indent=1))
    (tmp_path / "a" / "other.json").write_text(json.dumps(whole))
    with pytest.raises(InputError, match=r"holds 'instances.json', 'other.json': give one"):
        open_source(Data(str(tmp_path / "a")))
    lines = tmp_path / "rows.jsonl"
    lines.write_text('{"images": [{"a": 1}], "x": 2.5, "y": 0}\n{"images": [{"a": 2}], "x": 3, "y": 1}\n')
    assert len(open_source(Data(str(lines)))) == 2  # rows of another kind, one a line


def test_bad_rows_are_counted_out(tmp_path):
    file, _ = written(tmp_path, 6)
    whole = json.loads(file.read_text())
    annotation = whole["annotations"][0] | {"image_id": 101, "iscrowd": 0}
    bad = [
        annotation | {"image_id": 100, "bbox": [1, 2, 3]},
        annotation | {"image_id": 101, "category_id": 5},
        annotation | {"image_id": 102, "bbox": [5, 5, -2, 3]},
        annotation | {"image_id": 999},
    ]
    images = [replace_size(one) if one["id"] == 103 else one for one in whole["images"]]
    (tmp_path / "images" / "004.png").unlink()
    changed(file, annotations=bad, images=images)
    spec = InputSpec("x", (None, 1, 64, 64), "float32")
    piece = next(Feed.open(Split(Data(str(file), shapes=(spec,))), (spec,)).pieces(8))
    assert piece.rows.ids == ("005.png",)
    assert "not x, y, width and height" in piece.broken["000.png"]
    assert "unknown category 5" in piece.broken["001.png"]
    assert "ends before it begins" in piece.broken["002.png"]
    assert "its entry says 500x20" in piece.broken["003.png"]
    assert piece.broken["004.png"] == "is not there"


def replace_size(image: dict) -> dict:
    return {**image, "width": 500, "height": 20}
