"""flowstone score."""

import functools
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from flowstone.cli.flags import select, with_flags
from flowstone.cli.values import (
    Device,
    FiniteCheck,
    Out,
    device_of,
    images_options,
    precision_of,
    reading_options,
    require_apart,
    say_left_out,
)
from flowstone.data.request import DataRequest
from flowstone.data.tables.reading import READING
from flowstone.errors import SettingError
from flowstone.train.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import pyarrow as pa

    from flowstone.data.tables import Table
    from flowstone.runs import Run
    from flowstone.streaming import Scorer

__all__ = ["score"]


@with_flags(Settings, "precision")
@with_flags(DataRequest, "drop_missing", *READING, "data_dir")
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

    A level that a categorical column did not have when it was learned is scored as another level, of probability
    1 / (values that were learned from + 1), and a warning names it.

    For images: a table of their names, log_prob and bits_per_dim. Where a log_prob is NaN or infinite the file is
    written all the same, and the exit status is 1.

    A large Parquet or text file is read, scored and written in chunks. What is finished is kept in the folder OUT.parts
    until all is written: where the command was broken off, the same command goes on.

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
        given all other values of the row.
    anomaly
        For tables: two further columns. p_value is the share of rows that are at most as likely as this one, among the
        test rows of the training and this one; blame names the column whose value fits the others of the row worst.
    device
        Where to compute.
    """
    from flowstone.data.tables import check_writable
    from flowstone.runs import Run
    from flowstone.streaming import Scorer

    check_writable(out)
    folder, finite, chosen = Run(run), FiniteCheck(), select(DataRequest, options)
    if per_column and not folder.of_mixed_columns:
        raise SettingError(f"--per-column is for densities of mixed columns (--flow mixed); {run} is none")
    if folder.of_images:
        if anomaly:
            raise SettingError(f"--anomaly is for tables; {run} is of images")
        _score_images(
            folder, data, out, finite, device=device_of(device), precision=precision, **images_options(chosen)
        )
    else:
        require_apart(out, data)
        scorer = Scorer(
            folder,
            per_column=per_column,
            anomaly=anomaly,
            drop_missing=chosen.get("drop_missing", False),
            device=device_of(device),
        )
        _score_table(scorer, data, out, finite, reading_options(chosen), precision=precision)
    finite.require(out, "log_prob")


def _score_images(
    folder: "Run", data: str, out: Path, finite: FiniteCheck, *, device: str, precision: str, **reading: Any
) -> None:
    import pyarrow as pa

    from flowstone.data.tables import write_table
    from flowstone.evaluation.metrics import bits_per_dim, log_prob

    density = folder.density(device)
    images = folder.images(data, **reading)
    with precision_of(precision, density):
        scores = finite(log_prob(density, images.rows.x, images.rows.context).double()).numpy()
    bits = [bits_per_dim(-score, density.event_shape.numel()) for score in scores.tolist()]
    write_table(out, pa.table({"image": images.names, "log_prob": scores, "bits_per_dim": bits}))


def _score_table(
    scorer: "Scorer", data: str, out: Path, finite: FiniteCheck, reading: Mapping[str, Any], *, precision: str
) -> None:
    import torch

    from flowstone.data.tables import STDOUT, ChunkedTable, require_types, write_chunks
    from flowstone.streaming import score_to_file

    table = scorer.run.chunked(data, **reading)
    if table is None or not scorer.scores_chunks_separately(table.head):
        table = scorer.run.read(data, **reading)
    head = table.head if isinstance(table, ChunkedTable) else table
    require_types(out, head.arrow.schema)
    say_left_out(head)
    written = 0

    def watch(scores: "pa.Table") -> None:
        nonlocal written
        finite(torch.tensor(scores.column("log_prob").to_numpy()))
        written += len(scores)

    with precision_of(precision, scorer.density):
        if not isinstance(table, ChunkedTable):
            write_chunks(out, _scored_chunks(scorer, [table], watch))
        elif out == STDOUT:
            write_chunks(out, _scored_chunks(scorer, table.chunks(scorer.part_rows), watch))
        else:
            settings = {**reading, "precision": precision, "device": str(scorer.density.device)}
            say = functools.partial(print, file=sys.stderr)
            try:
                score_to_file(scorer, table, out, settings=settings, say=say, progress=True, watch=watch)
            except KeyboardInterrupt:
                say(f"flowstone: interrupted; what is finished is in {out}.parts; the same command goes on from there")
                sys.exit(130)
    if left_out := len(table) - written:
        print(f"left out {left_out} rows with missing values", file=sys.stderr)


def _scored_chunks(
    scorer: "Scorer", chunks: "Iterable[Table]", watch: "Callable[[pa.Table], None]"
) -> "Iterator[pa.Table]":
    from flowstone.data.tables import Unseen, warn_unseen

    unseen: list[Unseen] = []
    try:
        for chunk in chunks:
            kept, scores = scorer.score(chunk, unseen=unseen)
            watch(scores)
            yield scorer.append_scores(kept, scores)
    finally:
        warn_unseen(unseen)
