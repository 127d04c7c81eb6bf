"""Models that this project did not make, by the command line: the figures that were published or measured."""

import csv
import json
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diag.cli import main
from tests.test_loading_real import NETS, mnist

PREPARE = '''
"""What the users of these models would write."""
import pickle
import warnings
from functools import cache
from pathlib import Path

import numpy as np


def passenger(row):
    hot = lambda value, *names: [float(str(value) == name) for name in names]
    return np.array(
        [row["age"], row["sibsp"], row["parch"], row["fare"], *hot(row["sex"], "female", "male"),
         *hot(row["embarked"], "C", "Q", "S"), *hot(int(row["pclass"]), "1", "2", "3")], np.float32)


@cache
def vectorizer():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it was pickled by an older scikit-learn
        return pickle.loads(Path("vectorizer.pkl").read_bytes())


def review(row):
    return vectorizer().transform([row["Review"]]).toarray()[0].astype(np.float32)
'''
pytestmark = pytest.mark.usefixtures("in_process")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder, with the networks and what prepares their rows."""
    (tmp_path / "real_nets.py").write_text(NETS)
    (tmp_path / "prepare.py").write_text(PREPARE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("real_nets", "prepare"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


def report_of(*words: object) -> dict:
    assert main([*map(str, words), "--out", "run", "--threads", "1", "--quiet"]) == 0
    return json.loads(Path("run/report.json").read_text())


def steps_of(report: dict) -> dict[str, dict]:
    """Each step's records, by who made them."""
    return {step["name"]: {one["by"]: one for one in step["records"]} for step in report["steps"]}


def accuracy_of(report: dict, step: str = "as_it_came") -> float:
    return steps_of(report)[step]["accuracy"]["metrics"]["accuracy"]["value"]


def saved(folder: Path, rows: np.ndarray, labels: np.ndarray) -> Path:
    np.savez(folder / "rows.npz", x=rows.astype(np.float32), y=labels.astype(np.int64))
    return folder / "rows.npz"


def test_lenet_on_all_of_mnist(shared_data: Path, folder: Path) -> None:
    images, labels = mnist(shared_data)
    large = [np.asarray(Image.fromarray(one).resize((32, 32), Image.Resampling.BILINEAR)) for one in images]
    data = saved(folder, np.stack(large)[:, None] / np.float32(255), labels)
    path = shared_data / "mnist_lenet_csinva" / "lenet_epoch=12_test_acc=0.991.pth"
    report = report_of("analyze", path, "--arch", "real_nets:LeNet", "--data", data)
    assert accuracy_of(report) == 0.9907
    (classes,) = (t for t in steps_of(report)["as_it_came"]["confusion"]["tables"] if t["title"] == "Classes")
    recall = classes["columns"].index("recall")
    found = {row[0]: round(row[recall] * row[1]) for row in classes["rows"]}
    assert [found[str(k)] for k in range(10)] == [977, 1130, 1021, 1003, 971, 880, 948, 1020, 959, 998]
    assert report["verdict"] == "good"


@pytest.mark.parametrize(
    ("file", "arch", "accuracy"),
    [
        ("udacity_mnist_mlp/model.pt", "Mlp", 0.9817),
        ("lightning_mnist_rasbt/epoch=17-step=15479.ckpt", "Lightning", 0.9583),
    ],
)
def test_mlps_on_all_of_mnist(file: str, arch: str, accuracy: float, shared_data: Path, folder: Path) -> None:
    images, labels = mnist(shared_data)
    data = saved(folder, images[:, None] / np.float32(255), labels)
    report = report_of("analyze", shared_data / file, "--arch", f"real_nets:{arch}", "--data", data)
    assert accuracy_of(report) == accuracy
    assert report["verdict"] == "good"


