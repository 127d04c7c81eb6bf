"""Every model format, data source and task through ``diag run``, against a loop written by hand."""

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import polars as pl
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save_file
from sklearn.datasets import load_breast_cancer, load_diabetes
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import diag
from diag.cli import main
from diag.options import Options
from tests import tiny
from tests.tiny import Files

Array = NDArray[np.float32]
BATCH = 100
ALWAYS = ("--threads", "1", "--batch-size", str(BATCH), "--quiet")
SESSION = onnxruntime.SessionOptions()
SESSION.intra_op_num_threads = 1


def run(out: Path, *words: object) -> dict:
    """The report of ``diag run``, which must end well."""
    assert main(["run", *map(str, words), "--out", str(out), *ALWAYS]) == 0
    return json.loads((out / "report.json").read_text())


def metrics(report: dict, step: str) -> dict[str, float]:
    found = next(one for one in report["steps"] if one["name"] == step)
    return {name: one["value"] for record in found["records"] for name, one in record["metrics"].items()}


def record_of(report: dict, step: str, by: str) -> dict:
    found = next(one for one in report["steps"] if one["name"] == step)
    return next(record for record in found["records"] if record["by"] == by)


def outputs_of(path: Path, rows: NDArray) -> Array:
    """What the artifact answers, by onnxruntime alone.

    In the same batches: int8-dynamic takes its ranges from a whole batch, so a row's answer hangs on others.
    """
    session = onnxruntime.InferenceSession(path, SESSION, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    batches = [rows[start : start + BATCH] for start in range(0, len(rows), BATCH)]
    return np.concatenate([session.run(None, {name: batch})[0] for batch in batches])


def by_torch(module: nn.Module, rows: NDArray) -> Array:
    with torch.inference_mode():
        return module(torch.from_numpy(rows)).numpy()


def right(outputs: Array, labels: NDArray) -> float:
    return float((outputs.argmax(axis=1) == labels).mean())


def net_of(files: Files) -> nn.Module:
    module = getattr(tiny, files.arch.partition(":")[2])()
    module.load_state_dict(torch.load(files.model))
    return module.eval()


def artifacts(out: Path) -> dict[str, Path]:
    """The ONNX artifact of each step that made one."""
    return {path.parent.name[3:]: path for path in sorted(out.glob("[0-9][0-9]_*/model.onnx"))}


def wrapped(net: nn.Module, folder: Path) -> list[object]:
    state = {f"module.{name}": value for name, value in net.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 3}, folder / "m.ckpt")
    return [folder / "m.ckpt", "--arch", "tests.tiny:cnn", "--steps", "prune:0.3,onnx"]


def safetensors(net: nn.Module, folder: Path) -> list[object]:
    save_file(net.state_dict(), folder / "m.safetensors")
    return [folder / "m.safetensors", "--arch", "tests.tiny:cnn", "--steps", "onnx"]


def script(net: nn.Module, folder: Path) -> list[object]:
    torch.jit.save(torch.jit.trace(net, torch.rand(2, 1, 8, 8)), folder / "m.pt")
    return [folder / "m.pt", "--steps", "onnx,int8"]


def program(net: nn.Module, folder: Path) -> list[object]:
    """A ``.pt2`` archive under the name of a state dict."""
    rows = (torch.rand(2, 1, 8, 8),)
    made = torch.export.export(net, rows, dynamic_shapes=({0: torch.export.Dim.AUTO},))
    torch.export.save(made, folder / "m.pt2")
    (folder / "m.pt2").rename(folder / "m.pt")
    return [folder / "m.pt", "--steps", "onnx,(int8|fp16)"]


def pickled(net: nn.Module, folder: Path) -> list[object]:
    torch.save(net, folder / "m.pt")
    return [folder / "m.pt", "--trust", "--steps", "prune:0.5,onnx"]


