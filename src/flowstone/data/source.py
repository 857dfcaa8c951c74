"""From a name or a path to data that a flow can learn: read, checked, dequantized, split."""

import hashlib
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from flowstone.data.dataset import Dataset
from flowstone.data.guards import files_under, require_file_or_folder
from flowstone.data.image_files import IMAGE_ENDINGS
from flowstone.data.image_sets import IMAGE_SETS
from flowstone.data.images import are_images, folder_of, open_images
from flowstone.data.mixed import is_mixed, open_mixed
from flowstone.data.noise import atoms, noise_pieces, noise_widths
from flowstone.data.request import IMAGES, MIN_ROWS, TABLE, TOY, DataRequest
from flowstone.data.rows import Rows
from flowstone.data.split_rows import SplitRows
from flowstone.data.tables import (
    STANDARD_INPUT,
    Columns,
    Table,
    decide,
    files_of,
    is_pattern,
    is_table,
    mapped_table,
    open_chunked,
    read_table,
)
from flowstone.data.tables.reading import READING
from flowstone.data.tables.types import is_number
from flowstone.data.toy import TOYS, Toy
from flowstone.errors import DataError, UnknownNameError

__all__ = ["open_source", "reopen"]

CHUNK = 1 << 18  # rows of a table taken at a time
TEST_DRAWS, VALIDATION_DRAWS = 100_000, 10_000
OTHER_DATA = "check and evaluate take data after RUN"  # the end of messages


def open_source(
    source: str | os.PathLike[str] | DataRequest,
    *,
    progress: bool = False,
    mixed: bool | None = None,
    **options: Any,
) -> Dataset:
    """Open a toy by its name, a table by its path, or images: a set by its name, a folder, an array in .npy or .npz.

    Rows are split 80/10/10 by ``seed``; an image set keeps its official parts, and where it has none for validation, a
    tenth of its training part (at most 5,000 images) is taken. Images are uint8, ``(n, C, H, W)``;
    ``flowstone.data.image_format`` says how palettes, 16 bits and the like are converted.

    Args:
        source: a name, a path, or a ``DataRequest``.
        progress: a bar while many images or a large table are read, if stderr is a terminal.
        mixed: whether a table's rows are encoded by the kinds of its columns, for the density of mixed columns; None
            decides by the kinds.
        options: options of ``DataRequest`` by name, such as ``context=["age"]``; they override those of a request.

    Raises:
        DataError: what is wrong with the source, by name, row and column.
        SettingError, UnknownNameError: an option has a value, or a name, that it cannot have for this source.

    >>> from flowstone.data import open_source
    >>> dataset = open_source("moons", points=1000)
    >>> len(dataset.train), dataset.columns
    (1000, ('x1', 'x2'))
    """
    request = DataRequest.of(source, options)
    name, path = request.source, Path(request.source)
    if name in TOYS:
        request.require_kind(TOY)
        return _open_toy(TOYS[name], request)
    if name not in (*IMAGE_SETS, *STANDARD_INPUT):
        require_file_or_folder(path)
    if name in IMAGE_SETS or (are_images(name) and not _is_folder_of_tables(path)):
        request.require_kind(IMAGES)
        return open_images(request, progress=progress)
    if not path.suffix and not path.exists() and not is_table(name):
        if path.name != name:
            raise DataError(f"{name}: no such file or folder")
        raise UnknownNameError("source", name, (*TOYS, *IMAGE_SETS))
    request.require_kind(TABLE)
    return _open_table(request, mixed, progress=progress)


