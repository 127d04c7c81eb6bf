"""Raw rows become model inputs: dtypes, images, missing cells, functions of the user, names."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from study.data.opening import forget_sources
from study.data.source import Rows
from study.errors import InputError
from study.feed import Feed
from study.matching import match_inputs
from study.missing import fit_fill
from study.preparation import Preparation
from study.subject import Data, InputSpec, Split


@pytest.fixture(autouse=True)
def _fresh(monkeypatch, tmp_path):
    forget_sources()
    monkeypatch.chdir(tmp_path)
    yield
    forget_sources()


def rows_of(inputs, count, features=None):
    return Rows(
        positions=np.arange(count),
        ids=tuple(str(n) for n in range(count)),
        inputs=inputs,
        labels=None,
        metadata=pl.DataFrame(height=count),
        features=features or {},
    )


def prepare(inputs, count, specs=(), **options):
    return Preparation.open(Data("d", **options), specs)(rows_of(inputs, count))


def test_arrays_are_inputs_as_they_stand_but_for_their_dtype():
    x = np.random.default_rng(0).normal(size=(3, 4))
    assert prepare({"a": x}, 3).inputs["a"].dtype == np.float32
    half = prepare({"a": x}, 3, (InputSpec("pixels", (None, 4), "float16"),)).inputs
    np.testing.assert_array_equal(half["pixels"], x.astype(np.float16))
    assert prepare({"a": np.arange(3, dtype=np.int32)}, 3).inputs["a"].dtype == np.int64
    assert prepare({"a": np.array([[0], [255]], dtype=np.uint8)}, 2).inputs["a"].tolist() == [[0.0], [255.0]]


def test_rows_that_are_not_finite_are_broken_and_say_where():
    x = np.zeros((4, 2), dtype=np.float32)
    x[1, 1], x[2, 0] = np.nan, np.inf
    prepared = Preparation.open(Data("d"), ())(rows_of({"x": x}, 4, {"x": ("age", "fare")}))
    assert prepared.whole.tolist() == [True, False, False, True]
    assert prepared.broken == {"1": "'fare' is missing", "2": "'age' is infinite"}
    assert len(prepared.inputs["x"]) == 2
    wide = prepare({"x": np.full((1, 2, 2), np.nan)}, 1)
    assert wide.broken == {"0": "'x' holds NaN"}
    assert len(wide.inputs["x"]) == 0


def test_images_become_chw_floats_in_the_channels_that_the_model_takes():
    random = np.random.default_rng(0)
    colour = random.integers(0, 256, (6, 5, 3), dtype=np.uint8)
    batch = prepare({"image": [colour]}, 1).inputs["image"]
    np.testing.assert_allclose(batch[0], colour.transpose(2, 0, 1) / 255, atol=1e-7)
    grey = prepare({"image": [colour]}, 1, (InputSpec("x", (None, 1, None, None), "float32"),)).inputs["x"]
    np.testing.assert_allclose(grey[0, 0], np.asarray(Image.fromarray(colour).convert("L")) / 255, atol=1e-7)
    flat = random.integers(0, 256, (6, 5), dtype=np.uint8)
    assert prepare({"image": [flat]}, 1).inputs["image"].shape == (1, 1, 6, 5)
    assert prepare({"image": [flat, colour]}, 2).inputs["image"].shape == (2, 3, 6, 5)
    with pytest.raises(InputError, match="takes 4 channels"):
        prepare({"image": [flat]}, 1, (InputSpec("x", (None, 4, 6, 5), "float32"),))


def test_images_are_resized_bilinearly_where_a_size_is_said():
    images = [np.full((6, 5), 200, dtype=np.uint8), np.arange(80, dtype=np.uint8).reshape(8, 10)]
    with pytest.raises(InputError, match=r"6x5.*8x10.*--shape"):
        prepare({"image": images}, 2)
    said = (InputSpec("", (1, 1, 4, 3)),)
    batch = prepare({"image": images}, 2, shapes=said).inputs["image"]
    twin = np.asarray(Image.fromarray(images[1]).resize((3, 4), Image.Resampling.BILINEAR)) / 255
    np.testing.assert_allclose(batch[1, 0], twin, atol=1e-7)


def test_texts_need_a_function():
    with pytest.raises(InputError, match="'text' holds texts: give --tokenizer"):
        prepare({"text": ["a", "b"]}, 2)


def write_function(folder, name, body):
    (folder / f"{name}.py").write_text(body)
    return f"{name}:f"


def test_a_function_gets_a_row_and_gives_arrays(tmp_path):
    spec = write_function(
        tmp_path,
        "pre_ok",
        "import torch\ndef f(row):\n"
        "    return {'ids': torch.tensor([len(row['text']), 1]), 'size': [float(row['n'])]}\n",
    )
    batch = prepare({"text": ["a", "bcd"], "n": [1, 2]}, 2, preprocess=spec).inputs
    assert batch["ids"].tolist() == [[1, 1], [3, 1]]
    assert batch["ids"].dtype == np.int64
    assert batch["size"].dtype == np.float32
    single = write_function(tmp_path, "pre_one", "def f(row):\n    return row.transpose(2, 0, 1) / 255\n")
    batch = prepare({"x": np.zeros((2, 4, 5, 3), dtype=np.uint8)}, 2, (InputSpec("in"),), preprocess=single)
    assert batch.inputs["in"].shape == (2, 3, 4, 5)


def test_a_function_that_raises_makes_broken_rows(tmp_path):
    spec = write_function(
        tmp_path, "pre_bad", "def f(row):\n    if row[0] == 1: raise KeyError('k')\n    return row * 2\n"
    )
    prepared = prepare({"x": np.arange(3.0)[:, None]}, 3, preprocess=spec)
    assert prepared.broken == {"1": "pre_bad:f raised KeyError: 'k'"}
    assert prepared.inputs["x"].tolist() == [[0], [4]]
    ragged = write_function(tmp_path, "pre_rag", "def f(row):\n    return [1.0] * int(row[0] + 1)\n")
    with pytest.raises(InputError, match="of one shape for every row"):
        prepare({"x": np.arange(3.0)[:, None]}, 3, preprocess=ragged)
    with pytest.raises(InputError, match="pre_gone"):
        Preparation.open(Data("d", preprocess="pre_gone:f"), ())


def match_names(raw, wanted):
    """Where names alone can tell: arrays of one shape, and inputs of which no shape is known."""
    return match_inputs({name: np.zeros((2, 3)) for name in raw}, [InputSpec(name) for name in wanted])


@given(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=4, unique=True))
def test_names_that_agree_go_together_in_any_order(names):
    shuffled = tuple(reversed(names))
    assert match_names(shuffled, tuple(names)) == {name: name for name in names}


def test_names_that_differ():
    assert match_names(("x",), ("pixel_values",)) == {"pixel_values": "x"}
    assert match_names(("x",), ("x", "mask")) == {"x": "x"}
    assert match_names(("a", "b"), ("left", "right")) == {"left": "a", "right": "b"}
    assert match_names(("x", "noise"), ("x",)) == {"x": "x"}
    assert match_names(("a", "b"), ()) == {"a": "a", "b": "b"}
    with pytest.raises(InputError, match="choose with --columns"):
        match_names(("a", "b", "c"), ("left", "right"))


@pytest.mark.parametrize(("how", "statistic"), [("mean", np.nanmean), ("median", np.nanmedian)])
def test_missing_cells_are_filled_from_the_training_rows(tmp_path, how, statistic):
    (tmp_path / "judge.csv").write_text("a,b,y\n,1,0\n5,,1\n")
    (tmp_path / "train.csv").write_text("a,b,y\n1,10,0\n2,,1\n30,30,0\n")
    data = fit_fill(Data("judge.csv", missing=how), Split(Data("train.csv")))
    assert data.fill == (("x", (float(statistic([1, 2, 30])), 20.0)),)
    piece = next(Feed.open(Split(data), ()).pieces(8))
    np.testing.assert_allclose(piece.batch["x"], [[statistic([1, 2, 30]), 1], [5, 20]])
    assert not piece.broken
    dropped = next(Feed.open(Split(Data("judge.csv")), ()).pieces(8))
    assert dropped.broken == {"0": "'a' is missing", "1": "'b' is missing"}


def test_a_column_without_values_has_no_mean(tmp_path):
    (tmp_path / "t.csv").write_text("a,b,y\nNA,1,0\n5,NA,1\n")
    pl.DataFrame(
        {"a": [None, None], "b": [1.0, 2.0], "y": [0, 1]}, schema_overrides={"a": pl.Float64}
    ).write_parquet(tmp_path / "t.parquet")
    data = Data("t.parquet", missing="mean")
    with pytest.raises(InputError, match="column 'a' has no value"):
        fit_fill(data, Split(data))


# the feed


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_a_feed_gives_every_row_once_in_order_and_never_more_than_asked(tmp_path, size):
    values = np.arange(20, dtype=np.float64)
    values[[0, 1, 2, 9, 18, 19]] = np.nan
    np.savez(tmp_path / "d.npz", x=np.stack([values, values], 1), y=np.arange(20))
    feed = Feed.open(Split(Data("d.npz")), (InputSpec("in", (None, 2), "float32"),))
    pieces = list(feed.pieces(size))
    assert len(feed) == 20
    assert all(len(piece) <= size for piece in pieces)
    assert all(len(piece) for piece in pieces[:-1])
    assert all(piece.batch["in"].shape == (len(piece), 2) for piece in pieces)
    kept = np.concatenate([piece.batch["in"][:, 0] for piece in pieces])
    assert kept.tolist() == [n for n in range(20) if n not in (0, 1, 2, 9, 18, 19)]
    broken = [name for piece in pieces for name in piece.broken]
    assert broken == ["0", "1", "2", "9", "18", "19"]
    assert np.concatenate([piece.rows.labels for piece in pieces]).tolist() == kept.tolist()


def test_a_feed_of_a_split_reads_by_position(tmp_path):
    np.savez(tmp_path / "d.npz", x=np.arange(10.0)[:, None], y=np.arange(10))
    feed = Feed.open(Split(Data("d.npz"), (1, 4, 8)), ())
    assert [piece.batch["x"][:, 0].tolist() for piece in feed.pieces(2)] == [[1, 4], [8]]
    assert feed.labels().tolist() == [1, 4, 8]
    assert feed.at(np.array([7, 2, 7])).rows.ids == ("2", "7")


def test_a_row_without_a_label_is_broken(tmp_path):
    (tmp_path / "t.csv").write_text("a,y\n1,c\n2,\n3,d\n")
    piece = next(Feed.open(Split(Data("t.csv")), ()).pieces(8))
    assert piece.broken == {"1": "has no label"}
    assert piece.rows.labels.tolist() == ["c", "d"]


def test_what_a_function_prints_is_kept_off_stdout(tmp_path, capsys):
    spec = write_function(tmp_path, "pre_loud", "def f(row):\n    print('loud')\n    return row\n")
    prepare({"x": np.ones((1, 1))}, 1, preprocess=spec)
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", "loud\n")
