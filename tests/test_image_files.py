"""Folders and arrays of images to pixels, and what is wrong with them in one line."""

import numpy as np
import pytest
from PIL import Image

from flowstone.data import open_source, reopen
from flowstone.errors import DataError, SettingError
from image_data import RNG, encoded, make_folder, make_mnist, pixels, same_images, together, train_of

pytestmark = pytest.mark.usefixtures("empty_folder")


@pytest.mark.parametrize(
    ("ending", "options"), [("png", {}), ("bmp", {}), ("tif", {}), ("webp", {"lossless": True}), ("PNG", {})]
)
@pytest.mark.parametrize("shape", [(6, 8), (6, 8, 3)])
def test_a_folder_of_images_without_loss(tmp_path, ending, options, shape):
    images = pixels(40, *shape)
    make_folder(tmp_path / "pics", images, ending, classes=3, **options)
    (tmp_path / "pics" / "notes.txt").write_text("not an image")
    (tmp_path / "pics" / ".hidden.png").write_text("nor this")
    dataset = open_source("pics", context=["label"])
    grey = len(shape) == 2 and ending != "webp"  # which has no grey
    assert dataset.event_shape == (1 if grey else 3, 6, 8)
    assert dataset.description["source"] == str(tmp_path / "pics")
    assert dataset.description["rows"] == {"train": 32, "validation": 4, "test": 4}
    planes = images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)
    assert same_images(together(dataset), planes if grey or images.ndim == 4 else planes.repeat(3, 1))
    assert dataset.description["classes"] == ["class0", "class1", "class2"]
    assert together(open_source("pics", seed=1)).tobytes() != together(dataset).tobytes()
    assert together(reopen(dataset.description)).tobytes() == together(dataset).tobytes()


def test_jpeg_and_gif_come_near(tmp_path):
    images = np.kron(pixels(30, 2, 2), np.ones((8, 8), np.uint8))
    make_folder(tmp_path / "jpeg", images, "jpg", quality=95)
    assert open_source("jpeg").event_shape == (1, 16, 16)
    for index, image in enumerate(images):
        (tmp_path / "gif").mkdir(exist_ok=True)
        frames = [Image.fromarray(image), Image.fromarray(255 - image)]
        frames[0].save(tmp_path / "gif" / f"{index}.gif", save_all=True, append_images=frames[1:])
    assert same_images(together(open_source("gif", gray=True)), images[:, None])


