"""Models of several inputs and several outputs: matched, run, exported, explained, and refused."""

import json
import re
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import polars as pl
import pytest
import torch
from PIL import Image
from torch import nn

from diag.cli import main
from explain.method import METHODS, Explained
from explain.summary import shares_of
from study.data.opening import open_source
from study.data.rows.named import Named, named_inputs
from study.errors import InputError
from study.feed import Feed
from study.intake import take_in
from study.loading.live import hold, live_model, release
from study.loading.sniff import identify
from study.matching import match_inputs
from study.runtime import open_runtime
from study.scored_output import scored_name
from study.subject import Data, InputSpec, Machine
from tests import two_inputs
from tests.tiny import Files

ALWAYS = ("--threads", "1", "--quiet")
IMAGE = InputSpec("image", (None, 1, 8, 8), "float32")
CELLS = InputSpec("cells", (None, 8), "float32")
NUMBERS = InputSpec("ids", (None, 8), "int64")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return two_inputs.write(tmp_path_factory.mktemp("two"))


def arrays(**shapes: tuple[int, ...]) -> dict[str, np.ndarray]:
    return {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}


def metrics(report: dict, step: str) -> dict[str, float]:
    found = next(one for one in report["steps"] if one["name"] == step)
    return {name: one["value"] for record in found["records"] for name, one in record["metrics"].items()}


def right(logits: np.ndarray, labels: np.ndarray) -> float:
    return float((logits.argmax(axis=1) == labels).mean())


@pytest.mark.usefixtures("in_process")
def test_two_inputs_go_through_the_whole_chain(files: Files, tmp_path: Path) -> None:
    words = [files.model, "--arch", files.arch, "--data", files.data, "--train", files.train]
    out = tmp_path / "run"
    assert main(["run", *map(str, words), "--steps", "onnx,int8", "--out", str(out), *ALWAYS]) == 0
    report = json.loads((out / "report.json").read_text())
    data = np.load(files.data)
    net = two_inputs.fused().eval()
    net.load_state_dict(torch.load(files.model, weights_only=True))
    with torch.inference_mode():
        expected = net(torch.from_numpy(data["image"]), torch.from_numpy(data["cells"])).numpy()
    assert right(expected, data["y"]) > 0.8
    for step in ("as_it_came", "onnx"):
        assert metrics(report, step)["accuracy"] == pytest.approx(right(expected, data["y"]), abs=1e-9)
    for step in ("onnx", "int8"):
        folder = next(out.glob(f"[0-9][0-9]_{step}"))
        graph = onnx.load(folder / "model.onnx").graph
        axes = {one.name: one.type.tensor_type.shape.dim[0].dim_param for one in graph.input}
        assert axes == {"image": "batch", "cells": "batch"}
        session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
        (given,) = session.run(None, {"image": data["image"], "cells": data["cells"]})
        assert metrics(report, step)["accuracy"] == pytest.approx(right(given, data["y"]), abs=1 / 300)
    assert metrics(report, "onnx")["agreement"] == 1
    assert {"occlusion", "integrated-gradients", "gradcam"} <= {
        one["by"] for one in report["steps"][0]["records"]
    }


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize(
    ("factory", "names"),
    [
        ("pair", ["output_0", "output_1"]),
        ("answer", ["hidden", "scores"]),
        ("named", ["hidden", "scores"]),
        ("nested", ["hidden", "heads_scores"]),
    ],
)
def test_outputs_keep_their_names_in_onnx(
    files: Files, tmp_path: Path, factory: str, names: list[str]
) -> None:
    words = [
        files.model,
        "--arch",
        f"tests.two_inputs:{factory}",
        "--data",
        files.data,
        "--out",
        tmp_path / "o",
    ]
    assert main(["export", *map(str, words), *ALWAYS]) == 0
    path = tmp_path / "o" / "model.onnx"
    assert [one.name for one in onnx.load(path).graph.output] == names
    data = np.load(files.data)
    net = two_inputs.pair().eval()
    net.load_state_dict(torch.load(files.model, weights_only=True))
    with torch.inference_mode():
        expected = net(torch.from_numpy(data["image"]), torch.from_numpy(data["cells"]))
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    given = session.run(names, {"image": data["image"], "cells": data["cells"]})
    for wanted, got in zip(expected, given, strict=True):
        np.testing.assert_allclose(got, wanted.numpy(), atol=1e-4)


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("asked", [[], ["--output", "1"], ["--output", "output_1"]])
def test_the_output_that_fits_the_labels_is_scored(
    files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str], asked: list[str]
) -> None:
    words = [files.model, "--arch", "tests.two_inputs:pair", "--data", files.data, "--out", tmp_path / "o"]
    assert main(["analyze", *map(str, words), "--threads", "1", *asked]) == 0
    said = "'output_1' is the one that is scored, which fits the labels" in capsys.readouterr().err
    assert said is not bool(asked)
    report = json.loads((tmp_path / "o" / "report.json").read_text())
    assert metrics(report, "as_it_came")["accuracy"] > 0.8
    assert len(report["subject"]["classes"]) == 10


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize(
    ("gone", "options", "sentence"),
    [
        ([], ["--output", "output_9"], "no output 'output_9'. Did you mean 'output_"),
        (["cells"], [], "'cells'"),
        ([], ["--columns", "image,cels"], "Did you mean 'cells'?"),
    ],
)
def test_what_does_not_fit_is_one_sentence(
    files: Files,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    gone: list[str],
    options: list[str],
    sentence: str,
) -> None:
    kept = {name: array for name, array in np.load(files.data).items() if name not in gone}
    np.savez(tmp_path / "d.npz", **kept)
    words = [files.model, "--arch", "tests.two_inputs:pair", "--data", tmp_path / "d.npz", *options]
    assert main(["analyze", *map(str, words), "--out", str(tmp_path / "o"), *ALWAYS]) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert "Traceback" not in said