def test_fashion_mnist(shared_data: Path, folder: Path) -> None:
    stored = np.load(shared_data / "fmnist_test" / "fashion_mnist_test_200perclass.npz")
    data = saved(folder, (stored["x"][:, None] / np.float32(255) - 0.1307) / 0.3081, stored["y"])
    path = shared_data / "fmnist_shreemit" / "fashion_mnist_cnn.pt"
    report = report_of(
        "analyze",
        path,
        "--arch",
        "real_nets:Mlp",
        "--arch-args",
        '{"widths": [784, 512, 10]}',
        "--data",
        data,
    )
    assert accuracy_of(report) == 0.8835
    worst = steps_of(report)["as_it_came"]["slices"]["findings"]
    assert any(one["where"] in ("label = 6", "predicted = 6", "label = 4") for one in worst), (
        "shirts and coats"
    )


def cifar(shared_data: Path, folder: Path, rows: slice = slice(None)) -> Path:
    stored = np.load(shared_data / "cifar10_jpg" / "cifar10_test_first2000_uint8.npz")
    images = (stored["x"][rows].astype(np.float32) / 255 - 0.5) / 0.5
    return saved(folder, np.ascontiguousarray(images.transpose(0, 3, 1, 2)), stored["y"][rows])


@pytest.mark.parametrize(
    ("file", "arch", "accuracy"),
    [
        ("captum_tutorial_models/cifar_torchvision.pt", "CaptumCifar", 0.5935),
        ("executorch_cifar_net/cifar_net.pth", "ExecutorchCifar", 0.5960),
        ("udacity_cifar_cnn/model_cifar.pt", "UdacityCifar", 0.7245),
        ("udacity_cifar_cnn/model_augmented.pt", "UdacityCifar", 0.7535),
    ],
)
def test_convolutions_on_cifar(
    file: str, arch: str, accuracy: float, shared_data: Path, folder: Path
) -> None:
    data = cifar(shared_data, folder)
    report = report_of("analyze", shared_data / file, "--arch", f"real_nets:{arch}", "--data", data)
    assert accuracy_of(report) == accuracy
    assert report["verdict"] == "good"


def test_a_cifar_net_is_pruned_though_its_forward_holds_a_size(shared_data: Path, folder: Path) -> None:
    path = shared_data / "udacity_cifar_cnn" / "model_augmented.pt"
    report = report_of(
        "export", path, "--arch", "real_nets:UdacityCifar", "--steps", "prune:0.3,onnx",
        "--data", cifar(shared_data, folder, slice(64)), "--unlabelled",
    )  # fmt: skip
    pruned = steps_of(report)["prune_0_3"]["prune"]
    assert pruned["metrics"]["parameters@after_pruning"]["value"] == 381_170
    assert [one["where"] for one in pruned["findings"]] == ["'conv3'", "'fc2'"]
    assert steps_of(report)["onnx"]["verification"]["verdict"] == "good"


