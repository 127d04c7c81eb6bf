"""Each source with real files: what it reads, and what it refuses."""

import zipfile

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image

from study.data.opening import forget_sources, open_source
from study.data.source import SOURCES
from study.errors import InputError
from study.subject import Data


@pytest.fixture(autouse=True)
def _fresh(monkeypatch, tmp_path):
    forget_sources()
    monkeypatch.chdir(tmp_path)
    yield
    forget_sources()


def everything(source):
    return source.read(np.arange(len(source)))


def opened(path, **options):
    return open_source(Data(str(path), **options))


def write_csv(path, text, encoding="utf-8"):
    path.write_bytes(text.encode(encoding))
    return path


def test_every_source_of_the_catalogue_resolves():
    for name in SOURCES:
        assert SOURCES.get(name).__name__


# arrays


def test_npz_sorts_labels_inputs_metadata_and_ids(tmp_path):
    x = np.arange(24, dtype=np.float32).reshape(6, 4)
    np.savez(
        tmp_path / "d.npz",
        x=x,
        Label=np.arange(6),
        site=list("aabbcc"),
        id=list("uvwxyz"),
        classes=np.array(["一", "二"]),
        other=np.zeros((3, 4)),
    )
    source = opened(tmp_path / "d.npz")
    rows = source.read(np.array([1, 4]))
    np.testing.assert_array_equal(rows.inputs["x"], x[[1, 4]])
    assert rows.ids == ("v", "y")
    assert rows.labels.tolist() == [1, 4]
    assert rows.metadata.to_dict(as_series=False) == {"site": ["a", "c"]}
    assert source.classes == ("一", "二")
    assert len(source) == 6


def test_npz_of_training_and_test_rows_goes_by_label_and_columns(tmp_path):
    np.savez(
        tmp_path / "mnist.npz",
        x_train=np.zeros((9, 2)),
        y_train=np.zeros(9),
        x_test=np.ones((4, 2)),
        y_test=np.arange(4),
    )
    rows = everything(opened(tmp_path / "mnist.npz", label="y_test"))
    assert rows.inputs["x_test"].shape == (4, 2)
    assert list(rows.inputs) == ["x_test"]
    with pytest.raises(InputError, match="go together"):
        opened(tmp_path / "mnist.npz", label="y_test", columns=("x_train",))


def test_a_label_may_lie_in_a_file_of_its_own(tmp_path):
    np.save(tmp_path / "x.npy", np.ones((5, 3)))
    np.save(tmp_path / "y.npy", np.arange(5))
    np.savez(tmp_path / "x.npz", x=np.ones((5, 3)))
    for name in ("x.npy", "x.npz"):
        source = opened(tmp_path / name, label=str(tmp_path / "y.npy"))
        assert source.labels().tolist() == [0, 1, 2, 3, 4]
    assert opened(tmp_path / "x.npy", label="y.npy").labels().tolist() == [0, 1, 2, 3, 4]
    assert opened(tmp_path / "x.npy").labels() is None
    with pytest.raises(InputError, match=r"must be an \.npy file"):
        opened(tmp_path / "x.npy", label="z.npy")
    np.save(tmp_path / "short.npy", np.arange(4))
    with pytest.raises(InputError, match="5 rows and there are labels for 4"):
        opened(tmp_path / "x.npy", label="short.npy")


class Trap:
    ran = False

    def __reduce__(self):
        return (_spring, ())


def _spring():
    Trap.ran = True
    return 1


@pytest.mark.parametrize("name", ["t.npy", "t.npz"])
def test_objects_are_named_and_never_run(tmp_path, name):
    trap = np.array([Trap()], dtype=object)
    if name == "t.npy":
        np.save(tmp_path / name, trap, allow_pickle=True)
    else:
        np.savez(tmp_path / name, x=np.zeros((1, 2)), y=trap)
    with pytest.raises(InputError, match="_spring"):
        opened(tmp_path / name)
    assert not Trap.ran