def test_names_go_before_shapes() -> None:
    raw = arrays(cells=(2, 8), image=(2, 1, 8, 8))
    assert match_inputs(raw, [IMAGE, CELLS]) == {"image": "image", "cells": "cells"}
    assert match_inputs(raw, [InputSpec("cells"), InputSpec("image")]) == {"cells": "cells", "image": "image"}


def test_shapes_and_dtypes_tell_what_names_do_not() -> None:
    raw = arrays(table=(2, 8), picture=(2, 1, 8, 8), noise=(2, 3))
    assert match_inputs(raw, [IMAGE, CELLS]) == {"image": "picture", "cells": "table"}
    typed = {"real": np.zeros((2, 8), np.float32), "whole": np.zeros((2, 8), np.int64)}
    assert match_inputs(typed, [NUMBERS, CELLS]) == {"ids": "whole", "cells": "real"}
    assert match_inputs(arrays(cells=(2, 8), picture=(2, 1, 8, 8)), [IMAGE, CELLS])["image"] == "picture"
    one = {"age": np.zeros(2, np.float32), "picture": raw["picture"]}
    assert match_inputs(one, [IMAGE, InputSpec("years", (None, 1))]) == {"image": "picture", "years": "age"}


def test_optional_inputs_go_by_name_alone() -> None:
    raw = arrays(image=(2, 1, 8, 8), cells=(2, 8), scale=(2,))
    wanted = [InputSpec("image"), InputSpec("cells")]
    assert match_inputs(raw, wanted, ("scale", "bias")) == {
        name: name for name in ("image", "cells", "scale")
    }
    assert "scale" not in match_inputs(raw, wanted)


@pytest.mark.parametrize(
    ("raw", "wanted", "sentence"),
    [
        (arrays(image=(2, 1, 8, 8), cels=(2, 9)), [IMAGE, CELLS], "Did you mean 'cels'"),
        (
            arrays(a=(2, 8), b=(2, 8), image=(2, 1, 8, 8)),
            [IMAGE, CELLS],
            "'a', 'b' fit the model's input 'cells'",
        ),
        (arrays(a=(2, 3), b=(2, 4), image=(2, 1, 8, 8)), [IMAGE, CELLS], "choose with --columns"),
        (arrays(a=(2, 3), b=(2, 4)), [IMAGE, CELLS], "choose with --columns"),
    ],
)
def test_what_nothing_tells_is_asked(
    raw: dict[str, np.ndarray], wanted: list[InputSpec], sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence):
        match_inputs(raw, wanted)


