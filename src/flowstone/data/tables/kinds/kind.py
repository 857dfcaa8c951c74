"""Kind: what a column holds, and so how it becomes numbers and numbers become it again."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Self

import msgspec
import numpy as np
import pyarrow as pa

from flowstone.data.tables.facts import Facts
from flowstone.data.tables.types import type_from_record, type_to_record
from flowstone.errors import SettingError

__all__ = ["Description", "Kind", "ModelledKind"]


@dataclass(frozen=True)
class Description:
    """A column's kind in words.

    Attributes:
        range: its least and greatest value, or its levels.
        treatment: what will be done with it.
        atoms: values that hold mass of their own, apart from levels.
        grid: the step between values.
    """

    range: str
    treatment: str
    atoms: str = ""
    grid: str = ""


@dataclass(frozen=True, kw_only=True)
class Kind(ABC):
    """One column of a table: abstract.

    A subclass has a ``name`` and decides by ``infer`` whether a column is of its kind; if its columns are part of the
    tensor, it is a ``ModelledKind``. ``takes`` is whether brackets may follow its name. Every field is written to JSON,
    so it is made of plain values; ``type`` is Arrow's type.

    Attributes:
        column: the column's name.
        type: its type, which ``decode`` restores.
        distinct, missing, rows: how many different values, gaps and rows it had when its kind was decided.
    """

    name: ClassVar[str]
    takes: ClassVar[bool] = False
    column: str
    type: pa.DataType
    distinct: int = 0
    missing: int = 0
    rows: int = 0

    @classmethod
    @abstractmethod
    def infer(cls, facts: Facts) -> Self | None:
        """The kind of a column that is clearly of it; None of others."""

    @classmethod
    @abstractmethod
    def requested(cls, facts: Facts, arguments: Sequence[str]) -> Self:
        """The kind of a column of which the user says that it is of it, with what stands in brackets.

        Raises:
            SettingError: the column cannot be of this kind.
        """

    @abstractmethod
    def describe(self) -> Description:
        """The kind in words."""

    def as_record(self) -> dict[str, Any]:
        """Plain values for JSON, from which ``kind_from_record`` makes the kind again."""
        plain: dict[str, Any] = {"kind": self.name}
        for each in fields(self):
            value = getattr(self, each.name)
            plain[each.name] = type_to_record(value) if each.name == "type" else _plain(value)
        return plain

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """The kind that ``as_record`` wrote.

        Raises:
            msgspec.ValidationError, ValueError: a field has another type than the class says.
        """
        return msgspec.convert(dict(record), cls, strict=True, dec_hook=lambda _, text: type_from_record(text))

    @staticmethod
    def common(facts: Facts) -> dict[str, Any]:
        """The fields that every kind has."""
        return {
            "column": facts.name,
            "type": facts.type,
            "distinct": facts.distinct,
            "missing": facts.missing,
            "rows": len(facts.column),
        }

    @classmethod
    def refuse(cls, facts: Facts, why: str) -> SettingError:
        """The error where a column cannot be what the user says."""
        return SettingError(f"column {facts.name!r} cannot be {cls.name}: {why}")


class ModelledKind(Kind):
    """A column that is part of the tensor: abstract. It turns the column into float64 and back.

    ``ordered`` is whether one value is above another, so that there are quantiles.
    """

    ordered: ClassVar[bool] = True

    @abstractmethod
    def encode(self, column: pa.ChunkedArray, where: str, start: int = 0) -> np.ndarray:
        """``(rows,)`` in float64, NaN for gaps.

        Args:
            column: the values.
            where: the table, for messages.
            start: how many rows of the table come before them, for messages.

        Raises:
            DataError: a value that the kind does not know; the message names column, row and value.
        """

    @abstractmethod
    def decode(self, values: np.ndarray, *, seed: int = 0) -> pa.Array:
        """A column of the original type from ``(rows,)`` numbers, NaN becoming null."""

    @abstractmethod
    def head(self) -> dict[str, Any]:
        """The record by which a density is built: the column's atoms, and the domain of the rest."""


def _plain(value: Any) -> Any:
    return [_plain(each) for each in value] if isinstance(value, tuple) else value
