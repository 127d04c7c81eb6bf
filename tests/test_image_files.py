"""Image files as people have them: every mode is decoded as training loaders do, or counted out by id."""

import numpy as np
import pytest
from PIL import Image

from study.data.opening import open_source
from study.data.rows.pixels import read_image
from study.errors import InputError
from study.preparation import Preparation
from study.subject import Data, InputSpec

MODES = ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"]


@pytest.fixture
def grey():
    """A ramp; black and white alone would not tell clipping from scaling."""
    return np.tile(np.arange(0, 250, 25, dtype=np.uint8), (8, 1))


def folder(root, images):
    (root / "c").mkdir()
    for name, image in images.items():
        image.save(root / "c" / name)
    return open_source(Data(str(root)))


def of_mode(mode, grey):
    if mode == "I;16":
        return Image.fromarray(grey.astype(np.uint16) * 257)
    image = Image.fromarray(grey)
    return image.convert("RGB").convert(mode) if mode in ("RGBA", "CMYK") else image.convert(mode)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_folder_of_all_modes_becomes_one_batch(channels, last, grey, tmp_path):
    endings = {mode: "tif" if mode == "CMYK" else "png" for mode in MODES}
    source = folder(tmp_path, {f"{at}.{endings[mode]}": of_mode(mode, grey) for at, mode in enumerate(MODES)})
    rows = source.read(np.arange(len(MODES)))
    shape = (None, 8, 10, channels) if last else (None, channels, 8, 10)
    prepared = Preparation.open(Data("x"), (InputSpec("x", shape, "float32"),))(rows)
    batch = prepared.inputs["x"]
    assert batch.shape == (len(MODES), *shape[1:])
    for at, mode in enumerate(MODES):
        expected = np.asarray(of_mode("1", grey).convert("L")) if mode == "1" else grey
        seen = np.moveaxis(batch[at], -1, 0) if last else batch[at]
        assert np.abs(seen * 255 - expected[None]).max() <= 1, mode
    assert not prepared.broken


def test_transparency_is_dropped_as_pillow_drops_it(tmp_path):
    colours = np.random.default_rng(0).integers(0, 256, (6, 5, 4), dtype=np.uint8)
    Image.fromarray(colours).save(tmp_path / "x.png")
    assert (read_image(tmp_path / "x.png") == np.asarray(Image.open(tmp_path / "x.png").convert("RGB"))).all()
    assert (read_image(tmp_path / "x.png") == colours[..., :3]).all()


def test_sixteen_bits_are_scaled_and_not_clipped(tmp_path):
    deep = np.array([[0, 256, 32768, 65535]], dtype=np.uint16)
    Image.fromarray(deep).save(tmp_path / "bright.png")
    assert read_image(tmp_path / "bright.png").tolist() == [[0, 1, 128, 255]]
    Image.fromarray(np.full((2, 2), 200, dtype=np.uint16)).save(tmp_path / "dark.png")
    assert read_image(tmp_path / "dark.png").max() == 1  # 200 of 65535, not 200 of 255


def test_a_rotation_in_exif_is_left_as_loaders_leave_it(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (7, 4), (200, 10, 10)).save(tmp_path / "x.jpg", exif=exif)
    assert read_image(tmp_path / "x.jpg").shape == (4, 7, 3)


def test_of_an_animation_the_first_frame_is_taken(tmp_path):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ((250, 0, 0), (0, 250, 0))]
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:])
    assert read_image(tmp_path / "x.gif")[0, 0].tolist() == [250, 0, 0]


def test_names_that_lie_and_files_that_are_cut_off(tmp_path, grey):
    source_image = Image.fromarray(grey)
    (tmp_path / "c").mkdir()
    source_image.save(tmp_path / "c" / "png.jpg", format="PNG")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)).save(
        tmp_path / "c" / "cut.png"
    )
    whole = (tmp_path / "c" / "cut.png").read_bytes()
    (tmp_path / "c" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "c" / "text.png").write_text("no image")
    (tmp_path / "c" / "empty.png").write_bytes(b"")
    rows = open_source(Data(str(tmp_path))).read(np.arange(4))
    assert rows.ids == ("c/png.jpg",)
    assert (rows.inputs["image"][0] == grey).all()
    assert rows.broken == {
        "c/cut.png": "is a damaged image (OSError)",
        "c/empty.png": "is no image",
        "c/text.png": "is no image",
    }


@pytest.mark.parametrize(
    ("shape", "option"),
    [(None, "1x1x224x224"), ((None, None, None, 1), "1x224x224x1")],
    ids=["first", "last"],
)
def test_sizes_that_differ_are_named_with_the_option(shape, option, tmp_path):
    images = {f"{side}.png": Image.new("L", (side, side + 1)) for side in (4, 6)}
    rows = folder(tmp_path, images).read(np.arange(2))
    with pytest.raises(InputError, match=rf"different sizes \('5x4', '7x6'\).*--shape {option}\.") as refused:
        Preparation.open(Data("x"), (InputSpec("x", shape, "float32"),))(rows)
    assert "\n" not in str(refused.value)
