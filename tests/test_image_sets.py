"""Image sets by name: every form of MNIST, CIFAR-10, CelebA, and what is wrong with one in one line."""

import gzip
import pickle
import struct
import sys
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from PIL import Image

from flowstone.data import open_source, reopen
from flowstone.data.hub import SHARD
from flowstone.errors import DataError, FlowstoneError, SettingError
from image_data import (
    TEST,
    TRAIN,
    make_celeba,
    make_cifar,
    make_faces,
    make_mnist,
    pixels,
    same_images,
    together,
    train_of,
    write_hub,
)

pytestmark = pytest.mark.usefixtures("empty_folder")


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
    requests = []

    def snapshot_download(*, repo_id, repo_type, allow_patterns, local_dir):
        requests.append((repo_id, repo_type, allow_patterns))
        rows = [(image, i % 10) for i, image in enumerate(pixels(40, 8, 8))]
        (tmp_path / "data" / "mnist").mkdir(parents=True)
        assert local_dir == str(tmp_path / "data" / "mnist")
        write_hub(tmp_path / "data" / "mnist" / "mnist", rows, "train", 1, "image")
        write_hub(tmp_path / "data" / "mnist" / "mnist", rows, "test", 1, "image")

    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(snapshot_download=snapshot_download))
    for _ in range(2):  # and no second time
        dataset = open_source("mnist", data_dir=tmp_path / "data", download=True, context=["label"])
        assert dataset.event_shape == (1, 8, 8)
    assert requests == [("ylecun/mnist", "dataset", ["*.parquet"])]
    with pytest.raises(SettingError, match="this set cannot be fetched"):
        open_source("faces32", data_dir=tmp_path / "data", download=True)
    with pytest.raises(SettingError, match="download=True is for images"):
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
