"""Kinds of columns, a file a kind; ``INFERRED`` is the order in which they are tried on a column.

The first kind whose ``infer`` takes the column decides: a type without single values, a constant, an index or id, two
values, dates, an ordered and then any category of text, and text with too many values; of numbers, an angle by its
name, whole numbers, a grid of decimals, bounded, positive, and else continuous. ``flowstone.data.tables.facts`` says
what counts as an atom, a grid, a bound, an identifier or a sentinel.

A new kind is one file with a subclass of ``Kind``, named in ``KINDS`` and, if it is to be inferred, in ``INFERRED``.
"""

from collections.abc import Mapping
from typing import Any

from flowstone.data.tables.kinds.boolean import Boolean
from flowstone.data.tables.kinds.bounded import Bounded
from flowstone.data.tables.kinds.categorical import Categorical
from flowstone.data.tables.kinds.circular import Circular
from flowstone.data.tables.kinds.constant import Constant
from flowstone.data.tables.kinds.continuous import Continuous
from flowstone.data.tables.kinds.datetime import Datetime
from flowstone.data.tables.kinds.gridded import Gridded
from flowstone.data.tables.kinds.integer import Integer
from flowstone.data.tables.kinds.kind import Description, Kind, ModelledKind
from flowstone.data.tables.kinds.left_out import Identifier, LeftOut, Text
from flowstone.data.tables.kinds.numbers import Numbers
from flowstone.data.tables.kinds.ordinal import Ordinal
from flowstone.data.tables.kinds.positive import Positive
from flowstone.errors import UnknownNameError

__all__ = [
    "INFERRED",
    "KINDS",
    "Boolean",
    "Bounded",
    "Categorical",
    "Circular",
    "Constant",
    "Continuous",
    "Datetime",
    "Description",
    "Gridded",
    "Identifier",
    "Integer",
    "Kind",
    "LeftOut",
    "ModelledKind",
    "Numbers",
    "Ordinal",
    "Positive",
    "Text",
    "kind_from_record",
    "kind_named",
]

INFERRED: tuple[type[Kind], ...] = (
    LeftOut, Constant, Identifier, Boolean, Datetime, Ordinal, Categorical, Text, Circular, Integer, Gridded, Bounded,
    Positive, Continuous,
)  # fmt: skip
KINDS: dict[str, type[Kind]] = {kind.name: kind for kind in INFERRED}


def kind_named(name: str) -> type[Kind]:
    """The kind of a name.

    Raises:
        UnknownNameError: there is none; the message holds the nearest one.

    >>> kind_named("positive").__name__
    'Positive'
    """
    if name not in KINDS:
        raise UnknownNameError("kind", name, KINDS)
    return KINDS[name]


def kind_from_record(record: Mapping[str, Any]) -> Kind:
    """The kind of a column that ``Kind.as_record`` wrote."""
    return kind_named(record["kind"]).from_record(record)
