"""The images on which a detector errs most: which they are, and what is drawn on them."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from PIL import Image

from diagnose.boxes_drawn import MISSED, RIGHT, WRONG, Box, boxes_over
from diagnose.check import CHECKS
from diagnose.detected import match, only_sure, read_found
from diagnose.images_drawn import LONGEST, picture_of
from diagnose.probe import PROBES
from diagnose.worst_images import erring
from study.boxes import Truth
from study.errors import SkipError
from study.loading.live import hold
from study.progress import Progress
from study.record import Verdict
from study.subject import Data, Split
from tests.prediction_tables import checked, view_of
from tests.test_detection import TASK, images_of, table_of

BOX, OTHER = (10.0, 10.0, 50.0, 40.0), (60.0, 60.0, 90.0, 95.0)
TRUTH = Truth.of(np.array([BOX, OTHER]), np.array([0, 1]))
FINDS = {
    "right": [(*BOX, 0.9, 0), (*OTHER, 0.8, 1), *[(0, 50, 9, 59, 0.3, 0)] * 3],
    "wrong class": [(*BOX, 0.9, 2), (*OTHER, 0.8, 1)],
    "missed": [(*OTHER, 0.8, 1)],
    "two": [(*BOX, 0.9, 2), (*BOX, 0.7, 0), (0, 0, 9, 9, 0.7, 0), (*OTHER, 0.1, 1)],
}


def view(folder, *, images=True):
    finds = [np.array(lines, np.float32) for lines in FINDS.values()]
    made = view_of(folder, TASK, table_of([TRUTH] * 4, finds))
    pixels = np.repeat([[0.0, 1.0]], 50, axis=1).repeat(100, axis=0)[None] if images else np.float32(0)
    rows = [(pixels, {"boxes": TRUTH.boxes, "labels": TRUTH.numbers}) for _ in range(4)]
    data = Data("rows", live=hold(rows))
    return replace(made, subject=replace(made.subject, judged=Split(data)))


def test_errors_are_counted_at_the_score_that_is_best(tmp_path):
    seen = erring(view(tmp_path))
    assert 0.1 < seen.score <= 0.7
    assert seen.order.tolist() == [3, 1, 2]
    assert seen.caption(0) == "2 of 2 found"
    assert seen.caption(1) == "1 of 2 found; 1 cls"
    assert seen.caption(2) == "1 of 2 found; 1 missed"
    assert seen.caption(3) == "1 of 2 found; 1 cls, 1 bkg, 1 missed"


def test_boxes_are_drawn_where_they_are(tmp_path):
    made = view(tmp_path)
    PROBES.get("drawn")().run(made, Progress())
    record = checked("worst-images", made)
    assert record.verdict is Verdict.NOTED
    assert record.tables[0].rows[0] == ("3", 2, 1, 1, 0, 0, 0, 1, 1)
    assert [picture.title for picture in record.pictures[:2]] == [
        "3 · input",
        "3 · 1 of 2 found; 1 cls, 1 bkg, 1 missed",
    ]
    below, over = (Image.open(tmp_path.parent / picture.source) for picture in record.pictures[:2])
    assert below.size == over.size == (400, 400)
    assert np.asarray(below)[:, [0, 199, 200, 399]].tolist() == [[0, 0, 255, 255]] * 400
    drawn = np.asarray(over)
    seen = [drawn[row, column, :3].tolist() for row, column in ((100, 41), (300, 241), (20, 1))]
    assert seen == [list(WRONG), list(MISSED), list(WRONG)]
    assert drawn[200, 350, 3] == 0
    assert np.asarray(Image.open(tmp_path.parent / record.pictures[3].source))[300, 241, :3].tolist() == [
        *RIGHT
    ]


def test_large_images_are_made_smaller_and_boxes_stay_inside():
    assert picture_of(np.zeros((3000, 1000, 3), np.uint8)).size == (149, LONGEST)
    assert picture_of(np.random.default_rng(0).random((20, 10))).size == (220, 440)
    over = boxes_over(
        (50, 40), [Box((-0.5, -0.5, 1.5, 1.5), RIGHT, "everything there is"), Box((1, 1, 1, 1), RIGHT)]
    )
    assert over.size == (50, 40)


def test_a_model_without_errors_is_good_and_one_that_takes_no_image_skipped(tmp_path):
    finds = [np.array(FINDS["right"], np.float32)] * 3
    good = view_of(tmp_path / "good", TASK, table_of([TRUTH] * 3, finds))
    pl.DataFrame(schema={"title": pl.String, "source": pl.String, "text": pl.String}).write_parquet(
        tmp_path / "good" / "drawn.parquet"
    )
    assert CHECKS.get("worst-images")().check(good).verdict is Verdict.GOOD
    with pytest.raises(SkipError, match="no input is an image"):
        PROBES.get("drawn")().run(view(tmp_path / "bare", images=False), Progress())


def test_the_surer_finds_match_as_all_of_them_do(tmp_path):
    found = read_found(view_of(tmp_path, TASK, table_of(*images_of(60, 1))))
    whole, part = match(found), match(only_sure(found, 0.4))
    sure = found.score >= 0.4
    assert part.outcome.tolist() == whole.outcome[:, sure].tolist()
    assert part.truth.tolist() == whole.truth[:, sure].tolist()
