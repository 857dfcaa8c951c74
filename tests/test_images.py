"""Images from every form of file to pixels, and what is wrong with them in one line."""

import csv
import gzip
import io
import json
import math
import pickle
import struct
import sys
import tarfile
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from PIL import Image

import flowstone
from commands import flowstone as command
from commands import refused
from flowstone.bijections import Chain, Dequantize, Interval
from flowstone.data import Rows, open_source, reopen
from flowstone.data.hub import SHARD
from flowstone.errors import DataError, FlowstoneError, SettingError
from flowstone.priors import Logistic
from flowstone.train.history import History

RNG = np.random.default_rng(0)
TRAIN, TEST = 60, 12
NAMES = ["interpolation", "likely", "loss", "nearest", "reconstructions", "samples", "scales", "temperatures"]
PICTURES = [*(f"{name}.png" for name in NAMES), "training"]
GLOW = ["--flow", "glow", "--set", "scales=2", "channels=8", "couplings=1", "--batch-size", "16", "--steps", "5"]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FLOWSTONE_DATA", raising=False)


def pixels(n: int, *shape: int) -> np.ndarray:
    return RNG.integers(0, 256, (n, *shape), dtype=np.uint8)


def train_of(dataset) -> Rows:
    assert isinstance(dataset.train, Rows)
    return dataset.train


def together(dataset) -> np.ndarray:
    """Train and validation, which are in the order of the files each, then test."""
    return torch.cat([train_of(dataset).x, dataset.validation.x, dataset.test.x]).numpy()


def same_images(x: np.ndarray, y: np.ndarray) -> bool:
    """The same images, in whatever order."""
    return sorted(image.tobytes() for image in x) == sorted(image.tobytes() for image in y)


def encoded(image: np.ndarray, kind: str = "png", **options) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, kind, **options)
    return stream.getvalue()


# --- sets by name -----------------------------------------------------------------------------------------------------


def write_idx(path, values: np.ndarray, *, zipped: bool):
    content = struct.pack(f">I{values.ndim}I", 0x800 | values.ndim, *values.shape) + values.tobytes()
    if zipped:
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(content))
    else:
        path.write_bytes(content)


def make_mnist(folder, side: int = 8, *, name: str = "mnist", zipped: bool = True):
    """A set in MNIST's form; returns its images and labels by part."""
    (folder / name).mkdir(parents=True)
    made = {}
    for start, count in (("train", TRAIN), ("t10k", TEST)):
        made[start] = pixels(count, side, side), RNG.integers(0, 10, count, dtype=np.uint8)
        write_idx(folder / name / f"{start}-images-idx3-ubyte", made[start][0], zipped=zipped)
        write_idx(folder / name / f"{start}-labels-idx1-ubyte", made[start][1], zipped=zipped)
    return made


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_idx_files_zipped_or_not(tmp_path, name, zipped):
    made = make_mnist(tmp_path, name=name, zipped=zipped)
    dataset = open_source(name, data_dir=tmp_path, context=["label"])
    assert dataset.event_shape == (1, 8, 8)
    assert dataset.images
    assert train_of(dataset).x.dtype == torch.uint8
    assert dataset.description["rows"] == {"train": 54, "validation": 6, "test": TEST}
    np.testing.assert_array_equal(dataset.test.x[:, 0].numpy(), made["t10k"][0])
    assert dataset.test.context is not None
    np.testing.assert_array_equal(dataset.test.context.argmax(1).numpy(), made["t10k"][1])
    assert dataset.test.context.shape == (TEST, 10)
    assert (dataset.test.context.sum(1) == 1).all()
    assert same_images(together(dataset)[:TRAIN], made["train"][0])
    assert dataset.context_columns[3] == ("label=3" if name == "mnist" else "label=dress")
    assert dataset.columns == ()