@pytest.mark.parametrize("name", ["c.npy", "c.npz", "c.parquet", "c.pt"])
def test_a_file_that_is_cut_off_is_one_sentence(tmp_path, name):
    path = tmp_path / name
    if name == "c.npy":
        np.save(path, np.ones((100, 10)))
    elif name == "c.npz":
        np.savez(path, x=np.ones((100, 10)), y=np.ones(100))
    elif name == "c.pt":
        torch.save({"x": torch.ones(100, 10), "y": torch.ones(100)}, path)
    else:
        pl.DataFrame({"x": range(1000), "y": range(1000)}).write_parquet(path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(InputError) as refused:
        opened(path)
    assert "\n" not in str(refused.value)


def test_zero_rows_and_a_single_number_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.zeros((0, 3)), y=np.zeros(0))
    np.save(tmp_path / "b.npy", np.float64(3))
    pl.DataFrame({"x": [], "y": []}).write_parquet(tmp_path / "c.parquet")
    write_csv(tmp_path / "d.csv", "x,y\n")
    for name in ("a.npz", "b.npy", "c.parquet", "d.csv"):
        with pytest.raises(InputError, match=r"no rows|single number"):
            opened(tmp_path / name)


# tables


TEXT = "id,alter,größe,label\n7,30,1.5,猫\n8,40,2.5,كلب\n9,50,3.5,🐟\n"


@pytest.mark.parametrize(
    ("encoding", "end"),
    [("utf-8", "\n"), ("utf-8-sig", "\n"), ("utf-8", "\r\n"), ("utf-8", "\r"), ("utf-16", "\n")],
)
def test_csv_of_any_encoding_and_line_end(tmp_path, encoding, end):
    path = write_csv(tmp_path / "t.csv", TEXT.replace("\n", end), encoding)
    source = opened(path)
    rows = everything(source)
    assert rows.ids == ("7", "8", "9")
    assert rows.labels.tolist() == ["猫", "كلب", "🐟"]
    assert rows.features == {"x": ("alter", "größe")}
    assert rows.inputs["x"].dtype == np.float32
    assert rows.inputs["x"].tolist() == [[30, 1.5], [40, 2.5], [50, 3.5]]


def test_csv_in_gbk_with_semicolons(tmp_path):
    path = write_csv(tmp_path / "t.csv", "年龄;标签\n1;猫\n2;狗\n", "gbk")
    rows = everything(opened(path, label="标签"))
    assert rows.labels.tolist() == ["猫", "狗"]
    assert rows.inputs["x"].tolist() == [[1], [2]]


def test_csv_in_another_encoding_is_refused(tmp_path):
    with pytest.raises(InputError, match="save it as UTF-8"):
        opened(write_csv(tmp_path / "t.csv", "a,y\ncafé,1\n", "latin-1"))


def test_missing_and_garbled_cells(tmp_path):
    lines = "".join(f"{n},{n * 2}\n" for n in range(40))
    path = write_csv(tmp_path / "t.csv", f"a,y\nNA,1\noops,2\n,3\n{lines}")
    rows = everything(opened(path))
    assert rows.broken == {"1": "'a' holds 'oops', which is no number"}
    assert rows.ids[:2] == ("0", "2")
    assert np.isnan(rows.inputs["x"][:2, 0]).all()
    # More garbled cells than --max-bad-rows: it is a column of words.
    assert everything(opened(path, max_bad_rows=0.0)).inputs["a"][:2] == ["NA", "oops"]


def test_columns_choose_order_and_leave_the_rest_as_metadata(tmp_path):
    path = write_csv(tmp_path / "t.csv", "b,a,site,y\n1,2,n,0\n3,4,s,1\n")
    source = opened(path, columns=("a", "b"), group="site")
    rows = everything(source)
    assert rows.inputs["x"].tolist() == [[2, 1], [4, 3]]
    assert rows.metadata.to_dict(as_series=False) == {"site": ["n", "s"]}
    only = everything(opened(path, columns=("b",)))
    assert only.metadata.columns == ["a", "site"]


def test_a_group_of_numbers_is_no_input_and_stays_metadata(tmp_path):
    path = write_csv(tmp_path / "t.csv", "patient,a,y\n1,2,0\n1,4,1\n")
    rows = everything(opened(path, group="patient"))
    assert rows.inputs["x"].tolist() == [[2], [4]]
    assert rows.metadata["patient"].to_list() == [1, 1]