MODES = {
    "1": (lambda a: Image.fromarray(a > 127), lambda a: np.where(a > 127, 255, 0)),
    "L": (Image.fromarray, lambda a: a),
    "LA": (
        lambda a: Image.merge("LA", (Image.fromarray(a), Image.new("L", a.shape[::-1], 0))),
        lambda a: np.full_like(a, 255),
    ),
    "LA opaque": (lambda a: Image.merge("LA", (Image.fromarray(a), Image.new("L", a.shape[::-1], 255))), lambda a: a),
    "I;16": (lambda a: Image.fromarray(a.astype(np.uint16) * 256 + 77), lambda a: a),
    "P": (lambda a: Image.fromarray(a).convert("RGB").convert("P", palette=Image.Palette.ADAPTIVE), None),
    "RGB": (lambda a: Image.fromarray(np.stack((a, a // 2, 255 - a), -1)), lambda a: np.stack((a, a // 2, 255 - a))),
    "RGBA": (
        lambda a: Image.fromarray(np.stack((a, a // 2, 255 - a, np.where(a > 99, 255, 0).astype(np.uint8)), -1)),
        lambda a: np.where(a > 99, np.stack((a, a // 2, 255 - a)), 255),
    ),
}


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_of_png_becomes_grey_or_colour(tmp_path, mode):
    make, expected = MODES[mode]
    images = pixels(30, 5, 7)
    make_folder(tmp_path / "pics", [make(image) for image in images])
    dataset = open_source("pics")
    assert dataset.event_shape[0] == (3 if mode in ("P", "RGB", "RGBA") else 1)
    if expected is not None:
        wanted = np.stack([expected(image) for image in images]).astype(np.uint8).reshape(30, *dataset.event_shape)
        assert same_images(together(dataset), wanted)
    else:
        assert np.abs(together(dataset).mean() - images.mean()) < 3


def test_grey_among_colours_becomes_colour_and_gray_makes_all_grey(tmp_path):
    colour, grey = pixels(20, 4, 4, 3), pixels(20, 4, 4)
    make_folder(tmp_path / "pics", [*colour, *grey])
    wanted = np.concatenate([colour.transpose(0, 3, 1, 2), grey[:, None].repeat(3, 1)])
    assert same_images(together(open_source("pics")), wanted)
    grey_ones = np.stack([np.asarray(Image.fromarray(image).convert("L")) for image in (*colour, *grey)])
    dataset = open_source("pics", gray=True)
    assert same_images(together(dataset), grey_ones[:, None])
    assert dataset.description["gray"]


@pytest.mark.parametrize("ending", ["jpg", "png", "tif"])
def test_exif_orientation_is_applied(tmp_path, ending):
    images = np.kron(pixels(24, 2, 3), np.ones((8, 8), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees, clockwise
    make_folder(tmp_path / "pics", images, ending, exif=exif)
    dataset = open_source("pics")
    assert dataset.event_shape == (1, 24, 16)
    if ending != "jpg":
        assert same_images(together(dataset), np.rot90(images, -1, (1, 2))[:, None])


def test_an_exif_orientation_that_means_nothing_is_passed_over(tmp_path):
    exif, images = Image.Exif(), pixels(24, 4, 6)
    exif[0x0112] = 9
    make_folder(tmp_path / "pics", images, exif=exif)
    assert same_images(together(open_source("pics")), images[:, None])


def test_transparent_palettes_show_white(tmp_path):
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([10, 20, 30, 40, 50, 60])
    make_folder(tmp_path / "pics", [palette] * 20, transparency=1)
    assert (together(open_source("pics")) == 255).all()


def test_size_crops_the_middle_and_takes_means(tmp_path):
    images = pixels(24, 8, 16, 3)
    make_folder(tmp_path / "pics", images)
    dataset = open_source("pics", size=4)
    middle = images[:, :, 4:12].reshape(24, 4, 2, 4, 2, 3).mean((2, 4))
    x = np.sort(together(dataset).astype(float), 0)
    assert np.abs(x - np.sort(middle.transpose(0, 3, 1, 2), 0)).max() <= 1  # it rounds twice
    assert dataset.description["resized"].startswith("centre crop")
    assert open_source("pics", size="4x8").event_shape == (3, 4, 8)
    assert open_source("pics", size=(16, 32)).event_shape == (3, 16, 32)
    for size in ("0", "4x", "-3", "4x4x4", "big", 4.5):
        with pytest.raises(SettingError, match=rf"size={size}: expected"):
            open_source("pics", size=size)
    make_mnist(tmp_path)
    assert open_source("mnist", data_dir=tmp_path, size=4, gray=True).event_shape == (1, 4, 4)


def test_images_of_several_sizes_need_one(tmp_path):
    make_folder(tmp_path / "pics", [*pixels(20, 4, 4), *pixels(20, 4, 5)])
    with pytest.raises(
        DataError, match=r"images of 2 sizes: 00\d\d.png is 4x[45], 00\d\d.png is 4x[45]; to make them one.*: size=32"
    ):
        open_source("pics")
    assert open_source("pics", size=4).event_shape == (1, 4, 4)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"no image", "not an image"),
        (b"", "not an image"),
        (encoded(pixels(1, 40, 40)[0])[:300], "truncated|broken|not an image|unrecognized"),
        (encoded(np.full((4, 4), 2**17, np.int32), "tiff"), "values of more than 16 bits"),
        (encoded(np.ones((4, 4), np.float32), "tiff"), "floating-point values"),
    ],
)
def test_bad_images_are_counted_and_named(tmp_path, content, reason):
    make_folder(tmp_path / "pics", pixels(40, 40, 40))
    for name in ("0003.png", "0011.png", "0030.png"):
        (tmp_path / "pics" / name).write_bytes(content)
    message = (
        r"3 of 40 images cannot be read, first 00(03|11|30)\.png \(.*("
        + reason
        + r").*\); to leave them out: skip_bad=True"
    )
    if b"II" in content[:2]:
        (tmp_path / "pics").rename(tmp_path / "old")  # their size differs, which would be said first
        make_folder(tmp_path / "pics", pixels(40, 4, 4))
        for name in ("0003.png", "0011.png", "0030.png"):
            (tmp_path / "pics" / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        open_source("pics")
    dataset = open_source("pics", skip_bad=True)
    assert sum(dataset.description["rows"].values()) == 37
    assert dataset.description["left_out"] == 3
    assert together(reopen(dataset.description)).tobytes() == together(dataset).tobytes()


def test_a_bad_image_that_is_left_out_does_not_make_the_others_colour(tmp_path):
    images = pixels(24, 4, 4)
    make_folder(tmp_path / "pics", images)
    (tmp_path / "pics" / "bad.tiff").write_bytes(encoded(np.ones((4, 4), np.float32), "tiff"))
    assert same_images(together(open_source("pics", skip_bad=True)), images[:, None])


@pytest.mark.parametrize(("ending", "kept"), [("png", 400), ("jpeg", 1200)])  # of a JPEG its header tells the size
def test_a_truncated_image_of_another_size_can_be_left_out(tmp_path, ending, kept):
    images = pixels(30, 6, 8)
    make_folder(tmp_path / "pics", images, "png")
    (tmp_path / "pics" / f"a.{ending}").write_bytes(encoded(pixels(1, 60, 50)[0], ending)[:kept])
    with pytest.raises(
        DataError, match=rf"1 of 31 images cannot be read, first a.{ending} \(.*to leave them out: skip_bad"
    ):
        open_source("pics")
    assert same_images(together(open_source("pics", skip_bad=True)), images[:, None])


def test_links_to_folders_are_folders(tmp_path):
    images = pixels(30, 6, 8)
    make_folder(tmp_path / "store", images, "png", classes=2)
    (tmp_path / "links").mkdir()
    for name in ("class0", "class1"):
        (tmp_path / "links" / name).symlink_to(tmp_path / "store" / name)
    (tmp_path / "store" / "class0" / "up").symlink_to(tmp_path / "links")  # which leads around
    dataset = open_source("links", context=["label"])
    assert dataset.description["classes"] == ["class0", "class1"]
    assert same_images(together(dataset), images[:, None])


def test_a_decompression_bomb_is_not_decoded(tmp_path, monkeypatch):
    make_folder(tmp_path / "pics", pixels(20, 8, 8))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    with pytest.raises(DataError, match=r"20 of 20 images .*decompression bomb"):
        open_source("pics")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    with pytest.raises(DataError, match=r"20 of 20 images .*decompression bomb"):
        open_source("pics")


def test_more_than_the_memory_is_said_before_it_is_taken(tmp_path, monkeypatch):
    import flowstone.data.decode as decode

    make_folder(tmp_path / "pics", pixels(20, 8, 8))
    monkeypatch.setattr(decode, "_memory", lambda: 1000.0)
    with pytest.raises(DataError, match=r"20 images of 1x8x8 take 0 GB.*to make them smaller.*: size=32"):
        open_source("pics")


def test_folders_without_enough_images(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("a")
    make_folder(tmp_path / "one", pixels(1, 8, 8))
    make_folder(tmp_path / "few", pixels(19, 8, 8))
    for source, message in [
        ("empty", "empty: the folder is empty; images are .png"),
        ("texts", "texts: none of its 1 files is an image"),
        ("one", "one: 1 image; at least 20 are needed"),
        ("few", "few: 19 images; at least 20 are needed"),
        ("one/0000.png", "one/0000.png: one image; a source is a folder of them"),
        ("two/0000.png", "two/0000.png: no such"),
    ]:
        with pytest.raises(DataError) as caught:
            open_source(source)
        assert message in str(caught.value)


def test_labels_are_the_names_of_one_level_of_folders(tmp_path):
    make_folder(tmp_path / "pics", pixels(30, 4, 4), classes=2)
    dataset = open_source("pics", context=["label"])
    assert dataset.context_columns == ("label=class0", "label=class1")
    with pytest.raises(SettingError, match="context 'age': images have one that can be given, 'label'"):
        open_source("pics", context=["age"])
    Image.fromarray(pixels(1, 4, 4)[0]).save(tmp_path / "pics" / "loose.png")
    with pytest.raises(DataError, match="no labels"):
        open_source("pics", context=["label"])
    make_folder(tmp_path / "deep" / "train", pixels(30, 4, 4), classes=2)
    with pytest.raises(DataError, match=r"no labels.* not each directly in a subfolder"):
        open_source("deep", context=["label"])


def test_what_is_shown_is_of_all_classes(tmp_path):
    """The images of a folder are in the order of their classes, and pictures show the first ones of what they get."""
    images = np.arange(90, dtype=np.uint8)[:, None, None].repeat(4, 1).repeat(4, 2)
    make_folder(tmp_path / "pics", images, classes=3)
    dataset = open_source("pics", context=["label"])
    shown = dataset.rows_to_show
    assert shown.context is not None
    assert shown.context[:16].any(0).all()
    assert (shown.x[:, 0, 0, 0] % 3 == shown.context.argmax(1)).all()
    assert same_images(shown.x.numpy(), train_of(dataset).x.numpy())


def test_arrays_of_images(tmp_path):
    images, labels = pixels(40, 6, 6, 3), np.arange(40) % 4
    np.save("x.npy", images)
    np.savez("x.npz", x=images, y=labels)
    np.save("grey.npy", images[..., 0])
    np.savez("grey.npz", images[..., :1])
    for name in ("x.npy", "x.npz"):
        assert same_images(together(open_source(name)), images.transpose(0, 3, 1, 2))
    for name in ("grey.npy", "grey.npz"):
        assert same_images(together(open_source(name)), images[..., :1].transpose(0, 3, 1, 2))
    assert open_source("grey.npz", size=3).event_shape == (1, 3, 3)
    np.save("columns_first.npy", np.asfortranarray(images[..., 0]))
    assert together(open_source("columns_first.npy")).tobytes() == together(open_source("grey.npy")).tobytes()
    dataset = open_source("x.npz", context=["label"])
    assert dataset.context_columns == ("label=0", "label=1", "label=2", "label=3")
    assert together(reopen(dataset.description)).tobytes() == together(dataset).tobytes()


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.zeros((30, 4, 4))}, "expected images, uint8"),
        ({"x": np.zeros((30, 4, 4, 2), np.uint8)}, "got uint8 (30, 4, 4, 2)"),
        ({"x": np.zeros((0, 4, 4), np.uint8)}, "got uint8 (0, 4, 4)"),
        ({"a": np.zeros((30, 4, 4), np.uint8), "b": np.zeros(3)}, "no array 'x': it has a, b"),
        ({"x": np.zeros((30, 4, 4), np.uint8), "y": np.zeros(29, int)}, "30 images but 29 labels"),
        ({"x": np.zeros((30, 4, 4), np.uint8), "y": np.zeros(30)}, "expected labels y as whole numbers"),
        ({"x": np.array([{"a": 1}], dtype=object)}, "cannot be read"),
    ],
)
def test_bad_arrays_are_named(tmp_path, arrays, message):
    np.savez("t.npz", **arrays)
    with pytest.raises(DataError) as caught:
        open_source("t.npz")
    assert str(caught.value).startswith("t.npz: ")
    assert message in str(caught.value)


def test_what_is_for_others_is_refused(tmp_path):
    make_folder(tmp_path / "pics", pixels(20, 4, 4))
    np.save("t.npy", RNG.normal(size=(40, 2)))
    for source, options, message in [
        ("moons", {"gray": True}, "gray=True is for images; 'moons' is a toy"),
        ("t.npy", {"size": 4}, "size=4x4 is for images; 't.npy' is a table"),
        ("pics", {"drop_missing": True}, "drop_missing=True is for tables; 'pics' is images"),
        ("pics", {"dequantize": False}, "dequantize=False is for tables"),
        ("pics", {"points": 50}, "points=50 is for toys"),
    ]:
        with pytest.raises(SettingError) as caught:
            open_source(source, **options)
        assert message in str(caught.value)


def test_changed_images_are_noticed(tmp_path):
    make_folder(tmp_path / "pics", pixels(30, 4, 4), classes=2)
    dataset = open_source("pics", context=["label"])
    moved = tmp_path / "pics" / "class0" / "0000.png"
    content = moved.read_bytes()
    for change in (
        lambda: Image.fromarray(pixels(1, 4, 4)[0]).save(moved),
        lambda: moved.rename(tmp_path / "pics" / "class1" / "0000.png"),
    ):
        change()
        with pytest.raises(DataError, match="pics has changed since the flow was trained on it"):
            reopen(dataset.description)
        moved.write_bytes(content)