def make_cifar(folder, form: str) -> tuple[np.ndarray, list[int]]:
    """CIFAR-10 in one of its forms; returns all images (n, 3, 32, 32) and labels, test last."""
    root = folder / "cifar10"
    root.mkdir()
    batches = [(pixels(10, 3072), RNG.integers(0, 10, 10).tolist()) for _ in range(6)]
    names = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    if form.startswith("hub"):
        write_hub(root, [(image.reshape(3, 32, 32).transpose(1, 2, 0), label) for x, y in batches[:5]
                         for image, label in zip(x, y, strict=True)], "train", 3)  # fmt: skip
        write_hub(root, [(image.reshape(3, 32, 32).transpose(1, 2, 0), label)
                         for image, label in zip(*batches[5], strict=True)], "test", 1)  # fmt: skip
    else:
        binary = form.startswith("bin")
        inside = root / ("cifar-10-batches-bin" if binary else "cifar-10-batches-py")
        inside.mkdir()
        for name, (x, y) in zip(names, batches, strict=True):
            if binary:
                records = np.concatenate([np.array(y, np.uint8)[:, None], x], 1)
                (inside / f"{name}.bin").write_bytes(records.tobytes())
            else:
                batch = {b"batch_label": b"some", b"labels": y, b"data": x, b"filenames": [b"a.png"] * 10}
                (inside / name).write_bytes(pickle.dumps(batch, protocol=2))
        if form.endswith("tar"):
            archive = root / ("cifar-10-binary.tar.gz" if binary else "cifar-10-python.tar.gz")
            with tarfile.open(archive, "w:gz") as file:
                file.add(inside, inside.name)
            for path in inside.iterdir():
                path.unlink()
            inside.rmdir()
    return np.concatenate([x for x, _ in batches]).reshape(-1, 3, 32, 32), [label for _, y in batches for label in y]


def write_hub(folder, rows, part: str, shards: int, image: str = "img"):
    folder.mkdir(exist_ok=True)
    form = {"kind": "webp", "lossless": True} if rows[0][0].ndim == 3 else {}
    for number, chosen in enumerate(np.array_split(np.arange(len(rows)), shards)):
        content = [{"bytes": encoded(rows[i][0], **form), "path": None} for i in chosen]
        table = pa.table({image: content, "label": [rows[i][1] for i in chosen]})
        pyarrow.parquet.write_table(table, folder / f"{part}-{number:05d}-of-{shards:05d}.parquet")


@pytest.mark.parametrize("form", ["pickled", "pickled tar", "binary", "binary tar", "hub"])
def test_every_form_of_cifar10_reads_the_same(tmp_path, form):
    images, labels = make_cifar(tmp_path, form)
    dataset = open_source("cifar10", data_dir=tmp_path, context=["label"])
    assert dataset.event_shape == (3, 32, 32)
    assert dataset.description["rows"] == {"train": 45, "validation": 5, "test": 10}
    np.testing.assert_array_equal(dataset.test.x.numpy(), images[50:])
    assert same_images(together(dataset), images)
    assert dataset.test.context is not None
    assert dataset.test.context.argmax(1).tolist() == labels[50:]
    assert dataset.context_columns[3] == "label=cat"
    assert torch.equal(reopen(dataset.description).test.x, dataset.test.x)


class Bomb:
    def __reduce__(self):
        return (print, ("boom",))


@pytest.mark.parametrize("value", [Bomb(), np.array([1.5]), np.array([Bomb()], dtype=object), SimpleNamespace()])
def test_a_pickle_is_never_run(tmp_path, capsys, value):
    make_cifar(tmp_path, "pickled")
    batch = {b"labels": [1], b"data": value}
    (tmp_path / "cifar10" / "cifar-10-batches-py" / "data_batch_2").write_bytes(pickle.dumps(batch, protocol=2))
    with pytest.raises(DataError, match=r"data_batch_2: (the pickle asks for|its array is|not a batch)") as caught:
        open_source("cifar10", data_dir=tmp_path)
    assert "boom" not in capsys.readouterr().out
    if isinstance(value, Bomb):
        assert "builtins.print" in str(caught.value) or "__builtin__.print" in str(caught.value)