def test_an_id_that_repeats_is_an_input(tmp_path):
    rows = everything(opened(write_csv(tmp_path / "t.csv", "id,a,y\n1,2,0\n1,4,1\n")))
    assert rows.ids == ("0", "1")
    assert rows.inputs["x"].tolist() == [[1, 2], [1, 4]]


@pytest.mark.parametrize(
    ("options", "needle"),
    [
        ({"columns": ("agee",)}, "Did you mean 'age'"),
        ({"label": "lable"}, "Did you mean 'label'"),
        ({"group": "zzz"}, "The columns are"),
        ({"columns": ("age", "label")}, "cannot be an input too"),
        ({"columns": ("age", "city")}, "are no numbers"),
        ({"label": "age,citty"}, "Did you mean 'city'"),
    ],
)
def test_columns_that_are_not_there(tmp_path, options, needle):
    path = write_csv(tmp_path / "t.csv", "age,city,label\n1,a,0\n2,b,1\n")
    with pytest.raises(InputError, match=needle):
        opened(path, **options)


def test_the_one_text_column(tmp_path):
    rows = everything(opened(write_csv(tmp_path / "t.csv", 'text,label\n好,1\n"a, b",0\n')))
    assert rows.inputs == {"text": ["好", "a, b"]}


def test_several_label_columns_are_a_multi_label(tmp_path):
    path = write_csv(tmp_path / "t.csv", "a,p,q\n1,0,1\n2,1,1\n")
    assert opened(path, label="p,q").labels().tolist() == [[0, 1], [1, 1]]


@pytest.mark.parametrize("positions", [[0], [3, 4, 5], [0, 1500, 4999], list(range(0, 5000, 7))])
def test_parquet_is_read_by_position(tmp_path, positions):
    table = pl.DataFrame({"a": range(5000), "b": np.arange(5000) / 2, "y": [n % 3 for n in range(5000)]})
    table.write_parquet(tmp_path / "t.csv", row_group_size=500)  # the name lies
    rows = opened(tmp_path / "t.csv").read(np.array(positions))
    assert rows.inputs["x"][:, 0].tolist() == positions
    assert rows.labels.tolist() == [n % 3 for n in positions]
    assert rows.ids == tuple(str(n) for n in positions)


def test_missing_labels_are_told_apart(tmp_path):
    pl.DataFrame({"a": [1.0, 2.0], "y": [1, None]}).write_parquet(tmp_path / "n.parquet")
    pl.DataFrame({"a": [1.0, 2.0], "y": ["c", None]}).write_parquet(tmp_path / "w.parquet")
    assert np.isnan(opened(tmp_path / "n.parquet").labels()[1])
    assert opened(tmp_path / "w.parquet").labels().tolist() == ["c", None]


# images


def image_folder(root, modes=("RGB",)):
    random = np.random.default_rng(0)
    for number, name in enumerate(("猫", "dog")):
        (root / name).mkdir(parents=True)
        for place, mode in enumerate(modes):
            grey = random.integers(0, 255, (8, 6), dtype=np.uint8)
            image = (
                Image.fromarray(grey).convert("RGB").convert(mode)
                if mode != "I;16"
                else Image.fromarray(grey.astype(np.uint16) * 257)
            )
            image.save(root / name / f"{number}{place}.png")
    return root


def test_an_image_folder(tmp_path):
    root = image_folder(tmp_path / "imgs", ("RGB", "L"))
    (root / "dog" / "notes.txt").write_text("no image")
    (root / "dog" / "zz.png").write_bytes(b"garbage")
    source = opened(root)
    rows = everything(source)
    assert source.classes == ("dog", "猫")
    assert rows.ids == ("dog/10.png", "dog/11.png", "猫/00.png", "猫/01.png")
    assert rows.labels.tolist() == ["dog", "dog", "猫", "猫"]
    assert rows.broken == {"dog/zz.png": "is no image"}
    assert [image.shape for image in rows.inputs["image"]] == [(8, 6, 3), (8, 6)] * 2
    assert rows.metadata["height"].to_list() == [8] * 4


