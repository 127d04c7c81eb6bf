"""Factories, files of tensors, and live objects: datasets, loaders, arrays and frames."""

import random

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from study.data.live import digest
from study.data.opening import forget_sources, open_source
from study.errors import InputError
from study.loading.live import hold, release
from study.subject import Data


@pytest.fixture(autouse=True)
def _fresh(monkeypatch, tmp_path):
    forget_sources()
    monkeypatch.chdir(tmp_path)
    yield
    forget_sources()


@pytest.fixture
def live():
    keys = []

    def open_live(thing, **options):
        keys.append(hold(thing))
        return open_source(Data("<live>", live=keys[-1], **options))

    yield open_live
    for key in keys:
        release(key)


def everything(source):
    return source.read(np.arange(len(source)))


class Noisy(Dataset):
    """Draws from all three global generators; one row cannot be read."""

    classes = ("no", "yes")

    def __len__(self):
        return 7

    def __getitem__(self, index):
        if index == 3:
            raise ValueError("torn page\nand more")
        drawn = [random.random(), np.random.random(), torch.rand(()).item()]  # noqa: NPY002
        return torch.tensor([index, *drawn]), index % 2


class Stream(IterableDataset):
    def __iter__(self):
        return iter([(torch.full((2,), float(n)), n % 2) for n in range(5)])


def test_a_row_with_random_transforms_is_the_same_row_when_read_again(live):
    source = live(Noisy())
    before = torch.random.get_rng_state()
    once = everything(source)
    again = source.read(np.array([5]))
    np.testing.assert_array_equal(again.inputs["x"][0], once.inputs["x"][4])
    assert torch.equal(torch.random.get_rng_state(), before)
    assert once.broken == {"3": "could not be read (ValueError: torn page)"}
    assert once.labels.tolist() == [0, 1, 0, 0, 1, 0]
    assert source.classes == ("no", "yes")
    other = live(Noisy(), seed=1)
    assert not np.array_equal(everything(other).inputs["x"], once.inputs["x"])


def test_labels_of_broken_rows_are_missing(live):
    labels = live(Noisy()).labels()
    assert np.isnan(labels[3])
    assert np.delete(labels, 3).tolist() == [0, 1, 0, 0, 1, 0]


def test_a_loader_is_read_in_the_order_of_its_dataset(live):
    data = TensorDataset(torch.arange(10.0)[:, None], torch.arange(10) % 2)
    source = live(DataLoader(data, batch_size=4, shuffle=True))
    assert everything(source).inputs["x"][:, 0].tolist() == list(range(10))
    assert source.labels().tolist() == [0, 1] * 5


def test_a_loader_with_a_collate_of_its_own(live):
    def collate(samples):
        return {
            "ids": torch.stack([x for x, _ in samples]).long(),
            "labels": torch.tensor([y for _, y in samples]),
        }

    rows = everything(live(DataLoader(Stream(), batch_size=2, collate_fn=collate)))
    assert rows.inputs["ids"].dtype == np.int64
    assert rows.inputs["ids"].tolist() == [[n, n] for n in range(5)]
    assert rows.labels.tolist() == [0, 1, 0, 1, 0]


def test_samples_of_several_inputs_dictionaries_and_images(live):
    pairs = [(np.ones(2), np.zeros(3), 1), (np.ones(2), np.ones(3), 0)]
    rows = everything(live(pairs))
    assert {name: column.shape for name, column in rows.inputs.items()} == {"x0": (2, 2), "x1": (2, 3)}
    dictionaries = [
        {"left": np.ones(2), "text": "好", "label": "a"},
        {"left": np.ones(2), "text": "b", "label": "b"},
    ]
    rows = everything(live(dictionaries))
    assert rows.inputs["text"] == ["好", "b"]
    assert rows.labels.tolist() == ["a", "b"]
    rows = everything(live([(Image.new("RGBA", (4, 3)), 0), (Image.new("L", (4, 3)), 1)]))
    assert [image.shape for image in rows.inputs["x"]] == [(3, 4, 3), (3, 4)]


