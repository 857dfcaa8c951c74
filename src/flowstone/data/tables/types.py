"""Arrow's types as text in JSON, and back."""

import re
from contextlib import suppress
from typing import Any

import pyarrow as pa

__all__ = ["is_number", "is_temporal", "is_text", "plain_type", "python_value", "type_from_record", "type_to_record"]

TIMESTAMP = re.compile(r"timestamp\[(s|ms|us|ns)(?:, tz=(.+))?\]")
DECIMAL = re.compile(r"decimal(\d+)\((\d+), (-?\d+)\)")
DICTIONARY = re.compile(r"dictionary<values=(.+), indices=(\w+), ordered=([01])>")
OTHERS = {"date32[day]": pa.date32(), "date64[ms]": pa.date64(), "halffloat": pa.float16()}


def type_to_record(kind: pa.DataType) -> str:
    """A type as Arrow writes it; ``null`` in place of one that holds no single values, such as a list.

    >>> type_to_record(pa.timestamp("us", "Europe/Berlin"))
    'timestamp[us, tz=Europe/Berlin]'
    """
    with suppress(ValueError):
        type_from_record(str(kind))
        return str(kind)
    return "null"


def type_from_record(text: str) -> pa.DataType:
    """The type that ``type_to_record`` wrote.

    >>> type_from_record("decimal128(10, 2)")
    Decimal128Type(decimal128(10, 2))
    """
    if match := TIMESTAMP.fullmatch(text):
        return pa.timestamp(match[1], match[2])
    if match := DECIMAL.fullmatch(text):
        make = {"32": pa.decimal32, "64": pa.decimal64, "128": pa.decimal128, "256": pa.decimal256}[match[1]]
        return make(int(match[2]), int(match[3]))
    if match := DICTIONARY.fullmatch(text):
        return pa.dictionary(type_from_record(match[2]), type_from_record(match[1]), ordered=match[3] == "1")
    return OTHERS[text] if text in OTHERS else pa.type_for_alias(text)


def plain_type(kind: pa.DataType) -> pa.DataType:
    """The type in which single values are plain in JSON and cast back: ticks for times, text for decimals."""
    if is_temporal(kind):
        return pa.int32() if kind.bit_width == 32 else pa.int64()
    numbers = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    return kind if numbers else pa.string()


def python_value(scalar: pa.Scalar) -> Any:
    """A value of a column as a Python object; in words where Python has none, as for a date after the year 9999.

    >>> python_value(pa.scalar(2**62, pa.timestamp("s")))
    '4611686018427387904 (timestamp[s])'
    """
    try:
        return scalar.as_py()
    except (OverflowError, ValueError, pa.ArrowException):
        return f"{getattr(scalar, 'value', 'a value')} ({scalar.type})"


def is_text(kind: pa.DataType) -> bool:
    """Whether values are strings."""
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def is_number(kind: pa.DataType) -> bool:
    """Whether values are numbers, truth values apart."""
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)


def is_temporal(kind: pa.DataType) -> bool:
    """Whether values are dates, times, or spans of time in fixed units."""
    return pa.types.is_temporal(kind) and not pa.types.is_interval(kind)
