"""Small models, trained for seconds on scikit-learn's digits, and their exports, made once for all tests."""

import atexit
import shutil
import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from export.change import Change
from export.passes.onnx import Onnx
from study.loading.live import digest, live_model
from study.progress import Progress
from study.runtime import open_runtime, to_numpy
from study.subject import Data, InputSpec, Machine, Model, Split, Subject
from study.task import Task

MACHINE = Machine(threads=1)
CLASSES = tuple("0123456789")
TASK = Task("multiclass", "logits", CLASSES, "output")
NEVER = Split(Data(source="judged-rows-that-no-pass-may-read.npz"))
CALIBRATION = tuple(range(256))
TRAINING = tuple(range(1000))
JUDGED = slice(1000, 1797)


class Cnn(nn.Module):
    def __init__(self):
        super().__init__()
        self.one = nn.Conv2d(1, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.two = nn.Conv2d(16, 32, 3, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.drop = nn.Dropout(0.2)
        self.head = nn.Linear(32 * 4, 10)

    def forward(self, x):
        x = self.pool(torch.relu(self.norm(self.one(x))))
        x = self.pool(torch.relu(self.two(x)))
        return self.head(self.drop(x.flatten(1)))


class Mlp(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU())
        self.head = nn.Linear(32, 10)

    def forward(self, x):
        return self.head(self.layers(x))


class Recurrent(nn.Module):
    """Its initial state is made inside ``forward``."""

    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(8, 24, 2, batch_first=True)
        self.head = nn.Linear(24, 10)

    def forward(self, x):
        start = torch.zeros(2, x.size(0), 24)
        steps, _ = self.rnn(x[:, 0], (start, start.clone()))
        return self.head(steps[:, -1])


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.one = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.two = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.last = nn.BatchNorm2d(width)

    def forward(self, x):
        return torch.relu(x + self.last(self.two(torch.relu(self.norm(self.one(x))))))


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 16, 3, padding=1)
        self.one, self.two = Block(16), Block(16)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        return self.head(self.pool(self.two(self.one(self.stem(x)))).flatten(1))


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(8, 32)
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(32, 10)

    def forward(self, x):
        return self.head(self.encoder(self.embed(x[:, 0])).mean(1))


MODELS = {"cnn": Cnn, "mlp": Mlp, "recurrent": Recurrent, "residual": Residual, "encoder": Encoder}


@cache
def folder() -> Path:
    path = Path(tempfile.mkdtemp(prefix="diag-export-tests-"))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


@cache
def digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    return (images[order] / 16).astype(np.float32).reshape(-1, 1, 8, 8), labels[order]


@cache
def digits_file() -> Path:
    images, labels = digits()
    path = folder() / "digits.npz"
    np.savez(path, x=images, y=labels)
    return path


@cache
def trained(name: str, epochs: int = 8) -> nn.Module:
    images, labels = digits()
    torch.manual_seed(0)
    module = MODELS[name]()
    optimizer = torch.optim.Adam(module.parameters(), 5e-3)
    x, y = torch.from_numpy(images[:1000]), torch.from_numpy(labels[:1000])
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(module(x[rows]), y[rows]).backward()
            optimizer.step()
    return module.eval()


def subject_of(model: Model, **changes) -> Subject:
    data = Data(source=str(digits_file()), label="y")
    made = Subject(
        model,
        judged=NEVER,
        calibration=Split(data, CALIBRATION),
        task=TASK,
        inputs=(InputSpec("x", (None, 1, 8, 8), "float32"),),
    )
    return replace(made, **changes)


def training_split() -> Split:
    return Split(Data(source=str(digits_file()), label="y"), TRAINING)


@cache
def exported(name: str) -> Change:
    module = trained(name)
    before = digest(module)
    change = Onnx().apply(subject_of(live_model(module)), folder() / name, MACHINE, Progress())
    assert digest(module) == before, "the export changed the caller's module"
    assert not any(part.training for part in module.modules())
    assert all(parameter.requires_grad for parameter in module.parameters())
    return change


def outputs_of(model: Model) -> np.ndarray:
    """The scores on the judged digits."""
    with open_runtime(model, MACHINE) as runtime:
        return to_numpy(next(iter(runtime({"x": digits()[0][JUDGED]}).values())))


def accuracy_of(scores: np.ndarray) -> float:
    return float((scores.argmax(1) == digits()[1][JUDGED]).mean())


def flips(first: np.ndarray, second: np.ndarray) -> float:
    return float((first.argmax(1) != second.argmax(1)).mean())


def linear_file(path, weight, bias=None):
    bias = np.zeros(weight.shape[1], "f4") if bias is None else bias
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Add", ["h", "b"], ["y"])],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", weight.shape[0]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", weight.shape[1]])],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(bias, "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, path)
    return Model(path, "onnx")
