"""Columns: the kinds of a table's columns, by which its rows become a tensor and a tensor rows again."""

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from flowstone.data.tables.arrow import compute
from flowstone.data.tables.facts import FEW, SHORT, Facts
from flowstone.data.tables.kinds import (
    INFERRED,
    KINDS,
    Categorical,
    Constant,
    Datetime,
    Kind,
    LeftOut,
    ModelledKind,
    Numbers,
    kind_from_record,
    kind_named,
)
from flowstone.data.tables.read import is_doubt, read_table
from flowstone.data.tables.table import Table
from flowstone.data.tables.types import is_number, is_text, python_value
from flowstone.data.tables.unseen import Unseen
from flowstone.data.tables.values import date_mask, number_mask, parse_numbers, without_gaps
from flowstone.errors import CheckpointError, DataError, DataWarning, FlowstoneError, SettingError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Columns", "decide", "kinds_of"]

CODE = r"^\s*(?:0\d+|\d{19,})\s*$"  # a number that begins with 0, or has more digits than an int64
LEAST_DISTINCT = 0.9  # least share of different decimals that float64 tells apart
WITH_UNIT = r"^[<>~]?\s*[+-]?\d+(?:[.,]\d+)?\s*[\pL°%/²³]{1,8}$"  # 62.6 kg, 1.5M
CHUNK = 1 << 18  # rows encoded at a time
SPECIFIED = re.compile(r"\s*([\w-]+)\s*(?:\((.*)\))?\s*", re.DOTALL)
MOSTLY = 0.5  # least share of rows with numbers or dates in a column with some other texts
OTHERS, RARELY = 0.1, 0.01  # largest share of other texts among the different ones; of rows with them, in doubt


