"""flowstone score."""

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from flowstone.cli.values import Device, device_of
from flowstone.errors import OutputError

__all__ = ["score"]


def score(
    run: Path,
    data: str,
    *,
    out: Path,
    drop_missing: Annotated[bool, Parameter(negative=())] = False,
    device: Device = "auto",
) -> None:
    """Write DATA with one more column: log_prob, the log-likelihood of each row in nats, in the units of the data.

    Parameters
    ----------
    run
        A run folder.
    data
        A table that holds the flow's columns; other columns are carried along.
    out
        Where to: .csv or .parquet.
    drop_missing
        Leave out rows with a missing, NaN or infinite value.
    device
        Where to compute.
    """
    import pyarrow as pa

    from flowstone.data.tables import check_writable, read_table, write_table
    from flowstone.metrics import log_prob
    from flowstone.run import Run

    check_writable(out)
    if out.exists() and Path(data).exists() and out.samefile(data):
        raise OutputError(f"cannot write {out}: it is the table to be scored")
    folder = Run(run)
    flow = folder.flow(device_of(device))
    table, rows = folder.table(data, drop_missing=drop_missing)
    if left_out := len(read_table(data)) - len(table):
        print(f"left out {left_out} rows with missing values", file=sys.stderr)
    scores = log_prob(flow, rows.x, rows.context).double().numpy()
    arrow = table.arrow
    if "log_prob" in arrow.column_names:
        arrow = arrow.drop_columns(["log_prob"])
    write_table(out, arrow.append_column("log_prob", pa.array(scores)))
