"""flowstone evaluate."""

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from flowstone.cli.flags import select, with_flags
from flowstone.cli.values import (
    Device,
    device_of,
    images_options,
    judged,
    model_of,
    precision_of,
    print_metrics,
    reading_options,
    say_noise,
)
from flowstone.data.request import DataRequest
from flowstone.data.tables.reading import READING
from flowstone.errors import DataError
from flowstone.files import to_json
from flowstone.train.settings import Settings

if TYPE_CHECKING:
    from flowstone.data.tables import Table
    from flowstone.runs import Run

__all__ = ["evaluate"]

CHUNK = 1 << 18  # rows of a large table that are compared at a time


@with_flags(Settings, "precision")
@with_flags(DataRequest, "drop_missing", *READING, "data_dir")
def evaluate(
    run: Path,
    data: str | None = None,
    *,
    bound_samples: int = 1,
    device: Device = "auto",
    precision: str = Settings.precision,
    as_json: Annotated[bool, Parameter(name="--json", negative=())] = False,
    **options: Any,
) -> None:
    """Compute the likelihood of held-out rows under the density of RUN.

    Parameters
    ----------
    run
        A run folder.
    data
        A table, all of whose rows are used; or images: a folder, an array, or the test part of a set by name. Without
        it, the run's own test split.
    bound_samples
        For images: how many draws of the noise the bound on each likelihood has; more draws make it tighter.
    device
        Where to compute.
    as_json
        Print the figures as JSON.
    """
    import pyarrow as pa

    from flowstone.data import Rows
    from flowstone.data.tables import Unseen, warn_unseen
    from flowstone.evaluation.metrics import evaluate as figures
    from flowstone.evaluation.reference import reference_metrics
    from flowstone.runs import Run

    folder, chosen = Run(run), select(DataRequest, options)
    density = folder.density(device_of(device))
    drop_missing, data_dir, table = chosen.get("drop_missing", False), chosen.get("data_dir"), None
    if data is None:
        try:
            rows = folder.dataset(data_dir=data_dir, progress=not as_json).test
        except DataError as error:
            if not folder.finished:
                raise
            print(f"{error.problem}; these are the figures of the training", file=sys.stderr)
            _show(folder.metrics(), as_json=as_json)
            return
    elif folder.of_mixed_columns:
        table = folder.read(data, **reading_options(chosen))
        unseen: list[Unseen] = []
        x = model_of(folder, device).encode(table, unseen=unseen)
        warn_unseen(unseen)
        if drop_missing:
            whole = ~x.isnan().any(1)
            table, x = replace(table, arrow=table.arrow.filter(pa.array(whole.cpu().numpy()))), x[whole]
        rows = Rows(x)
    elif folder.of_images:
        rows = folder.images(data, **images_options(chosen)).rows
    else:
        table, _ = folder.table(folder.read(data, **reading_options(chosen)), drop_missing=drop_missing)
        rows, noise = folder.rows(table)
        say_noise(noise, "as in the training")
    with precision_of(precision, density):
        metrics: dict[str, Any] = dict(figures(density, rows.x, rows.context, bound_samples=bound_samples))
        metrics |= reference_metrics(density, rows.x)
    if table is not None:
        metrics |= _also_learned(folder, table)
    if data is None:
        metrics |= {key: value for key, value in folder.metrics().items() if key not in metrics}
    metrics |= judged(density, rows, metrics, folder.columns()[0])
    _show(metrics, as_json=as_json)


def _also_learned(folder: "Run", table: "Table") -> dict[str, int]:
    """How many rows of a table are also in the one that the density was learned from, where that can be read."""
    from flowstone.evaluation.overlap import shared_rows

    kinds, (features, context), learned = folder.kinds, folder.columns(), folder.record.get("data", {})
    if kinds is None or learned.get("sha256") is None:  # as of standard input, and of a run from the hub
        return {}
    kinds, source = kinds.select([*features, *context]), learned["source"]
    try:
        large = folder.chunked(source)
        pieces = [folder.read(source)] if large is None else large.chunks(CHUNK)
        return {"n_also_in_training": shared_rows(map(kinds.encode, pieces), kinds.encode(table, unseen=[]))}
    except DataError:
        return {}


def _show(metrics: Mapping[str, Any], *, as_json: bool) -> None:
    if as_json:
        print(to_json(metrics))
    else:
        print_metrics(metrics, print)