@dataclass(frozen=True)
class Columns:
    """The kinds of all columns of a table, in its order.

    Attributes:
        kinds: one for each column; those that are left out have a kind, too.
        notes: what was decided or is in doubt, a sentence each.
        doubts: those of the notes that are in doubt; a warning was given of each.

    >>> columns = kinds_of({"age": [31, 44, 44, 60], "sex": ["f", "m", "m", "f"]})
    >>> columns.names, columns.encode({"age": [44], "sex": ["m"]}).tolist()
    (('age', 'sex'), [[44.0, 1.0]])
    >>> columns.decode([[60.0, 0.0]]).to_pylist()
    [{'age': 60, 'sex': 'f'}]
    """

    kinds: tuple[Kind, ...]
    notes: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()

    @property
    def decisions(self) -> tuple[str, ...]:
        """The notes of which no warning was given."""
        return tuple(note for note in self.notes if note not in self.doubts)

    @property
    def modelled(self) -> tuple[ModelledKind, ...]:
        """The kinds of the columns of the tensor, in its order."""
        return tuple(kind for kind in self.kinds if isinstance(kind, ModelledKind))

    @property
    def names(self) -> tuple[str, ...]:
        """The columns of the tensor."""
        return tuple(kind.column for kind in self.modelled)

    @property
    def left_out(self) -> tuple[str, ...]:
        """Columns of the table that are not in the tensor: constants, identifiers, text."""
        return tuple(kind.column for kind in self.kinds if not isinstance(kind, ModelledKind))

    @property
    def constants(self) -> tuple[Constant, ...]:
        """The kinds of the constant columns."""
        return tuple(kind for kind in self.kinds if isinstance(kind, Constant))

    def kind(self, name: str) -> Kind:
        """The kind of a column.

        Raises:
            DataError: there is no such column; the message holds the nearest one.
        """
        found = {kind.column: kind for kind in self.kinds}
        if name not in found:
            Table(Path("columns"), pa.table({each: pa.nulls(0) for each in found})).require([name])
        return found[name]

    def select(self, names: Sequence[str]) -> "Columns":
        """The same kinds of these columns alone, in this order."""
        return replace(self, kinds=tuple(self.kind(name) for name in names))

    def encode(self, table: Any, *, partial: bool = False, unseen: list[Unseen] | None = None) -> "Tensor":
        """Rows as float64, ``(rows, D)``: level indices, 0 and 1, numbers, days or seconds; NaN for gaps.

        Args:
            table: a ``Table``, or whatever ``read_table`` takes.
            partial: whether columns that the table lacks are gaps rather than an error.
            unseen: a list, where rows are to be scored by a density of mixed columns: a categorical level that was not
                learned has the index after the last level, and is added to the list, of which
                ``flowstone.data.tables.warn_unseen`` warns. None: it is an error.

        Raises:
            DataError: a column is missing, or a value is none of its kind; the message names column, row and value.
        """
        import torch

        table = read_table(table)
        if not partial:
            table.require(self.names)
        values = np.full((len(table), len(self.names)), np.nan)
        for index, kind in enumerate(self.modelled):
            if kind.column in table.columns:
                more = {"unseen": unseen} if isinstance(kind, Categorical) else {}
                column = table.arrow.column(kind.column)
                try:
                    values[:, index] = kind.encode(column, str(table.path), table.start, **more)
                except pa.ArrowException as error:  # of lists, bytes and the like
                    raise DataError(
                        f"{table.path}: column {kind.column!r} is of type {column.type}; it is {kind.name}"
                    ) from error
        return torch.from_numpy(values)

    def encoded_chunks(self, table: Table) -> Iterator[np.ndarray]:
        """The rows of ``encode``, some at a time, for a table of which no copy fits into memory."""
        rows = CHUNK if self.encodes_chunks_separately(table) else max(1, len(table))
        for piece in table.chunks(rows):
            yield self.encode(piece).numpy()

    def encodes_chunks_separately(self, table: Table) -> bool:
        """Whether rows of a table are encoded alike with and without its other rows.

        Numbers and dates that are still text are not: what a comma in ``1,234`` means depends on other cells. Dates as
        text are, where all of them have the form that their kind knows.
        """
        for kind in self.modelled:
            if isinstance(kind, Numbers) and kind.column in table.columns:
                column = table.arrow.column(kind.column)
                type_of_cells = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
                if is_text(type_of_cells) and not (isinstance(kind, Datetime) and kind.read(column) is not None):
                    return False
        return True

    def decode(self, x: Any, *, seed: int = 0) -> pa.Table:
        """A table of the original columns, types and levels from ``(rows, D)`` numbers; constants are put back.

        Values are rounded to the grid of their column and kept within its bounds; NaN becomes null.

        Args:
            x: a tensor or array whose columns are ``names``.
            seed: of the draws among rare levels that were grouped.
        """
        values = np.asarray(x.detach().cpu() if hasattr(x, "detach") else x, dtype=np.float64)
        if values.ndim != 2 or values.shape[1] != len(self.names):
            raise DataError(f"expected numbers of shape (rows, {len(self.names)}), got {values.shape}")
        made, place = {}, {name: index for index, name in enumerate(self.names)}
        for kind in self.kinds:
            if isinstance(kind, ModelledKind):
                made[kind.column] = kind.decode(values[:, place[kind.column]], seed=seed)
            elif isinstance(kind, Constant):
                made[kind.column] = kind.repeat(len(values))
        return pa.table(made)

    def heads(self) -> list[dict[str, Any]]:
        """The record of each column of the tensor by which a density is built."""
        return [kind.head() for kind in self.modelled]

    @property
    def day_first(self) -> bool | None:
        """Whether the day comes first in dates that are text; None where nothing said so, or not all agree."""
        orders = {kind.day_first for kind in self.modelled if isinstance(kind, Datetime)} - {None}
        return orders.pop() if len(orders) == 1 else None

    def as_record(self) -> list[dict[str, Any]]:
        """Plain values for JSON."""
        return [kind.as_record() for kind in self.kinds]

    @classmethod
    def from_record(cls, record: Sequence[Mapping[str, Any]]) -> "Columns":
        """The columns that ``as_record`` wrote.

        Raises:
            CheckpointError: one of them has parts of other types, or parts that contradict each other.
        """
        kinds = []
        for place, one in enumerate(record, start=1):
            try:
                kind = kind_from_record(one)
                alone = cls((kind,))
                alone.decode(np.full((1, len(alone.names)), np.nan))
            except Exception as error:  # whatever its parts lead to, they are not what was written
                reason = " ".join(str(error).split())
                raise CheckpointError(f"column {place}: not a description that Flowstone wrote ({reason})") from error
            kinds.append(kind)
        return cls(tuple(kinds))


def kinds_of(
    table: Any, kinds: Mapping[str, str] | None = None, exclude: Sequence[str] = (), **reading: Any
) -> Columns:
    """The kinds of a table's columns: inferred by the rules in ``flowstone.data.tables.kinds``, or as asked.

    Args:
        table: a ``Table``, or whatever ``read_table`` takes: a path, a frame, an array, a dictionary of columns …
        kinds: what columns are where the inference errs, such as ``{"price": "positive", "angle": "circular(0,360)",
            "zip": "categorical", "size": "ordinal(S,M,L)"}``.
        exclude: columns to leave out.
        reading: options of ``read_table``, such as ``na=["-999"]``.

    Raises:
        DataError: there are columns of which no kind can be made as they are; all of them are named at once.
        SettingError, UnknownNameError: a column cannot be of the kind that ``kinds`` names, or there is no such kind.

    >>> columns = kinds_of({"id": [7, 8, 9], "x": [0.5, 1.5, 0.25], "unit": ["m", "m", "m"]}, exclude=["id"])
    >>> [(kind.column, kind.name) for kind in columns.kinds]
    [('id', 'left_out'), ('x', 'continuous'), ('unit', 'constant')]
    """
    table = read_table(table, **reading)
    columns, doubts = decide(table, kinds, exclude)
    for doubt in doubts:
        warnings.warn(doubt, stacklevel=2)
    return columns