def reopen(description: Mapping[str, Any], *, data_dir: Path | str | None = None, progress: bool = False) -> Dataset:
    """The same data, split in the same way, from what ``Dataset.description`` holds.

    Args:
        data_dir: the folder of the image sets, if it is not the recorded one or FLOWSTONE_DATA.

    Raises:
        DataError: the file is gone or has changed, or nothing tells which it was.
    """
    if description.get("source") is None:
        raise DataError(f"it is not recorded where the table is that was learned from: {OTHER_DATA}")
    request, digest = DataRequest.from_record(description), description.get("sha256")
    images, path = description.get("kind") == IMAGES, Path(request.source)
    changed = DataError(f"{path} has changed since the flow was trained on it: its test split cannot be made again")
    if request.source in STANDARD_INPUT:
        raise DataError("the table came from standard input: it cannot be read again")
    if digest is None and description.get("kind") == TABLE:  # of a run from the hub
        raise DataError(f"nothing recorded tells whether {path.name} is what was learned from: {OTHER_DATA}")
    is_there = path.exists() or is_pattern(request.source)
    if digest is not None and not images and is_there and _digest(request.source) != digest:
        raise changed
    if images:
        request = replace(request, data_dir=folder_of(description, data_dir))
    mixed = bool(description.get("mixed"))
    if description.get("kind") == TABLE:
        schema = description.get("schema")
        dataset = _open_table(
            request, mixed, None if schema is None else Columns.from_record(schema), progress=progress
        )
    else:
        dataset = open_source(request, progress=progress)
    if images and dataset.description["sha256"] != digest:
        raise changed
    return dataset


def _open_toy(toy: Toy, request: DataRequest) -> Dataset:
    def draw(n: int, stream: int) -> Rows:
        return Rows(toy(n, torch.Generator().manual_seed((2**48 + 3 * request.seed + stream) % 2**64)))

    return Dataset(
        columns=("x1", "x2"),
        context_columns=(),
        train=toy if request.points is None else draw(request.points, 0),
        validation=draw(VALIDATION_DRAWS, 1),
        test=draw(TEST_DRAWS, 2),
        description={"kind": TOY} | request.as_record(TOY),
        entropy=toy.entropy,
    )


def _open_table(
    request: DataRequest, mixed: bool | None, columns: Columns | None = None, *, progress: bool = False
) -> Dataset:
    """Open a table; ``columns`` holds the kinds of its columns if they were decided before."""
    reading = {name: getattr(request, name) for name in READING}
    large = open_chunked(request.source, **reading)
    if large is None:
        return _dataset_of(read_table(request.source, **reading), request, mixed, columns)
    with mapped_table(large, progress=progress) as table:
        return _dataset_of(table, request, mixed, columns)


def _dataset_of(table: Table, request: DataRequest, mixed: bool | None, columns: Columns | None) -> Dataset:
    path = Path(request.source)
    table.require((*request.context, *request.exclude, *request.columns, *request.kinds))
    wanted = [name for name in (*request.columns, *request.context) if name not in request.exclude]
    columns = _kinds(table, request, wanted) if columns is None else columns
    source = request.source if request.source in STANDARD_INPUT else str(path.resolve())
    described = {
        "kind": TABLE,
        **replace(request, source=source).as_record(TABLE),
        "decimal": table.reading.decimal,
        "sha256": _digest(request.source),
        "read": table.notes[0] if table.notes else None,
        "schema": columns.as_record(),
    }
    if mixed or (mixed is None and not request.context and is_mixed(columns, drop_missing=request.drop_missing)):
        return open_mixed(request, table, columns, described)
    context = tuple(name for name in request.context if name in columns.names)
    names = tuple(name for name in request.columns or table.columns if name in columns.names)
    features = tuple(name for name in names if name not in context)
    if not features:
        raise DataError(_nothing_left(request.source, columns, context))
    _refuse_words(table, context)
    split = _split(table, (*features, *context), request)
    _refuse_constant(request, (*features, *context), split.train)
    widths = noise_widths(split.train) if request.dequantize else np.zeros(split.train.shape[1])
    widths[len(features) :] = 0.0  # a context has no density to guard
    spikes = atoms(features, split.train[:, : len(features)], widths[: len(features)])
    for start, noise in noise_pieces(len(split.values), widths, request.seed):
        split.add(start, noise)

    def part(rows: np.ndarray) -> Rows:
        chosen = torch.from_numpy(rows)
        return Rows(chosen[:, : len(features)], chosen[:, len(features) :] if context else None)

    return Dataset(
        columns=features,
        context_columns=context,
        train=part(split.train),
        validation=part(split.validation),
        test=part(split.test),
        description={
            **described,
            "context": list(context),
            "columns": list(names),
            "exclude": [],
            "noise": {name: float(width) for name, width in zip(features, widths, strict=False) if width > 0},
            "atoms": spikes,
            "rows": len(split.values),
        },
        kinds=columns,
    )


