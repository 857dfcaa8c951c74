"""flowstone columns."""

import sys
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from flowstone.cli.flags import select, with_flags
from flowstone.data.request import DataRequest
from flowstone.data.tables.reading import READING
from flowstone.files import to_json

if TYPE_CHECKING:
    from flowstone.data.tables import Columns, Table

__all__ = ["columns"]

WIDE = 200  # characters, where the output is no terminal


@with_flags(DataRequest, "kinds", "exclude", *READING)
def columns(
    table: str, *, as_json: Annotated[bool, Parameter(name="--json", negative=())] = False, **options: Any
) -> None:
    """What each column of TABLE is taken for, and what will be done with it in training and in samples.

    Parameters
    ----------
    table
        Text (.csv, .tsv, .txt, also compressed), Parquet, Arrow, JSON lines, .npy, .xlsx; - for standard input; or a
        folder or pattern of such files.
    as_json
        Print as JSON.
    """
    from flowstone.data.tables import kinds_of, read_table

    request = DataRequest.of(table, select(DataRequest, options))
    read = read_table(table, **{name: getattr(request, name) for name in READING})
    found = kinds_of(read, dict(request.kinds), request.exclude)
    if as_json:
        print(to_json({"source": str(read.path), "read": read.notes[0], "rows": len(read), "columns": _plain(found)}))
    else:
        _show(read, found)


def _plain(found: "Columns") -> list[dict[str, Any]]:
    heads = {head["name"]: head for head in found.heads()}
    return [
        {
            "name": kind.column,
            "kind": kind.name,
            "modelled": kind.column in found.names,
            "range": kind.describe().range,
            "distinct": kind.distinct,
            "gaps": kind.missing,
            "treatment": kind.describe().treatment,
            "head": heads.get(kind.column),
        }
        for kind in found.kinds
    ]


def _show(read: "Table", found: "Columns") -> None:
    from rich.console import Console
    from rich.table import Table as Grid
    from rich.text import Text

    console = Console(width=None if sys.stdout.isatty() else WIDE)
    console.print(Text(f"{read.path}: {read.notes[0]}"), soft_wrap=True)
    grid = Grid(box=None, pad_edge=False, header_style="bold")
    for heading in ("column", "kind", "range or levels", "distinct", "gaps", "atoms", "grid", "what will be done"):
        grid.add_column(heading, justify="right" if heading in ("distinct", "gaps", "grid") else "left")
    for kind in found.kinds:
        said = kind.describe()
        gaps = f"{kind.missing / kind.rows:.1%}" if kind.missing else ""
        cells = (
            kind.column,
            kind.name,
            said.range,
            str(kind.distinct or ""),
            gaps,
            said.atoms,
            said.grid,
            said.treatment,
        )
        grid.add_row(*map(Text, cells), style="" if kind.column in found.names else "dim")
    console.print(grid)
    for note in found.decisions:
        console.print(Text(note), soft_wrap=True)
