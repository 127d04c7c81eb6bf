"""An export is shipped where it is proven to be the model: at other sizes, on real rows, in eval mode."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from export.examples import examples_of
from export.graphs.exporters import Source, exported
from export.graphs.files import write_model
from export.passes.onnx import Onnx
from export.verification.agreement import cases_of, verification_record, verify
from study.loading.live import live_model
from study.progress import Progress
from study.record import Record, Verdict
from study.runtime import open_runtime
from study.subject import Data, InputSpec, Model, Split, Subject
from tests.export_subjects import MACHINE

IMAGES = np.random.default_rng(0).standard_normal((6, 3, 6, 6)).astype(np.float32)


class Pooled(nn.Module):
    """Adaptive pooling to several cells, which torch 2.13 exports wrongly where height and width are free."""

    def __init__(self, cells: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.pool = nn.AdaptiveAvgPool2d((cells, cells))
        self.head = nn.Linear(4 * cells * cells, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.pool(torch.relu(self.conv(x))).flatten(1))


def subject_of(module: nn.Module, folder: Path, shape: tuple[int | None, ...], rows: np.ndarray) -> Subject:
    np.savez(folder / "rows.npz", x=rows)
    judged = Split(Data(source=str(folder / "rows.npz")))
    return Subject(live_model(module.eval()), judged=judged, inputs=(InputSpec("x", shape, str(rows.dtype)),))


def only(records: tuple[Record, ...]) -> Record:
    (record,) = records
    return record


@pytest.mark.parametrize("cells", [2, 3, 4, 7])
def test_adaptive_pooling_is_caught_and_its_sizes_are_fixed(cells: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = Pooled(cells)
    subject = subject_of(module, tmp_path, (None, 3, None, None), IMAGES)
    change = Onnx().apply(subject, tmp_path / "out", MACHINE, Progress())
    said = [found.what for found in only(change.records).findings]
    for axis in (2, 3):
        assert sum(f"Axis {axis} of the input 'x' is fixed at 6" in what for what in said) == 1
    causes = [found.cause for found in only(change.records).findings]
    # torch's export of more cells has no value that is the pooling's answer alone
    place = "pool (" if cells in (2, 3) else ""
    assert sum(f"it begins at {place}" in cause for cause in causes) == len((2, 3))
    assert change.provenance["fixed axes"] == "x.2, x.3"
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["model.onnx"]
    assert change.provenance["verified on"] == "6 judged rows"
    stated = onnx.load(change.model.path).graph.input[0].type.tensor_type.shape.dim
    assert [size.dim_param or size.dim_value for size in stated] == ["batch", 3, 6, 6]
    with open_runtime(change.model, MACHINE) as runtime:
        got = runtime({"x": IMAGES})["output"]
    assert np.abs(module(torch.from_numpy(IMAGES)).detach().numpy() - got).max() < 1e-5


def test_the_trap_is_one_and_torch_is_content(tmp_path: Path) -> None:
    """What would be shipped if the export were compared at the example's size, as torch's verifier does."""
    torch.manual_seed(0)
    subject = subject_of(Pooled(3), tmp_path, (None, 3, None, 6), IMAGES)
    examples = examples_of(subject, 6)
    with open_runtime(subject.model, MACHINE) as reference:
        source = Source.of(subject.model, reference, examples)
        model = write_model(exported(source, "dynamo", ((("x", 2),),)), tmp_path / "trap", "fp32")
        with open_runtime(model, MACHINE) as candidate:
            found = verify(reference, candidate, cases_of(examples, subject.inputs), examples.origin)
    fine = {one.case.name for one in found.outcomes if not one.fault}
    assert {"batch=1", "batch=2", "batch=5"} <= fine
    assert {one.case.name for one in found.faults} <= {"x.2=4", "x.2=7", "x.2=11"}
    record = verification_record(found, "the PyTorch model")
    assert record.verdict is Verdict.BAD


class Positions(nn.Module):
    """Positions end at six."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 4)
        self.place = nn.Embedding(6, 4)
        self.head = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        places = torch.arange(x.shape[1], device=x.device)
        return self.head((self.embed(x) + self.place(places)).mean(1))


def test_sizes_that_the_model_refuses_are_counted_and_smaller_ones_are_tried(tmp_path: Path) -> None:
    ids = np.random.default_rng(0).integers(0, 10, (4, 6))
    subject = subject_of(Positions(), tmp_path, (None, None), ids)
    change = Onnx().apply(subject, tmp_path / "out", MACHINE, Progress())
    record = only(change.records)
    assert (record.verdict, record.findings) == (Verdict.GOOD, ())
    assert "The model itself takes no input of 2 other sizes." in record.summary
    lengths = {name for name in record.metrics if "x.1=" in name}
    assert lengths == {"max_abs_error@x.1=5", "max_abs_error@x.1=4", "max_abs_error@x.1=3"}


class Fixed(nn.Module):
    """It takes images of six by six alone."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(108, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(x.flatten(1))


def test_an_axis_that_is_free_in_name_alone_is_named(tmp_path: Path) -> None:
    subject = subject_of(Fixed(), tmp_path, (None, 3, 6, None), IMAGES)
    record = only(Onnx().apply(subject, tmp_path / "out", MACHINE, Progress()).records)
    assert record.verdict is Verdict.NOTED
    assert [(found.what, found.where) for found in record.findings] == [
        ("The model takes no other size of this axis, so it is free in name alone.", "'x.3'")
    ]


class Dropped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5))
        self.head = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.inner(x))


@pytest.mark.parametrize("exporter", ["dynamo", "torchscript"])
@pytest.mark.parametrize("outer", [True, False])
def test_no_part_is_left_in_train_mode(exporter: str, outer: bool) -> None:  # noqa: FBT001 - a parameter
    """torch's TorchScript exporter puts every part into the mode of the outermost one."""
    module = Dropped().eval()
    source = Source(module, {"x": torch.ones(2, 4)}, ("output",), (exporter,))
    (module if outer else module.inner).training = True
    exported(source, exporter, ())
    assert not [name for name, part in module.named_modules() if part.training]
    assert not module.inner[1].training


def test_torch_leaves_train_mode_behind(tmp_path: Path) -> None:
    """The reason for the test above; when this one fails, torch has mended it."""
    module = Dropped().eval()
    module.training = True
    torch.onnx.export(module, (torch.ones(2, 4),), tmp_path / "m.onnx", dynamo=False)
    assert module.inner[1].training


def test_a_part_that_stays_in_train_mode_is_no_export() -> None:
    from export.graphs.exporters import put_in_eval
    from study.errors import SkipError

    module = Dropped().eval()
    module.inner.train = lambda mode=True: module.inner  # type: ignore[method-assign]
    module.inner.training = True
    with pytest.raises(SkipError, match="'inner' stayed in train mode around torch's dynamo exporter"):
        put_in_eval(module, "dynamo")


def test_judged_rows_are_read_only_where_there_are_no_others(tmp_path: Path) -> None:
    np.savez(tmp_path / "held.npz", x=IMAGES[:2])
    never = Split(Data(source=str(tmp_path / "never.npz")))
    subject = Subject(
        Model(tmp_path / "m.onnx", "onnx"),
        judged=never,
        calibration=Split(Data(source=str(tmp_path / "held.npz"))),
        inputs=(InputSpec("x", (None, 3, 6, 6), "float32"),),
    )
    assert examples_of(subject, 4).origin == "2 calibration rows"