def make_celeba(folder, form: str = "folder", count: int = 40) -> np.ndarray:
    images = np.stack(
        [np.kron(pixels(1, 11, 9, 3)[0], np.ones((20, 20, 1), np.uint8))[:218, :178] for _ in range(count)]
    )
    root = folder / "celeba"
    if form == "folder":
        (root / "img_align_celeba").mkdir(parents=True)
        for i, image in enumerate(images, 1):
            Image.fromarray(image).save(root / "img_align_celeba" / f"{i:06d}.jpg", quality=95)
        lines = [f"{i:06d}.jpg {0 if i <= 30 else 1 if i <= 35 else 2}" for i in range(1, count + 1)]
        (root / "list_eval_partition.txt").write_text("\n".join(lines) + "\n")
    else:
        root.mkdir()
        write_hub(root / "data", [(image, 0) for image in images], "train", 2, "image")
    return images


def test_celeba_is_parted_cropped_and_resized(tmp_path):
    images = make_celeba(tmp_path)
    dataset = open_source("celeba", data_dir=tmp_path)
    assert dataset.event_shape == (3, 64, 64)
    assert dataset.description["rows"] == {"train": 30, "validation": 5, "test": 5}
    for row, x in enumerate(train_of(dataset).x):
        cut = Image.fromarray(images[row][40:188, 15:163]).resize((64, 64), Image.Resampling.BOX)
        error = np.abs(x.permute(1, 2, 0).numpy().astype(int) - np.asarray(cut))
        assert error.mean() < 6  # what JPEG loses
    assert open_source("celeba", data_dir=tmp_path, size=148).event_shape == (3, 148, 148)
    with pytest.raises(DataError, match="no labels"):
        open_source("celeba", data_dir=tmp_path, context=["label"])
    (tmp_path / "celeba" / "list_eval_partition.txt").write_text("000001.jpg 0\n000002.jpg 3\n")
    with pytest.raises(DataError, match=r"list_eval_partition\.txt: line 2 is '000002.jpg 3'"):
        open_source("celeba", data_dir=tmp_path)


def test_celeba_of_the_hub_has_no_parts_of_its_own(tmp_path):
    images = make_celeba(tmp_path, "hub")
    dataset = open_source("celeba", data_dir=tmp_path)
    assert dataset.description["rows"] == {"train": 32, "validation": 4, "test": 4}
    cut = [np.asarray(Image.fromarray(i[40:188, 15:163]).resize((64, 64), Image.Resampling.BOX)) for i in images]
    assert same_images(together(dataset).transpose(0, 2, 3, 1), np.stack(cut))


def test_a_celeba_that_is_cropped_already_is_refused(tmp_path):
    write_hub(tmp_path / "celeba", [(image, 0) for image in pixels(30, 64, 64, 3)], "train", 1, "image")
    with pytest.raises(DataError, match=r"30 of 30 images cannot be read, first train image 1 \(it is 64x64; the crop"):
        open_source("celeba", data_dir=tmp_path)


def make_faces(folder, people: int = 40) -> tuple[np.ndarray, list[str]]:
    images = pixels(3 * people, 32, 32, 3)
    names = [f"person {i % people}" for i in range(3 * people)]
    (folder / "faces32").mkdir()
    content = [{"bytes": encoded(image), "path": None} for image in images]
    table = pa.table({"img": content, "name": names})
    pyarrow.parquet.write_table(table, folder / "faces32" / "train-00000-of-00001.parquet")
    return images, names


