"""Limits on what is read from files, so that no file, whatever its bytes, takes all memory or never ends.

A compressed file may unpack to ``UNPACKED`` bytes, or to ``RATIO`` times its own size where that is more. What is
larger is refused in one line; whoever trusts such a file can unpack it before.
"""

__all__ = [
    "CELLS",
    "CHUNK",
    "CLASSES",
    "COLUMNS",
    "DEPTH",
    "ENCODED_IMAGE",
    "FILES",
    "HEADER",
    "MEMBER",
    "MEMBERS",
    "NUMBER",
    "RATIO",
    "STANDARD_INPUT_BYTES",
    "UNPACKED",
    "most_unpacked",
]

UNPACKED = 1 << 28  # bytes
RATIO = 100
CHUNK = 1 << 20  # bytes that are read at a time where the size that a file declares is not trusted
HEADER = 10_000  # characters in the header of a .npy, as numpy's own limit
MEMBERS = 10_000  # files in an archive
MEMBER = 1 << 28  # bytes of one file in an archive of images
COLUMNS = 1 << 14  # of a table; a worksheet cannot have more
CELLS = 50_000_000  # in a worksheet, whose empty cells take memory, too
CLASSES = 10_000  # that can be the context of images, one number each
DEPTH = 64  # of nested values in JSON
NUMBER = 100  # characters; longer texts are neither numbers nor dates
ENCODED_IMAGE = 1 << 28  # bytes of one image file
FILES = 10_000_000  # in a folder
STANDARD_INPUT_BYTES = 1 << 36


def most_unpacked(packed: int) -> int:
    """How many bytes a file of ``packed`` bytes may unpack to.

    >>> most_unpacked(1000), most_unpacked(10**9)
    (268435456, 100000000000)
    """
    return max(UNPACKED, RATIO * packed)
