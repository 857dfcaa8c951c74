"""Image sets in the hub's layout: shards ``train-00000-of-00003.parquet`` of encoded images; and how to fetch them."""

import importlib
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flowstone.data.guards import naming_the_file, require_file_or_folder
from flowstone.data.image_collection import EncodedImages, ImageCollection
from flowstone.data.tables.parquet import read_parquet
from flowstone.errors import DataError, SettingError

__all__ = ["fetch", "hub_set"]

SHARD = re.compile(r"(?P<part>train|valid|validation|val|test)-(?P<number>\d+)-of-(?P<count>\d+)\.parquet")
PARTS = {"train": "train", "valid": "validation", "validation": "validation", "val": "validation", "test": "test"}
IMAGES = ("img", "image")


def hub_set(folder: Path, classes: tuple[str, ...] = (), *, groups: str | None = None) -> ImageCollection | None:
    """The shards anywhere in ``folder``; None where there is none.

    Args:
        classes: the names of the numbers in the column ``label``; without them labels are left alone.
        groups: the column that says which images are kept in one part of the split.
    """
    shards = _shards(folder)
    if not shards:
        return None
    tables = {part: [_read(path, bool(classes), groups) for path in paths] for part, paths in shards.items()}
    with naming_the_file(folder, ".parquet"):
        tables = {part: pa.concat_tables(pieces) for part, pieces in tables.items()}
        combined = pa.concat_tables(tables.values())
    ends = np.cumsum([len(table) for table in tables.values()])
    rows = dict(zip(tables, np.split(np.arange(len(combined)), ends[:-1]), strict=True))
    images = combined.column("image")

    def read(row: int) -> bytes:
        content = images[row].as_py()
        if content is None:
            raise DataError("no bytes: only a path, to a file that is elsewhere")
        return content

    names = [f"{part} image {row + 1}" for part, table in tables.items() for row in range(len(table))]
    return ImageCollection(
        folder,
        EncodedImages(names, read),
        labels=combined.column("label").to_numpy() if classes else None,
        classes=classes,
        groups=None if groups is None else np.array(combined.column("group").to_pylist(), dtype=str),
        parts=rows if "test" in rows else {},
    )


def fetch(name: str, hub_name: str, folder: Path) -> None:
    """Put the shards of ``hub_name`` into ``folder``."""
    try:
        library = importlib.import_module("huggingface_hub")
    except ImportError as error:
        raise SettingError(
            f"{name}: to fetch it needs huggingface_hub, which is not installed: pip install 'flowstone[hub]'"
        ) from error
    try:
        library.snapshot_download(
            repo_id=hub_name, repo_type="dataset", allow_patterns=["*.parquet"], local_dir=str(folder)
        )
    except Exception as error:  # the library lets through whatever its network layer raises
        raise DataError(
            f"{name}: {hub_name} could not be fetched into {folder} ({type(error).__name__}): is there a network?"
        ) from error


def _shards(folder: Path) -> dict[str, list[Path]]:
    """The shards of each part, in order; DataError where one is missing."""
    by_part: dict[str, list[tuple[int, int, Path]]] = {part: [] for part in ("train", "validation", "test")}
    for path in sorted(folder.rglob("*.parquet")):
        if match := SHARD.fullmatch(path.name):
            by_part[PARTS[match["part"]]].append((int(match["number"]), int(match["count"]), path))
    if not by_part["train"] and any(by_part.values()):
        raise DataError(f"{folder}: no train-*.parquet, only those of other parts")
    for shards in by_part.values():
        numbers = [number for number, _, _ in shards]
        for _, count, path in shards[:1]:
            missing = next((number for number in range(count) if number not in numbers), None)
            if missing is not None or len(numbers) != count:
                what = "a shard is there twice" if missing is None else f"shard {missing} of {count} is missing"
                raise DataError(f"{path.parent}: {what} ({path.name} is there)")
    return {part: [path for *_, path in sorted(shards)] for part, shards in by_part.items() if shards}


def _read(path: Path, labelled: bool, groups: str | None) -> pa.Table:
    """One shard as the columns ``image`` (bytes) and, if ``labelled`` or ``groups``, ``label`` and ``group``."""
    require_file_or_folder(path)
    with naming_the_file(path, ".parquet"):
        return _columns_of(path, read_parquet(path, path.stat().st_size), labelled, groups)


def _columns_of(path: Path, table: pa.Table, labelled: bool, groups: str | None) -> pa.Table:
    image = next((name for name in IMAGES if name in table.column_names), None)
    kind = pa.null() if image is None else table.schema.field(image).type
    if image is None or not isinstance(kind, pa.StructType) or kind.get_field_index("bytes") < 0:
        raise DataError(f"{path}: no column {' or '.join(IMAGES)} of images: it has {', '.join(table.column_names)}")
    columns = {"image": pc.cast(table.column(image).flatten()[kind.get_field_index("bytes")], pa.large_binary())}
    for new, old in {"label": "label" if labelled else None, "group": groups}.items():
        if old is None:
            continue
        if old not in table.column_names:
            raise DataError(f"{path}: no column {old!r}: it has {', '.join(table.column_names)}")
        if table.column(old).null_count:
            raise DataError(f"{path}: column {old!r} has {table.column(old).null_count} missing values")
        if new == "label" and not pa.types.is_integer(table.schema.field(old).type):
            raise DataError(f"{path}: column {old!r} is {table.schema.field(old).type}, wanted numbers of classes")
        columns[new] = table.column(old).cast(pa.int64() if new == "label" else pa.string())
    return pa.table(columns)