def test_nobody_is_in_two_parts_of_faces32(tmp_path):
    images, names = make_faces(tmp_path)
    who = {image.tobytes(): name for image, name in zip(images, names, strict=True)}
    for seed in range(5):
        dataset = open_source("faces32", data_dir=tmp_path, seed=seed)
        parts = (train_of(dataset).x, dataset.validation.x, dataset.test.x)
        assert [len(part) for part in parts] == [96, 12, 12]
        people = [{who[x.permute(1, 2, 0).numpy().tobytes()] for x in part} for part in parts]
        assert sum(map(len, people)) == len(set().union(*people)) == 40


def test_where_the_data_are_is_said_or_asked_for(tmp_path, monkeypatch):
    with pytest.raises(DataError, match=r"mnist: where is it\? FLOWSTONE_DATA .*: data_dir='FOLDER', download=True"):
        open_source("mnist")
    with pytest.raises(DataError, match=rf"mnist: not in {tmp_path}/mnist: looked for train-images-idx3-ubyte\[.gz\]"):
        open_source("mnist", data_dir=tmp_path)
    make_mnist(tmp_path / "here")
    monkeypatch.setenv("FLOWSTONE_DATA", str(tmp_path / "here"))
    dataset = open_source("mnist")
    assert dataset.description["data_dir"] == str(tmp_path / "here")
    (tmp_path / "here").rename(tmp_path / "there")
    with pytest.raises(DataError, match="not in"):
        reopen(dataset.description)
    assert torch.equal(reopen(dataset.description, data_dir=tmp_path / "there").test.x, dataset.test.x)
    monkeypatch.setenv("FLOWSTONE_DATA", str(tmp_path / "there"))
    assert torch.equal(reopen(dataset.description).test.x, dataset.test.x)
    with pytest.raises(FlowstoneError, match="did you mean 'mnist'"):
        open_source("mnits")
    with pytest.raises(DataError, match="no such file or folder"):
        open_source("no/such")


def test_a_set_is_fetched_where_it_is_missing(tmp_path, monkeypatch):
    asked = []

    def snapshot_download(*, repo_id, repo_type, allow_patterns, local_dir):
        asked.append((repo_id, repo_type, allow_patterns))
        rows = [(image, i % 10) for i, image in enumerate(pixels(40, 8, 8))]
        (tmp_path / "data" / "mnist").mkdir(parents=True)
        assert local_dir == str(tmp_path / "data" / "mnist")
        write_hub(tmp_path / "data" / "mnist" / "mnist", rows, "train", 1, "image")
        write_hub(tmp_path / "data" / "mnist" / "mnist", rows, "test", 1, "image")

    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(snapshot_download=snapshot_download))
    for _ in range(2):  # and no second time
        dataset = open_source("mnist", data_dir=tmp_path / "data", download=True, context=["label"])
        assert dataset.event_shape == (1, 8, 8)
    assert asked == [("ylecun/mnist", "dataset", ["*.parquet"])]
    with pytest.raises(SettingError, match="this set cannot be fetched"):
        open_source("faces32", data_dir=tmp_path / "data", download=True)
    with pytest.raises(SettingError, match="is no set that has a name"):
        open_source(str(tmp_path), download=True)

    def fails(**_):
        raise OSError("a long\nstory with addresses in it")

    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(snapshot_download=fails))
    with pytest.raises(DataError, match=r"could not be fetched into .* \(OSError\): is there a network\?$"):
        open_source("cifar10", data_dir=tmp_path / "data", download=True)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(SettingError, match="needs huggingface_hub, which is not installed"):
        open_source("cifar10", data_dir=tmp_path / "data", download=True)


