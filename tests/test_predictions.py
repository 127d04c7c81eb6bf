"""The predictions probe: its map over shards, what a killed run leaves, and the table."""

import gzip
import pickle
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import polars as pl
import pytest
import torch
from torch import nn

from diagnose.probes.predictions import Predictions, batch_rows, score_shard
from study.errors import DiagError, InputError
from study.loading.live import hold
from study.progress import Progress
from study.runtime import Runtimes
from study.shard import Shard, refuse_lost, run_shards
from study.subject import Artifact, Data, InputSpec, Machine, Model, Split, Subject
from study.task import Task
from study.view import View
from tests.prediction_tables import checked

TASK = Task("multiclass", "logits", ("a", "b", "c"))
ROWS = 23


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(8, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3)).eval()


def written_rows(folder: Path, labels: np.ndarray | None = None) -> tuple[Path, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(ROWS, 2, 4)).astype(np.float32)
    labels = rng.integers(0, 3, ROWS) if labels is None else labels
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "rows.npz", x=rows, y=labels)
    return folder / "rows.npz", rows, labels


def view_on(folder: Path, source: Path, module: nn.Module, *, task: Task = TASK, **data: Any) -> View:
    model = Model(Path("network.pt"), "pytorch", live=hold(module))
    inputs = (InputSpec("x", (None, 2, 4), "float32"),)
    split = Split(Data(str(source), label="y", **data))
    subject = Subject(model=model, judged=split, task=task, inputs=inputs)
    artifact = Artifact("as_it_came", folder / "00_as_it_came", model)
    return View(artifact, subject, Machine(batch_size=4), Runtimes())


def predictions(view: View, shard_rows: int = 10) -> pl.DataFrame:
    Predictions(shard_rows=shard_rows).run(view, Progress())
    return pl.read_parquet(view.artifact.folder / "predictions.parquet")


def test_the_table_is_what_the_module_says(tmp_path) -> None:
    source, rows, labels = written_rows(tmp_path)
    module = network()
    view = view_on(tmp_path, source, module)
    table = predictions(view)
    with torch.no_grad():
        expected = module(torch.from_numpy(rows))
    chances = expected.double().softmax(dim=1)
    outputs = np.array(table["output"].to_list())
    assert outputs == pytest.approx(expected.numpy(), abs=1e-5)
    assert table["position"].to_list() == list(range(ROWS))
    assert table["label"].to_list() == labels.tolist()
    assert table["prediction"].to_list() == expected.argmax(dim=1).tolist()
    assert table["confidence"].to_numpy() == pytest.approx(chances.max(dim=1).values.numpy(), abs=1e-5)
    loss = nn.functional.cross_entropy(expected, torch.from_numpy(labels), reduction="none")
    assert table["loss"].to_numpy() == pytest.approx(loss.numpy(), abs=1e-5)
    kinds = dict(table.schema)
    assert kinds["position"] == kinds["label"] == kinds["prediction"] == pl.Int64
    assert kinds["confidence"] == kinds["loss"] == kinds["margin"] == kinds["entropy"] == pl.Float32
    assert kinds["output"] == pl.List(pl.Float32)
    assert sorted(path.name for path in view.artifact.folder.iterdir()) == [
        "broken.parquet",
        "predictions.parquet",
    ]
    right = (expected.argmax(dim=1).numpy() == labels).mean()
    assert checked("accuracy", view).metrics["accuracy"].value == pytest.approx(right)