@pytest.mark.parametrize("mode", ["1", "LA", "P", "RGBA", "CMYK", "I;16", "L"])
def test_image_modes_keep_their_brightness(tmp_path, mode):
    root = tmp_path / "m" / "c"
    root.mkdir(parents=True)
    values = np.tile(np.array([[0, 255], [255, 0]], dtype=np.uint8), (4, 4))
    grey = Image.fromarray(values)
    name = "x.tif" if mode == "CMYK" else "x.png"
    (Image.fromarray(values.astype(np.uint16) * 257) if mode == "I;16" else grey.convert(mode)).save(
        root / name
    )
    image = everything(opened(tmp_path / "m")).inputs["image"][0]
    grey_again = image if image.ndim == 2 else image[..., 0]
    assert image.dtype == np.uint8
    np.testing.assert_allclose(grey_again.astype(int), values, atol=1)


def test_a_palette_with_transparency_makes_no_warning(tmp_path):
    (tmp_path / "m" / "c").mkdir(parents=True)
    image = Image.new("P", (4, 4))
    image.putpalette([0, 0, 0, 200, 100, 50])
    image.putpixel((1, 1), 1)
    image.save(tmp_path / "m" / "c" / "x.png", transparency=bytes([0, 128]))
    read = everything(opened(tmp_path / "m")).inputs["image"][0]
    assert read[1, 1].tolist() == [200, 100, 50]


def test_folders_that_hold_no_classes(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no images"):
        opened(tmp_path / "empty")
    image_folder(tmp_path / "both" / "train")
    image_folder(tmp_path / "both" / "test")
    with pytest.raises(InputError, match=r"give one of them, e\.g\. .*train"):
        opened(tmp_path / "both")


def test_a_flat_folder_of_images_has_no_labels(tmp_path):
    root = image_folder(tmp_path / "imgs") / "dog"
    assert opened(root).labels() is None
    assert len(opened(root)) == 1


# nothing that can be read


@pytest.mark.parametrize("name", ["nothing.csv", "missing/file.npz"])
def test_no_such_file(name):
    with pytest.raises(InputError, match="There is no file or folder"):
        opened(name)


def test_no_such_file_but_a_close_one(tmp_path):
    write_csv(tmp_path / "titanic.csv", TEXT)
    with pytest.raises(InputError, match=r"Did you mean 'titanik\.csv'|Did you mean 'titanic\.csv'"):
        opened("titanik.csv")


def test_files_that_are_no_data(tmp_path):
    (tmp_path / "empty.csv").write_bytes(b"")
    (tmp_path / "noise.bin").write_bytes(bytes(range(256)))
    (tmp_path / "page.html").write_text("<html></html>")
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(InputError, match="is empty"):
        opened(tmp_path / "empty.csv")
    for name in ("noise.bin", "page.html", "z.zip"):
        with pytest.raises(InputError, match="is no data that can be read"):
            opened(tmp_path / name)


def test_a_file_that_was_written_anew_is_read_anew(tmp_path):
    path = write_csv(tmp_path / "t.csv", "a,y\n1,0\n")
    assert len(opened(path)) == 1
    assert opened(path) is opened(path)
    write_csv(path, "a,y\n1,0\n2,1\n")
    assert len(opened(path)) == 2


def test_shared_arrays_and_names(shared_data, tmp_path):
    rows = everything(opened(shared_data / "cifar10_jpg" / "cifar10_test_first2000_uint8.npz"))
    assert rows.inputs["x"].shape == (2000, 32, 32, 3)
    assert np.bincount(rows.labels).tolist() == [196, 198, 195, 199, 198, 185, 216, 193, 217, 203]
    files = [path for path in sorted((shared_data / "names_data").glob("*.txt")) if path.stem != "README"]
    names = [
        (name, path.stem) for path in files for name in path.read_text(encoding="utf-8").split("\n") if name
    ]
    path = write_csv(
        tmp_path / "names.csv", "name,nation\n" + "".join(f'"{name}",{nation}\n' for name, nation in names)
    )
    read = everything(opened(path, label="nation"))
    assert read.inputs["name"] == [name for name, _ in names]
    assert any(not name.isascii() for name in read.inputs["name"])
    assert (read.labels == "Vietnamese").sum() == 73