@pytest.mark.parametrize(
    ("labels", "scored"),
    [
        (np.arange(12) % 3, "classes"),
        (np.array(["a", "b", "c", None] * 3, dtype=object), "classes"),
        (np.linspace(0, 1, 12), "number"),
        (np.arange(12) % 2, "number"),
        (np.zeros((12, 5)), "flags"),
        (None, "flags"),
        (np.arange(12), "flags"),
    ],
)
def test_of_several_outputs_the_one_that_fits(labels: np.ndarray | None, scored: str) -> None:
    outputs = {"flags": np.zeros((4, 5)), "classes": np.zeros((4, 3)), "number": np.zeros((4, 1))}
    assert scored_name(outputs, "", labels)[0] == scored
    outputs = {"map": np.zeros((4, 3, 7)), **outputs}
    if labels is not None and scored != "flags":
        assert scored_name(outputs, "", labels)[0] == scored


CELLS_OF_TABLE = "+".join(f"c{at}" for at in range(8))


def table(folder: Path, rows: int = 40) -> pl.DataFrame:
    """Digits as PNG files beside a table of the ink in their columns."""
    images, cells, labels = (part[1297 : 1297 + rows] for part in two_inputs.rows())
    (folder / "pictures").mkdir(parents=True)
    for at, image in enumerate(images):
        pixels = np.round(image[0] * 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "pictures" / f"{at}.png")
    columns = {f"c{at}": cells[:, at] for at in range(8)}
    files_of = [f"pictures/{at}.png" for at in range(rows)]
    return pl.DataFrame({"id": [f"r{at}" for at in range(rows)], "file": files_of, **columns, "y": labels})


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("ending", ["csv", "parquet", "jsonl"])
def test_columns_of_a_table_become_inputs(files: Files, tmp_path: Path, ending: str) -> None:
    frame = table(tmp_path / "data")
    images, cells, labels = (part[1297:1337] for part in two_inputs.rows())
    (tmp_path / "data" / "pictures" / "3.png").unlink()
    (tmp_path / "data" / "pictures" / "5.png").write_bytes(b"no image")
    frame = frame.with_columns(pl.when(pl.col("id") == "r9").then(None).otherwise(pl.col("c2")).alias("c2"))
    path = tmp_path / "data" / f"rows.{ending}"
    {"csv": frame.write_csv, "parquet": frame.write_parquet, "jsonl": frame.write_ndjson}[ending](path)
    words = [files.model, "--arch", files.arch, "--data", path, "--max-bad-rows", "10%"]
    named = ["--columns", f"image=file, cells={CELLS_OF_TABLE}"]
    assert main(["analyze", *map(str, words), *named, "--out", str(tmp_path / "o"), *ALWAYS]) == 0
    report = json.loads((tmp_path / "o" / "report.json").read_text())
    broken = pl.read_parquet(next((tmp_path / "o").rglob("*broken*.parquet")))
    assert dict(broken.select("id", "why").rows()) == {
        "r3": "names 'pictures/3.png', which is not there",
        "r5": "names 'pictures/5.png', which is no image",
        "r9": "'c2' is missing",
    }
    whole = [at for at in range(40) if at not in (3, 5, 9)]
    net = two_inputs.fused().eval()
    net.load_state_dict(torch.load(files.model, weights_only=True))
    shown = np.round(images * 255).astype(np.float32) / 255
    with torch.inference_mode():
        expected = net(torch.from_numpy(shown), torch.from_numpy(cells)).numpy()
    found = metrics(report, "as_it_came")["accuracy"]
    assert found == pytest.approx(right(expected[whole], labels[whole]), abs=1e-9)


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        ("image=file,cells=c0+id", "'id' of the input 'cells' is no number"),
        ("image=file,cells=c0+c99", "--columns names 'c99'"),
        ("image=file,cells=", "has 'cells='"),
        ("image=file,image=c0", "names the input 'image' twice"),
        ("image=file,cells=y", "label 'y' cannot be an input too"),
    ],
)
def test_what_columns_cannot_say(tmp_path: Path, columns: str, sentence: str) -> None:
    table(tmp_path / "data", 3).write_csv(tmp_path / "data" / "rows.csv")
    with pytest.raises(InputError, match=re.escape(sentence)):
        open_source(Data(str(tmp_path / "data" / "rows.csv"), columns=tuple(columns.split(","))))