FORMATS: dict[str, Callable[[nn.Module, Path], list[object]]] = {
    "a wrapped state dict": wrapped,
    "safetensors": safetensors,
    "TorchScript": script,
    "a torch.export archive": program,
    "a pickled module": pickled,
}


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("name", FORMATS)
def test_every_format_goes_through_the_chain(name: str, tiny_cnn: Files, tmp_path: Path) -> None:
    net, data = net_of(tiny_cnn), np.load(tiny_cnn.data)
    report = run(
        tmp_path / "run", *FORMATS[name](net, tmp_path), "--data", tiny_cnn.data, "--train", tiny_cnn.train
    )
    assert metrics(report, "as_it_came")["accuracy"] == right(by_torch(net, data["x"]), data["y"])
    made = artifacts(tmp_path / "run")
    assert made
    for step, path in made.items():
        assert metrics(report, step)["accuracy"] == right(outputs_of(path, data["x"]), data["y"])
    whole = metrics(report, "as_it_came")["parameters"]
    for one in report["steps"]:
        pruned = "prune" in f"{one['name']} {one['from']}"
        # An export folds the batch norm's 32 numbers into the convolution; nothing else may go or come.
        assert metrics(report, one["name"])["parameters"] in ([whole, whole - 32], range(int(whole)))[pruned]
    if "prune" not in [one["from"] for one in report["steps"]][-1]:
        assert report["verdict"] == "good"