def test_bad_shards_are_named(tmp_path):
    folder = tmp_path / "mnist"
    rows = [(image, 1) for image in pixels(30, 8, 8)]
    write_hub(folder, rows, "train", 2)
    write_hub(folder, rows, "test", 1)
    first, second = (folder / f"train-0000{i}-of-00002.parquet" for i in (0, 1))
    content = second.read_bytes()
    for change, message in [
        (second.unlink, "shard 1 of 2 is missing"),
        (lambda: second.write_bytes(b"not parquet"), "train-00001-of-00002.parquet: cannot be read as .parquet"),
        (lambda: pyarrow.parquet.write_table(pa.table({"a": [1]}), second), "no column img or image of images"),
        (lambda: pyarrow.parquet.write_table(pyarrow.parquet.read_table(first).drop_columns(["label"]), second),
         "no column 'label'"),
        (lambda: write_hub(folder, [(rows[0][0], "cat")] * 30, "train", 2), "column 'label' is string, wanted numbers"),
        (lambda: write_hub(folder, [(rows[0][0], 12)] * 30, "train", 2), "image 1 has label 12; there are 10 classes"),
    ]:  # fmt: skip
        second.write_bytes(content)
        change()
        with pytest.raises(DataError) as caught:
            open_source("mnist", data_dir=tmp_path)
        assert message in str(caught.value)
    for path in folder.glob("train*"):
        path.unlink()
    with pytest.raises(DataError, match=r"no train-\*\.parquet"):
        open_source("mnist", data_dir=tmp_path)
    assert SHARD.fullmatch("validation-00000-of-00001.parquet")


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("train-images-idx3-ubyte", lambda b: b[:500], "cut off: 500 bytes of the 3856 its header tells of"),
        ("train-images-idx3-ubyte", lambda b: b[:7], "cut off: 7 bytes of the 16"),
        ("train-images-idx3-ubyte", lambda b: b + b"x", "longer than the 3856 bytes"),
        ("train-images-idx3-ubyte", lambda b: b"\0\0\x0d" + b[3:], "the magic number is 0x00000d03, wanted 0x00000803"),
        ("train-images-idx3-ubyte", lambda b: b"", "the magic number is 0x00000000"),
        ("train-labels-idx1-ubyte", lambda b: struct.pack(">2I", 0x801, 59) + b[8:67], "59 labels, but"),
        ("train-labels-idx1-ubyte", lambda b: b[:8] + b"\x0a" * 60, "image 1 has label 10; there are 10 classes"),
        ("t10k-labels-idx1-ubyte", None, "t10k-labels-idx1-ubyte is missing"),
    ],
)
def test_bad_idx_files_are_named(tmp_path, name, change, message):
    make_mnist(tmp_path, zipped=False)
    path = tmp_path / "mnist" / name
    if change is None:
        path.unlink()
    else:
        path.write_bytes(change(path.read_bytes()))
    with pytest.raises(DataError) as caught:
        open_source("mnist", data_dir=tmp_path)
    assert message in str(caught.value)
    assert str(tmp_path / "mnist") in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content", [b"no zip", gzip.compress(b"1" * 4000, mtime=0)[:60], b""], ids=["no zip", "half a zip", "empty"]
)
def test_a_damaged_zip_is_named(tmp_path, content):
    make_mnist(tmp_path)
    (tmp_path / "mnist" / "train-images-idx3-ubyte.gz").write_bytes(content)
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz: (cannot be read|the magic number)"):
        open_source("mnist", data_dir=tmp_path)


def test_bad_batches_of_cifar10_are_named(tmp_path):
    make_cifar(tmp_path, "binary")
    batch = tmp_path / "cifar10" / "cifar-10-batches-bin" / "data_batch_3.bin"
    batch.write_bytes(batch.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"data_batch_3.bin: 30729 bytes are no whole number of records of 3073"):
        open_source("cifar10", data_dir=tmp_path)
    batch.unlink()
    with pytest.raises(DataError, match=r"data_batch_3.bin is missing"):
        open_source("cifar10", data_dir=tmp_path)
    batch.parent.rename(tmp_path / "elsewhere")
    (tmp_path / "cifar10" / "cifar-10-python.tar.gz").write_bytes(b"no archive")
    with pytest.raises(DataError, match=r"cifar-10-python\.tar\.gz: cannot be read"):
        open_source("cifar10", data_dir=tmp_path)


