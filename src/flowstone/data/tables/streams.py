"""Bytes of a file, whatever it is compressed with, and the encoding of its text."""

import bz2
import codecs
import gzip
import io
import lzma
import re
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from flowstone.data.guards import Unpacked, require_file_or_folder
from flowstone.data.limits import CHUNK, STANDARD_INPUT_BYTES
from flowstone.errors import DataError

__all__ = ["COMPRESSED", "encoding_of", "inner_suffix", "open_bytes", "seekable", "spooled_stdin"]

COMPRESSED = (".gz", ".bz2", ".xz", ".zst", ".zip")
KEPT_IN_MEMORY = 1 << 26  # bytes of standard input; what is longer goes to a temporary file
LOOKED_AT = 1 << 16
RUNS = re.compile(rb"[\x80-\xff]{2,}")


def inner_suffix(path: Path) -> str:
    """The ending that says what is in a file, without that of its compression: ``.csv`` of ``a.csv.gz``."""
    name = Path(path.stem) if path.suffix.lower() in COMPRESSED else path
    return name.suffix.lower()


def open_bytes(path: Path) -> IO[bytes]:
    """The bytes in a file, decompressed where its first bytes say that it is compressed, up to ``most_unpacked``.

    Raises:
        DataError: a zip archive holds not one file but none or several; the path is no regular file.
    """
    require_file_or_folder(path)
    with path.open("rb") as file:
        magic = file.read(6)
    opener = next((opener for start, opener in OPENERS.items() if magic.startswith(start)), None)
    if opener is None:
        return path.open("rb")
    return io.BufferedReader(Unpacked(opener(path), path.stat().st_size), CHUNK)


def seekable(stream: IO[bytes]) -> IO[bytes]:
    """The same bytes for a reader that goes back and forth in them: in memory, where they are unpacked."""
    return stream if isinstance(getattr(stream, "raw", None), io.FileIO) else io.BytesIO(stream.read())


def spooled_stdin() -> IO[bytes]:
    """Standard input as a file that can be read again: in memory, or in a temporary file where it is long."""
    if sys.stdin is None:
        raise DataError("standard input is closed")
    spool, left = tempfile.SpooledTemporaryFile(max_size=KEPT_IN_MEMORY), STANDARD_INPUT_BYTES  # noqa: SIM115
    try:
        while piece := sys.stdin.buffer.read(CHUNK):
            left -= len(piece)
            if left < 0:
                raise DataError(f"more than {STANDARD_INPUT_BYTES} bytes, which is more than is read")
            spool.write(piece)
    except BaseException:
        spool.close()
        raise
    spool.seek(0)
    return spool  # pyright: ignore[reportReturnType]


def encoding_of(stream: IO[bytes]) -> str:
    """The encoding of a text: UTF-16 and UTF-32 by their byte-order mark, UTF-16 also by its zero bytes; UTF-8 where
    all bytes are valid; else cp1252, or what chardet says.

    Text in ASCII letters with single others among them is taken for cp1252, because a statistical guess from few bytes
    errs. chardet is asked where many letters outside ASCII stand side by side, as in Cyrillic or Chinese.
    The stream is read to its end.
    """
    head = stream.read(LOOKED_AT)
    if head.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return "utf-32"
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    if b"\0" in head:
        return _utf16_without_mark(head)
    decoder, piece = codecs.getincrementaldecoder("utf-8")(), head
    try:
        while piece:
            decoder.decode(piece)
            piece = stream.read(CHUNK)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return _old_encoding(piece or head)
    return "utf-8"


def _old_encoding(piece: bytes) -> str:
    unusual = sum(map(len, RUNS.findall(piece)))
    if 2 * unusual > len(re.findall(rb"[A-Za-z]", piece)) + 4:
        import chardet

        guess = chardet.detect(piece[:LOOKED_AT])["encoding"]
        if guess:
            return guess.lower()
    return "cp1252"


def _utf16_without_mark(head: bytes) -> str:
    even, odd = head[::2].count(0), head[1::2].count(0)
    half = len(head) // 2
    if odd > 0.4 * half and even < 0.1 * half:
        return "utf-16-le"
    if even > 0.4 * half and odd < 0.1 * half:
        return "utf-16-be"
    raise DataError(f"byte {head.index(0) + 1} of the file is 0 (NUL), which no text holds: it is no text, or damaged")


def _open_zipped(path: Path) -> IO[bytes]:
    with zipfile.ZipFile(path) as archive:  # its file stays open as long as the member is
        names = [n for n in archive.namelist() if not n.endswith("/") and not n.startswith(("__MACOSX/", "."))]
        if len(names) != 1:
            held = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
            raise DataError(f"{path}: the archive holds {len(names)} files ({held}); expected one")
        try:
            return archive.open(names[0])
        except RuntimeError as error:  # a password is wanted
            raise DataError(f"{path}: {error}") from error


def _open_zstd(path: Path) -> IO[bytes]:
    return pa.CompressedInputStream(pa.OSFile(str(path)), "zstd")  # pyright: ignore[reportReturnType]


OPENERS: dict[bytes, Callable[[Path], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ": lzma.open,
    b"\x28\xb5\x2f\xfd": _open_zstd,
    b"PK\x03\x04": _open_zipped,
}