def test_a_published_network_has_its_measured_accuracy(tmp_path, shared_data) -> None:
    """Udacity's MLP on the MNIST test images: 9817 of 10,000, and as many of each digit as measured."""
    folder = shared_data / "mnist_test"
    images = gzip.decompress((folder / "t10k-images-idx3-ubyte.gz").read_bytes())[16:]
    digits = gzip.decompress((folder / "t10k-labels-idx1-ubyte.gz").read_bytes())[8:]
    pixels = np.frombuffer(images, np.uint8).reshape(-1, 784).astype(np.float32) / 255
    np.savez(tmp_path / "mnist.npz", x=pixels, y=np.frombuffer(digits, np.uint8).astype(np.int64))
    state = torch.load(shared_data / "udacity_mnist_mlp" / "model.pt", weights_only=True)
    layers = {name: nn.Linear(*reversed(state[f"{name}.weight"].shape)) for name in ("fc1", "fc2", "fc3")}
    nn.ModuleDict(layers).load_state_dict(state)
    module = nn.Sequential(layers["fc1"], nn.ReLU(), layers["fc2"], nn.ReLU(), layers["fc3"]).eval()
    task = Task("multiclass", "logits", tuple("0123456789"))
    model = Model(Path("model.pt"), "pytorch", live=hold(module))
    inputs = (InputSpec("input", (None, 784), "float32"),)
    subject = Subject(model, Split(Data(str(tmp_path / "mnist.npz"))), task=task, inputs=inputs)
    view = View(Artifact("as_it_came", tmp_path / "step", model), subject, Machine(), Runtimes())
    assert len(predictions(view, shard_rows=8192)) == 10_000
    metric = checked("accuracy", view).metrics["accuracy"]
    assert metric.value == 0.9817
    assert (metric.low, metric.high) == pytest.approx((0.9789, 0.9842), abs=1e-4)
    of_class = {
        row[0]: round(float(row[5] or 0) * int(row[1] or 0))
        for row in checked("confusion", view).tables[0].rows
    }
    assert [of_class[str(digit)] for digit in range(10)] == [
        972,
        1127,
        1010,
        993,
        963,
        875,
        942,
        1001,
        951,
        983,
    ]


def test_shards_give_the_same_bytes_as_one(tmp_path) -> None:
    source, *_ = written_rows(tmp_path)
    module = network()
    whole = predictions(view_on(tmp_path / "whole", source, module), shard_rows=1000)
    parts = predictions(view_on(tmp_path / "parts", source, module), shard_rows=8)
    assert parts.equals(whole)


class Dies(nn.Module):
    """Is interrupted at one call."""

    calls: ClassVar[list[int]] = []
    """The rows of each call, of all copies that a runtime makes."""

    def __init__(self, inner: nn.Module, at: int) -> None:
        super().__init__()
        self.inner, self.at = inner, at

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls.append(len(x))
        if len(self.calls) == self.at:
            raise KeyboardInterrupt
        return self.inner(x)


def test_a_run_that_was_killed_goes_on_in_the_middle(tmp_path) -> None:
    source, *_ = written_rows(tmp_path)
    module = network()
    expected = predictions(view_on(tmp_path / "whole", source, module), shard_rows=8)
    Dies.calls.clear()
    view = view_on(tmp_path / "killed", source, Dies(module, at=4))
    with pytest.raises(KeyboardInterrupt):
        predictions(view, shard_rows=8)
    assert not (view.artifact.folder / "predictions.parquet").exists()
    left = sorted(path.name for path in (view.artifact.folder / ".predictions").glob("*.parquet"))
    assert len(left) == 1  # batches 1 and 2 made the first shard; the second one's is not half there
    assert predictions(view, shard_rows=8).equals(expected)
    assert Dies.calls == [4, 4, 4, 4, 4, 4, 4, 3]  # four calls, then both batches of each shard not done


def test_a_lost_shard_is_an_error(tmp_path) -> None:
    source, *_ = written_rows(tmp_path)
    view = view_on(tmp_path, source, network())
    shards = [shard_of(view, 0, 8), shard_of(view, 8, 16)]
    with pytest.raises(DiagError, match="'8-16'"):
        run_shards(lambda shard: score_shard(shard) if shard.start == 0 else None, shards)
    refuse_lost(shards[:1])


def shard_of(view: View, start: int, stop: int, **changes: Any) -> Shard:
    assert view.subject.judged is not None
    parts: dict[str, Any] = {
        "model": view.model,
        "machine": view.machine,
        "split": view.subject.judged,
        "inputs": view.subject.inputs,
        "task": TASK,
        "folder": view.artifact.folder / ".predictions",
    }
    return Shard(**(parts | changes), start=start, stop=stop)