@pytest.fixture(scope="module")
def perceptron(tiny_mlp: Files, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny MLP as ONNX, written by hand: rows of 64 numbers in, ten logits out."""
    from onnx import TensorProto, helper, numpy_helper, save

    first, second = (layer for layer in net_of(tiny_mlp) if isinstance(layer, nn.Linear))
    held = {"w1": first.weight, "b1": first.bias, "w2": second.weight, "b2": second.bias}
    nodes = [
        helper.make_node("Flatten", ["x"], ["rows"]),
        helper.make_node("Gemm", ["rows", "w1", "b1"], ["hidden"], transB=1),
        helper.make_node("Relu", ["hidden"], ["positive"]),
        helper.make_node("Gemm", ["positive", "w2", "b2"], ["logits"], transB=1),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "perceptron",
        [value("x", TensorProto.FLOAT, ["batch", 1, 8, 8])],
        [value("logits", TensorProto.FLOAT, ["batch", 10])],
        [numpy_helper.from_array(tensor.detach().numpy(), name) for name, tensor in held.items()],
    )
    path = tmp_path_factory.mktemp("onnx") / "perceptron.onnx"
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


IMAGES, LABELS = tiny.digits()
IMAGES, LABELS = IMAGES[1297:], LABELS[1297:]
WORDS = np.array(["零", "one", "two", "three", "four", "five", "six", "7", "ثمانية", "😀 nine"])


class Digits(Dataset[tuple[torch.Tensor, int]]):
    """What a user's module has."""

    def __len__(self) -> int:
        return len(LABELS)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.from_numpy(IMAGES[index]), int(LABELS[index])


def loader() -> DataLoader[tuple[torch.Tensor, int]]:
    return DataLoader(Digits(), batch_size=33)


def npy(folder: Path) -> list[object]:
    np.save(folder / "x.npy", IMAGES)
    np.save(folder / "labels.npy", LABELS)
    return [folder / "x.npy", "--label", folder / "labels.npy"]


def tensor_file(folder: Path) -> list[object]:
    torch.save({"x": torch.from_numpy(IMAGES), "target": torch.from_numpy(LABELS)}, folder / "rows.pt")
    return [folder / "rows.pt"]


def pictures(folder: Path) -> list[object]:
    """Class folders of PNG, GIF and BMP; grey, with a palette, with transparency, and in 16 bits."""
    modes = (("L", "png"), ("P", "png"), ("LA", "png"), ("L", "gif"), ("L", "bmp"), ("I;16", "png"))
    for place, (image, label) in enumerate(zip(IMAGES, LABELS, strict=True)):
        mode, kind = modes[place % len(modes)]
        grey = np.round(image[0] * 255).astype(np.uint8)
        made = Image.fromarray(grey.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(grey)
        into = folder / "rows" / str(label)
        into.mkdir(parents=True, exist_ok=True)
        (made if made.mode == mode else made.convert(mode)).save(into / f"{place:03}.{kind}")
    return [folder / "rows"]


SOURCES: dict[str, Callable[[Path], list[object]]] = {
    "npy": npy,
    "a file of tensors": tensor_file,
    "a folder of images": pictures,
    "a factory of a Dataset": lambda _: ["tests.test_formats_end_to_end:Digits"],
    "a factory of a DataLoader": lambda _: ["tests.test_formats_end_to_end:loader"],
}


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("name", SOURCES)
def test_every_source_goes_through_the_chain(name: str, perceptron: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    report = run(out, perceptron, "--data", *SOURCES[name](tmp_path), "--steps", "int8-dynamic")
    assert report["subject"]["rows"] == 500
    order = np.argsort(LABELS, kind="stable") if name == "a folder of images" else np.arange(500)
    for step, path in {"as_it_came": perceptron, **artifacts(out)}.items():
        (folder,) = out.glob(f"[0-9][0-9]_{step}")
        table = pl.read_parquet(folder / "predictions.parquet").sort("position")
        rows = np.round(IMAGES * 255).astype(np.float32) / 255 if "images" in name else IMAGES
        expected = outputs_of(path, rows[order])
        assert table["label"].to_list() == LABELS[order].tolist()
        np.testing.assert_allclose(np.stack(table["output"].to_list()), expected, atol=1e-4)
        assert metrics(report, step)["accuracy"] == right(expected, LABELS[order])
    assert record_of(report, "int8_dynamic", "audit")["summary"].startswith("2 of 2 layers run in int8")
    assert report["verdict"] == "good"


def single_logit() -> nn.Module:
    return nn.Sequential(nn.BatchNorm1d(30), nn.Linear(30, 1))


def regressor() -> nn.Module:
    return nn.Sequential(nn.Linear(10, 8), nn.Tanh(), nn.Linear(8, 1))


def labeller() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 3))


def fitted(module: nn.Module, rows: Array, targets: Array, loss: nn.Module) -> nn.Module:
    """Trained for a second on all rows: these tests ask whether figures are right, not whether it is good."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for layer in module:
            if hasattr(layer, "reset_parameters"):
                layer.reset_parameters()
        optimizer = torch.optim.Adam(module.parameters(), lr=1e-2)
        for _ in range(200):
            optimizer.zero_grad()
            loss(module(torch.from_numpy(rows)), torch.from_numpy(targets)).backward()
            optimizer.step()
    return module.eval()


@pytest.mark.usefixtures("in_process")
def test_a_single_logit_on_a_table_in_gbk(tmp_path: Path) -> None:
    """Chinese headers and class names, a column that is no input, a row with a missing cell."""
    from sklearn.metrics import roc_auc_score

    data = load_breast_cancer()
    rows, labels = data.data.astype(np.float32), data.target
    net = fitted(single_logit(), rows, labels[:, None].astype(np.float32), nn.BCEWithLogitsLoss())
    torch.save(net.state_dict(), tmp_path / "m.pt")
    names = [f"特征{place}" for place in range(30)]
    words = np.array(["恶性", "良性"])[labels]
    table = pl.DataFrame(rows, schema=names).with_columns(
        诊断=pl.Series(words), 医院=pl.Series(["东", "西"] * 284 + ["东"])
    )
    text = table.write_csv(float_precision=9).splitlines()
    text[3] = "," + text[3].partition(",")[2]
    (tmp_path / "rows.csv").write_bytes("\r\n".join(text).encode("gbk"))
    report = run(
        tmp_path / "run", tmp_path / "m.pt", "--arch", "tests.test_formats_end_to_end:single_logit",
        "--data", tmp_path / "rows.csv", "--label", "诊断", "--classes", "恶性,良性", "--steps", "onnx",
    )  # fmt: skip
    assert report["subject"]["task"] == "classification"
    assert report["subject"]["classes"] == ["恶性", "良性"]
    assert record_of(report, "as_it_came", "accuracy")["metrics"]["accuracy"]["n"] == 568
    kept = np.arange(569) != 2
    for step, logits in {
        "as_it_came": by_torch(net, rows[kept]),
        "onnx": outputs_of(artifacts(tmp_path / "run")["onnx"], rows[kept]),
    }.items():
        found = metrics(report, step)
        assert found["accuracy"] == ((logits[:, 0] > 0) == labels[kept]).mean()
        assert found["auroc"] == pytest.approx(roc_auc_score(labels[kept], logits[:, 0]))
        assert any("医院" in name for name in found), "a column that is no input is there for slices"
    assert record_of(report, "as_it_came", "data")["findings"][0]["rows"] == 1
    assert report["verdict"] == "good"


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_regression_on_a_table(kind: str, tmp_path: Path) -> None:
    from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error

    data = load_diabetes()
    rows, targets = (data.data * 20).astype(np.float32), (data.target / 50).astype(np.float32)
    net = fitted(regressor(), rows, targets[:, None], nn.MSELoss())
    torch.save(net.state_dict(), tmp_path / "m.pt")
    table = pl.DataFrame(rows, schema=data.feature_names).with_columns(target=pl.Series(targets))
    source = tmp_path / f"rows.{kind}"
    table.write_parquet(source) if kind == "parquet" else table.write_csv(source, float_precision=9)
    report = run(
        tmp_path / "run", tmp_path / "m.pt", "--arch", "tests.test_formats_end_to_end:regressor",
        "--data", source, "--steps", "onnx",
    )  # fmt: skip
    assert report["subject"]["task"] == "regression"
    values = {
        "as_it_came": by_torch(net, rows),
        "onnx": outputs_of(artifacts(tmp_path / "run")["onnx"], rows),
    }
    for step, predicted in values.items():
        found = metrics(report, step)
        assert found["mae"] == pytest.approx(mean_absolute_error(targets, predicted[:, 0]), rel=1e-5)
        assert found["rmse"] == pytest.approx(root_mean_squared_error(targets, predicted[:, 0]), rel=1e-5)
        assert found["r2"] == pytest.approx(r2_score(targets, predicted[:, 0]), rel=1e-5)
        assert "accuracy" not in found
    assert report["verdict"] == "good"


@pytest.mark.usefixtures("in_process")
def test_several_labels_a_row(tmp_path: Path) -> None:
    labels = np.stack([LABELS % 2, LABELS > 4, np.isin(LABELS, (0, 6, 8, 9))], axis=1).astype(np.int64)
    net = fitted(labeller(), IMAGES, labels.astype(np.float32), nn.BCEWithLogitsLoss())
    torch.save(net.state_dict(), tmp_path / "m.pt")
    np.savez(tmp_path / "rows.npz", x=IMAGES, y=labels)
    report = run(
        tmp_path / "run", tmp_path / "m.pt", "--arch", "tests.test_formats_end_to_end:labeller",
        "--data", tmp_path / "rows.npz", "--classes", "odd,large,hole", "--steps", "onnx",
    )  # fmt: skip
    assert report["subject"]["task"] == "multilabel"
    outputs = outputs_of(artifacts(tmp_path / "run")["onnx"], IMAGES)
    for step, logits in {"as_it_came": by_torch(net, IMAGES), "onnx": outputs}.items():
        assert metrics(report, step)["accuracy"] == ((logits > 0) == labels).all(axis=1).mean()
    assert report["verdict"] == "good"


@pytest.mark.usefixtures("in_process")
def test_words_as_labels_in_sorted_order(perceptron: Path, tmp_path: Path) -> None:
    """Names in three scripts; the classes' order is said by ``--classes``, since sorting would mix it up."""
    table = pl.DataFrame(
        {"label": WORDS[LABELS], **{f"p{at}": IMAGES.reshape(500, 64)[:, at] for at in range(64)}}
    )
    table.write_csv(tmp_path / "rows.csv", include_bom=True, float_precision=9)
    report = run(
        tmp_path / "run", perceptron, "--data", tmp_path / "rows.csv", "--classes", ",".join(WORDS),
        "--preprocess", "tests.test_formats_end_to_end:square", "--steps", "int8-dynamic",
    )  # fmt: skip
    assert report["subject"]["classes"] == WORDS.tolist()
    shown = record_of(report, "int8_dynamic", "errors")["findings"][0]["show"]
    assert main([*shlex.split(shown)[1:], "--out", str(tmp_path / "shown"), *ALWAYS]) == 0
    assert metrics(report, "as_it_came")["accuracy"] == right(outputs_of(perceptron, IMAGES), LABELS)
    page = (tmp_path / "run" / "report.html").read_text()
    assert all(word in page for word in WORDS)


def square(row: dict[str, float]) -> Array:
    return np.array([row[f"p{at}"] for at in range(64)], np.float32).reshape(1, 8, 8)


@pytest.mark.usefixtures("in_process")
def test_live_objects_go_through_the_chain(tiny_mlp: Files, tmp_path: Path) -> None:
    net = net_of(tiny_mlp)
    options = Options(out=tmp_path / "run", threads=1, quiet=True)
    rows = torch.utils.data.Subset(Digits(), range(300))
    fit = TensorDataset(*(torch.from_numpy(one) for one in (IMAGES[300:], LABELS[300:])))
    result = diag.run(net, rows, steps=["onnx", "int8"], train=fit, options=options)
    expected = right(outputs_of(artifacts(tmp_path / "run")["int8"], IMAGES[:300]), LABELS[:300])
    assert result.report.verdict.value == "good"
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert metrics(report, "int8")["accuracy"] == expected
    assert 'class="diag-report"' in result._repr_html_()


def test_a_library_kept_quiet_leaves_every_handler_as_it_was() -> None:
    import logging

    from export.quiet import quiet

    def streams() -> list[object]:
        loggers = [logging.getLogger(name) for name in logging.root.manager.loggerDict]
        return [getattr(handler, "stream", None) for one in loggers for handler in one.handlers]

    before = streams()
    with quiet("a library"), quiet("another"):
        pass
    assert streams() == before


@pytest.mark.usefixtures("in_process")
def test_dynamically_quantized_weights_are_seen_as_the_module_has_them(
    perceptron: Path, tmp_path: Path
) -> None:
    """Integers with a scale that no DequantizeLinear reads, transposed: they are no matrix of hundreds."""
    from study.loading import identify, tensors

    assert (
        main(["export", str(perceptron), "--steps", "int8-dynamic", "--out", str(tmp_path / "run"), *ALWAYS])
        == 0
    )
    stored = dict(tensors(identify(perceptron)))
    shown = dict(tensors(identify(tmp_path / "run" / "model.onnx")))
    assert {name: array.shape for name, array in shown.items()} == {
        "w1": (32, 64), "b1": (32,), "w2": (10, 32), "b2": (10,),
    }  # fmt: skip
    for name, array in shown.items():
        step = np.abs(stored[name]).max(axis=-1, keepdims=True) / 63  # 7 bits where a CPU would saturate
        assert (np.abs(array - stored[name]) <= step).all()


@pytest.mark.usefixtures("in_process")
def test_an_old_onnx_model_is_quantized(perceptron: Path, tmp_path: Path) -> None:
    """Opset 8, tensors among the inputs, a batch of exactly one, biases of one line."""
    import onnx

    model = onnx.load(perceptron)
    graph = model.graph
    model.ir_version, model.opset_import[0].version = 3, 8
    graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    graph.output[0].type.tensor_type.shape.dim[0].dim_value = 1
    for tensor in graph.initializer:
        if len(tensor.dims) == 1:
            tensor.dims.insert(0, 1)
        graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    onnx.save(model, tmp_path / "old.onnx")
    np.savez(tmp_path / "rows.npz", x=IMAGES, y=LABELS)
    report = run(
        tmp_path / "run",
        tmp_path / "old.onnx",
        "--data",
        tmp_path / "rows.npz",
        "--steps",
        "(int8|int8-dynamic|fp16)",
    )
    held_out = pl.read_parquet(tmp_path / "run" / "00_as_it_came" / "predictions.parquet")[
        "position"
    ].to_numpy()
    assert len(held_out) == 400
    assert set(artifacts(tmp_path / "run")) == {"int8", "int8_dynamic", "fp16"}
    for step, path in artifacts(tmp_path / "run").items():
        singly = np.concatenate([outputs_of(path, IMAGES[[at]]) for at in held_out])
        assert metrics(report, step)["accuracy"] == right(singly, LABELS[held_out])
    assert report["verdict"] == "good"