def test_a_column_may_have_signs_in_its_name() -> None:
    assert named_inputs(("a=b", "c"), ("a=b", "c")) == ()
    assert named_inputs(("x=a+b",), ("a+b", "a", "b")) == (Named("x", ("a+b",)),)
    assert named_inputs(("x=a+b", "c"), ("a", "b", "c")) == (Named("x", ("a", "b")), Named("c", ("c",)))


def test_arrays_take_other_names_and_optional_inputs_are_fed(files: Files, tmp_path: Path) -> None:
    data = np.load(files.data)
    scale = np.linspace(0.5, 2, 300, dtype=np.float32)
    arrays = {"picture": data["image"], "scale": scale, "y": data["y"]}
    arrays |= {f"c{at}": data["cells"][:, at] for at in range(8)}
    np.savez(tmp_path / "d.npz", **arrays)
    columns = ("image=picture", f"cells={CELLS_OF_TABLE}", "scale")
    rows = open_source(Data(str(tmp_path / "d.npz"), columns=columns)).read(np.arange(5))
    np.testing.assert_array_equal(rows.inputs["cells"], data["cells"][:5])
    np.savez(tmp_path / "e.npz", image=data["image"], cells=data["cells"], scale=scale, y=data["y"])
    model = identify(files.model, arch=files.arch)
    for source in (Data(str(tmp_path / "d.npz"), columns=columns), Data(str(tmp_path / "e.npz"))):
        with open_runtime(model, Machine(threads=1)) as run:
            subject = take_in(model, run, source)
            assert {spec.name for spec in subject.inputs} == {"image", "cells", "scale"}
            piece = next(Feed.open(subject.judged, subject.inputs).pieces(300))
            scaled, plain = run(piece.batch), run({name: piece.batch[name] for name in ("image", "cells")})
        np.testing.assert_allclose(scaled["output"], plain["output"] * scale[:, None], rtol=1e-5)
    with open_runtime(model, Machine(threads=1)) as run:
        notes = take_in(model, run, Data(str(files.data))).notes
    assert any("'scale'" in note and "defaults" in note for note in notes)


class Weighed(nn.Module):
    """A score that is a weighted sum: attributions of it are known."""

    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Parameter(torch.rand(1, 16, 16, generator=torch.Generator().manual_seed(0)) - 0.5)
        self.cells = nn.Parameter(torch.tensor([3.0, -2.0, 0.5]))

    def forward(self, image: torch.Tensor, cells: torch.Tensor) -> torch.Tensor:
        return ((image * self.image).sum(dim=(1, 2, 3)) + (cells * self.cells).sum(dim=1))[:, None]


def test_shares_of_attribution_are_those_of_a_weighted_sum() -> None:
    draw = np.random.default_rng(0)
    batch = {
        "image": draw.random((6, 1, 16, 16)).astype(np.float32),
        "cells": draw.random((6, 3)).astype(np.float32),
    }
    rows = Explained(tuple("abcdef"), batch, np.zeros(6, np.int64))
    module = Weighed()
    parts = {name: batch[name] * getattr(module, name).detach().numpy() for name in batch}
    cells = np.abs(parts["cells"]).sum(axis=1)
    by_cell = np.abs(parts["image"]).sum(axis=(1, 2, 3))
    # Occlusion hides patches of two by two pixels, and each patch counts once.
    by_patch = np.abs(parts["image"].reshape(6, 8, 2, 8, 2).sum(axis=(2, 4))).sum(axis=(1, 2))
    with open_runtime(live_model(module.eval()), Machine(threads=1)) as run:
        for method, image in (("integrated-gradients", by_cell), ("occlusion", by_patch)):
            shares = shares_of(METHODS.get(method)().attribute(run, rows))
            np.testing.assert_allclose(shares["image"], image / (image + cells), rtol=1e-3)
            np.testing.assert_allclose(shares["image"] + shares["cells"], 1)


