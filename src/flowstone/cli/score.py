"""flowstone score."""

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from flowstone.cli.values import Device, device_of, precision_of
from flowstone.errors import OutputError

__all__ = ["score"]


def score(
    run: Path,
    data: str,
    *,
    out: Path,
    drop_missing: Annotated[bool, Parameter(negative=())] = False,
    skip_bad: Annotated[bool, Parameter(negative=())] = False,
    data_dir: Path | None = None,
    device: Device = "auto",
    precision: str = "fp32",
) -> None:
    """Write DATA with one more column: log_prob, the log-likelihood of each row in nats, in the units of the data.

    Of images: a table of their names, log_prob and bits_per_dim.

    Parameters
    ----------
    run
        A run folder.
    data
        A table that holds the flow's columns; other columns are carried along. Or images: a folder, an array, or the
        test part of a set by name.
    out
        Where to: .csv or .parquet.
    drop_missing
        Leave out rows with a missing, NaN or infinite value.
    skip_bad
        Leave out images that cannot be read.
    data_dir
        The folder that holds the image sets, if it is no longer where it was.
    device
        Where to compute.
    precision
        fp32, or bf16 for the nets: quicker where the processor has it; `flowstone check` says what it costs.
    """
    import pyarrow as pa

    from flowstone.data.tables import check_writable, read_table, write_table
    from flowstone.evaluation.metrics import bits_per_dim, log_prob
    from flowstone.runs import Run

    check_writable(out)
    if out.exists() and Path(data).exists() and out.samefile(data):
        raise OutputError(f"cannot write {out}: it is the table to be scored")
    folder = Run(run)
    flow = folder.flow(device_of(device))
    if folder.of_images:
        images = folder.images(data, data_dir=data_dir, skip_bad=skip_bad)
        with precision_of(precision, flow):
            scores = log_prob(flow, images.rows.x, images.rows.context).double().numpy()
        bits = [bits_per_dim(-score, flow.event_shape.numel()) for score in scores.tolist()]
        write_table(out, pa.table({"image": images.names, "log_prob": scores, "bits_per_dim": bits}))
        return
    table, rows = folder.table(data, drop_missing=drop_missing)
    if left_out := len(read_table(data)) - len(table):
        print(f"left out {left_out} rows with missing values", file=sys.stderr)
    with precision_of(precision, flow):
        scores = log_prob(flow, rows.x, rows.context).double().numpy()
    arrow = table.arrow
    if "log_prob" in arrow.column_names:
        arrow = arrow.drop_columns(["log_prob"])
    write_table(out, arrow.append_column("log_prob", pa.array(scores)))
