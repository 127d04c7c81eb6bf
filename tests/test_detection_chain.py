"""A detector of digits on a canvas through the whole chain: look, ONNX, int8, look again, report."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from diag.cli import main

NET = """
import torch
from torch import nn

class Cells(nn.Module):
    '''One box a cell of four pixels, in the order of their scores: boxes, scores and classes in one array.'''

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 16, 5, padding=2), nn.ReLU(),
            nn.Conv2d(16, 32, 4, stride=4), nn.ReLU(),
            nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(),
        )
        self.classes, self.sides = nn.Conv2d(32, 2, 1), nn.Conv2d(32, 4, 1)

    def raw(self, x):
        found = self.body(x)
        return self.classes(found), self.sides(found)

    def forward(self, x):
        classes, sides = self.raw(x)
        high, wide = classes.shape[2:]
        y = torch.arange(high).repeat_interleave(wide) * 4.0 + 2
        x = torch.arange(wide).repeat(high) * 4.0 + 2
        middle = torch.stack([x, y, x, y], 1)
        boxes = middle + 8 * sides.flatten(2).transpose(1, 2)
        score, number = classes.flatten(2).sigmoid().max(1)
        score, order = score.topk(8, dim=1)
        boxes = boxes.gather(1, order[..., None].expand(-1, -1, 4))
        number = number.gather(1, order).to(boxes.dtype)
        return torch.cat([boxes, score[..., None], number[..., None]], 2)


class Lists(Cells):
    '''As torchvision's detectors answer: a dictionary an image, of the boxes that are sure enough.'''

    def forward(self, images):
        found = []
        for lines in super().forward(images):
            lines = lines[lines[:, 4] > 0.05]
            found.append({"boxes": lines[:, :4], "labels": lines[:, 5].long() + 1, "scores": lines[:, 4]})
        return found


class Alone(Cells):
    '''For the first image alone.'''

    def forward(self, images):
        lines = super().forward(images)[0]
        return lines[lines[:, 4] > 0.05]


class TakesList(Lists):
    def forward(self, images: list[torch.Tensor]):
        images.append(images[0])
        return super().forward(torch.stack(images))[:-1]
"""
SIDE, CELLS = 32, 8


def canvases(count: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images with zeros and ones of scikit-learn, their boxes, and their numbers (-1 fills up)."""
    images, numbers = load_digits(n_class=2, return_X_y=True)
    random = np.random.default_rng(seed)
    x = np.zeros((count, 1, SIDE, SIDE), np.float32)
    boxes, labels = np.zeros((count, 2, 4)), np.full((count, 2), -1)
    for row in range(count):
        for place in range(int(random.integers(1, 3))):
            left = int(random.integers(0, 8)) + 16 * place
            top, which = int(random.integers(0, SIDE - 8)), int(random.integers(len(images)))
            x[row, 0, top : top + 8, left : left + 8] = images[which].reshape(8, 8) / 16
            boxes[row, place] = left, top, left + 8, top + 8
            labels[row, place] = numbers[which]
    return x, boxes, labels