def _split(table: Table, names: Sequence[str], request: DataRequest) -> SplitRows:
    """The numbers in these columns, split; in pieces, as the table may be larger than memory."""
    drop, kept = request.drop_missing, len(table)
    if drop:
        kept = sum(len(piece.finite(names, drop_missing=True)[1]) for piece in table.chunks(CHUNK))
    split, start = SplitRows(kept, len(names), request.seed), 0
    for piece in table.chunks(CHUNK):
        values = piece.finite(names, drop_missing=drop)[1]
        split.put(start, values)
        start += len(values)
    if kept < MIN_ROWS:
        raise DataError(f"{table.path}: {kept} rows; the 80/10/10 split needs at least {MIN_ROWS}")
    return split


def _kinds(table: Table, request: DataRequest, wanted: Sequence[str]) -> Columns:
    """The kinds of the columns that a request names, or of all, in the order of the table."""
    chosen = [name for name in table.columns if not request.columns or name in wanted]
    part = read_table(replace(table, arrow=table.arrow.select(chosen)), na=("inf", "-inf"))  # reported with the gaps
    kinds = {name: kind for name, kind in dict(request.kinds).items() if name in chosen}
    exclude = [name for name in request.exclude if name in chosen]
    columns, doubts = decide(part, kinds, exclude, keep=wanted)
    for doubt in doubts:
        warnings.warn(doubt, stacklevel=5)
    return columns


def _nothing_left(source: str, columns: Columns, context: Sequence[str]) -> str:
    why = [f"{kind.column!r} {kind.name}" for kind in columns.kinds if kind.column in columns.left_out]
    why += [f"{name!r} context" for name in context]
    shown = ", ".join(why[:5]) + (", …" if len(why) > 5 else "")
    return f"{source}: every column is context or left out ({shown}); nothing is left to learn the density of"


def _refuse_words(table: Table, context: Sequence[str]) -> None:
    """Refuse a context that is not of numbers, with what takes one."""
    for name in context:
        kind = table.arrow.schema.field(name).type
        if not is_number(kind) and not pa.types.is_boolean(kind):
            try:
                table.numbers([name])
            except DataError as error:
                raise DataError(
                    f"{error.problem}, and a context is; without it the recipe mixed learns all columns, and draws any "
                    "of them given any others; FlowDensity takes such a context"
                ) from error


def _refuse_constant(request: DataRequest, names: Sequence[str], values: np.ndarray) -> None:
    """Refuse columns that have the same value in all rows, naming all of them."""
    constant = {name: column[0] for name, column in zip(names, values.T, strict=True) if (column == column[0]).all()}
    if not constant:
        return
    columns = ", ".join(f"{name!r} ({value:g})" for name, value in constant.items())
    what = f"column {columns} is constant and has" if len(constant) == 1 else f"columns {columns} are constant and have"
    remedy = {"exclude": [*request.exclude, *constant]}
    raise DataError(f"{request.source}: {what} no density; to leave out what is constant", remedy=remedy)


def _is_folder_of_tables(path: Path) -> bool:
    """Whether a folder holds tables and no image; text files may lie beside images."""
    return path.is_dir() and is_table(path) and not any(f.suffix.lower() in IMAGE_ENDINGS for f in files_under(path))


def _digest(source: str) -> str | None:
    """A digest of all files of a table; standard input has none, as it cannot be read again."""
    if source in STANDARD_INPUT:
        return None
    digests = []
    for path in files_of(source):
        with path.open("rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").hexdigest())
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