def test_a_shard_is_plain_data_and_names_what_it_depends_on(tmp_path) -> None:
    source, *_ = written_rows(tmp_path)
    view = view_on(tmp_path, source, network())
    shard = shard_of(view, 0, 8)
    assert pickle.loads(pickle.dumps(shard)) == shard
    assert pickle.loads(pickle.dumps(score_shard)) is score_shard
    changed = [
        shard_of(view, 8, 16),
        shard_of(view, 0, 8, machine=Machine(batch_size=5)),
        shard_of(view, 0, 8, model=Model(Path("other.pt"), "pytorch")),
        shard_of(view, 0, 8, task=Task("multiclass", "probabilities")),
        shard_of(view, 0, 8, split=Split(Data(str(source), label="z"))),
        shard_of(view, 0, 8, split=Split(Data(str(source), label="y"), tuple(range(1, 12)))),
    ]
    assert len({shard.key, *(other.key for other in changed)}) == 7
    one, moved = (Model(Path(name), "pytorch", sha256="ab") for name in ("a.pt", "b.pt"))
    assert shard_of(view, 0, 8, model=one).key == shard_of(view, 0, 8, model=moved).key
    before = shard.key
    written_rows(tmp_path, np.zeros(ROWS + 0, dtype=np.int64))
    assert shard.key != before  # other bytes lie under the same name


def test_only_the_rows_of_the_split_are_judged(tmp_path) -> None:
    source, _, labels = written_rows(tmp_path)
    view = view_on(tmp_path, source, network())
    split = Split(Data(str(source), label="y"), (1, 5, 6, 20))
    subject = Subject(view.model, split, task=TASK, inputs=view.subject.inputs)
    part = View(view.artifact, subject, view.machine, view.runtimes)
    table = predictions(part, shard_rows=3)
    assert table["position"].to_list() == [1, 5, 6, 20]
    assert table["label"].to_list() == labels[[1, 5, 6, 20]].tolist()


def test_broken_rows_are_left_out_and_listed(tmp_path) -> None:
    source, rows, labels = written_rows(tmp_path)
    rows[9, 0, 0] = np.nan
    np.savez(source, x=rows, y=labels)
    view = view_on(tmp_path, source, network())
    table = predictions(view, shard_rows=8)
    assert 9 not in table["position"].to_list()
    assert len(table) == ROWS - 1
    broken = pl.read_parquet(view.artifact.folder / "broken.parquet")
    assert broken.columns == ["id", "why"]
    assert len(broken) == 1
    assert checked("data", view).findings[0].rows == 1
    strict = view_on(tmp_path / "strict", source, network(), max_bad_rows=0.01)
    with pytest.raises(InputError, match="--max-bad-rows"):
        predictions(strict)
    assert not (strict.artifact.folder / "predictions.parquet").exists()


def test_a_shard_of_nothing_but_broken_rows(tmp_path) -> None:
    source, rows, labels = written_rows(tmp_path)
    rows[:4] = np.nan
    np.savez(source, x=rows, y=labels)
    table = predictions(view_on(tmp_path / "part", source, network(), max_bad_rows=0.5), shard_rows=4)
    assert table["position"].to_list() == list(range(4, ROWS))
    np.savez(source, x=np.full_like(rows, np.nan), y=labels)
    with pytest.raises(InputError, match="Not one row"):
        predictions(view_on(tmp_path / "none", source, network(), max_bad_rows=1.0))


def test_outputs_that_are_nan_pass_into_the_table(tmp_path) -> None:
    source, *_ = written_rows(tmp_path)
    module = network()
    with torch.no_grad():
        module[4].bias[1] = float("nan")
    view = view_on(tmp_path, source, module)
    table = predictions(view)
    assert len(table) == ROWS
    assert table["confidence"].is_nan().all()
    assert checked("accuracy", view).findings[0].rows == ROWS


