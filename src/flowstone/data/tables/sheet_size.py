"""How large the sheets of a workbook are, found before a library allocates all of their cells, the empty ones too."""

import re
import zipfile
from typing import IO

from flowstone.data.guards import read_at_most
from flowstone.data.limits import CELLS, MEMBERS, PIECE, most_unpacked
from flowstone.errors import DataError

__all__ = ["require_small_sheets"]

OVERLAP = 256  # bytes of a piece that are looked at again with the next one, for what lies across its end
CELL = re.compile(rb"""\sr\s*=\s*["']\$?([A-Za-z]{1,7})\$?(\d{1,10})["']""")
REPEATED = re.compile(rb"""number-(rows|columns)-repeated\s*=\s*["'](\d{1,12})["']""")


def require_small_sheets(stream: IO[bytes]) -> None:
    """Refuse a workbook with a sheet of more than ``CELLS`` cells, or that unpacks to too many bytes.

    Those that are no zip archives (.xls) hold at most 65,536 rows of 256 columns.
    """
    start = stream.read(4)
    size = stream.seek(0, 2)
    stream.seek(0)
    if start == b"PK\x03\x04":
        with zipfile.ZipFile(stream) as archive:
            _require_small_members(archive, most_unpacked(size))
        stream.seek(0)


def _require_small_members(archive: zipfile.ZipFile, left: int) -> None:
    members = archive.infolist()
    if len(members) > MEMBERS:
        raise DataError(f"{len(members)} members; at most {MEMBERS} are read")
    for member in members:
        rows, columns, overlap = 1, 1, b""
        with archive.open(member) as unpacked:
            while piece := bytes(read_at_most(unpacked, PIECE)):  # pyright: ignore[reportArgumentType]
                left -= len(piece)
                if left < 0:
                    raise DataError("it unpacks to far more bytes than it has")
                for letters, number in CELL.findall(overlap + piece):
                    rows, columns = max(rows, int(number)), max(columns, _column(letters))
                for what, number in REPEATED.findall(overlap + piece):
                    if what == b"rows":
                        rows = max(rows, int(number))
                    else:
                        columns = max(columns, int(number))
                overlap = piece[-OVERLAP:]
        if rows * columns > CELLS:
            raise DataError(f"{member.filename} has {rows} rows of {columns} columns; at most {CELLS} cells are read")


def _column(letters: bytes) -> int:
    """The number of a column of a worksheet: 27 of AA."""
    number = 0
    for letter in letters.upper():
        number = number * 26 + letter - ord("A") + 1
    return number
