"""A net that reads a text and sees an image, quantized and judged from the command line."""

import json
from pathlib import Path

import numpy as np
import onnxruntime
import polars as pl
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from diag.cli import main
from tests.tiny import digits

WORDS = ("<pad>", "<unk>", "this", "is", "the", "number", "odd", "even", "small", "large", "round")


class Captioned(nn.Module):
    """Logits of ten digits from an image and some words about it; nought fills shorter texts up."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(len(WORDS), 12, padding_idx=0)
        self.read = nn.Linear(12, 16)
        self.see = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten())
        self.head = nn.Linear(16 + 128, 10)

    def forward(self, note: Tensor, image: Tensor) -> Tensor:
        counts = (note != 0).unsqueeze(-1).to(torch.float32)
        text = (self.words(note) * counts).sum(1) / counts.sum(1).clamp(min=1.0)
        logits: Tensor = self.head(torch.cat([torch.relu(self.read(text)), self.see(image)], dim=1))
        return logits


def captioned() -> nn.Module:
    return Captioned()


def note_of(digit: int, random: np.random.Generator) -> str:
    """Two facts of three, in a sentence of any length."""
    facts = ["odd" if digit % 2 else "even", "large" if digit > 4 else "small"]
    facts += ["round"] if digit in (0, 6, 8, 9) else []
    told = random.permutation(facts)[: random.integers(1, 3)].tolist()
    return " ".join(["this is the number"[: int(random.integers(4, 19))].strip(), *told])


def ids_of(notes: list[str]) -> Tensor:
    rows = [
        torch.tensor([WORDS.index(word) if word in WORDS else 1 for word in note.split()]) for note in notes
    ]
    return nn.utils.rnn.pad_sequence(rows, batch_first=True)


def write(folder: Path) -> tuple[nn.Module, list[str], np.ndarray, np.ndarray]:
    """Weights, a vocabulary and 200 rows with pictures beside them; what the rows hold."""
    images, labels = digits()
    random = np.random.default_rng(0)
    notes = [note_of(int(digit), random) for digit in labels]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = Captioned()
        optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
        for _ in range(4):
            for chosen in torch.randperm(1200).split(64):
                optimizer.zero_grad()
                fed = ids_of([notes[at] for at in chosen]), torch.from_numpy(images)[chosen]
                nn.functional.cross_entropy(net(*fed), torch.from_numpy(labels)[chosen]).backward()
                optimizer.step()
    torch.save(net.eval().state_dict(), folder / "m.pt")
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    (folder / "pictures").mkdir()
    judged = np.arange(1200, 1400)
    seen = np.round(images[judged, 0] * 255).astype(np.uint8)
    for at, pixels in enumerate(seen):
        Image.fromarray(pixels).save(folder / "pictures" / f"{at}.png")
    told = [notes[at] for at in judged]
    files = [f"pictures/{at}.png" for at in range(len(judged))]
    pl.DataFrame({"review": told, "file": files, "y": labels[judged]}).write_csv(folder / "rows.csv")
    return net, told, (seen / 255).astype(np.float32)[:, None], labels[judged]


@pytest.mark.slow
@pytest.mark.usefixtures("in_process")
def test_a_text_and_an_image_are_quantized_together(tmp_path: Path) -> None:
    net, notes, images, labels = write(tmp_path)
    words = [
        tmp_path / "m.pt",
        "--arch",
        "tests.test_text_and_image:captioned",
        "--data",
        tmp_path / "rows.csv",
    ]
    words += ["--tokenizer", tmp_path / "vocab.txt", "--columns", "note=review,image=file"]
    words += ["--train", tmp_path / "rows.csv", "--steps", "onnx,(int8|int8-dynamic|fp16)"]
    words += ["--out", tmp_path / "run", "--threads", "1", "--quiet"]
    assert main(["run", *map(str, words)]) == 0
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    found = {step["name"]: {one["by"]: one for one in step["records"]} for step in report["steps"]}
    assert list(found) == ["as_it_came", "onnx", "int8", "int8_dynamic", "fp16"]
    with torch.no_grad():
        right = float((net(ids_of(notes), torch.from_numpy(images)).numpy().argmax(1) == labels).mean())
    assert right > 0.8
    accuracy = {name: records["accuracy"]["metrics"]["accuracy"]["value"] for name, records in found.items()}
    assert accuracy["as_it_came"] == accuracy["onnx"] == pytest.approx(right)
    session = onnxruntime.InferenceSession(tmp_path / "run" / "02_int8" / "model.onnx")
    assert {one.name for one in session.get_inputs()} == {"note", "image"}
    said = session.run(None, {"note": ids_of(notes).numpy(), "image": images})[0]
    assert accuracy["int8"] == (said.argmax(axis=1) == labels).mean()
    assert accuracy["int8"] == pytest.approx(right, abs=0.03)
    layers = {row[2]: row[5:] for row in found["int8"]["audit"]["tables"][0]["rows"]}
    assert layers["Conv"][0] == "int8"
    assert layers["Gather"] == ["float", "an embedding is looked up and multiplies nothing"]
    assert found["int8"]["agreement"]["verdict"] in ("good", "noted")
    shares = [
        found["int8"]["occlusion"]["metrics"][f"attribution_share@occlusion:{of}"]["value"]
        for of in ("words", "image")
    ]
    assert sum(shares) == pytest.approx(1)
