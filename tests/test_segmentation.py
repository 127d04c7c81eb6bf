"""Segmentation: figures against scikit-learn and plain twins, and the whole chain on digits on a canvas."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image
from scipy.ndimage import label as connected
from sklearn.metrics import confusion_matrix, jaccard_score
from torch import nn

from diag.cli import main
from diagnose.regions import mean_overlaps, read_regions, region_metrics
from study.data.masks import MaskFolder
from study.data.opening import open_source
from study.errors import InputError
from study.feed import Piece
from study.guess import guess_task
from study.guess_parts import foreground
from study.readings.segmentation import Segmentation, runs
from study.record import Verdict
from study.regions import boundary_scores, objects, tolerated
from study.subject import Data
from study.task import Task
from tests.prediction_tables import checked, view_of
from tests.tiny import digits

SIDE, CLASSES = 24, 3
NAMES = ("background", "low", "high")
TASK = Task("segmentation", "logits", NAMES, width=CLASSES, class_axis=1, ignore=255)


def canvases(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Digits pasted on noise: ink of 0 to 4 is class 1, of 5 to 9 class 2; a corner is of no class."""
    random = np.random.default_rng(seed)
    images, labels = digits()
    x = random.random((rows, 1, SIDE, SIDE), dtype=np.float32) * 0.2
    y = np.zeros((rows, SIDE, SIDE), dtype=np.uint8)
    for row in range(rows):
        for _ in range(2):
            at, (top, left) = int(random.integers(len(images))), random.integers(0, SIDE - 8, 2)
            digit, place = images[at, 0], np.s_[top : top + 8, left : left + 8]
            x[row, 0][place] = np.maximum(x[row, 0][place], digit)
            y[row][place] = np.where(digit > 0.3, 1 + (labels[at] >= 5), y[row][place])
        y[row, :2, :2] = 255
    return x, y


def fully_convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 5, padding=2),
        nn.ReLU(),
        nn.Conv2d(16, 16, 5, padding=2),
        nn.ReLU(),
        nn.Conv2d(16, CLASSES, 1),
    )


def table_of(scores: np.ndarray, masks: np.ndarray | None) -> pl.DataFrame:
    """What the probe would write."""
    ids = tuple(f"r{row}" for row in range(len(scores)))
    rows = type("Rows", (), {"labels": masks, "ids": ids, "__len__": lambda self: len(ids)})()
    piece = Piece(rows, {}, {})
    made = Segmentation.columns(TASK, piece, {"out": scores})
    index = {"position": pl.Series(range(len(ids)), dtype=pl.Int64), "id": list(ids)}
    return pl.DataFrame({**index, **made})


@pytest.fixture(scope="module")
def guessed() -> tuple[np.ndarray, np.ndarray]:
    """Scores that are right in most pixels, with a class that blurs over its boundary."""
    _, masks = canvases(40, 0)
    random = np.random.default_rng(1)
    scores = random.normal(size=(40, CLASSES, SIDE, SIDE)).astype(np.float32)
    for index in range(CLASSES):
        scores[:, index][masks == index] += 2
    return scores, masks


def test_overlaps_are_scikit_learns(tmp_path, guessed):
    scores, masks = guessed
    regions = read_regions(view_of(tmp_path / "v", TASK, table_of(scores, masks)))
    counted = masks != 255
    label, said = masks[counted], scores.argmax(axis=1)[counted]
    metrics = region_metrics(regions)
    assert metrics["miou"].value == pytest.approx(jaccard_score(label, said, average="macro"))
    assert metrics["miou"].low < metrics["miou"].value < metrics["miou"].high
    matrix = confusion_matrix(label, said)
    dice = 2 * np.diag(matrix) / (matrix.sum(axis=0) + matrix.sum(axis=1))
    assert metrics["dice"].value == pytest.approx(dice.mean())
    record = checked("regions", view_of(tmp_path / "w", TASK, table_of(scores, masks)))
    shares = next(table for table in record.tables if table.title == "Confusion of pixels")
    wanted = matrix / matrix.sum(axis=1, keepdims=True)
    assert np.allclose([row[1:] for row in shares.rows], wanted)


