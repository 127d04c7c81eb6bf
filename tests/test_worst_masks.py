"""The images on which a segmentation errs most: which they are, and what is drawn on them."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from PIL import Image

from diagnose.masks_drawn import REST, WRONG, Palette, class_map
from diagnose.probe import PROBES
from diagnose.worst_masks import FIXED, STILL, read_worst
from study.errors import SkipError
from study.feed import Piece
from study.loading.live import hold
from study.progress import Progress
from study.readings.segmentation import Segmentation
from study.record import Verdict
from study.subject import Data, Split
from study.task import Task
from tests.prediction_tables import checked, view_of

TASK = Task("segmentation", "logits", ("background", "cat", "dog"), width=3, class_axis=1, ignore=255)
SIDE = 8


def masks() -> np.ndarray:
    """A right cat, a missed dog of four pixels, a cat taken for a dog; a corner of no class."""
    made = np.zeros((4, SIDE, SIDE), np.uint8)
    made[0, 1:3, 1:3], made[1, 4:6, 4:6], made[2, 0:4, 0:4], made[3, 5, 5] = 1, 2, 1, 1
    made[3, 0, :2] = 255
    return made


def answers() -> np.ndarray:
    said = np.where(masks() == 255, 0, masks())
    said[1], said[2, 0:4, 0:4], said[2, 7, 7] = 0, 2, 1
    return said


def view(folder, said, truth=None, origin=None):
    """A view of these answers to the rows, whose images are a ramp."""
    ids = tuple(f"r{row}" for row in range(len(said)))
    scores = np.moveaxis(np.eye(3, dtype=np.float32)[said], -1, 1)
    rows = type("Rows", (), {"labels": truth, "ids": ids, "__len__": lambda self: len(ids)})()
    made = Segmentation.columns(TASK, Piece(rows, {}, {}), {"out": scores})
    table = pl.DataFrame({"position": pl.Series(range(len(ids)), dtype=pl.Int64), "id": list(ids), **made})
    image = np.linspace(0, 1, SIDE * SIDE, dtype=np.float32).reshape(1, SIDE, SIDE)
    data = Data("rows", live=hold([(image, np.zeros((SIDE, SIDE), np.uint8)) for _ in ids]))
    built = view_of(folder, TASK, table, origin)
    return replace(built, subject=replace(built.subject, judged=Split(data)))


def drawn(made):
    PROBES.get("drawn")().run(made, Progress())
    record = checked("worst-images", made)
    root = made.artifact.folder.parent
    pictures = {picture.title: np.asarray(Image.open(root / picture.source)) for picture in record.pictures}
    return record, pictures


def cells(picture: np.ndarray) -> np.ndarray:
    """The pixel in the middle of each of the map's."""
    times = len(picture) // SIDE
    return picture[times // 2 :: times, times // 2 :: times]


def test_truth_prediction_and_what_is_wrong_are_drawn_pixel_by_pixel(tmp_path):
    record, pictures = drawn(view(tmp_path / "a", answers(), masks()))
    assert record.verdict is Verdict.NOTED
    names = [title.rpartition(" · ")[2] for title in pictures]
    assert names == ["input", "truth", "prediction", "wrong"] * 2
    assert {title.partition(",")[0] for title in pictures} == {"row r1", "row r2"}
    title = next(title for title in pictures if title.startswith("row r1")).rpartition(" · ")[0]
    assert title == "row r1, 4 of 64 pixels wrong, mean IoU 47 %, missed: 'dog' (0 of 4 pixels right)"
    colours = dict(record.tables[1].rows)
    assert set(colours) == {"cat", "dog"}
    for row in (1, 2):
        named = {title.rpartition(" · ")[2]: one for title, one in pictures.items() if f"row r{row}" in title}
        truth, said, wrong = (cells(named[part]) for part in ("truth", "prediction", "wrong"))
        assert ((truth[..., 3] > 0) == (masks()[row] > 0)).all()
        assert ((said[..., 3] > 0) == (answers()[row] > 0)).all()
        assert ((wrong[..., 3] > 0) == (masks()[row] != answers()[row])).all()
        assert (wrong[wrong[..., 3] > 0][:, :3] == WRONG).all()
        assert len({one.shape[:2] for one in named.values()}) == 1
    cat, dog = truth[0, 0, :3].tolist(), said[0, 0, :3].tolist()
    assert cat != dog
    assert said[7, 7, :3].tolist() == cat


def test_what_is_worst_is_by_overlap_missed_objects_and_wrong_pixels_in_turn(tmp_path):
    seen = read_worst(view(tmp_path / "a", answers(), masks()))
    by_hand = [1.0, (60 / 64 + 0) / 2, (47 / 48 + 0 + 0) / 3, 1.0]
    assert seen.overlap == pytest.approx(by_hand)
    assert seen.wrong.tolist() == [0, 4, 17, 0]
    assert [one.tolist() for one in seen.missed] == [[], [[2, 4, 0]], [[1, 16, 0]], []]
    assert seen.order == [2, 1]


def test_after_a_step_the_pixels_that_changed_are_drawn_by_what_that_did_to_them(tmp_path):
    origin = view(tmp_path / "a", answers(), masks())
    later = answers()
    later[1, 4, 4] = 2  # is right now
    later[0, 1, 1] = 0  # is wrong now
    later[2, 0, 0] = 0  # was wrong, and is
    record, pictures = drawn(view(tmp_path / "b", later, masks(), origin))
    changed = {title[:6]: cells(one) for title, one in pictures.items() if title.endswith("changed")}
    wanted = {"row r1": ((4, 4), FIXED), "row r0": ((1, 1), WRONG), "row r2": ((0, 0), STILL)}
    for row, (place, colour) in wanted.items():
        assert changed[row][place][:3].tolist() == list(colour)
        assert (changed[row][..., 3] > 0).sum() == 1
    assert "Pixels that changed" in record.summary
    first = drawn(origin)[0]
    assert record.tables[1] == first.tables[1], "a class has one colour at every step"


def test_without_masks_the_least_sure_answers_are_drawn(tmp_path):
    made = view(tmp_path / "a", answers())
    record, pictures = drawn(made)
    assert {title.rpartition(" · ")[2] for title in pictures} == {"input", "prediction"}
    assert "wrong" not in record.summary
    assert record.tables[0].title == "Images that are drawn"


def test_a_right_segmentation_is_good(tmp_path):
    record, _ = drawn(view(tmp_path / "a", np.where(masks() == 255, 0, masks()), masks()))
    assert record.verdict is Verdict.GOOD
    assert not record.pictures


def test_each_class_has_a_colour_until_they_run_out():
    palette = Palette.of(range(30))
    assert len(set(palette.colours.values())) == len(set(palette.names.values())) == 19
    assert palette.colours[29] == REST[1]
    assert WRONG not in palette.colours.values()
    large = class_map(np.zeros((900, 600), np.int64), palette, (213, 320))
    assert large.size == (213, 320)


def test_a_model_that_takes_no_image_is_skipped(tmp_path):
    made = view(tmp_path / "a", answers(), masks())
    flat = Data("rows", live=hold([(np.zeros(4, np.float32), 0) for _ in range(4)]))
    made = replace(made, subject=replace(made.subject, judged=Split(flat)))
    with pytest.raises(SkipError, match="no input is an image"):
        PROBES.get("drawn")().run(made, Progress())
