"""Small image sets in the forms in which real ones come."""

import gzip
import io
import pickle
import struct
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import torch
from PIL import Image

from flowstone.data import Rows

__all__ = [
    "RNG",
    "TEST",
    "TRAIN",
    "encoded",
    "make_celeba",
    "make_cifar",
    "make_faces",
    "make_folder",
    "make_mnist",
    "pixels",
    "same_images",
    "together",
    "train_of",
    "write_hub",
    "write_idx",
]


RNG = np.random.default_rng(0)


TRAIN, TEST = 60, 12


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


def make_faces(folder, people: int = 40) -> tuple[np.ndarray, list[str]]:
    images = pixels(3 * people, 32, 32, 3)
    names = [f"person {i % people}" for i in range(3 * people)]
    (folder / "faces32").mkdir()
    content = [{"bytes": encoded(image), "path": None} for image in images]
    table = pa.table({"img": content, "name": names})
    pyarrow.parquet.write_table(table, folder / "faces32" / "train-00000-of-00001.parquet")
    return images, names


def make_folder(folder, images, ending: str = "png", *, classes: int = 0, **options):
    for index, image in enumerate(images):
        inside = folder / f"class{index % classes}" if classes else folder
        inside.mkdir(parents=True, exist_ok=True)
        picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
        picture.save(inside / f"{index:04d}.{ending}", **options)
    return folder
