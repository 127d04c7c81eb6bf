"""Models that cannot be exported: the line of their forward that is the reason, and what usually helps."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from export.graphs.exporters import Source, exported
from export.passes.onnx import Onnx
from export.refusals import CAUSES, RefusalError, reason_for
from study.errors import SkipError
from study.loading.live import live_model
from study.progress import Progress
from study.subject import Data, InputSpec, Split, Subject
from tests.export_subjects import MACHINE


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 2)
        self.rnn = nn.GRU(1, 4, batch_first=True)


class Decides(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.sum() > 0:
            return self.head(x)
        return self.head(-x)


class Repeats(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        while x.abs().max() > 1:
            x = x / 2
        return self.head(x)


class Counts(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(x) * [1, 2, 3, 4, 5][int(x.abs().max())]


class Packs(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        given = [4, 3]
        packed = nn.utils.rnn.pack_padded_sequence(x[..., None], given, batch_first=True)
        return self.head(self.rnn(packed)[1][-1])


class Numpy(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shown = np.asarray(x.cpu())
        if shown.mean() > 0:
            shown = shown - 1
        return self.head(torch.as_tensor(shown))


class Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, x: torch.Tensor) -> torch.Tensor:
        top = x.abs().max().item()
        return x / top if top > 1 else x

    @staticmethod
    def backward(ctx: object, *grads: torch.Tensor) -> torch.Tensor:
        return grads[0]


class Own(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(Scaled.apply(x))


@torch.library.custom_op("diag_tests::thrice", mutates_args=())
def thrice(x: torch.Tensor) -> torch.Tensor:
    return x * 3


@torch.library.custom_op("diag_tests::twice", mutates_args=())
def twice(x: torch.Tensor) -> torch.Tensor:
    return x * 2


@twice.register_fake
def _(x: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x)


class NoFake(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(thrice(x))


class NoOnnx(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(twice(x))


@pytest.mark.parametrize(
    ("net", "line", "helps"),
    [
        (Decides, "if x.sum() > 0:", "choose with torch.where"),
        (Repeats, "while x.abs().max() > 1:", "a fixed number of steps"),
        (
            Counts,
            "return self.head(x) * [1, 2, 3, 4, 5][int(x.abs().max())]",
            "without .item(), .tolist(), int() and float()",
        ),
        (Packs, "return self.head(self.rnn(packed)[1][-1])", "give the lengths as a tensor"),
        (Numpy, "shown = np.asarray(x.cpu())", "compute it with torch's own functions"),
        (Own, "return x / top if top > 1 else x", "choose with torch.where"),
        (NoFake, "return self.head(thrice(x))", "torch.library.register_fake"),
        (NoOnnx, "return self.head(twice(x))", "operators of torch that ONNX has"),
    ],
)
def test_the_line_is_named_and_what_helps(net: type[nn.Module], line: str, helps: str) -> None:
    torch.manual_seed(0)
    source = Source(net().eval(), {"x": torch.randn(2, 4)}, ("output",), ("dynamo",))
    with pytest.raises(RefusalError) as caught:
        exported(source, "dynamo", ())
    said = str(caught.value)
    assert said.startswith("torch's dynamo exporter failed in forward, test_refusals.py line ")
    assert f"(`{line}" in said
    assert helps in said
    number = int(said.partition(" line ")[2].partition(" ")[0])
    assert Path(__file__).read_text().splitlines()[number - 1].strip().startswith(line)
    assert str(Path(__file__).parent) not in said


def test_a_model_that_no_exporter_takes_is_told_in_one_sentence(tmp_path: Path) -> None:
    torch.manual_seed(0)
    subject = Subject(live_model(Decides().eval()), inputs=(InputSpec("x", (None, 4), "float32"),))
    with pytest.raises(SkipError) as caught:
        Onnx().apply(subject, tmp_path, MACHINE, Progress())
    assert str(caught.value).count("test_refusals.py line") == 1
    assert str(caught.value).endswith("; torch's other exporter does no better")
    assert not list(tmp_path.iterdir())


def test_a_decision_that_was_the_same_for_all_rows_is_told(tmp_path: Path) -> None:
    """The older exporter keeps the way that the example went."""
    rows = np.abs(np.random.default_rng(0).standard_normal((40, 4))).astype(np.float32)
    np.savez(tmp_path / "rows.npz", x=rows)
    judged = Split(Data(source=str(tmp_path / "rows.npz")))
    subject = Subject(
        live_model(Decides().eval()), judged=judged, inputs=(InputSpec("x", (None, 4), "float32"),)
    )
    (record,) = Onnx().apply(subject, tmp_path / "out", MACHINE, Progress()).records
    assert record.metrics["max_abs_error@batch=32"].value < 1e-5
    (found,) = record.findings
    assert "(`if x.sum() > 0:`)" in found.cause
    assert found.do.startswith("Correct that line")


def test_what_is_not_known_has_no_advice() -> None:
    assert reason_for(ValueError("nowhere")).advice == ""
    assert all(cause.helps and cause.means for cause in CAUSES)