def decide(
    table: Table, kinds: Mapping[str, str] | None = None, exclude: Sequence[str] = (), *, keep: Sequence[str] = ()
) -> tuple[Columns, list[DataWarning]]:
    """``kinds_of`` a table, and the doubts, of which no warning is given.

    Args:
        keep: columns that are wanted, even if they look like identifiers or text.
    """
    if kinds is not None and not isinstance(kinds, Mapping):
        raise SettingError(f"kinds={kinds!r}: expected kinds by column, such as {{'zip': 'categorical'}}")
    kinds, exclude = dict(kinds or {}), (exclude,) if isinstance(exclude, str) else tuple(exclude)
    table.require((*kinds, *exclude))
    decided, notes, doubts, problems = [], list(table.notes[1:]), [], []
    in_doubt = [note for note in notes if is_doubt(note)]
    for name in table.columns:
        facts = Facts(
            name,
            table.arrow.column(name),
            str(table.path),
            index=name in table.index,
            day_first=table.reading.day_first,
        )
        try:
            decided.append(_decide(facts, "left_out" if name in exclude else kinds.get(name), name in keep))
        except (DataError, SettingError) as error:
            problems.append(error)
        notes.extend(f"column {name!r}: {note}" for note in facts.notes)
        for doubt, otherwise, remedy in facts.doubts:
            notes.append(f"column {name!r}: {doubt}")
            in_doubt.append(notes[-1])
            doubts.append(DataWarning(f"{table.path}: column {name!r}: {doubt}{otherwise}", remedy=remedy))
    constant = [kind for kind in decided if isinstance(kind, Constant)]
    if constant:
        said = ", ".join(f"{kind.column!r} ({kind.said})" for kind in constant)
        notes.append(f"constant columns are left out and put back in samples: {said}")
    if problems:
        raise _all_problems(str(table.path), problems)
    return Columns(tuple(decided), tuple(notes), tuple(in_doubt)), doubts


def _decide(facts: Facts, requested: str | None, keep: bool) -> Kind:
    if requested is not None:
        name, arguments = _specified(requested)
        kind = kind_named(name)
        if arguments and not kind.takes:
            raise SettingError(f"column {facts.name!r}: {requested}: {name} takes nothing in brackets")
        _check_values(facts, name)
        return kind.requested(_parsed(facts, name), arguments)
    if not facts.index:
        _check_values(facts, None)
    tried = [kind for kind in INFERRED if not (keep and issubclass(kind, LeftOut))]
    kind = next((made for each in tried if (made := each.infer(facts)) is not None), None)
    if kind is None:  # wanted text
        return KINDS["categorical"].requested(facts, ())
    for sentinel in facts.sentinels if isinstance(kind, ModelledKind) and is_number(facts.type) else ():
        value, count = f"{sentinel:.10g}", int(facts.counts[facts.unique == sentinel][0])
        facts.doubt(f"{value}, in {count} rows, may stand for a gap", "to read it as one", na=[value])
    return kind


def _specified(requested: str) -> tuple[str, tuple[str, ...]]:
    """``circular(0,360)`` as its name and what stands in brackets.

    >>> _specified("circular(0, 360)")
    ('circular', ('0', '360'))
    """
    match = SPECIFIED.fullmatch(requested) if isinstance(requested, str) else None
    if match is None:
        raise SettingError(f"kind {requested!r}: expected a name, such as positive, or circular(0,360)")
    arguments = tuple(part.strip() for part in match[2].split(",")) if match[2] and match[2].strip() else ()
    return match[1].replace("-", "_").lower(), arguments


def _parsed(facts: Facts, name: str) -> Facts:
    """Facts of the column as numbers, where text is to be a kind of numbers and can be one; of dates without gaps."""
    if not is_text(facts.type) or name in ("categorical", "ordinal", "text", "identifier", "left_out", "constant"):
        return facts
    text = without_gaps(compute.cast(facts.column, pa.string()))
    column = compute.cast(text, facts.type) if name == "datetime" else parse_numbers(text)
    return facts if column is None else replace(facts, column=column)