def trained(net: torch.nn.Module, x: np.ndarray, boxes: np.ndarray, labels: np.ndarray) -> None:
    """The cell in which the middle of a box lies names it."""
    named, sides, there = (np.zeros((len(x), n, CELLS, CELLS), np.float32) for n in (2, 4, 1))
    for row, place in np.argwhere(labels >= 0):
        box = boxes[row, place]
        across, down = (int((box[at] + box[at + 2]) / 8) for at in (0, 1))
        named[row, labels[row, place], down, across] = there[row, 0, down, across] = 1
        middle = np.array([across, down, across, down]) * 4 + 2
        sides[row, :, down, across] = (box - middle) / 8
    data = [torch.from_numpy(one) for one in (x, named, sides, there)]
    adam = torch.optim.Adam(net.parameters(), 5e-3)
    for _ in range(12):
        for rows in torch.randperm(len(x)).split(32):
            images, wanted, far, which = (one[rows] for one in data)
            scores, moved = net.raw(images)
            loss = torch.nn.functional.binary_cross_entropy_with_logits(scores, wanted, reduction="sum")
            loss = loss + (which * (moved - far).abs()).sum()
            adam.zero_grad()
            (loss / len(rows)).backward()
            adam.step()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a trained model and its data."""
    folder = tmp_path_factory.mktemp("detector")
    (folder / "cell_nets.py").write_text(NET)
    names: dict[str, type[torch.nn.Module]] = {}
    exec(NET, names)
    torch.manual_seed(0)
    net = names["Cells"]()
    trained(net, *canvases(600, 0))
    torch.save(net.eval().state_dict(), folder / "model.pt")
    for name, seed, count in (("train", 0, 200), ("test", 1, 120)):
        x, boxes, labels = canvases(count, seed)
        np.savez(folder / f"{name}.npz", x=x, boxes=boxes, labels=labels)
    return folder


@pytest.fixture
def folder(made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(made)
    monkeypatch.syspath_prepend(str(made))
    return made


@pytest.mark.slow
@pytest.mark.usefixtures("in_process", "folder")
@pytest.mark.parametrize("kind", ["Cells", "Lists"])
def test_a_detector_goes_through_the_chain(kind: str, tmp_path: Path) -> None:
    typed = f"run model.pt --arch cell_nets:{kind} --data test.npz --train train.npz --out {tmp_path}"
    assert main([*typed.split(), "--steps", "onnx,int8"]) in (0, 1)
    report = json.loads((tmp_path / "report.json").read_text())
    steps = {step["name"]: {record["by"]: record for record in step["records"]} for step in report["steps"]}
    assert list(steps) == ["as_it_came", "onnx", "int8"]
    reached = {name: records["detection"]["metrics"]["map50"]["value"] for name, records in steps.items()}
    assert reached["as_it_came"] > 0.6
    assert reached["onnx"] == pytest.approx(reached["as_it_came"], abs=1e-4)
    assert reached["int8"] > reached["as_it_came"] - 0.15
    for records in steps.values():
        errors = records["detection-errors"]
        assert errors["verdict"] in ("good", "noted")
        assert sum(row[4] for row in errors["tables"][0]["rows"]) > 0
    assert "mean average precision" in (tmp_path / "report.md").read_text().lower()


def as_coco(folder: Path) -> None:
    """The test rows as images of two sizes, the larger ones stretched, and a COCO file."""
    x, boxes, labels = canvases(120, 1)
    images, annotations = [], []
    for at, row in enumerate(x):
        wide, high = (3, 2) if at % 2 else (1, 1)
        pixels = np.kron(np.round(row[0] * 255), np.ones((high, wide))).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{at:03}.png")
        size = {"width": SIDE * wide, "height": SIDE * high}
        images.append({"id": at, "file_name": f"{at:03}.png", **size})
        for box, number in zip(boxes[at], labels[at], strict=True):
            if number >= 0:
                sides = [box[0] * wide, box[1] * high, (box[2] - box[0]) * wide, (box[3] - box[1]) * high]
                one = {"id": len(annotations) + 1, "image_id": at, "category_id": (3, 7)[number]}
                annotations.append(one | {"bbox": sides})
    named = [{"id": 3, "name": "zero"}, {"id": 7, "name": "one"}]
    whole = {"images": images, "annotations": annotations, "categories": named}
    (folder / "instances.json").write_text(json.dumps(whole))


@pytest.mark.usefixtures("in_process", "folder")
def test_a_coco_file_judges_as_the_arrays_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "rows").mkdir()
    as_coco(tmp_path / "rows")
    reached = {}
    for name, data in (("arrays", "test.npz"), ("coco", f"{tmp_path / 'rows'} --shape 1x1x32x32")):
        typed = f"analyze model.pt --arch cell_nets:Cells --data {data} --out {tmp_path / name}"
        assert main(typed.split()) == 0
        report = json.loads((tmp_path / name / "report.json").read_text())
        records = {record["by"]: record for record in report["steps"][0]["records"]}
        reached[name] = records["detection"]["metrics"]["map50"]["value"]
    assert reached["coco"] == pytest.approx(reached["arrays"], abs=0.03)
    assert report["subject"]["classes"] == ["zero", "one"]
    assert "stretched back to the size of each image" in capsys.readouterr().err
    typed = f"analyze model.pt --arch cell_nets:Cells --data {tmp_path / 'rows'} --out {tmp_path / 'mixed'}"
    assert main(typed.split()) == 2
    assert "different sizes ('32x32', '64x96'): give the one to resize to" in capsys.readouterr().err


@pytest.mark.usefixtures("in_process")
def test_an_onnx_model_of_one_image_has_no_axis_of_images(folder: Path, tmp_path: Path) -> None:
    names: dict[str, type[torch.nn.Module]] = {}
    exec(NET, names)
    net = names["Alone"]()
    net.load_state_dict(torch.load(folder / "model.pt"))
    example = (torch.zeros(1, 1, SIDE, SIDE),)
    torch.onnx.export(net.eval(), example, tmp_path / "alone.onnx", dynamo=False)
    reached = []
    for words in (f"{tmp_path / 'alone.onnx'}", "model.pt --arch cell_nets:Lists"):
        out = tmp_path / str(len(reached))
        assert main(f"analyze {words} --data test.npz --out {out}".split()) == 0
        report = json.loads((out / "report.json").read_text())
        records = {record["by"]: record for record in report["steps"][0]["records"]}
        reached.append(records["detection"]["metrics"]["map"]["value"])
    assert reached[0] == pytest.approx(reached[1], abs=1e-6)


@pytest.mark.usefixtures("in_process", "folder")
@pytest.mark.parametrize(
    ("kind", "why"),
    [("Alone", "detections of one image without an axis of images"), ("TakesList", "hands list(images) on")],
)
def test_what_is_no_batch_is_refused(
    kind: str, why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = f"analyze model.pt --arch cell_nets:{kind} --data test.npz --out {tmp_path}"
    assert main(typed.split()) == 2
    assert why in capsys.readouterr().err
