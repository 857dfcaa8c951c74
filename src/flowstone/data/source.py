"""From a name or a path to data that a flow can learn: read, checked, dequantized, split."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from flowstone.data.dataset import MIN_ROWS, Dataset
from flowstone.data.image_sets import IMAGE_SETS
from flowstone.data.images import Size, are_images, folder_of, open_images
from flowstone.data.rows import Rows
from flowstone.data.tables import read_table
from flowstone.data.toy import TOYS, Toy
from flowstone.errors import DataError, SettingError, UnknownNameError

__all__ = ["add_noise", "noise_widths", "open_source", "reopen"]

TEST_DRAWS, VALIDATION_DRAWS = 100_000, 10_000


def open_source(
    source: str,
    *,
    seed: int = 0,
    context: Sequence[str] = (),
    columns: Sequence[str] = (),
    points: int | None = None,
    drop_missing: bool = False,
    dequantize: bool = True,
    size: Size = None,
    gray: bool = False,
    skip_bad: bool = False,
    data_dir: Path | str | None = None,
    download: bool = False,
    progress: bool = False,
) -> Dataset:
    """Open a toy by its name, a table by its path, or images: a set by its name, a folder, an array in .npy or .npz.

    Split 80/10/10 by ``seed``; an image set keeps its official parts, and where it has none for validation, a tenth of
    its training part (at most 5,000 images) is that. Images are uint8, ``(n, C, H, W)``.

    Args:
        context: columns that the density of the others is conditioned on; of images ``("label",)``, which becomes
            one-hot: of a set its own labels, of a folder the names of its subfolders, of an .npz its array ``y``.
        columns: the columns to use, in this order; all of them where none are named.
        points: toys only: a fixed training set of so many points, in place of fresh ones for each step.
        drop_missing: leave out rows with a missing, NaN or infinite value instead of refusing them.
        dequantize: add uniform noise to columns with repeated values (``noise_widths``); without it a density can grow
            without bound at such a value. Images are left as they are: their flows do it.
        size: images only: the side, or height and width (``"48x64"``), to which the shorter side is resized and the
            longer one cropped (``flowstone.data.look`` says how, and what is done to palettes, 16 bits and the like).
        gray: images only: one channel.
        skip_bad: images only: leave out those that cannot be read instead of refusing them.
        data_dir: where image sets that have a name are; else the environment's FLOWSTONE_DATA says.
        download: fetch the set into there where it is missing; needs ``huggingface_hub``.
        progress: a bar while many images are read, if stderr is a terminal.

    Raises:
        DataError, UnknownNameError: what is wrong with the source, by name, row and column.

    >>> from flowstone.data import open_source
    >>> dataset = open_source("moons", points=1000)
    >>> len(dataset.train), dataset.columns
    (1000, ('x1', 'x2'))
    """
    if seed < 0:
        raise SettingError(f"seed={seed} cannot be negative")
    twice = sorted({name for name in (*columns, *context) if (*columns, *context).count(name) > 1} - set(context))
    if twice or len(set(context)) < len(context):
        raise SettingError(f"column {(twice or list(context))[0]!r} is named more than once")
    if source in TOYS:
        if context or columns:
            raise SettingError(f"{source!r} is a toy: it has no columns to choose")
        _refuse(source, "a toy", "images", size=size, gray=gray, skip_bad=skip_bad, download=download)
        return _open_toy(TOYS[source], seed, points)
    if points is not None:
        raise SettingError(f"points={points} is for toys; of {source!r} every row is used")
    if are_images(source):
        _refuse(source, "images", "tables", columns=columns, drop_missing=drop_missing, no_dequantize=not dequantize)
        return open_images(
            source, seed=seed, context=context, size=size, gray=gray, skip_bad=skip_bad,
            data_dir=data_dir, download=download, progress=progress,
        )  # fmt: skip
    if not Path(source).suffix and not Path(source).exists():
        if Path(source).name != source:
            raise DataError(f"{source}: no such file or folder")
        raise UnknownNameError("source", source, (*TOYS, *IMAGE_SETS))
    _refuse(source, "a table", "images", size=size, gray=gray, skip_bad=skip_bad, download=download)
    return _open_table(Path(source), seed, tuple(context), tuple(columns), drop_missing, dequantize)


def reopen(description: Mapping[str, Any], *, data_dir: Path | str | None = None, progress: bool = False) -> Dataset:
    """The same data, split in the same way, from what ``Dataset.description`` holds.

    Args:
        data_dir: where the image sets are now; without it where they were, or else where FLOWSTONE_DATA says.

    Raises:
        DataError: the file is gone or is no longer what it was.
    """
    digest, source = description.get("sha256"), description["source"]
    images, path = description.get("kind") == "images", Path(source)
    changed = DataError(f"{source} has changed since the flow was trained on it: its test split cannot be made again")
    if digest is not None and not images and path.is_file() and _digest(path) != digest:
        raise changed
    arguments = {key: value for key, value in description.items() if key in _ARGUMENTS}
    if images:
        arguments["data_dir"] = folder_of(description, data_dir)
    dataset = open_source(source, **arguments, progress=progress)
    if images and dataset.description["sha256"] != digest:
        raise changed
    return dataset


_ARGUMENTS = (
    "seed", "context", "columns", "points", "drop_missing", "dequantize", "size", "gray", "skip_bad", "data_dir",
)  # fmt: skip


def _refuse(source: str, kind: str, other: str, **arguments: object) -> None:
    """What is for another kind of source must not be given."""
    for name, value in arguments.items():
        if value:
            raise SettingError(f"{name}={value} is for {other}; {source!r} is {kind}")


def noise_widths(values: np.ndarray) -> np.ndarray:
    """Width of the uniform noise that each column ``(rows, D)`` needs to have a density, 0 where it needs none.

    A column in which one value fills more than 0.1% of the rows, and at least two of them, is discrete or rounded: it
    gets noise as wide as its smallest gap, at most 5% of its standard deviation. Gaps below a millionth of the
    deviation are rounding errors (0.1 + 0.2 beside 0.3) and not gaps.
    """
    widths = np.zeros(values.shape[1])
    for index, column in enumerate(values.T):
        distinct, counts = np.unique(column, return_counts=True)
        if len(distinct) > 1 and counts.max() > max(1, 0.001 * len(column)):
            gaps = np.diff(distinct)
            widths[index] = min(gaps[gaps > 1e-6 * column.std()].min(), 0.05 * column.std())
    return widths


def atoms(names: Sequence[str], values: np.ndarray, widths: np.ndarray) -> dict[str, float]:
    """Columns of otherwise continuous values in which one value fills over 1% of the rows, and that value.

    Noise as narrow as the gaps of the continuous part leaves a spike there that says little about the rest.
    """
    found = {}
    for name, column, width in zip(names, values.T, widths, strict=True):
        distinct, counts = np.unique(column, return_counts=True)
        if counts.max() > max(1, 0.01 * len(column)) and width < 1e-3 * column.std():
            found[name] = float(distinct[counts.argmax()])
    return found


def add_noise(values: np.ndarray, widths: np.ndarray, seed: int) -> np.ndarray:
    """``values`` plus uniform noise centred on 0, so that a value stays the middle of its own cell."""
    return values + (np.random.default_rng(seed).random(values.shape) - 0.5) * widths


def _open_toy(toy: Toy, seed: int, points: int | None) -> Dataset:
    if points is not None and points < MIN_ROWS:
        raise DataError(f"points={points}: at least {MIN_ROWS} are needed")

    def draw(n: int, stream: int) -> Rows:
        return Rows(toy(n, torch.Generator().manual_seed(2**48 + 3 * seed + stream)))

    return Dataset(
        columns=("x1", "x2"),
        context_columns=(),
        train=toy if points is None else draw(points, 0),
        validation=draw(VALIDATION_DRAWS, 1),
        test=draw(TEST_DRAWS, 2),
        description={"source": toy.name, "kind": "toy", "seed": seed, "points": points},
        entropy=toy.entropy,
    )


def _open_table(
    path: Path, seed: int, context: tuple[str, ...], columns: tuple[str, ...], drop_missing: bool, dequantize: bool
) -> Dataset:
    table = read_table(path)
    names = columns or tuple(table.columns)
    table.numbers(context)  # a context column that is missing is named here
    features = tuple(name for name in names if name not in context)
    if not features:
        raise DataError(f"{path}: every column is context; nothing is left to learn the density of")
    table, values = table.finite((*features, *context), drop_missing=drop_missing)
    if len(values) < MIN_ROWS:
        raise DataError(f"{path}: {len(values)} rows; the 80/10/10 split needs at least {MIN_ROWS}")
    order = np.random.default_rng(seed).permutation(len(values))
    test, validation, train = np.split(order, [len(order) // 10, 2 * (len(order) // 10)])
    _refuse_constant(path, (*features, *context), values[train])
    widths = noise_widths(values[train]) if dequantize else np.zeros(values.shape[1])
    widths[len(features) :] = 0.0  # a context has no density to guard
    spikes = atoms(features, values[train][:, : len(features)], widths[: len(features)])
    values = add_noise(values, widths, seed)

    def part(rows: np.ndarray) -> Rows:
        chosen = torch.from_numpy(values[rows])
        return Rows(chosen[:, : len(features)], chosen[:, len(features) :] if context else None)

    return Dataset(
        columns=features,
        context_columns=context,
        train=part(train),
        validation=part(validation),
        test=part(test),
        description={
            "source": str(path.resolve()),
            "kind": "table",
            "seed": seed,
            "context": list(context),
            "columns": list(names),
            "drop_missing": drop_missing,
            "dequantize": dequantize,
            "noise": {name: float(width) for name, width in zip(features, widths, strict=False) if width > 0},
            "atoms": spikes,
            "rows": len(values),
            "sha256": _digest(path),
        },
    )


def _refuse_constant(path: Path, names: Sequence[str], values: np.ndarray) -> None:
    for name, column in zip(names, values.T, strict=True):
        if (column == column[0]).all():
            others = ",".join(other for other in names if other != name)
            raise DataError(
                f"{path}: column {name!r} is constant ({column[0]:g}) and has no density; "
                f"leave it out: --columns {others}"
            )


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
