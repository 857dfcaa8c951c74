"""Bytes of a valid file, changed in one to four places."""

import struct
from collections.abc import Callable
from random import Random

__all__ = ["damaged"]

Damage = Callable[[Random, bytes], bytes]
EXTREMES = (b"\0", b"\xff", b"\x7f", b"\x80", b'"', b"{", b"[", b",", b"\n", b"\r", b"-", b"9", b"%", b"\xe9")
WORDS = (
    b"nan", b"inf", b"-1e999", b"1e-320", b"99999999999999999999", b"NULL", b"1,5", b"1.234,5", b"0x10", b"00012",
    b"\xef\xbb\xbf", b"\xff\xfe", b'""', b'"', b"\0\0", b"''", b"sep=;", b"#", b"9999-12-31", b"0000-00-00", b"(1)",
    b"{" * 300, b"[" * 300, b'{"a":' * 300, b"1" * 400, b"," * 300, b";" * 300, b"\t", b"a" * 5000, "ü€𝔘".encode(),
    b"\xed\xa0\x80", b"True", b"1" + b" " * 3000 + b"x", b"\r\n\r\n",
)  # fmt: skip


def damaged(random: Random, content: bytes) -> bytes:
    """The bytes after one to four changes."""
    for _ in range(random.randint(1, 4)):
        content = random.choice(DAMAGES)(random, content)
    return content


def _place(random: Random, content: bytes) -> int:
    """A place; headers, at either end of a file, are hit more often."""
    near = min(len(content), 64)
    where = random.choice(
        (random.randint(0, len(content)), random.randint(0, near), len(content) - random.randint(0, near))
    )
    return max(0, where)


def _flip(random: Random, content: bytes) -> bytes:
    changed = bytearray(content)
    for _ in range(random.randint(1, 8)):
        place = _place(random, content)
        if place < len(changed):
            changed[place] ^= 1 << random.randrange(8)
    return bytes(changed)


def _cut(random: Random, content: bytes) -> bytes:
    return content[: _place(random, content)]


def _remove(random: Random, content: bytes) -> bytes:
    place = _place(random, content)
    return content[:place] + content[place + random.randint(1, 40) :]


def _repeat(random: Random, content: bytes) -> bytes:
    place = _place(random, content)
    piece = content[place : place + random.randint(1, 400)]
    return content[:place] + piece * random.randint(2, 50) + content[place:]


def _insert_word(random: Random, content: bytes) -> bytes:
    place = _place(random, content)
    return content[:place] + random.choice(WORDS) + content[place:]


def _replace_field(random: Random, content: bytes) -> bytes:
    """What lies between two separators of a text, by another word."""
    place = _place(random, content)
    ends = [found for mark in (b",", b"\n", b";", b":") if (found := content.find(mark, place)) >= 0]
    end = min(ends, default=place)
    after = min((f for mark in (b",", b"\n", b";", b"}") if (f := content.find(mark, end + 1)) >= 0), default=end)
    return content[: end + 1] + random.choice(WORDS) + content[after:]


def _overwrite(random: Random, content: bytes) -> bytes:
    place = _place(random, content)
    piece = random.choice(EXTREMES) * random.choice((1, 2, 4, 8))
    return content[:place] + piece + content[place + len(piece) :]


def _number(random: Random, content: bytes) -> bytes:
    """A length or a count, perhaps, by another number."""
    number = random.choice((0, 1, 255, 2**15, 2**31 - 1, 2**32 - 1, 2**40, 2**63 - 1))
    form = random.choice(("<I", ">I", "<Q", ">Q"))
    piece = struct.pack(form, number % 2 ** (8 * struct.calcsize(form)))
    place = _place(random, content)
    return content[:place] + piece + content[place + len(piece) :]


def _other(random: Random, content: bytes) -> bytes:
    return random.choice((b"", b"\n", b"\0" * 1000, random.randbytes(300), content * 3, content[::-1]))


DAMAGES: tuple[Damage, ...] = (
    _flip, _flip, _cut, _remove, _repeat, _insert_word, _replace_field, _overwrite, _number, _number, _other,
)  # fmt: skip
