"""Models that this project did not make: each loads to the accuracy that was measured, or is refused."""

import csv
import gzip
import sys

import numpy as np
import pytest
import torch
from torch import nn

from study.errors import InputError, SkipError
from study.loading import identify, load_module, tensors
from study.runtime import open_runtime, to_numpy
from study.subject import Machine

NETS = '''
"""The networks of the folders' README files."""
from collections import OrderedDict

import torch
from torch import nn
from torch.nn import functional as F


class LeNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.convnet = nn.Sequential(OrderedDict([
            ("c1", nn.Conv2d(1, 6, 5)), ("r1", nn.ReLU()), ("s2", nn.MaxPool2d(2)),
            ("c3", nn.Conv2d(6, 16, 5)), ("r3", nn.ReLU()), ("s4", nn.MaxPool2d(2)),
            ("c5", nn.Conv2d(16, 120, 5)), ("r5", nn.ReLU())]))
        self.fc = nn.Sequential(OrderedDict([
            ("f6", nn.Linear(120, 84)), ("r6", nn.ReLU()), ("f7", nn.Linear(84, 10)),
            ("out", nn.LogSoftmax(-1))]))

    def forward(self, x):
        return self.fc(self.convnet(x).flatten(1))


class Mlp(nn.Module):
    def __init__(self, widths=(784, 512, 512, 10)):
        super().__init__()
        self.count = len(widths) - 1
        for at in range(self.count):
            setattr(self, f"fc{at + 1}", nn.Linear(widths[at], widths[at + 1]))

    def forward(self, x):
        x = x.flatten(1)
        for at in range(1, self.count):
            x = torch.relu(getattr(self, f"fc{at}")(x))
        return getattr(self, f"fc{self.count}")(x)


class Lightning(nn.Module):
    def __init__(self):
        super().__init__()
        self.model = nn.Sequential(nn.Flatten(), nn.Linear(784, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU(),
                                   nn.Linear(16, 10))

    def forward(self, x):
        return self.model(x)


class CaptumCifar(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 5), nn.Conv2d(6, 16, 5)
        self.fc1, self.fc2, self.fc3 = nn.Linear(400, 120), nn.Linear(120, 84), nn.Linear(84, 10)

    def forward(self, x):
        for conv in (self.conv1, self.conv2):
            x = F.max_pool2d(torch.relu(conv(x)), 2)
        x = torch.relu(self.fc2(torch.relu(self.fc1(x.flatten(1)))))
        return self.fc3(x)


class ExecutorchCifar(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 32, 5), nn.Conv2d(32, 32, 5)
        self.conv3, self.fc = nn.Conv2d(32, 64, 5), nn.Linear(1024, 10)

    def forward(self, x):
        for conv, pool in ((self.conv1, (2, 2)), (self.conv2, (2, 2)), (self.conv3, (1, 2))):
            x = F.max_pool2d(conv(F.pad(x, (2, 2, 2, 2))), *pool)
        return torch.softmax(self.fc(x.reshape(-1, 1024)), 1)


class UdacityCifar(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 32, 3, padding=1)
        self.conv3 = nn.Conv2d(32, 64, 3, padding=1)
        self.fc1, self.fc2 = nn.Linear(1024, 500), nn.Linear(500, 10)

    def forward(self, x):
        for conv in (self.conv1, self.conv2, self.conv3):
            x = F.max_pool2d(torch.relu(conv(x)), 2)
        return self.fc2(torch.relu(self.fc1(x.view(-1, 1024))))


class Titanic(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear1, self.linear2, self.linear3 = nn.Linear(12, 12), nn.Linear(12, 8), nn.Linear(8, 2)

    def forward(self, x):
        x = torch.sigmoid(self.linear2(torch.sigmoid(self.linear1(x))))
        return torch.softmax(self.linear3(x), 1)


class Sentiment(nn.Module):
    def __init__(self):
        super().__init__()
        self.network = nn.Sequential(nn.Linear(4932, 128), nn.ReLU(), nn.Dropout(), nn.Linear(128, 2))

    def forward(self, x):
        return self.network(x)


class CharRNN(nn.Module):
    def __init__(self, size=100, hidden=128):
        super().__init__()
        self.encoder, self.decoder = nn.Embedding(size, hidden), nn.Linear(hidden, size)
        self.rnn = nn.GRU(hidden, hidden, 1)

    def forward(self, x, state):
        x, state = self.rnn(self.encoder(x).view(1, x.shape[0], -1), state)
        return self.decoder(x.view(x.shape[1], -1)), state
'''
MACHINE = Machine(threads=1)