def slow_boundary(label: np.ndarray, said: np.ndarray, index: int) -> float:
    """By loops over pixels and their distances."""
    far = tolerated(label.shape)
    places = []
    for mask in (label, said):
        inside = []
        for row, column in np.ndindex(mask.shape):
            around = [(row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)]
            near = [mask[at] for at in around if min(at) >= 0 and at[0] < SIDE and at[1] < SIDE]
            if mask[row, column] == index and any(one not in (index, -1) for one in near):
                inside.append((row, column))
        places.append(inside)
    true, named = places
    if not true and not named:
        return float("nan")

    def share(some: list, others: list) -> float:
        close = [any(np.hypot(a - c, b - d) <= far for c, d in others) for a, b in some]
        return float(np.mean(close)) if close and others else 0.0

    precision, recall = share(named, true), share(true, named)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def test_boundaries_are_those_of_a_slow_twin(guessed):
    scores, masks = guessed
    for row in range(4):
        label = np.where(masks[row] == 255, -1, masks[row].astype(int))
        said = np.where(label < 0, -1, np.roll(label, row, axis=0) if row else scores[row].argmax(axis=0))
        fast = boundary_scores(label, said, CLASSES)
        slow = [slow_boundary(label, said, index) for index in range(CLASSES)]
        assert np.allclose(fast, slow, equal_nan=True, atol=1e-6)
    assert np.nanmin(boundary_scores(label, label, CLASSES)) == 1


def test_objects_are_connected_regions(guessed):
    _, masks = guessed
    label = masks[0].astype(int)
    found = objects(label, np.zeros_like(label), background=0)
    for index in (1, 2):
        _, count = connected(label == index, np.ones((3, 3)))
        assert (found[:, 0] == index).sum() == count
        assert found[found[:, 0] == index, 1].sum() == (label == index).sum()
    assert (found[:, 2] == 0).all()


def test_runs_say_where_a_mask_is_true():
    mask = np.array([1, 1, 0, 0, 1, 0, 1], dtype=bool)
    assert runs(mask).tolist() == [0, 2, 4, 1, 6, 1]


def test_a_worse_artifact_is_bad_and_the_same_one_good(tmp_path, guessed):
    scores, masks = guessed
    origin = view_of(tmp_path / "a", TASK, table_of(scores, masks))
    worse = scores + np.random.default_rng(2).normal(size=scores.shape).astype(np.float32)
    bad = checked("regions", view_of(tmp_path / "b", TASK, table_of(worse, masks), origin))
    assert bad.verdict is Verdict.BAD
    sums = [
        read_regions(view).sums.sum(axis=0, keepdims=True)
        for view in (origin, view_of(tmp_path / "c", TASK, table_of(worse, masks)))
    ]
    wanted = mean_overlaps(sums[1])[0, 0] - mean_overlaps(sums[0])[0, 0]
    assert bad.metrics["miou@change"].value == pytest.approx(wanted)
    assert (
        checked("regions", view_of(tmp_path / "d", TASK, table_of(scores, masks), origin)).verdict
        is Verdict.GOOD
    )


@pytest.mark.parametrize(
    ("masks", "shape", "said"),
    [
        (np.zeros((4, 6, 6), np.uint8), (4, 3, 5, 5), "must have one size"),
        (np.zeros((4, 32, 32), np.uint8), (4, 3, 8, 8), "or let the model enlarge its scores"),
        (np.zeros((4, 6, 6), np.float32), (4, 3, 6, 6), "whole numbers"),
    ],
)
def test_masks_that_do_not_fit_are_one_sentence(masks, shape, said):
    with pytest.raises(InputError, match=said):
        guess_task(masks, {"out": np.zeros(shape, np.float32)}, asked="segmentation")


def test_a_label_beyond_the_classes_is_named_with_its_row(guessed):
    scores, masks = guessed
    wrong = masks.copy()
    wrong[3, 5, 5] = 7
    with pytest.raises(InputError, match="row 'r3' holds 7"):
        table_of(scores, wrong)


def test_masks_of_0_and_255_are_of_two_classes():
    masks = np.where(np.eye(6) > 0, 255, 0).astype(np.uint8)[None].repeat(4, axis=0)
    task, notes = guess_task(masks, {"out": np.random.default_rng(0).normal(size=(4, 1, 6, 6))})
    assert (task.kind, task.width, task.ignore) == ("segmentation", 1, -1)
    assert "class '1'" in notes[0]
    assert foreground(task, masks).max() == 1


def write_folder(folder: Path, x: np.ndarray, y: np.ndarray) -> None:
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for row in range(len(x)):
        Image.fromarray((255 * x[row, 0]).astype(np.uint8)).save(folder / "images" / f"{row:03}.png")
        palette = Image.fromarray(y[row]).convert("P")
        palette.putdata(y[row].reshape(-1).tolist())
        palette.save(folder / "masks" / f"{row:03}.png")
    (folder / "classes.txt").write_text("\n".join(NAMES))


