"""The dialect of a text file: separator and quotes by CleverCSV; header, comments, preamble and units by rules.

What is decided, and how, over the first rows (up to ``SAMPLE`` characters):

- A first line ``sep=;``, as Excel writes it, says the separator.
- Where the file begins with a line that starts with ``#``, ``%`` or ``//``, all such lines are comments.
- Lines before the first one that has as many fields as most rows are a preamble, and are skipped.
- The first row holds names where columns of numbers, dates or truth values have words there; or whole numbers that
  count up by one, over other values. Where all columns are words, it holds names if none of its cells comes again.
- A row below the names is one of units where every column of numbers has a word there.
- An unnamed last column without values is a separator at the ends of lines.
"""

import csv
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from flowstone.data.limits import COLUMNS
from flowstone.data.tables.facts import EXACT
from flowstone.data.tables.values import decimal_mark, is_gap, looks_typed
from flowstone.errors import DataError

__all__ = ["LONG_CELL", "SAMPLE", "Dialect", "Row", "columns_named", "find_header", "is_code", "sniff"]

SAMPLE = 1 << 18
SNIFFED_LINES, SNIFFED = 100, 1 << 14
# CleverCSV looks for addresses in time that grows with the cube of a word's length; longer words are cut for it.
LONG_WORD = re.compile(r"([\w.-]{100})[\w.-]+")
SEPARATORS = (",", ";", "\t", "|", " ")
RARE_SEPARATORS = ("~", "^", ":", "\x1f", "\x01")  # tried where none of the usual ones is there
SAID = re.compile(r'"?sep=(.)"?[,;\t]*')  # as Excel writes it
COMMENTS = ("#", "%", "//")
SPOKEN = {",": "','", ";": "';'", "\t": "tabs", "|": "'|'", " ": "spaces"}
MOST_NOTES = 5  # of columns whose names come again
LONG_CELL = "a cell is longer than 131072 characters; perhaps a quote is opened and never closed"
EXACT_DIGITS = 18  # whole numbers of so many digits fit into int64


@dataclass(frozen=True)
class Row:
    """The fields of a row, and how many lines were read when it ended."""

    fields: list[str]
    end: int


@dataclass(frozen=True)
class Dialect:
    """How a text file holds a table.

    Attributes:
        separator, quote, escape: single characters; the last two may be empty.
        comment: what lines that are no rows begin with, or empty.
        skip: lines before the first row of values: blank ones, comments, names and units are among them.
        names: of the columns; x1, x2, … where the file has none.
        padded: separators are followed by blanks that belong to no value.
        point: the decimal mark by which numbers are read.
        decimal: the decimal mark that cells show, or that the user named; None where it is a guess.
        as_text: columns to be kept as text, of which ``is_code`` is true.
        unused: names of columns without values that separators at the ends of lines make.
        notes: what was understood beside the separator, and what is in doubt.
    """

    separator: str
    quote: str = '"'
    escape: str = ""
    comment: str = ""
    skip: int = 0
    names: tuple[str, ...] = ()
    padded: bool = False
    point: str = "."
    decimal: str | None = None
    as_text: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def rewritten(self) -> bool:
        """Whether lines must be changed before a plain reader of CSV can take them."""
        return bool(self.comment) or self.padded or self.separator == " "

    def reader(self, lines: Iterable[str]):
        """Python's reader of these lines, as the dialect says."""
        if self.separator == " ":
            lines = (line.strip(" \t\r\n") for line in lines)
        return csv.reader(
            lines,
            delimiter=self.separator,
            quotechar=self.quote or None,
            quoting=csv.QUOTE_MINIMAL if self.quote else csv.QUOTE_NONE,
            escapechar=self.escape or None,
            skipinitialspace=self.padded or self.separator == " ",
        )

    def rows(self, lines: Iterable[str]) -> list[Row]:
        """The rows in lines."""
        reader = self.reader(lines)
        try:
            return [Row(fields, reader.line_num) for fields in reader if fields]
        except csv.Error as error:
            if "field limit" not in str(error):
                raise
            raise DataError(f"{LONG_CELL}, near line {reader.line_num}") from error

    def said(self) -> str:
        """In a few words, for the line that tells what was understood."""
        comma = " with decimal commas" if self.point == "," else ""
        return f"text separated by {SPOKEN.get(self.separator, repr(self.separator))}{comma}"


