"""Checks that every reader of files needs, because the bytes of a file may be anything."""

import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from flowstone.data.limits import CHUNK, most_unpacked
from flowstone.errors import DataError, FlowstoneError

__all__ = [
    "Unpacked",
    "files_under",
    "naming_the_file",
    "read_all",
    "read_at_most",
    "read_file",
    "require_file_or_folder",
]

KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def require_file_or_folder(path: Path) -> None:
    """Refuse what would never end or is no data: pipes, devices and sockets; and names that no file can have.

    A path is accepted if there is no file of this name.
    """
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return
    except (OSError, ValueError) as error:  # too long, a loop of links, no rights, a zero byte
        shown = str(path) if len(str(path)) <= 100 else f"{str(path)[:100]}…"
        raise DataError(f"{shown!r}: cannot be read ({getattr(error, 'strerror', None) or error})") from error
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        what = KINDS.get(stat.S_IFMT(mode), "no file")
        raise DataError(f"{path}: {what}: only files and folders are read, and standard input as -")


def files_under(folder: Path) -> Iterator[Path]:
    """The paths in a folder that are not folders, at any depth, also those behind links to folders; no folder is
    entered twice.
    """
    entered = set()
    for where, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(where)
        folders[:] = [] if real in entered else sorted(folders)
        yield from (Path(where) / name for name in names if real not in entered)
        entered.add(real)


@contextmanager
def naming_the_file(path: Path | str, suffix: str = "") -> Iterator[None]:
    """A context in which whatever a reader of files raises becomes a DataError that names the file.

    Args:
        suffix: the ending of the files that the reader is for.
    """
    try:
        yield
    except DataError as error:
        if str(path) in error.problem:
            raise
        raise DataError(f"{path}: {error.problem}", remedy=error.remedy) from error
    except FlowstoneError:
        raise
    except MemoryError as error:
        raise DataError(f"{path}: reading it takes more memory than there is") from error
    except Exception as error:  # readers raise whatever they like on damaged bytes
        lines = str(error).splitlines()
        reason = getattr(error, "strerror", None) or (lines[0] if lines else type(error).__name__)
        raise DataError(f"{path}: cannot be read{f' as {suffix}' if suffix else ''}: {reason}") from error


def read_at_most(stream: IO[bytes], size: int) -> bytearray:
    """The next ``size`` bytes of a stream, or fewer where it ends before; memory is taken for what is there alone."""
    content = bytearray()
    while len(content) < size and (piece := stream.read(min(CHUNK, size - len(content)))):
        content += piece
    return content


def read_all(stream: IO[bytes], most: int) -> bytes:
    """All bytes of a stream.

    Raises:
        DataError: there are more than ``most``.
    """
    content = read_at_most(stream, most + 1)
    if len(content) > most:
        raise DataError(f"more than {most} bytes, which is more than is read")
    return bytes(content)


def read_file(path: Path, most: int) -> bytes:
    """All bytes of a regular file, which may be at most ``most``."""
    require_file_or_folder(path)
    with path.open("rb") as stream:
        return read_all(stream, most)


class Unpacked(io.RawIOBase):
    """The bytes that a stream unpacks, counted: more than a file of its size may unpack to are refused.

    Args:
        stream: gives the unpacked bytes.
        packed: the size of the file.
    """

    def __init__(self, stream: IO[bytes], packed: int) -> None:
        super().__init__()
        self.stream, self.left, self.most = stream, most_unpacked(packed), most_unpacked(packed)

    def readable(self) -> bool:
        """True."""
        return True

    def readinto(self, buffer) -> int:
        """Fill ``buffer``, or as much of it as one read gives."""
        piece = self.stream.read(min(len(buffer), CHUNK))
        self.left -= len(piece)
        if self.left < 0:
            raise DataError(f"it unpacks to more than {self.most} bytes; if that is right, unpack it first")
        buffer[: len(piece)] = piece
        return len(piece)

    def close(self) -> None:
        """Close the stream, too."""
        if not self.closed:
            self.stream.close()
        super().close()