# --- folders and arrays -----------------------------------------------------------------------------------------------


def make_folder(folder, images, ending: str = "png", *, classes: int = 0, **options):
    for index, image in enumerate(images):
        inside = folder / f"class{index % classes}" if classes else folder
        inside.mkdir(parents=True, exist_ok=True)
        picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
        picture.save(inside / f"{index:04d}.{ending}", **options)
    return folder


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
    for size in ("0", "4x", "-3", "4x4x4", "big"):
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


# --- to the end: a flow of them ---------------------------------------------------------------------------------------


def test_a_uniform_model_needs_eight_bits():
    flow = flowstone.Flow(Chain(Dequantize(levels=256), Interval(0.0, 256.0)), Logistic(3))
    figures = flowstone.evaluate(flow, torch.from_numpy(pixels(50, 3)))
    assert figures["bits_per_dim"] == pytest.approx(8.0, abs=1e-4)
    assert figures["nll_nats"] == pytest.approx(3 * 8 * math.log(2), abs=1e-4)
    assert figures["round_trip_max"] < 1e-3


def test_a_training_on_images_leaves_sheets_and_event_files(tmp_path, monkeypatch):
    make_mnist(tmp_path / "data")
    arguments = ["train", "mnist", *GLOW, "--data-dir", tmp_path / "data", "--context", "label", "--tensorboard"]
    command(*arguments, "--out", "R")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    history = History.load(tmp_path / "R" / "history.csv")
    events = EventAccumulator(str(tmp_path / "R" / "tensorboard")).Reload()
    assert [(e.step, round(e.value, 3)) for e in events.Scalars("val_nll")] == [
        (record.step, round(record.val_nll, 3)) for record in history
    ]
    assert len(events.Images("samples")) == len(history)
    sheets = sorted(path.name for path in (tmp_path / "R" / "plots" / "training").iterdir())
    assert sheets == [f"step-{record.step:06d}.png" for record in history]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(SettingError, match=r"pip install 'flowstone\[tensorboard\]'"):
        command(*arguments, "--out", "R2")
    assert not (tmp_path / "R2").exists()


def test_an_image_set_from_training_to_scores(tmp_path, capsys):
    made = make_mnist(tmp_path / "data")
    data = ["--data-dir", tmp_path / "data"]
    command("train", "mnist", *GLOW, *data, "--out", "R")
    assert "mnist: 54 images of 1x8x8" in capsys.readouterr().err
    assert sorted(path.name for path in (tmp_path / "R" / "plots").iterdir()) == sorted(PICTURES)
    record = json.loads((tmp_path / "R" / "flow.json").read_text())
    assert record["arguments"]["event_shape"] == [1, 8, 8]
    assert {key: record["data"][key] for key in ("source", "kind", "channels", "height", "width", "bits")} == {
        "source": "mnist", "kind": "images", "channels": 1, "height": 8, "width": 8, "bits": 8,
    }  # fmt: skip
    command("evaluate", "R", "--json")
    figures = json.loads(capsys.readouterr().out)
    assert figures == json.loads((tmp_path / "R" / "metrics.json").read_text())
    assert figures["bits_per_dim"] == pytest.approx(figures["nll_nats"] / (64 * math.log(2)))
    assert 6 < figures["bits_per_dim"] < 12
    assert figures["n_test"] == TEST
    command("score", "R", "mnist", "--out", "scores.csv")
    with open("scores.csv") as file:
        scores = list(csv.DictReader(file))
    assert list(scores[0]) == ["image", "log_prob", "bits_per_dim"]
    assert len(scores) == TEST
    assert np.mean([float(row["log_prob"]) for row in scores]) == pytest.approx(-figures["nll_nats"], rel=1e-4)
    make_folder(tmp_path / "pics", made["t10k"][0])
    command("evaluate", "R", "pics", "--json")
    assert json.loads(capsys.readouterr().out)["nll_nats"] == pytest.approx(figures["nll_nats"], rel=1e-4)
    command("sample", "R", "-n", 10, "--out", "s.npz")
    with np.load("s.npz") as sampled:
        assert sampled["x"].dtype == np.uint8
        assert sampled["x"].shape == (10, 8, 8, 1)
    command("evaluate", "R", "s.npz", "--json")
    command("sample", "R", "-n", 10, "--out", "s.png", "--temperature", "0.5")
    with Image.open("s.png") as sheet:
        assert sheet.size == (71, 17)
    command("plot", "R")
    capsys.readouterr()
    command("check", "R", "--json")
    assert json.loads(capsys.readouterr().out)["ok"]