def sniff(sample: str, *, na: Sequence[str] = (), decimal: str | None = None) -> Dialect:
    """The dialect of a file from its first lines.

    Args:
        sample: whole lines.
        na: further texts that mean a gap.
        decimal: the decimal mark where the cells do not show it.

    Raises:
        DataError: there is no line that is not blank or a comment.
    """
    lines = sample.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    numbered = [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    said = SAID.fullmatch(numbered[0][1].strip()) if numbered else None
    dialect, numbered, remarks = _without_comments(numbered[1:] if said else numbered)
    dialect = replace(dialect, separator=said[1]) if said else dialect
    rows = dialect.rows([line + "\n" for _, line in numbered])
    start = _preamble(rows)
    cells = [row.fields for row in rows[start:]]
    header, units = find_header(cells, na)
    names = cells[0] if header else _names_in_remark(dialect, remarks, len(cells[0]))
    values, notes = cells[header + units :], []
    if start:
        notes.append(_skipped(rows[start - 1].fields, start, len(cells[0]), named=header or names is not None))
    if units:
        notes.append(f"the row below the names is skipped as units: {', '.join(cells[1])}")
    names, unused = columns_named(names, values, notes)
    mark, _ = decimal_mark(cell for row in values[:2000] for cell in row)
    decimal = mark or decimal
    last = start + header + units
    return replace(
        dialect,
        skip=numbered[rows[last - 1].end - 1][0] if last else numbered[0][0] - 1,
        names=tuple(names),
        unused=unused,
        point=_point(dialect, values, notes) if decimal is None else decimal,
        decimal=decimal,
        as_text=tuple(n for i, n in enumerate(names) if is_code([row[i] for row in values if i < len(row)], na)),
        notes=tuple(notes),
    )


def find_header(rows: Sequence[Sequence[str]], na: Sequence[str] = ()) -> tuple[bool, int]:
    """Whether the first row holds names, and how many rows of units (0 or 1) follow it."""
    first, below = rows[0], rows[1:]
    if not below:
        return not any(map(looks_typed, first)), 0
    columns = [[row[i] for row in below if i < len(row) and not is_gap(row[i], na)] for i in range(len(first))]
    typed = [i for i, cells in enumerate(columns) if cells and _mostly(map(looks_typed, cells))]
    if not typed:
        return _words_are_names(first, columns), 0
    named = [i for i in typed if not looks_typed(first[i]) and not is_gap(first[i], na)]
    unlike = bool(named) and not any(looks_typed(first[i]) for i in typed)  # some columns have no name
    header = len(named) * 2 > len(typed) or unlike or _counts_up(rows) or _is_names_above_values(first, typed, columns)
    units = header and len(below) > 1 and _are_units(below[0], typed, na)
    return header, int(units)


def columns_named(
    names: Sequence[str] | None, values: Sequence[Sequence[str]], notes: list[str]
) -> tuple[list[str], tuple[str, ...]]:
    """Unique names for all columns, and those of columns that only separators at the ends of lines make.

    What was done is added to ``notes``.
    """
    width = Counter(map(len, values)).most_common(1)[0][0] if values else len(names or ())
    if names is None:
        names = [f"x{i + 1}" for i in range(width)]
    found = [name.strip() for name in names]
    while len(found) > width and not found[-1]:
        found.pop()
    extra = width - len(found)
    whole = [row for row in values if len(row) == width]
    if extra == 1 and any(row[-1].strip() for row in whole):
        found = ["", *found]  # as R writes row names
        taken = "the first one is taken for names of rows" * (len({row[0] for row in whole}) < len(whole))
    else:
        found += [""] * max(extra, 0)
        taken = "the last ones have no name" * any(cell.strip() for row in whole for cell in row[width - extra :])
    if extra > 0 and taken:
        counts = f"rows have {width} fields, the header {width - extra} names"
        notes.append(f"in doubt: {counts}: {taken}; numbers with decimal commas must be quoted where commas separate")
    if len(found) > COLUMNS:
        raise DataError(f"{len(found)} columns or more; at most {COLUMNS} are read")
    made = _each_once(found, notes)
    unused = []
    for i in range(len(found) - 1, 0, -1):
        if found[i] or any(len(row) > i and row[i].strip() for row in values):
            break
        unused.append(made[i])
    return made, tuple(unused)


def _each_once(names: Sequence[str], notes: list[str]) -> list[str]:
    """The names with a number behind those that occur before; ``column_3`` where there is none."""
    made: dict[str, None] = {}
    numbers: Counter[str] = Counter()
    again = []
    for place, name in enumerate(names, start=1):
        base = chosen = name or f"column_{place}"
        while chosen in made:
            numbers[base] += 1
            chosen = f"{base}_{numbers[base] + 1}"
        if chosen != base:
            again.append(
                f"in doubt: column name {base[:100]!r} occurs more than once: column {place} is called {chosen[:100]!r}"
            )
        made[chosen] = None
    notes.extend(again[:MOST_NOTES])
    if len(again) > MOST_NOTES:
        notes.append(f"in doubt: {len(again) - MOST_NOTES} more columns have names that occur more than once")
    return list(made)


def _punctuation(lines: Sequence[str]) -> Dialect:
    """Separator, quote and escape by CleverCSV's measure of consistency."""
    import clevercsv

    text = LONG_WORD.sub(r"\1", _first_lines(lines))  # many lines, so that a preamble at the top weighs little
    found = clevercsv.Detector().detect(text, delimiters=SEPARATORS)
    if found is None or not found.delimiter:
        rare = clevercsv.Detector().detect(text, delimiters=RARE_SEPARATORS)
        found = rare if rare and rare.delimiter and all(rare.delimiter in line for line in lines) else found
    separator = _agreed(lines, (found.delimiter if found else "") or ",")
    quote = (found.quotechar if found else "") or '"'
    escape = (found.escapechar if found else "") or ""
    padded = separator != " " and sum(f"{separator} " in line for line in lines) > 0.9 * len(lines)
    return Dialect(separator, quote, escape if escape == "\\" else "", padded=padded)


def _agreed(lines: Sequence[str], found: str) -> str:
    """A separator by which all lines have the same number of fields, more than one; ``found`` if it is such a one, or
    if there is none: in ``a;b`` above ``1,5;2,5`` most lines agree on the comma, but the first does not.
    """
    some = _first_lines(lines).split("\n")

    def agree(separator: str) -> bool:
        widths = {len(fields) for fields in csv.reader(some, delimiter=separator) if fields}
        return len(widths) == 1 and widths != {1}

    if found == " " or agree(found):
        return found
    return next((separator for separator in (";", "\t", "|") if agree(separator)), found)


def _first_lines(lines: Sequence[str]) -> str:
    """So many lines as are enough to see the dialect, cut where no quoted field is open."""
    chosen, length = [], 0
    for line in lines[:SNIFFED_LINES]:
        if length > SNIFFED:
            break
        chosen.append(line)
        length += len(line)
    while len(chosen) > 1 and "\n".join(chosen).count('"') % 2:
        chosen.pop()
    return "\n".join(chosen)[: 2 * SNIFFED]


def _without_comments(numbered: list[tuple[int, str]]) -> tuple[Dialect, list[tuple[int, str]], list[str]]:
    """The dialect, the lines that are no comments, and those that are.

    A first line of names that begins like a comment, such as ``#id,x``, is no comment.
    """
    first = numbered[0][1].lstrip() if numbered else ""
    comment = next((mark for mark in COMMENTS if first.startswith(mark)), "")
    if not comment:
        if not numbered:
            raise DataError("the file is empty")
        return _punctuation([line for _, line in numbered]), numbered, []
    plain = [each for each in numbered if not each[1].lstrip().startswith(comment)]
    remarks = [line for _, line in numbered if line.lstrip().startswith(comment)]
    if not plain:
        raise DataError("the file holds comments alone")
    dialect = _punctuation([line for _, line in plain])
    if len(remarks) == 1 and dialect.separator != " " and not first[len(comment) :].startswith((" ", "\t")):
        names, row = (dialect.rows([line])[0].fields for line in (first, plain[0][1]))
        if len(names) == len(row) > 1 and any(map(looks_typed, row)):
            return dialect, numbered, []
    return replace(dialect, comment=comment), plain, remarks


def _preamble(rows: Sequence[Row]) -> int:
    """How many rows come before the first that has as many fields as most."""
    widths = [len(row.fields) for row in rows]
    width = Counter(widths).most_common(1)[0][0]
    start = widths.index(width)
    if width == 1 or start * 2 >= len(rows):
        return 0
    if start == 1 and widths[0] in (width - 1, width + 1) and not any(map(looks_typed, rows[0].fields)):
        return 0  # names without that of the row names, or with one separator more or less
    return start


def _skipped(last: Sequence[str], count: int, width: int, *, named: bool) -> str:
    """What is said of lines before the table; they are in doubt where the last one may hold its names."""
    if named or len(last) < 2 or any(map(looks_typed, last)):
        return f"{count} lines before the table are skipped" if count > 1 else "a line before the table is skipped"
    return (
        f"in doubt: rows have {width} fields, the line of words above them {len(last)} ({', '.join(last[:3])}): it is "
        "skipped; numbers with decimal commas must be quoted where commas separate"
    )


def _names_in_remark(dialect: Dialect, remarks: Sequence[str], width: int) -> list[str] | None:
    """Names in the last comment, where it has as many words as the rows have fields."""
    rows = dialect.rows([remarks[-1].lstrip().removeprefix(dialect.comment).strip()]) if remarks else []
    if rows and len(rows[0].fields) == width > 1 and not any(map(looks_typed, rows[0].fields)):
        return [name.strip() for name in rows[0].fields]
    return None


def _mostly(flags) -> bool:
    flags = list(flags)
    return sum(flags) > 0.8 * len(flags)


def _words_are_names(first: Sequence[str], columns: Sequence[Sequence[str]]) -> bool:
    """Whether a row of words holds names: none comes again, and not all begin with digits where their columns do."""
    distinct = len(set(first)) == len(first) and all(cell.strip() for cell in first)
    measured = [i for i, cells in enumerate(columns) if cells and _mostly(map(_begins_with_digit, cells))]
    if measured and all(_begins_with_digit(first[i]) and not looks_typed(first[i]) for i in measured):
        return False
    return distinct and not any(cell in set(cells) for cell, cells in zip(first, columns, strict=True))


def _begins_with_digit(cell: str) -> bool:
    return cell.strip().lstrip("+-.<>~")[:1].isdigit()


def _counts_up(rows: Sequence[Sequence[str]]) -> bool:
    """Whether the first row is 0, 1, 2, … or years, and the second is not such a row."""

    def counting(row: Sequence[str]) -> bool:
        row = row[1:] if not row[0].strip() else row
        whole = all(re.fullmatch(r"\d+", cell.strip()) for cell in row)
        return whole and len(row) > 1 and all(int(b) - int(a) == 1 for a, b in pairwise(row))

    return counting(rows[0]) and not counting(rows[1]) and (len(rows[0]) > 2 or "." in "".join(rows[1]))


def _is_names_above_values(first: Sequence[str], typed: Sequence[int], columns: Sequence[Sequence[str]]) -> bool:
    """Years as names of columns beside a named column of words: ``country,1990,1991``."""
    words = [i for i in range(len(first)) if i not in typed and first[i].strip()]
    years = [int(first[i]) for i in typed if re.fullmatch(r"(?:19|20)\d\d", first[i].strip())]
    steps = {b - a for a, b in pairwise(years)}
    unseen = all(first[i] not in columns[i] for i in words)
    return bool(words) and unseen and len(years) == len(typed) > 1 and len(steps) == 1 and steps != {0}


def _are_units(row: Sequence[str], typed: Sequence[int], na: Sequence[str]) -> bool:
    cells = [row[i] for i in typed if i < len(row)]
    words = [cell for cell in cells if cell.strip()]
    return bool(words) and not any(looks_typed(cell) or is_gap(cell, na) for cell in words)


def _point(dialect: Dialect, values: Sequence[Sequence[str]], notes: list[str]) -> str:
    """The decimal mark where no cell shows it."""
    grouped = next((c.strip() for row in values for c in row if re.fullmatch(r"[+-]?\d{1,3},\d{3}", c.strip())), None)
    if grouped is None:
        return "."
    if dialect.separator == ";":
        point, other, what = ",", ".", "a decimal comma"
    else:
        point, other, what = ".", ",", "a comma between thousands"
    taken = f"it is read as {what}; decimal={other!r} reads it otherwise"
    notes.append(f"in doubt: nothing shows what the comma in {grouped!r} is; {taken}")
    return point


def is_code(cells: Sequence[str], na: Sequence[str] = ()) -> bool:
    """Whole numbers that begin with 0, such as postcodes, or that are beyond int64, or of 19 digits and further apart
    than float64 can tell.
    """
    cells = [cell.strip() for cell in cells if not is_gap(cell, na)]
    if not cells or not all(map(str.isdecimal, cells)):
        return False
    if any(len(c) > 1 and c[0] == "0" for c in cells) or max(map(len, cells)) > EXACT_DIGITS + 1:
        return True
    least, most = min(map(int, cells)), max(map(int, cells))
    return most >= 2**63 or (most >= 10**EXACT_DIGITS and most - least > EXACT)
