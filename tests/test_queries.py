"""Detectors that answer a fixed number of queries: DETR's layout, against torch's own arithmetic."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from diag.cli import main
from study.boxes import truths_of
from study.detections import detected
from study.guess_boxes import guess_boxes
from study.queries import queries_layout
from tests.test_detection import CLASSES, SIZE, fed, images_of
from tests.test_detection_chain import SIDE, canvases

QUERIES = 20


def answers(rows: int, width: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Scores and boxes of the queries: centre, width and height as shares of the image."""
    random = np.random.default_rng(seed)
    centres = np.concatenate(
        [random.uniform(0.2, 0.8, (rows, QUERIES, 2)), random.uniform(0.05, 0.3, (rows, QUERIES, 2))], axis=2
    )
    return random.normal(0, 3, (rows, QUERIES, width)).astype(np.float32), centres.astype(np.float32)


def corners(centres: torch.Tensor) -> torch.Tensor:
    x, y, wide, high = centres.unbind(-1)
    return torch.stack([x - wide / 2, y - high / 2, x + wide / 2, y + high / 2], -1) * SIZE


@pytest.mark.parametrize(
    "names", [("logits", "pred_boxes"), ("pred_logits", "pred_boxes"), ("output_0", "output_1")]
)
@pytest.mark.parametrize("given", ["logits", "probabilities"])
def test_a_softmax_with_no_object_gives_a_class_a_query(names, given):
    truths, _ = images_of(8)
    scores, centres = answers(8, len(CLASSES) + 1)
    chances = torch.from_numpy(scores).softmax(-1)
    outputs = {names[0]: scores if given == "logits" else chances.numpy(), names[1]: centres}
    task, notes = guess_boxes(fed(truths, 8), outputs, truths_of(truths), CLASSES)
    assert task.boxes is not None
    assert (task.boxes.form, task.boxes.absent, task.output) == ("queries", True, given)
    assert "the last for no object" in notes[0]
    best, number = chances[..., :-1].max(-1)
    for row, one in enumerate(detected(task.boxes, task.output, outputs, (SIZE, SIZE))):
        order = best[row].argsort(descending=True)
        np.testing.assert_allclose(one.scores, best[row][order], rtol=1e-5)
        np.testing.assert_array_equal(one.numbers, number[row][order])
        np.testing.assert_allclose(
            one.boxes, corners(torch.from_numpy(centres[row]))[order], rtol=1e-4, atol=1e-3
        )


def test_a_sigmoid_a_class_gives_the_best_pairs():
    truths, _ = images_of(8)
    scores, centres = answers(8, len(CLASSES))
    outputs = {
        "logits": scores,
        "pred_boxes": centres,
        "last_hidden_state": np.zeros((8, QUERIES, 32), np.float32),
    }
    task, notes = guess_boxes(fed(truths, 8), outputs, truths_of(truths), CLASSES)
    assert task.boxes is not None
    assert (task.boxes.scores, task.boxes.absent, task.output) == ("logits", False, "logits")
    assert "no object" not in notes[0]
    flat = torch.from_numpy(scores).sigmoid().flatten(1).topk(QUERIES)
    for row, one in enumerate(detected(task.boxes, task.output, outputs, (SIZE, SIZE))):
        np.testing.assert_allclose(one.scores, flat.values[row], rtol=1e-5)
        np.testing.assert_array_equal(one.numbers, flat.indices[row] % len(CLASSES))
        there = corners(torch.from_numpy(centres[row]))[flat.indices[row] // len(CLASSES)]
        np.testing.assert_allclose(one.boxes, there, rtol=1e-4, atol=1e-3)


def test_without_a_number_of_classes_most_queries_tell():
    scores, centres = answers(4, 7)
    assert queries_layout({"logits": scores, "pred_boxes": centres}, 0)[1] == 7
    scores[..., -1] += 9
    assert queries_layout({"logits": scores, "pred_boxes": centres}, 0)[1] == 6


def test_boxes_with_labels_and_scores_are_no_queries():
    _, centres = answers(4, 2)
    flat = {"boxes": centres, "labels": np.zeros((4, QUERIES), int), "scores": np.ones((4, QUERIES))}
    assert queries_layout(flat, 2) is None
    assert queries_layout({"boxes": centres * 300, "logits": np.zeros((4, QUERIES, 3))}, 2) is None


@pytest.mark.usefixtures("in_process")
def test_a_folder_of_transformers_goes_through_the_chain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import YolosConfig, YolosForObjectDetection

    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    config = YolosConfig(
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=[SIDE, SIDE],
        patch_size=8,
        num_channels=1,
        num_detection_tokens=6,
        id2label={0: "zero", 1: "one"},
        label2id={"zero": 0, "one": 1},
        use_mid_position_embeddings=False,
    )
    YolosForObjectDetection(config).eval().save_pretrained("yolos")
    x, boxes, labels = canvases(60, 0)
    np.savez("rows.npz", x=x, boxes=boxes, labels=labels)
    assert main(["run", "yolos", "--data", "rows.npz", "--steps", "onnx", "--out", "run"]) == 0
    report = json.loads(Path("run/report.json").read_text())
    came, onnx = ({record["by"]: record for record in step["records"]} for step in report["steps"])
    # It was never trained, which is the commonest way in which nothing is found.
    assert came["detection"]["findings"][0]["what"].startswith("Not one of ")
    assert onnx["verification"]["verdict"] == "good"
    assert onnx["detection"]["metrics"]["map"] == came["detection"]["metrics"]["map"]