def test_wide_outputs_are_not_kept(tmp_path) -> None:
    source, *_ = written_rows(tmp_path)
    torch.manual_seed(0)
    wide = nn.Sequential(nn.Flatten(), nn.Linear(8, 1001)).eval()
    task = Task("multiclass", "logits", tuple(str(place) for place in range(1001)))
    view = view_on(tmp_path, source, wide, task=task)
    assert "output" not in predictions(view).columns
    assert set(checked("accuracy", view).metrics) == {
        "accuracy",
        "balanced_accuracy",
        "macro_precision",
        "macro_recall",
        "macro_f1",
    }
    assert "ece" in checked("calibration", view).metrics


@pytest.mark.parametrize(
    ("task", "labels", "width"),
    [
        (Task("binary", "logits", ("no", "yes")), np.arange(ROWS) % 2, 1),
        (Task("multilabel", "logits", ("p", "q")), np.arange(2 * ROWS).reshape(ROWS, 2) % 2, 2),
        (Task("regression", "value"), np.linspace(0, 1, ROWS), 1),
        (Task("regression", "value"), np.linspace(0, 1, 2 * ROWS).reshape(ROWS, 2), 2),
    ],
)
def test_every_kind_of_task_has_its_columns(tmp_path, task, labels, width) -> None:
    source, *_ = written_rows(tmp_path, labels)
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(8, width)).eval()
    view = view_on(tmp_path, source, module, task=task)
    table = predictions(view)
    value = {"multilabel": pl.Int8, "regression": pl.Float64}.get(task.kind, pl.Int64)
    expected = pl.List(value) if width == 2 else value
    assert table.schema["label"] == table.schema["prediction"] == expected
    assert table["label"].to_list() == labels.tolist()
    assert table["confidence"].null_count() == (ROWS if task.kind == "regression" else 0)
    assert checked("accuracy", view).metrics


def test_groups_and_metadata_come_along(tmp_path) -> None:
    rng = np.random.default_rng(0)
    frame = pl.DataFrame(
        {
            "a": rng.normal(size=40),
            "b": rng.normal(size=40),
            "site": ["north", "south"] * 20,
            "patient": [place // 4 for place in range(40)],
            "label": [place % 3 for place in range(40)],
        }
    )
    frame.write_parquet(tmp_path / "rows.parquet")
    model = Model(Path("n.pt"), "pytorch", live=hold(nn.Linear(2, 3).eval()))
    data = Data(str(tmp_path / "rows.parquet"), columns=("a", "b"), group="patient")
    inputs = (InputSpec("input", (None, 2), "float32"),)
    subject = Subject(model, Split(data), task=TASK, inputs=inputs)
    view = View(Artifact("as_it_came", tmp_path / "step", model), subject, Machine(), Runtimes())
    table = predictions(view)
    assert table["meta.site"].to_list() == frame["site"].to_list()
    assert table["group"].to_list() == [str(place // 4) for place in range(40)]
    assert "10 groups" in checked("accuracy", view).summary


def test_batches_fit_the_machine(tmp_path) -> None:
    source, *_ = written_rows(tmp_path)
    view = view_on(tmp_path, source, network())
    free = Machine()
    assert batch_rows(shard_of(view, 0, 8)) == 4  # as asked for
    assert batch_rows(shard_of(view, 0, 8, machine=free)) == 256
    large = (InputSpec("x", (None, 3, 2048, 2048), "float32"),)
    assert batch_rows(shard_of(view, 0, 8, machine=free, inputs=large)) == 1
    medium = (InputSpec("x", (None, 3, 512, 512), "float32"),)
    assert 5 <= batch_rows(shard_of(view, 0, 8, machine=free, inputs=medium)) <= 64


def test_progress_counts_rows(tmp_path) -> None:
    source, *_ = written_rows(tmp_path)
    told = []
    view = view_on(tmp_path, source, network())
    Predictions(shard_rows=10).run(view, Progress(lambda what, done, total: told.append((done, total))))
    assert told[-1] == (ROWS, ROWS)
    assert [done for done, _ in told] == sorted(done for done, _ in told)
