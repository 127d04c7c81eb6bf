"""Why a region of an image is taken for what it is: attributions of a segmentation."""

import numpy as np
import polars as pl
import pytest
import torch
from torch import nn

from explain.method import METHODS, Explained
from explain.region import Region, regions_asked
from explain.score import scores
from study.loading.live import live_model
from study.readings.segmentation import runs
from study.runtime import open_runtime
from study.subject import Machine
from study.task import Task

NAMES = ("background", "low", "high")
SIDE = 8
WEIGHTS = (0.5, -2.0, 3.0)


def pointwise(axis: int = 1) -> tuple[nn.Module, Task]:
    """A pixel's scores are its own value times a weight a class: what they react to is known."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.tensor(WEIGHTS))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            scores = x * self.weight[:, None, None]
            return scores if axis == 1 else scores.movedim(1, -1)

    return Net().eval(), Task("segmentation", "logits", NAMES, width=3, class_axis=axis, ignore=255)


def asked(task: Task) -> tuple[Explained, np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    x = random.uniform(0.5, 1, (3, 1, SIDE, SIDE)).astype(np.float32)
    mask = random.random((3, SIDE, SIDE)) < 0.3
    classes = np.array([2, 1, 0])
    rows = Explained(("a", "b", "c"), {"x": x}, classes, region=Region(task, mask))
    return rows, x, mask


@pytest.mark.parametrize("axis", [1, -1])
@pytest.mark.parametrize("method", ["integrated-gradients", "occlusion"])
def test_what_is_outside_the_region_speaks_for_nothing(axis, method):
    module, task = pointwise(axis)
    rows, x, mask = asked(task)
    run = open_runtime(live_model(module), Machine())
    found = METHODS.get(method)().attribute(run, rows)
    expected = x[:, 0] * mask * np.array(WEIGHTS)[rows.targets][:, None, None]
    expected /= mask.sum(axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(np.asarray(found.values["x"]).reshape(expected.shape), expected, atol=1e-6)
    whole = scores(run, rows, [(row, ()) for row in range(3)])
    np.testing.assert_allclose(whole, expected.sum(axis=(1, 2)), atol=1e-5)
    if found.completeness is not None:
        assert found.completeness.max() < 1e-4
    few = METHODS.get(method)().attribute(run, rows.first(2))
    np.testing.assert_allclose(few.values["x"], found.values["x"][:2], atol=1e-6)


def line(label: np.ndarray, said: np.ndarray, skipped: np.ndarray) -> dict[str, object]:
    counts = ~skipped.ravel()
    return {
        "id": "7",
        "label": label.ravel()[counts].tolist(),
        "prediction": said.ravel()[counts].tolist(),
        "skipped": runs(skipped.ravel()).tolist(),
        "size": list(label.shape),
    }


def test_the_largest_mistake_is_asked_about_and_void_is_left_out():
    _, task = pointwise()
    label, said = np.zeros((4, 5), int), np.zeros((4, 5), int)
    skipped = np.zeros((4, 5), bool)
    skipped[0, :2] = True
    said[1, :3], said[2, 0], said[3, :2], label[3, :2] = 2, 1, 2, 2
    found = regions_asked(pl.DataFrame([line(label, said, skipped)]), task)
    assert found.titles == ("row 7, 3 pixels predicted high, labelled background",)
    assert found.classes.tolist() == [2]
    expected = np.zeros((4, 5), bool)
    expected[1, :3] = True
    np.testing.assert_array_equal(found.region.mask[0], expected)
    np.testing.assert_array_equal(found.parts[0], np.arange(3, 6))


@pytest.mark.parametrize(
    ("target", "title", "pixels"),
    [
        (None, "row 7, 4 pixels predicted low", 4),
        (1, "row 7, 4 pixels predicted low", 4),
        (2, "row 7, no pixel predicted high", 20),
    ],
)
def test_where_nothing_is_wrong_the_largest_class_that_is_no_background(target, title, pixels):
    _, task = pointwise()
    said = np.zeros((4, 5), int)
    said[:2, :2] = 1
    found = regions_asked(pl.DataFrame([line(said, said, np.zeros((4, 5), bool))]), task, target)
    assert found.titles == (title,)
    assert found.region.mask.sum() == pixels


def test_one_score_a_pixel_is_explained_as_it_is():
    task = Task("segmentation", "logits", ("no", "yes"), width=1, class_axis=0)
    module = nn.Flatten(1, 2)  # (rows, 1, height, width) to (rows, height, width)
    rows, x, mask = asked(task)
    rows = Explained(rows.ids, {"input": x}, np.zeros(3, np.int64), region=rows.region)
    run = open_runtime(live_model(module), Machine())
    expected = x[:, 0] * mask / mask.sum(axis=(1, 2), keepdims=True)
    for method in ("integrated-gradients", "occlusion"):
        found = METHODS.get(method)().attribute(run, rows)
        np.testing.assert_allclose(
            np.asarray(found.values["input"]).reshape(expected.shape), expected, atol=1e-6
        )