def test_a_folder_of_masks_is_read_by_stem(tmp_path):
    x, y = canvases(5, 3)
    write_folder(tmp_path / "d", x, y)
    source = open_source(Data(str(tmp_path / "d")))
    assert isinstance(source, MaskFolder)
    assert source.classes == NAMES
    rows = source.read(np.arange(5))
    assert np.array_equal(rows.labels, y)
    (tmp_path / "d" / "masks" / "001.png").unlink()
    with pytest.raises(InputError, match=r"no mask for '001\.png'"):
        MaskFolder.open(Data(str(tmp_path / "d")))
    Image.new("RGB", (SIDE, SIDE)).save(tmp_path / "d" / "masks" / "001.png")
    with pytest.raises(InputError, match="in colour"):
        MaskFolder.open(Data(str(tmp_path / "d"))).read(np.arange(5))


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("segmentation")
    x, y = canvases(160, 4)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = fully_convolutional()
        optimizer = torch.optim.Adam(net.parameters(), lr=5e-3)
        images, masks = torch.from_numpy(x), torch.from_numpy(y.astype(np.int64))
        for _ in range(12):
            for rows in torch.randperm(len(x)).split(32):
                optimizer.zero_grad()
                nn.functional.cross_entropy(net(images[rows]), masks[rows], ignore_index=255).backward()
                optimizer.step()
    torch.save(net.state_dict(), folder / "model.pt")
    judged, truth = canvases(60, 5)
    site = np.where(np.arange(60) % 2, "a", "b")
    np.savez(folder / "rows.npz", x=judged, mask=truth, classes=np.array(NAMES), site=site)
    write_folder(folder / "folder", judged, truth)
    return folder


def test_the_whole_chain(trained, tmp_path, capsys):
    words = ["run", str(trained / "model.pt"), "--arch", "tests.test_segmentation:fully_convolutional"]
    words += ["--data", str(trained / "rows.npz"), "--out", str(tmp_path / "out"), "--json"]
    assert main(words) == 0, capsys.readouterr().err
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["subject"]["task"] == "segmentation"
    assert report["subject"]["classes"] == list(NAMES)
    for step in report["steps"]:
        records = {record["by"]: record for record in step["records"]}
        assert records["regions"]["metrics"]["miou"]["value"] > 0.5
        assert records["accuracy"]["verdict"] != "skipped"
    last = {record["by"]: record for record in report["steps"][-1]["records"]}
    assert last["agreement"]["metrics"]["agreement"]["value"] > 0.9
    assert "miou@change" in last["regions"]["metrics"]
    first = {record["by"]: record for record in report["steps"][0]["records"]}
    for method in ("occlusion", "integrated-gradients"):
        assert first[method]["metrics"][f"deletion_gain@{method}"]["value"] > 0
    assert first["gradcam"]["verdict"] == "skipped"
    assert "pixels predicted" in first["occlusion"]["pictures"][0]["title"]
    assert last["drift"]["metrics"]["attribution_rank_correlation"]["value"] > 0.5
    drawn = {picture["title"].rpartition(" · ")[2] for picture in last["worst-images"]["pictures"]}
    assert drawn == {"input", "truth", "prediction", "wrong", "changed"}
    assert all((tmp_path / "out" / shown["source"]).is_file() for shown in last["worst-images"]["pictures"])
    assert "mean IoU" in (tmp_path / "out" / "report.md").read_text()


def test_a_folder_of_images_and_masks_is_analyzed(trained, tmp_path, capsys):
    words = ["analyze", str(trained / "model.pt"), "--arch", "tests.test_segmentation:fully_convolutional"]
    words += ["--data", str(trained / "folder"), "--out", str(tmp_path / "out"), "--json"]
    assert main(words) == 0, capsys.readouterr().err
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["subject"]["classes"] == list(NAMES)
    records = {record["by"]: record for record in report["steps"][0]["records"]}
    assert records["regions"]["metrics"]["miou"]["value"] > 0.5


def test_images_without_masks_are_run_through_the_chain(trained, tmp_path, capsys):
    np.savez(tmp_path / "bare.npz", x=canvases(24, 6)[0])
    words = ["run", str(trained / "model.pt"), "--arch", "tests.test_segmentation:fully_convolutional"]
    words += [
        "--data",
        str(tmp_path / "bare.npz"),
        "--task",
        "segmentation",
        "--unlabelled",
        "--steps",
        "onnx",
    ]
    assert main([*words, "--out", str(tmp_path / "out"), "--json"]) == 0, capsys.readouterr().err
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    last = {record["by"]: record for record in report["steps"][-1]["records"]}
    drawn = {picture["title"].rpartition(" · ")[2] for picture in last["worst-images"]["pictures"]}
    assert drawn == {"input", "prediction", "changed"}
    assert last["regions"]["verdict"] == "skipped"
    assert last["drift"]["metrics"]["attribution_rank_correlation"]["value"] > 0.99
    assert last["agreement"]["metrics"].keys() == {"agreement"}
    assert last["agreement"]["metrics"]["agreement"]["value"] > 0.999