@pytest.mark.parametrize(
    "thing",
    [
        (np.eye(3), np.arange(3)),
        (torch.eye(3), torch.arange(3)),
        {"x": np.eye(3), "y": np.arange(3)},
        ({"x": np.eye(3)}, np.arange(3)),
        pl.DataFrame({"a": [1, 0, 0], "b": [0, 1, 0], "c": [0, 0, 1], "y": [0, 1, 2]}),
        TensorDataset(torch.eye(3), torch.arange(3)),
    ],
)
def test_arrays_pairs_dictionaries_and_frames(live, thing):
    source = live(thing)
    rows = everything(source)
    np.testing.assert_array_equal(rows.inputs["x"], np.eye(3))
    assert source.labels().tolist() == [0, 1, 2]


def test_an_array_alone_has_no_labels(live):
    assert live(np.eye(3)).labels() is None


def test_what_cannot_be_read_is_said(live):
    with pytest.raises(InputError, match="gave a int"):
        live(3)
    with pytest.raises(InputError, match="has no rows"):
        live([])
    with pytest.raises(InputError, match="different shapes"):
        live([(np.ones(2), np.ones(1)), (np.ones(2), np.ones(2))]).labels()


def test_the_digest_of_an_object_follows_its_content():
    things = [
        (np.eye(3), np.arange(3)),
        (np.eye(3), np.arange(3) + 1),
        {"x": torch.eye(3)},
        pl.DataFrame({"a": ["x", "y"], "b": ["z", "z"]}),
        pl.DataFrame({"a": ["x", "y"], "b": ["z", "q"]}),
        Noisy(),
        Stream(),
        DataLoader(Stream()),
    ]
    first = [digest(thing) for thing in things]
    assert first == [digest(thing) for thing in things]
    assert len(set(first)) == len(first)


# factories


def write_module(folder, text, name):
    (folder / f"{name}.py").write_text(text)
    return f"{name}:make"


def test_a_factory_is_called_once_and_its_random_numbers_are_seeded(tmp_path):
    spec = write_module(
        tmp_path,
        "import torch\nfrom torch.utils.data import TensorDataset\ncalls = []\n"
        "def make():\n    calls.append(1)\n    return TensorDataset(torch.rand(6, 2), torch.arange(6) % 2)\n",
        "rows_of_mine",
    )
    first = everything(open_source(Data(spec))).inputs["x"]
    again = everything(open_source(Data(spec))).inputs["x"]
    np.testing.assert_array_equal(first, again)
    import sys

    assert sys.modules["rows_of_mine"].calls == [1]
    forget_sources()
    np.testing.assert_array_equal(first, everything(open_source(Data(spec))).inputs["x"])


@pytest.mark.parametrize(
    ("body", "needle"),
    [
        ("raise OSError('disk gone')", "disk gone"),
        ("return 5", "gave a int"),
        ("return None", "gave a NoneType"),
    ],
)
def test_a_factory_that_fails(tmp_path, body, needle):
    spec = write_module(tmp_path, f"def make():\n    {body}\n", f"bad_{abs(hash(needle))}")
    with pytest.raises(InputError, match=needle):
        open_source(Data(spec))


def test_a_factory_that_is_not_there():
    with pytest.raises(InputError, match="no_such_module"):
        open_source(Data("no_such_module:make"))


# files of tensors


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("pair", [True, False])
def test_a_file_of_tensors(tmp_path, zipped, pair):
    x, y = torch.arange(12.0).reshape(6, 2), torch.arange(6)
    thing = (x, y) if pair else {"image": x, "target": y, "weight": torch.ones(6)}
    torch.save(thing, tmp_path / "d.pt", _use_new_zipfile_serialization=zipped)
    source = open_source(Data(str(tmp_path / "d.pt")))
    rows = source.read(np.array([1, 4]))
    assert next(iter(rows.inputs.values())).tolist() == [[2, 3], [8, 9]]
    assert rows.labels.tolist() == [1, 4]
    assert rows.metadata.columns == ([] if pair else ["weight"])


class Danger:
    ran = False

    def __reduce__(self):
        return (_strike, ())


def _strike():
    Danger.ran = True


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_of_objects_is_named_and_never_run(tmp_path, zipped):
    torch.save(
        {"x": torch.ones(2, 2), "y": Danger()}, tmp_path / "d.pt", _use_new_zipfile_serialization=zipped
    )
    with pytest.raises(InputError, match="_strike"):
        open_source(Data(str(tmp_path / "d.pt")))
    assert not Danger.ran
