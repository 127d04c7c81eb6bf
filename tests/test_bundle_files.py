"""What predict.py of a bundle makes of raw files, against the preparation of the run."""

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper, save

from export.deployment.bundle import Shipment, write_bundle
from study.progress import Progress
from study.subject import Data, InputSpec, Model, Split, Subject
from tests.bundles import MACHINE, TASK, WEIGHT, alone


def of_files(folder: Path, kind: str) -> tuple[Data, Path, tuple[str, list[object], int, list[object]]]:
    """Data of three raw rows, the file of the first or of all, and the input with what reads it."""
    if kind == "columns":
        file = folder / "rows.csv"
        file.write_text("d,a,b,c,y\n4,1,2,3,0\n8,5,6,,1\n12,9,10,11,2\n")
        data = Data(
            str(file), label="y", columns=tuple("abcd"), missing="mean", fill=(("x", (5.0, 6.0, 7.5, 8.0)),)
        )
        return (
            data,
            file,
            ("x", ["batch", 4], TensorProto.FLOAT, [helper.make_node("Identity", ["x"], ["f"])]),
        )
    if kind == "images":
        from PIL import Image

        for number in range(3):
            (folder / "images" / f"class{number}").mkdir(parents=True)
            pixels = np.random.default_rng(number).integers(0, 256, (3, 5), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "images" / f"class{number}" / "a.png")
        data = Data(str(folder / "images"), shapes=(InputSpec("", (None, 1, 2, 2), "float32"),))
        flat = helper.make_node("Flatten", ["x"], ["f"])
        return (
            data,
            folder / "images" / "class0" / "a.png",
            ("x", ["batch", 1, 2, 2], TensorProto.FLOAT, [flat]),
        )
    (folder / "words.txt").write_text("<pad>\n<unk>\na\ngood\nbad\nday\n!\n")
    (folder / "rows.csv").write_text('text,y\n"A good day, a good one!",0\nBad!,1\na bad day,2\n')
    (folder / "rows.txt").write_text("A good day, a good one!\nBad!\na bad day\n")
    data = Data(
        str(folder / "rows.csv"),
        label="y",
        columns=("text",),
        tokenizer=str(folder / "words.txt"),
        max_tokens=4,
    )
    cast = helper.make_node("Cast", ["x"], ["f"], to=TensorProto.FLOAT)
    return data, folder / "rows.txt", ("x", ["batch", 4], TensorProto.INT64, [cast])


@pytest.mark.parametrize("kind", ["columns", "images", "texts"])
def test_raw_files_are_prepared_as_the_run_prepared_them(kind, tmp_path, bare):
    data, file, (name, shape, of, first) = of_files(tmp_path, kind)
    dtype = "int64" if of == TensorProto.INT64 else "float32"
    graph = helper.make_graph(
        [*first, helper.make_node("MatMul", ["f", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info(name, of, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(WEIGHT / 8, "w")],
    )
    save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10),
        tmp_path / "m.onnx",
    )
    inputs = (InputSpec(name, (None, *(size for size in shape if isinstance(size, int))), dtype),)
    subject = Subject(Model(tmp_path / "m.onnx", "onnx"), judged=Split(data), task=TASK, inputs=inputs)
    bundle = tmp_path / "ship"
    write_bundle(Shipment("onnx", subject, MACHINE, bundle, {}), Progress())
    assert json.loads((bundle / "signature.json").read_text())["preparation"]["kind"] == kind
    if kind == "images":
        (bare / "PIL").symlink_to(Path(str(find_spec("PIL").origin)).parent)
        (bare / "pillow.libs").symlink_to(Path(str(find_spec("PIL").origin)).parents[1] / "pillow.libs")
    ran = alone(bare, bundle / "predict.py", str(file))
    wanted = alone(bare, bundle / "predict.py", str(bundle / "example.npz")).stdout.splitlines()
    assert len(wanted) == 3
    assert ran.stdout.splitlines() == wanted[: len(ran.stdout.splitlines()) or 3], ran.stderr
    assert len({line.split()[-1] for line in wanted}) == 3
