"""Scorer: a run folder as a function from a table, or a chunk of one, to the table with its likelihoods."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from flowstone.data import Rows
from flowstone.data.tables import Table, Unseen, warn_unseen
from flowstone.density import Density
from flowstone.errors import DataError, SettingError
from flowstone.evaluation.anomaly import AnomalyJudge
from flowstone.evaluation.metrics import log_prob
from flowstone.runs import Run
from flowstone.table_model import TableModel

__all__ = ["Scorer"]

SCORE = "log_prob"
ANOMALY = ("p_value", "blame")
PART_ROWS, PART_VALUES = 1 << 18, 1 << 21  # of a part at most, if its rows are not wider than that


class Scorer:
    """Adds the log-likelihood of each row to a table, in nats, in the units of the data, and carries all columns along.

    A chunk of a table needs no other chunk: the kinds of the columns and what means a gap are in the run folder. One
    without rows comes back without rows. Levels that were not learned are scored as ``TableModel`` scores them.

    Args:
        run: a run folder of a table.
        per_column: of a density of mixed columns, also the log-likelihood of each value given all others of the row.
        anomaly: also ``p_value``, against the held-out rows of the training, and ``blame``, the column whose
            value fits the others of the row worst (``AnomalyJudge``).
        drop_missing: leave out rows with a gap or an infinite value. Else such rows are an error; a density of mixed
            columns gives them the likelihood of what is there.
        device: where to compute.

    Raises:
        SettingError: the run is of images, or ``per_column`` is asked for and the density is not of mixed columns.
        DataError: ``anomaly`` is asked for, and the table that was learned from cannot be read again.
    """

    def __init__(
        self,
        run: Run | Path | str,
        *,
        per_column: bool = False,
        anomaly: bool = False,
        drop_missing: bool = False,
        device: str = "cpu",
    ) -> None:
        self.run = run if isinstance(run, Run) else Run(run)
        self.drop_missing, self.per_column = drop_missing, per_column
        if self.run.of_images:
            raise SettingError(f"{self.run.folder} is of images, not of a table")
        if per_column and not self.run.of_mixed_columns:
            raise SettingError(f"the likelihood of each column is of densities of mixed columns; {run} is none")
        self.run.require_weights()
        self.model = TableModel.load(self.run.folder, device=device) if self.run.of_mixed_columns else None
        self.density: Density = self.model.density if self.model else self.run.density(device)
        self.judge = _judge_of(self.run, self.density) if anomaly else None

    @property
    def added(self) -> list[str]:
        """The names of the columns that it adds."""
        columns = self.model.columns.names if self.per_column and self.model else ()
        return [SCORE, *(f"{SCORE}:{name}" for name in columns), *(ANOMALY if self.judge else ())]

    @property
    def part_rows(self) -> int:
        """How many rows are scored at a time: a multiple of what the density computes at once, so that a table in parts
        has the scores of the whole one, bit for bit.
        """
        once = self.density.rows_at_once
        most = min(PART_ROWS, PART_VALUES // self.density.event_shape.numel())
        return once * max(1, most // once)

    def __call__(self, table: Any) -> pa.Table:
        """The table, or whatever ``read_table`` takes, with the columns that are added."""
        kept, scores = self.score(table)
        return self.append_scores(kept, scores)

    def score(self, table: Any, *, unseen: list[Unseen] | None = None) -> tuple[Table, pa.Table]:
        """The rows that are scored, and their scores.

        Args:
            unseen: a list to which levels that were not learned are added; None: they are warned of.
        """
        table, unseen_levels = self.run.read(table, empty=True), [] if unseen is None else unseen
        self.require_names_free(table)
        if self.model is None:
            kept, rows = self.run.table(table, drop_missing=self.drop_missing)
            found = {SCORE: pa.array(log_prob(self.density, rows.x, rows.context).double().numpy())}
            return kept, pa.table(found | self._judged(rows, kept.start))
        kept, x = self._encoded(self.model, table, unseen_levels)
        if unseen is None:
            warn_unseen(unseen_levels)
        with torch.no_grad():
            found = {SCORE: pa.array(self.density.log_prob(x).double().cpu().numpy())}
        if self.per_column:
            terms = self.model.column_log_prob_of(x)
            found |= {f"{SCORE}:{name}": terms.column(name) for name in terms.column_names}
        return kept, pa.table(found | self._judged(Rows(x), kept.start))

    def _judged(self, rows: Rows, first: int) -> dict[str, pa.Array]:
        """P-values of rows and the columns to blame, where they are asked for."""
        if self.judge is None:
            return {}
        names = self.run.columns()[0]
        p_values, blamed = self.judge(rows.x.cpu(), rows.context, first=first)
        blame = [names[index] if index >= 0 else None for index in blamed.tolist()]
        return dict(zip(ANOMALY, (pa.array(p_values), pa.array(blame, pa.string())), strict=True))

    def keep(self, table: Table) -> Table:
        """The rows that are scored."""
        if self.model is None:
            return self.run.table(table, drop_missing=self.drop_missing)[0]
        return self._encoded(self.model, table, [])[0] if self.drop_missing else table

    def _encoded(self, model: TableModel, table: Table, unseen: list[Unseen]) -> tuple[Table, Tensor]:
        """The rows that are scored, and the same as the density takes them."""
        x = model.encode(table, unseen=unseen)
        if not self.drop_missing:
            return table, x
        complete = ~x.isnan().any(1)
        return replace(table, arrow=table.arrow.filter(pa.array(complete.cpu().numpy()))), x[complete]

    def append_scores(self, kept: Table, scores: pa.Table) -> pa.Table:
        """A table and the scores of its rows side by side."""
        arrow = kept.arrow
        for name in scores.column_names:
            arrow = arrow.append_column(name, scores.column(name))
        return arrow

    def require_names_free(self, table: Table) -> None:
        """Raise DataError where the table has a column of a name that is to be added."""
        for name in self.added:
            if name in table.columns:
                raise DataError(f"{table.path}: it has a column {name!r} already: rename it or leave it out")

    def scores_chunks_separately(self, table: Table) -> bool:
        """Whether a chunk of a table is scored as it is within the whole table, which may be without its rows here.

        It is not where its columns cannot be encoded so (``Columns.encodes_chunks_separately``), nor where the density
        draws noise, row after row, or rows that are left out shift that of the judge.
        """
        if self.judge is not None and self.judge.noise is not None and self.drop_missing:
            return False
        columns = None if self.model is None else self.model.columns
        return not self.density.stochastic and (columns is None or columns.encodes_chunks_separately(table))


def _judge_of(run: Run, density: Density) -> AnomalyJudge:
    """The judge that compares rows with the test part of the run's data, from which nothing was learned."""
    try:
        held_out = run.dataset().test
    except DataError as error:
        raise DataError(f"anomalies need the held-out rows of the training: {error.problem}") from error
    widths = run.record.get("data", {}).get("noise", {})
    noise = np.array([widths.get(name, 0.0) for name in run.columns()[0]])
    return AnomalyJudge(density, held_out.x, held_out.context, noise=noise if noise.any() else None)