def test_titanic_from_a_table_with_bare_carriage_returns(shared_data: Path, folder: Path) -> None:
    """Split as in the notebook, which prints both accuracies to 16 digits."""
    source = shared_data / "titanic3" / "titanic3_dimview_CR.csv"
    header, *people = source.read_bytes().decode().rstrip("\r").split("\r")
    drawn = np.random.RandomState(131254).choice(len(people), int(0.7 * len(people)), replace=False)
    rest = np.setdiff1d(np.arange(len(people)), drawn)
    age, fare = (
        np.mean([float(row[name]) for row in csv.DictReader([header, *people]) if row[name]])
        for name in ("age", "fare")
    )
    words = (
        "analyze", shared_data / "captum_tutorial_models" / "titanic_model.pt", "--arch", "real_nets:Titanic",
        "--label", "survived", "--preprocess", "prepare:passenger", "--force",
    )  # fmt: skip
    for rows, accuracy in ((drawn, 0.8493449781659389), (rest, 0.816793893129771)):
        table = [dict(row) for row in csv.DictReader([header, *(people[at] for at in rows)])]
        for row in table:  # filled by the mean of all rows, as there
            row["age"], row["fare"] = row["age"] or age, row["fare"] or fare
        with (folder / "part.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, header.split(","), lineterminator="\r")
            writer.writeheader()
            writer.writerows(table)
        report = report_of(*words, "--data", folder / "part.csv")
        assert accuracy_of(report) == accuracy
        assert 0 < steps_of(report)["as_it_came"]["calibration"]["metrics"]["nll"]["value"] < 2
    whole = report_of(*words, "--data", source, "--missing", "mean")
    assert accuracy_of(whole) == 1099 / 1309
    shown = steps_of(whole)["as_it_came"]["errors"]["findings"][0]["show"]
    assert main([*shlex.split(shown)[1:], "--out", "shown", "--quiet"]) == 0


def test_sentiment_from_texts(shared_data: Path, folder: Path) -> None:
    home = shared_data / "sentiment_agtheo09"
    (folder / "vectorizer.pkl").write_bytes((home / "sentiment_model_vectorizer.pkl").read_bytes())
    report = report_of(
        "analyze", home / "sentiment_model.pth", "--arch", "real_nets:Sentiment", "--label", "Liked",
        "--data", home / "test_processed.csv", "--preprocess", "prepare:review",
    )  # fmt: skip
    assert accuracy_of(report) == 0.83
    (matrix,) = (t for t in steps_of(report)["as_it_came"]["confusion"]["tables"] if "onfusion" in t["title"])
    assert [list(row)[1:3] for row in matrix["rows"]] == [[74, 26], [8, 92]]


def test_an_onnx_model_of_2018_with_a_fixed_batch(shared_data: Path, folder: Path) -> None:
    images, labels = mnist(shared_data, 2000)
    data = saved(folder, images[:, None], labels)
    path = shared_data / "onnx_mnist_cntk" / "mnist.onnx"
    assert accuracy_of(report_of("analyze", path, "--data", data)) == 0.9840
    report = report_of(
        "run", path, "--data", saved(folder, images[:400, None], labels[:400]), "--force",
        "--steps", "(int8|int8-dynamic|fp16)",
    )  # fmt: skip
    for name, records in steps_of(report).items():
        assert accuracy_of(report, name) > 0.97
        assert records["weights"]["verdict"] == "good"
    assert steps_of(report)["int8"]["audit"]["summary"].startswith("2 of 2 layers run in int8")


@pytest.mark.filterwarnings("ignore:.*quantized tensor creation:UserWarning")
@pytest.mark.filterwarnings("ignore:quantized..linear_dynamic:UserWarning")
def test_a_quantized_torchscript_model_is_judged_and_says_why_it_goes_no_further(
    shared_data: Path, folder: Path
) -> None:
    images, labels = mnist(shared_data, 2000)
    data = saved(folder, (images[:, None] / np.float32(255) - 0.1307) / 0.3081, labels)
    path = shared_data / "pytorch_mobile_torchscript" / "vit4mnist.ptl"
    # Its ranges are those of a whole batch: the measured figure is that of batches of a thousand.
    assert accuracy_of(report_of("analyze", path, "--data", data, "--batch-size", "1000")) == 0.9725
    report = report_of("export", path, "--data", data, "--force", "--steps", "onnx,int8-dynamic")
    reasons = [records.popitem()[1]["reason"] for records in list(steps_of(report).values())[1:]]
    assert "quantized in TorchScript already" in reasons[0]
    assert "step onnx" in reasons[1]


def test_a_whole_pickled_module(
    shared_data: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = shared_data / "charrnn_asim" / "baseline_model.pt"
    assert main(["analyze", str(path), "--out", "run"]) == 2
    said = capsys.readouterr().err
    assert f"diag analyze {path} --trust" in said
    assert f"diag analyze {path} --arch" in said
    assert not Path("run").exists()
    (folder / "model.py").write_text("from real_nets import CharRNN\nCharRNN.__module__ = 'model'\n")
    monkeypatch.delitem(sys.modules, "model", raising=False)
    report = report_of("analyze", path, "--trust")
    assert steps_of(report)["as_it_came"]["weights"]["metrics"]["parameters"]["value"] == 124_772
