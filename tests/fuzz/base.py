"""The valid sets of images and the run folders that cases start from."""

from pathlib import Path
from random import Random

import numpy as np
import pyarrow as pa
import pyarrow.csv

from flowstone.cli import app
from fuzz.cases import SETS
from fuzz.tables import plain_table
from image_data import make_celeba, make_cifar, make_faces, make_folder, make_mnist, pixels

__all__ = ["make_base"]

QUICK = ["--steps", "3", "--no-plots", "--quiet"]
FLOW = ["--flow", "realnvp", "--set", "couplings=1", "hidden=4"]


def make_base(folder: Path) -> None:
    """Make them all: a few seconds."""
    _make_sets(folder)
    random = Random(0)
    table = plain_table(random, 200)
    words = [random.choice(("red", "green", "blue", None)) for _ in range(200)]
    pyarrow.csv.write_csv(table, folder / "t.csv")
    pyarrow.csv.write_csv(table.append_column("g", pa.array(words)), folder / "mixed.csv")
    train = {
        "numbers": [folder / "t.csv", *FLOW],
        "conditional": [folder / "t.csv", *FLOW, "--context", "c"],
        "mixed": [folder / "mixed.csv", "--flow", "mixed"],
        "images": [next((folder / "npz").iterdir()), "--flow", "nice_image"],
        "toy": ["moons", *FLOW],
    }
    for name, source in train.items():
        words = ["train", *map(str, source), "--out", str(folder / name), *QUICK]
        app(words, result_action="return_value")
    (folder / "images" / "of_images").touch()


def _make_sets(folder: Path) -> None:
    for name in SETS:
        (folder / name).mkdir(parents=True)
    make_mnist(folder / "mnist", zipped=False)
    for form in ("pickled", "binary", "hub"):
        make_cifar(folder / f"cifar-{form}", form)
    make_cifar(folder / "cifar-tar", "pickled tar")
    make_celeba(folder / "celeba")
    make_faces(folder / "faces32", people=10)
    for number, ending in enumerate(("png", "jpg", "bmp", "gif", "webp", "tif")):
        made = make_folder(folder / "folder" / f"in{number}" / "deep", pixels(5, 8, 8, 3), ending)
        assert made.is_dir()
    make_folder(folder / "classes", pixels(40, 8, 8, 3), classes=4)
    np.savez_compressed(folder / "npz" / "x.npz", x=pixels(40, 4, 4, 3), y=np.arange(40) % 4)
