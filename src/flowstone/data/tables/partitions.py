"""Columns in the names of folders, as in ``year=2024/part-0.parquet``: the way in which Hive and Spark part tables."""

import glob
import itertools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import unquote

import pyarrow as pa

__all__ = ["partition_values", "with_partitions"]

MISSING = "__HIVE_DEFAULT_PARTITION__"
INTEGER = re.compile(r"0|-?[1-9][0-9]{0,17}")  # without leading zeros, which codes have


def partition_values(source: Path, files: Sequence[Path]) -> list[dict[str, pa.Scalar]]:
    """What the folders of each file hold: values by column, whole numbers where all of a column are such, else text.

    Args:
        source: the folder, or the pattern, whose rows are in the files.

    >>> partition_values(Path("sales"), [Path("sales/year=2024/0.csv"), Path("sales/year=2025/0.csv")])[1]
    {'year': <pyarrow.Int64Scalar: 2025>}
    """
    root = Path(*itertools.takewhile(lambda part: not glob.has_magic(part) or source.is_dir(), source.parts))
    texts = [_texts(file.relative_to(root)) if file.is_relative_to(root) else {} for file in files]
    columns = {name: _column([each.get(name) for each in texts]) for name in dict.fromkeys(itertools.chain(*texts))}
    return [{name: column[place] for name, column in columns.items()} for place in range(len(files))]


def with_partitions(arrow: pa.Table, values: Mapping[str, pa.Scalar]) -> pa.Table:
    """The rows of a file with the values that its folders hold; a column that is in the file, too, stays as it is."""
    for name, value in values.items():
        if name not in arrow.column_names:
            arrow = arrow.append_column(name, pa.repeat(value, len(arrow)))
    return arrow


def _texts(file: Path) -> dict[str, str | None]:
    """Values by column in the folders of one file."""
    parts = (part.partition("=") for part in file.parent.parts)
    return {
        unquote(name): None if text == MISSING else unquote(text) for name, equals, text in parts if name and equals
    }


def _column(texts: Sequence[str | None]) -> pa.Array:
    there = [text for text in texts if text is not None]
    if not there or not all(map(INTEGER.fullmatch, there)):
        return pa.array(texts, pa.string())
    return pa.array([None if text is None else int(text) for text in texts], pa.int64())