@pytest.fixture
def nets(tmp_path, monkeypatch):
    """Stand in a folder with the networks in ``real_nets.py``."""
    (tmp_path / "real_nets.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("real_nets", None)
    return tmp_path


def mnist(folder, count=10_000):
    with gzip.open(folder / "mnist_test" / "t10k-images-idx3-ubyte.gz") as file:
        images = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 28, 28)
    with gzip.open(folder / "mnist_test" / "t10k-labels-idx1-ubyte.gz") as file:
        labels = np.frombuffer(file.read(), np.uint8, offset=8)
    return images[:count], labels[:count]


def correct(model, rows, labels):
    with open_runtime(model, MACHINE) as run:
        hits = 0
        for start in range(0, len(rows), 1000):
            outputs = run({"x": rows[start : start + 1000]})
            scores = to_numpy(next(iter(outputs.values())))
            hits += int((scores.argmax(1) == labels[start : start + 1000]).sum())
    return hits


def test_lenet_on_mnist(shared_data, nets):
    from PIL import Image

    images, labels = mnist(shared_data)
    large = [
        np.asarray(Image.fromarray(image).resize((32, 32), Image.Resampling.BILINEAR)) for image in images
    ]
    path = shared_data / "mnist_lenet_csinva" / "lenet_epoch=12_test_acc=0.991.pth"
    rows = np.stack(large)[:, None].astype(np.float32) / 255
    assert correct(identify(path, arch="real_nets:LeNet"), rows, labels) == 9907


@pytest.mark.parametrize(
    ("file", "arch", "arguments", "hits"),
    [
        ("udacity_mnist_mlp/model.pt", "real_nets:Mlp", "{}", 9817),
        ("lightning_mnist_rasbt/epoch=17-step=15479.ckpt", "real_nets:Lightning", "{}", 9583),
    ],
)
def test_mlps_on_mnist(shared_data, nets, file, arch, arguments, hits):
    images, labels = mnist(shared_data)
    model = identify(shared_data / file, arch=arch, arch_args=arguments)
    assert correct(model, images.astype(np.float32) / 255, labels) == hits


def test_lightning_checkpoint_into_the_network_inside(shared_data, nets):
    """The keys begin with the name of the LightningModule's attribute, which the network itself has not."""
    (nets / "inside.py").write_text(
        "from real_nets import Lightning\ndef build():\n    return Lightning().model\n"
    )
    images, labels = mnist(shared_data)
    path = shared_data / "lightning_mnist_rasbt" / "epoch=17-step=15479.ckpt"
    model = identify(path, arch="inside:build")
    assert correct(model, images.astype(np.float32) / 255, labels) == 9583


def test_mlp_on_fashion_mnist(shared_data, nets):
    data = np.load(shared_data / "fmnist_test" / "fashion_mnist_test_200perclass.npz")
    path = shared_data / "fmnist_shreemit" / "fashion_mnist_cnn.pt"
    rows = (data["x"].astype(np.float32) / 255 - 0.1307) / 0.3081
    model = identify(path, arch="real_nets:Mlp", arch_args='{"widths": [784, 512, 10]}')
    assert correct(model, rows, data["y"]) == 1767


@pytest.mark.parametrize(
    ("file", "arch", "hits"),
    [
        ("captum_tutorial_models/cifar_torchvision.pt", "real_nets:CaptumCifar", 1187),
        ("executorch_cifar_net/cifar_net.pth", "real_nets:ExecutorchCifar", 1192),
        ("udacity_cifar_cnn/model_cifar.pt", "real_nets:UdacityCifar", 1449),
        ("udacity_cifar_cnn/model_augmented.pt", "real_nets:UdacityCifar", 1507),
    ],
)
def test_cnns_on_cifar(shared_data, nets, file, arch, hits):
    data = np.load(shared_data / "cifar10_jpg" / "cifar10_test_first2000_uint8.npz")
    rows = ((data["x"].astype(np.float32) / 255 - 0.5) / 0.5).transpose(0, 3, 1, 2)
    assert correct(identify(shared_data / file, arch=arch), rows, data["y"]) == hits


