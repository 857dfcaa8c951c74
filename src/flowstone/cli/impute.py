"""flowstone impute."""

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from flowstone.cli.flags import select, with_flags
from flowstone.cli.values import Device, Out, model_of, reading_options, require_apart, say_left_out
from flowstone.data.request import DataRequest
from flowstone.data.tables.reading import READING
from flowstone.errors import DataError, SettingError
from flowstone.validation import require_seed

__all__ = ["impute"]


@with_flags(DataRequest, *READING)
def impute(
    run: Path,
    data: str,
    *,
    out: Out,
    how: str = "draw",
    draws: Annotated[int, Parameter(name=("--draws",))] = 1,
    seed: int = 0,
    device: Device = "auto",
    **options: Any,
) -> None:
    """Write DATA with its gaps filled, given what each row holds; all other values stay as they are.

    Parameters
    ----------
    run
        A run folder of a density of mixed columns (train --flow mixed).
    data
        A table that holds the density's columns; other columns are carried along.
    out
        The file to write: .csv or .parquet; - writes .csv to standard output.
    how
        draw: a draw from the distribution of the missing values; likely: the most likely value, for numbers the median.
    draws
        How many imputed tables to write, one below the other; a column imputation counts them from 1. The first one
        has SEED, the next one SEED + 1, and so on.
    seed
        The same seed gives the same values.
    device
        Where to compute.
    """
    import pyarrow as pa

    from flowstone.data.tables import check_writable, require_types, write_chunks
    from flowstone.runs import Run

    check_writable(out)
    require_apart(out, data)
    require_seed("seed", seed)
    if draws < 1:
        raise SettingError(f"--draws {draws}: at least one is needed")
    folder = Run(run)
    if not folder.of_mixed_columns:
        raise SettingError(f"{run} is not of mixed columns, so it cannot fill gaps: train with --flow mixed")
    model, table = model_of(folder, device), folder.read(data, **reading_options(select(DataRequest, options)))
    require_types(out, table.arrow.schema)
    say_left_out(table)
    if draws == 1:
        write_chunks(out, [model.impute(table, how=how, seed=seed)])
        return
    if "imputation" in table.columns:
        raise DataError(f"{table.path}: it has a column 'imputation' already: rename it or leave it out")
    filled = (model.impute(table, how=how, seed=seed + number) for number in range(draws))
    counted = (
        one.add_column(0, "imputation", pa.array([number] * len(one))) for number, one in enumerate(filled, start=1)
    )
    write_chunks(out, counted)