def test_images_given_their_label(tmp_path, capsys, monkeypatch):
    make_folder(tmp_path / "pics", pixels(30, 4, 4, 3), classes=2)
    command("train", "pics", *GLOW, "--context", "label", "--out", "R", "--quiet")
    command("sample", "R", "-n", 3, "--given", "label=class1", "--out", "s.npz")
    with np.load("s.npz") as sampled:
        assert sampled["x"].shape == (3, 4, 4, 3)
        assert str(sampled["given_label"]) == "class1"
    command("score", "R", "pics", "--out", "scores.parquet")
    table = pyarrow.parquet.read_table("scores.parquet")
    assert table["image"].to_pylist()[0] == "class0/0000.png"
    capsys.readouterr()
    make_folder(tmp_path / "others", pixels(30, 4, 4, 3), classes=3)
    make_folder(tmp_path / "large", pixels(30, 8, 8, 3), classes=2)
    for words, message in [
        (["sample", "R", "-n", 3, "--out", "s.npz"], "--given label=NAME, of class0, class1"),
        (["sample", "R", "-n", 3, "--out", "s.npz", "--given", "label=cat"], "label 'cat' is not among those"),
        (["sample", "R", "-n", 3, "--out", "s.npz", "--given", "age=3"], "--given age: images are given a label"),
        (["sample", "R", "-n", 3, "--out", "s.csv", "--given", "label=class0"], "must end in .npz, .png"),
        (["evaluate", "R", "others"], "label 'class2' is not among those the flow has learned: class0, class1"),
        (["score", "R", "large", "--out", "o.csv"], "large: images of 3x8x8; the flow has learned 3x4x4"),
        (
            ["train", "pics", "--flow", "nice"],
            "recipe 'nice' is not for images (3x4x4); these are: glow, nice_image, realnvp_image",
        ),
        (["train", "pics", "--flow", "nic"], "did you mean 'nice'"),
        (["train", "pics", "--set", "event_shape=3"], "--set event_shape: the data says that"),
        (["train", "pics", "--download"], "is no set that has a name"),
        (["train", "mnist"], "mnist: where is it?"),
        (["train", "moons", "--size", "3"], "size=3x3 is for images"),
    ]:
        assert message in refused(capsys, monkeypatch, *words)


def test_without_a_flow_images_get_one_that_fits_them(tmp_path, capsys):
    make_folder(tmp_path / "pics", pixels(30, 12, 12))
    (tmp_path / "pics" / "0007.png").write_bytes(b"")
    settings = ["--set", "couplings=1", "channels=8", "--steps", "2", "--batch-size", "8", "--no-plots"]
    command("train", "pics", *settings, "--skip-bad")
    said = capsys.readouterr().err
    assert "images of 1x12x12, 1 that cannot be read left out" in said
    assert "flow: realnvp_image (the default)" in said
    assert (tmp_path / "runs" / "pics-realnvp_image" / "metrics.json").exists()
    command("list", "--json")
    assert "mnist" in json.loads(capsys.readouterr().out)["images"]
