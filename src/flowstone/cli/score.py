"""flowstone score."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from flowstone.cli.anomaly import judge_of, with_anomaly
from flowstone.cli.flags import select, with_flags
from flowstone.cli.values import (
    Device,
    FiniteCheck,
    Out,
    device_of,
    images_options,
    model_of,
    precision_of,
    reading_options,
)
from flowstone.data.request import DataRequest
from flowstone.errors import DataError, OutputError, SettingError
from flowstone.train.settings import Settings

if TYPE_CHECKING:
    import pyarrow as pa

    from flowstone.data.tables import Table
    from flowstone.table_model import TableModel

__all__ = ["score"]


@with_flags(Settings, "precision")
@with_flags(DataRequest, "drop_missing", "na", "encoding", "skip_bad", "data_dir")
def score(
    run: Path,
    data: str,
    *,
    out: Out,
    per_column: Annotated[bool, Parameter(negative=())] = False,
    anomaly: Annotated[bool, Parameter(negative=())] = False,
    device: Device = "auto",
    precision: str = Settings.precision,
    **options: Any,
) -> None:
    """Write DATA with one more column: log_prob, the log-likelihood of each row in nats, in the units of the data.

    For images: a table of their names, log_prob and bits_per_dim. Where a log_prob is NaN or infinite the file is
    written all the same, and the exit status is 1.

    Parameters
    ----------
    run
        A run folder.
    data
        A table that holds the density's columns; other columns are carried along. Or images: a folder, an array, or
        the test part of a set by name.
    out
        The file to write: .csv or .parquet; - writes .csv to standard output.
    per_column
        For densities of mixed columns: a further column log_prob:NAME for each feature, the log-likelihood of its value
        given all others of the row.
    anomaly
        For tables: two further columns. p_value is the share of the training's test rows and this one that are at most
        as likely as this one; blame names the column whose value fits the others of the row worst.
    device
        Where to compute.
    """
    import pyarrow as pa
    import torch

    from flowstone.data.tables import check_writable, write_table
    from flowstone.evaluation.metrics import bits_per_dim, log_prob
    from flowstone.runs import Run

    check_writable(out)
    if out.exists() and Path(data).exists() and out.samefile(data):
        raise OutputError(f"cannot write {out}: it is the table to be scored")
    folder, finite = Run(run), FiniteCheck()
    chosen = select(DataRequest, options)
    if folder.of_mixed_columns:
        model, table = model_of(folder, device), folder.read(data, **reading_options(chosen))
        with precision_of(precision, model.density):
            scored = _scored(model, table, per_column=per_column, drop_missing=chosen.get("drop_missing", False))
            if anomaly:
                scored = with_anomaly(scored, judge_of(folder, model.density), folder, model.encode(scored))
        finite(torch.tensor(scored.column("log_prob").to_numpy()))
        write_table(out, scored)
        finite.require(out, "log_prob")
        return
    if per_column:
        raise SettingError(f"--per-column is for densities of mixed columns (--flow mixed); {run} is none")
    density = folder.density(device_of(device))
    judge = judge_of(folder, density) if anomaly else None
    if folder.of_images:
        images = folder.images(data, **images_options(chosen))
        with precision_of(precision, density):
            scores = finite(log_prob(density, images.rows.x, images.rows.context).double()).numpy()
        bits = [bits_per_dim(-score, density.event_shape.numel()) for score in scores.tolist()]
        write_table(out, pa.table({"image": images.names, "log_prob": scores, "bits_per_dim": bits}))
    else:
        whole = folder.read(data, **reading_options(chosen))
        table, rows = folder.table(whole, drop_missing=chosen.get("drop_missing", False))
        if "log_prob" in table.columns:
            raise DataError(f"{data}: it has a column 'log_prob' already: rename it or leave it out")
        if left_out := len(whole) - len(table):
            print(f"left out {left_out} rows with missing values", file=sys.stderr)
        with precision_of(precision, density):
            scores = finite(log_prob(density, rows.x, rows.context).double()).numpy()
            scored = table.arrow.append_column("log_prob", pa.array(scores))
            scored = scored if judge is None else with_anomaly(scored, judge, folder, rows.x, rows.context)
        write_table(out, scored)
    finite.require(out, "log_prob")


def _scored(model: "TableModel", table: "Table", *, per_column: bool, drop_missing: bool) -> "pa.Table":
    """The table with its likelihoods; rows with gaps stay and have that of what is there."""
    import pyarrow as pa

    if drop_missing:
        whole = ~model.encode(table).isnan().any(1).cpu().numpy()
        table = replace(table, arrow=table.arrow.filter(pa.array(whole)))
    made = {"log_prob": pa.array(model.log_prob(table))}
    if per_column:
        made |= {
            f"log_prob:{name}": c
            for name, c in zip(model.columns.names, model.column_log_prob(table).columns, strict=True)
        }
    arrow = table.arrow
    for name, column in made.items():
        if name in table.columns:
            raise DataError(f"{table.path}: it has a column {name!r} already: rename it or leave it out")
        arrow = arrow.append_column(name, column)
    return arrow
