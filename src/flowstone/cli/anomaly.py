"""The columns of ``flowstone score --anomaly``: a p-value of each row, and the column to blame."""

from typing import TYPE_CHECKING

import numpy as np

from flowstone.errors import DataError, SettingError

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import Tensor

    from flowstone.density import Density
    from flowstone.evaluation import AnomalyJudge
    from flowstone.runs import Run

__all__ = ["judge_of", "with_anomaly"]


def judge_of(run: "Run", density: "Density") -> "AnomalyJudge":
    """The judge that compares rows with the test part of the run's data, from which nothing was learned.

    Raises:
        SettingError: the run is of images. DataError: its table cannot be read again.
    """
    from flowstone.evaluation import AnomalyJudge

    if run.of_images:
        raise SettingError(f"--anomaly is for tables; {run.folder} is of images")
    try:
        held_out = run.dataset().test
    except DataError as error:
        raise DataError(f"--anomaly needs the held-out rows of the training: {error.problem}") from error
    widths = run.record.get("data", {}).get("noise", {})
    noise = np.array([widths.get(name, 0.0) for name in run.columns()[0]])
    return AnomalyJudge(density, held_out.x, held_out.context, noise=noise if noise.any() else None)


def with_anomaly(
    table: "pa.Table", judge: "AnomalyJudge", run: "Run", x: "Tensor", context: "Tensor | None" = None
) -> "pa.Table":
    """The table with ``p_value`` and ``blame``.

    Args:
        x, context: its rows, as the density takes them.
    """
    import pyarrow as pa

    p_values, blamed = judge(x.cpu(), context)
    names = run.columns()[0]
    blame = pa.array([names[index] if index >= 0 else None for index in blamed.tolist()], pa.string())
    for name, column in {"p_value": pa.array(p_values), "blame": blame}.items():
        if name in table.column_names:
            raise DataError(f"the table has a column {name!r} already: rename it or leave it out")
        table = table.append_column(name, column)
    return table