def passengers(shared_data):
    """All 1309 as the notebook feeds them: missing ages and fares are the mean of all."""
    text = (shared_data / "titanic3" / "titanic3_dimview_CR.csv").read_bytes().decode()
    people = [row for row in csv.DictReader(text.splitlines()) if row["survived"]]

    def numbers(column):
        values = np.array([float(row[column] or "nan") for row in people])
        return np.where(np.isnan(values), np.nanmean(values), values)

    def hot(column, *values):
        return [np.array([row[column] == value for row in people], float) for value in values]

    columns = [numbers("age"), numbers("sibsp"), numbers("parch"), numbers("fare")]
    columns += [*hot("sex", "female", "male"), *hot("embarked", "C", "Q", "S"), *hot("pclass", "1", "2", "3")]
    return np.stack(columns, axis=1).astype(np.float32), np.array([int(row["survived"]) for row in people])


def test_titanic(shared_data, nets):
    table, labels = passengers(shared_data)
    drawn = np.random.RandomState(131254).choice(len(labels), int(0.7 * len(labels)), replace=False)
    rest = np.setdiff1d(np.arange(len(labels)), drawn)
    path = shared_data / "captum_tutorial_models" / "titanic_model.pt"
    model = identify(path, arch="real_nets:Titanic")
    assert correct(model, table[drawn], labels[drawn]) / len(drawn) == 0.8493449781659389
    assert correct(model, table[rest], labels[rest]) / len(rest) == 0.816793893129771


def test_sentiment_network(shared_data, nets):
    model = identify(shared_data / "sentiment_agtheo09" / "sentiment_model.pth", arch="real_nets:Sentiment")
    assert sum(p.numel() for p in load_module(model).parameters()) == 4932 * 128 + 128 + 128 * 2 + 2
    with pytest.raises(InputError, match=r"runs code when it is read \('sklearn"):
        identify(shared_data / "sentiment_agtheo09" / "sentiment_model_vectorizer.pkl")


@pytest.mark.parametrize("name", ["mnist.onnx", "opt-mnist.onnx"])
def test_old_onnx_with_a_fixed_batch_of_one(shared_data, name):
    images, labels = mnist(shared_data, 2000)
    model = identify(shared_data / "onnx_mnist_cntk" / name)
    assert correct(model, images[:, None].astype(np.float32), labels) == 1968
    assert sum(array.size for _, array in tensors(model)) > 5000


@pytest.mark.filterwarnings("ignore:.*quantized tensor creation:UserWarning")
def test_quantized_torchscript(shared_data):
    images, labels = mnist(shared_data, 2000)
    model = identify(shared_data / "pytorch_mobile_torchscript" / "vit4mnist.ptl")
    assert model.artifact == "torchscript/int8"
    rows = (images[:, None].astype(np.float32) / 255 - 0.1307) / 0.3081
    assert correct(model, rows, labels) == 1945
    with pytest.raises(SkipError, match="packed"):
        list(tensors(model))


def test_a_whole_recurrent_module(shared_data, nets, monkeypatch):
    path = shared_data / "charrnn_asim" / "baseline_model.pt"
    with pytest.raises(InputError, match=r"whole pickled module.*model\.CharRNN"):
        identify(path)

    bare = load_module(identify(path, arch="real_nets:CharRNN"))
    (nets / "model.py").write_text("from real_nets import CharRNN\nCharRNN.__module__ = 'model'\n")
    monkeypatch.delitem(sys.modules, "model", raising=False)
    trusted = load_module(identify(path, trust=True))

    assert isinstance(trusted.model, str)
    torch.testing.assert_close(bare.state_dict(), trusted.state_dict(), rtol=0, atol=0)
    assert isinstance(trusted, nn.Module)
