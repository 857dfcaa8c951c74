"""How large the sheets of a workbook are, found before a library allocates all of their cells, the empty ones too."""

import re
import zipfile
from typing import IO
from xml.etree import ElementTree

from flowstone.data.limits import CELLS, CHUNK, MEMBERS, most_unpacked
from flowstone.errors import DataError

__all__ = ["require_small_sheets"]

OVERLAP = 256  # bytes of a piece that are looked at again with the next one, for what lies across its end
CELL = re.compile(rb"""\sr\s*=\s*["']\$?([A-Za-z]{1,7})\$?(\d{1,10})["']""")
OPEN_DOCUMENT = "content.xml"


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
            while piece := unpacked.read(CHUNK):
                left -= len(piece)
                if left < 0:
                    raise DataError("it unpacks to far more bytes than it has")
                for letters, number in CELL.findall(overlap + piece):
                    rows, columns = max(rows, int(number)), max(columns, _column(letters))
                overlap = piece[-OVERLAP:]
        _require_few(rows, columns)
    if any(member.filename == OPEN_DOCUMENT for member in members):
        with archive.open(OPEN_DOCUMENT) as unpacked:
            _require_small_tables(unpacked)


def _require_small_tables(content: IO[bytes]) -> None:
    """Refuse the content of an .ods in which few cells and rows are repeated too often.

    Repeated rows and cells without values at the end, which fill a sheet to its edges, do not count.
    """
    rows = columns = empty_rows = width = filled = 0
    for event, element in ElementTree.iterparse(content, ("start", "end")):
        name = element.tag.rpartition("}")[2]
        if event == "start" and name == "table":
            rows = columns = empty_rows = 0
        elif event == "start" and name == "table-row":
            width = filled = 0
        elif event == "start" and name == "table-cell":
            width += _repeated(element, "columns")
            filled = width if any(key.endswith("}value-type") for key in element.attrib) else filled
        elif event == "end" and name == "table-row":
            empty_rows += _repeated(element, "rows")
            if filled:
                rows, columns, empty_rows = rows + empty_rows, max(columns, filled), 0
                _require_few(rows, columns)
            element.clear()


def _repeated(element: ElementTree.Element, what: str) -> int:
    number = next((v for key, v in element.attrib.items() if key.endswith(f"}}number-{what}-repeated")), "1")
    return int(number)


def _require_few(rows: int, columns: int) -> None:
    if rows * columns > CELLS:
        raise DataError(f"a sheet has {rows} rows of {columns} columns; at most {CELLS} cells are read")


def _column(letters: bytes) -> int:
    """The number of a column of a worksheet: 27 of AA."""
    number = 0
    for letter in letters.upper():
        number = number * 26 + letter - ord("A") + 1
    return number