def _check_values(facts: Facts, requested: str | None) -> None:
    """Refuse what no kind of numbers can hold: infinities, numbers and texts in one column, too many digits."""
    if requested in ("categorical", "text", "identifier", "left_out", "ordinal", "constant"):
        return
    if is_number(facts.type) and not facts.too_wide and not facts.finite:
        plain = compute.cast(facts.column, pa.float64())
        infinite = compute.fill_null(compute.is_inf(plain), False)
        row, count = compute.index(infinite, True).as_py(), compute.sum(infinite).as_py()
        raise DataError(
            f"column {facts.name!r}, row {row + 1} is infinite; rows with such values: {count}; to read them as gaps",
            remedy={"na": ["inf", "-inf"]},
        )
    if facts.too_wide and facts.looks_like_identifier is None and not facts.is_short:
        whole = facts.whole_numbers
        assert whole is not None
        row = int(np.argmax(np.abs(whole.astype(np.float64))))
        raise DataError(
            f"column {facts.name!r} holds whole numbers further apart than 2^53, which float64 cannot tell apart "
            f"(row {row + 1}: {whole[row]}); to leave it out",
            remedy={"exclude": [facts.name]},
        )
    if pa.types.is_decimal(facts.type) and len(np.unique(facts.values)) < LEAST_DISTINCT * len(facts.level_counts[0]):
        raise DataError(
            f"column {facts.name!r} holds decimals that float64 cannot tell apart, such as {facts.present[0]}; "
            "to leave it out",
            remedy={"exclude": [facts.name]},
        )
    if is_text(facts.type):
        _refuse_mixed(facts)
        if requested is None:
            _doubt_text(facts)


def _doubt_text(facts: Facts) -> None:
    """Text that is numbers with units throughout, or in a frame numbers, is in doubt, unless it is of few values, or of
    codes.
    """
    levels = facts.level_counts[0]
    if facts.distinct <= FEW or compute.any(compute.match_substring_regex(levels, CODE)).as_py():
        return
    if compute.all(number_mask(pa.chunked_array([levels]))).as_py():
        remedy = {facts.name: "continuous"}
        facts.doubt("its texts are all numbers, and are taken for words", "to read numbers", kinds=remedy)
    # Codes such as 12b look like numbers with units; but these have a decimal mark or a blank here and there.
    has_mark = compute.any(compute.match_substring_regex(levels, r"\d[., ]")).as_py()
    if has_mark and compute.all(compute.match_substring_regex(levels, WITH_UNIT)).as_py():
        said = f"its texts are numbers with units, such as {levels[0].as_py()!r}, and are taken for words"
        facts.doubt(said, "numbers alone are read as numbers")


def _refuse_mixed(facts: Facts) -> None:
    """Refuse a column of dates, or of many different numbers, with a few other texts; with few numbers, doubt it."""
    levels, counts = facts.level_counts
    total = int(counts.sum())
    for what, mask in (("numbers", number_mask), ("dates", date_mask)):
        fits = np.asarray(mask(levels), dtype=bool)
        rest = int(counts[~fits].sum())
        if not 0 < rest <= (1 - MOSTLY) * total or (~fits).sum() > max(1, OTHERS * len(levels)):
            continue
        texts = levels.filter(pa.array(~fits)).to_pylist()
        cells = compute.fill_null(compute.is_in(facts.column, value_set=pa.array(texts, facts.type)), False)
        row = compute.index(cells, True).as_py()
        said = f"holds {what}, but row {row + 1} holds {python_value(facts.column[row])!r} (such rows: {rest})"
        if facts.distinct > SHORT // 4 or what == "dates":
            raise DataError(f"column {facts.name!r} {said}; to read it as a gap", remedy={"na": texts[:5]})
        if rest <= RARELY * total:
            facts.doubt(f"it {said}", "to read it as a gap", na=texts[:5])
        return


def _all_problems(where: str, problems: Sequence[FlowstoneError]) -> FlowstoneError:
    """One error that says all of them, with what would mend each."""
    remedy: dict[str, Any] = {}
    for error in problems:
        for name, value in error.remedy.items():
            before = remedy.get(name, [])
            remedy[name] = [*before, *(each for each in value if each not in before)]
    if len(problems) == 1:
        return type(problems[0])(f"{where}: {problems[0].problem}", remedy=remedy)
    said = "; ".join(f"({number}) {error.problem}" for number, error in enumerate(problems, start=1))
    return DataError(f"{where}: {len(problems)} columns cannot be taken as they are: {said}", remedy=remedy)