class Rowwise(torch.utils.data.Dataset[dict[str, object]]):
    """Samples that are dictionaries."""

    def __init__(self, path: Path) -> None:
        self.arrays = dict(np.load(path).items())

    def __len__(self) -> int:
        return 60

    def __getitem__(self, at: int) -> dict[str, object]:
        return {name: torch.from_numpy(array)[at] for name, array in self.arrays.items()}


def test_datasets_give_several_inputs_as_dictionaries_or_tuples(files: Files) -> None:
    data = {name: array[:60] for name, array in np.load(files.data).items()}
    tensors = [torch.from_numpy(data[name]) for name in ("image", "cells", "y")]
    named = [
        ({"cells": cells, "image": image}, int(label)) for image, cells, label in zip(*tensors, strict=True)
    ]
    model = identify(files.model, arch=files.arch)
    sources = (
        Rowwise(files.data),
        torch.utils.data.DataLoader(Rowwise(files.data), batch_size=7),
        torch.utils.data.TensorDataset(*tensors),
        named,
    )
    with open_runtime(model, Machine(threads=1)) as run:
        for source in sources:
            held = hold(source)
            try:
                subject = take_in(model, run, Data("", live=held))
                piece = next(Feed.open(subject.judged, subject.inputs).pieces(60))
            finally:
                release(held)
            np.testing.assert_array_equal(piece.batch["image"], data["image"])
            np.testing.assert_array_equal(piece.batch["cells"], data["cells"])
            assert piece.rows.labels.tolist() == data["y"].tolist()


@pytest.mark.usefixtures("in_process")
def test_a_text_an_image_and_a_number(tmp_path: Path) -> None:
    frame = table(tmp_path, 12).with_columns(
        pl.Series("review", ["good film", "bad", ""] * 4), pl.Series("age", np.arange(12)), y=pl.col("y") % 2
    )
    frame.write_csv(tmp_path / "rows.csv")
    (tmp_path / "vocab.txt").write_text("<pad>\n<unk>\ngood\nbad\nfilm\nposter\n")
    data = Data(
        str(tmp_path / "rows.csv"),
        columns=("note=review", "image=file", "age=age"),
        tokenizer=str(tmp_path / "vocab.txt"),
        max_bad_rows=1.0,
    )
    model = live_model(two_inputs.review().eval())
    with open_runtime(model, Machine(threads=1)) as run:
        subject = take_in(model, run, data)
    piece = next(Feed.open(subject.judged, subject.inputs).pieces(12))
    assert set(piece.broken) == {"r2", "r5", "r8", "r11"}
    assert piece.batch["note"].tolist() == [[2, 4], [3, 0]] * 4
    assert piece.batch["age"].tolist() == [[float(at)] for at in range(12) if at % 3 != 2]
    assert piece.batch["image"].shape == (8, 1, 8, 8)

    torch.save(two_inputs.review().state_dict(), tmp_path / "m.pt")
    words = [tmp_path / "m.pt", "--arch", "tests.two_inputs:review", "--data", data.source]
    words += ["--tokenizer", data.tokenizer, "--columns", ",".join(data.columns), "--max-bad-rows", "40%"]
    assert main(["explain", *map(str, words), "--out", str(tmp_path / "o"), *ALWAYS]) == 0
    found = metrics(json.loads((tmp_path / "o" / "report.json").read_text()), "as_it_came")
    shares = [found[f"attribution_share@occlusion:{name}"] for name in ("words", "image", "age")]
    assert sum(shares) == pytest.approx(1)
    assert "deletion_gain@gradcam" in found, "which attributes the image alone"
