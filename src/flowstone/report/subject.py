"""Subject: what a report is about, and what several of its sections need, computed once."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from flowstone.data import Dataset, Rows
from flowstone.density import Density
from flowstone.errors import DataError, SettingError
from flowstone.evaluation.calibration import Calibration, calibration
from flowstone.evaluation.metrics import evaluate
from flowstone.evaluation.overlap import seen_rows
from flowstone.evaluation.reference import reference_metrics
from flowstone.evaluation.samples import sample_rows
from flowstone.evaluation.trees import require_sklearn
from flowstone.evaluation.verdict import DRAWS, Verdict, rows_to_judge, verdict
from flowstone.plot import ColumnScale, arguments_of, drawings, png_of
from flowstone.runs import Run
from flowstone.train.history import History

__all__ = ["Subject"]

ROWS = 2000  # of data and of samples that pictures and figures of the report compare


@dataclass(frozen=True)
class Subject:
    """A run, and what is shown of it.

    Attributes:
        density: the trained density, on the device where it computes.
        metrics: the figures of the training; empty where there are none and the data are gone.
        dataset: its data; None where they cannot be read.
        missing: why they cannot.
        drawn: pictures that are there already, in PNG by their names in ``plots/``.
        commands: lines for a shell that repeat the training and use what it learned.
        seed: of samples.
    """

    run: Run
    density: Density
    record: Mapping[str, Any]
    history: History
    metrics: Mapping[str, Any]
    dataset: Dataset | None
    missing: str = ""
    drawn: Mapping[str, bytes] = field(default_factory=dict)
    commands: Sequence[str] = ()
    seed: int = 0

    @classmethod
    def of(cls, run: Run, *, device: torch.device | str = "cpu", progress: bool = False, **options: Any) -> "Subject":
        """The subject in a run folder.

        Args:
            options: ``data_dir`` of image sets, ``commands`` and ``seed``.

        Raises:
            CheckpointError: the folder holds no run, or is damaged.
        """
        density, record = run.density(device), run.record
        data_dir, dataset, missing = options.pop("data_dir", None), None, ""
        try:
            dataset = run.dataset(data_dir=data_dir, progress=progress)
        except DataError as error:
            missing = error.problem
        history, metrics = run.history, run.metrics()
        if dataset is not None and not metrics:
            metrics = evaluate(density, dataset.test.x, dataset.test.context)
            if isinstance(dataset.train, Rows):
                metrics |= reference_metrics(density, dataset.test.x, dataset.rows_to_show.x)
                metrics |= {} if dataset.images else {"n_also_in_training": seen_rows(dataset)}
        return cls(run, density, record, history, metrics, dataset, missing, **options)

    @property
    def images(self) -> bool:
        """Whether the density is of images."""
        return len(self.density.event_shape) == 3

    @property
    def columns(self) -> list[str]:
        """Names of the columns of x."""
        return self.run.columns()[0]

    @property
    def context_columns(self) -> list[str]:
        """Names of the columns of the context."""
        return self.run.columns()[1]

    @cached_property
    def test(self) -> Rows | None:
        """``ROWS`` of the test rows at random, for image sets are in an order; None where the data are gone."""
        return None if self.dataset is None else _some(self.dataset.test, self.seed)

    @cached_property
    def validation(self) -> Rows | None:
        """``ROWS`` of the validation rows."""
        return None if self.dataset is None else _some(self.dataset.validation, self.seed)

    @cached_property
    def samples(self) -> Tensor:
        """``ROWS`` samples, with gaps where the density has them; given a context, one for each row of ``shown``."""
        context = None if self.dataset is None else self.shown.context
        return sample_rows(self.density, ROWS, context, seed=self.seed)

    @cached_property
    def shown(self) -> Rows:
        """``ROWS`` of the rows to show."""
        assert self.dataset is not None
        return self.dataset.rows_to_show.take(slice(ROWS))

    @cached_property
    def compared(self) -> tuple[Tensor, Tensor]:
        """Data and samples as a reader sees them, context included: ``(rows, columns)`` each."""
        assert self.dataset is not None
        data, drawn = (self.dataset.without_noise(part) for part in (self.shown.x, self.samples))
        if self.shown.context is None:
            return data, drawn
        context = self.shown.context.double().cpu()
        return torch.cat((data, context), 1), torch.cat((drawn, context), 1)

    @property
    def compared_columns(self) -> list[str]:
        """Names of the columns of ``compared``."""
        return [*self.columns, *self._given]

    @property
    def _given(self) -> list[str]:
        return [f"given {name}" for name in self.context_columns]

    @property
    def levels(self) -> Mapping[str, Sequence[str]]:
        """Names of the levels of categorical columns."""
        return {} if self.dataset is None else self.dataset.levels

    @property
    def formats(self) -> Mapping[str, Callable[[float], str]]:
        """How numbers of columns such as dates are written."""
        return {} if self.dataset is None else self.dataset.formats

    def scale(self, index: int) -> ColumnScale:
        """How a column of ``compared`` lies along an axis."""
        name = self.compared_columns[index]
        return ColumnScale(self.compared[0][:, index], self.levels.get(name), self.formats.get(name))

    def written(self, rows: Rows) -> list[list[str]]:
        """Rows as a table shows them, context included."""
        assert self.dataset is not None
        x, in_words = self.dataset.without_noise(rows.x, most=math.inf), self.dataset.in_words
        lines = [[in_words(name, value) for name, value in zip(self.columns, row, strict=True)] for row in x.tolist()]
        if rows.context is not None:
            lines = [
                [*line, *(in_words(name, value) for name, value in zip(self.context_columns, given, strict=True))]
                for line, given in zip(lines, rows.context.tolist(), strict=True)
            ]
        return lines

    @cached_property
    def spreads(self) -> Mapping[str, float]:
        """The range of nearly all numbers of each column of ``compared``, by which they are written."""
        scales = {name: self.scale(index) for index, name in enumerate(self.compared_columns)}
        return {name: scale.high - scale.low for name, scale in scales.items()}

    @cached_property
    def can_sample(self) -> bool:
        """Whether samples can be drawn: a conditional density whose data are gone has no context to draw them for."""
        return not self.density.context_features or self.dataset is not None

    @cached_property
    def calibration(self) -> Calibration | None:
        """The calibration on test rows; None of images and without data."""
        if self.dataset is None or self.images or not len(self.dataset.test):
            return None
        x, context = rows_to_judge(self.dataset.test.x, self.dataset.test.context)
        return calibration(self.density, x, context, draws=DRAWS)

    @property
    def has_judges(self) -> bool:
        """Whether scikit-learn, which judges tables, is installed."""
        try:
            require_sklearn()
        except SettingError:
            return False
        return True

    @cached_property
    def verdict(self) -> Verdict | None:
        """What ``flowstone evaluate`` says; None of images, without data or scikit-learn, and where a row has no
        likelihood.
        """
        if self.dataset is None or self.images or not self.has_judges or self.metrics.get("n_not_finite"):
            return None
        rows = self.dataset.test
        return verdict(
            self.density, rows.x, rows.context, nll=self.metrics["nll_nats"],
            baselines=self.metrics.get("baselines_nll_nats"), lead_errors=self.metrics.get("baselines_lead_stderr"),
            names=self.columns, ranked=self.calibration,
        )  # fmt: skip

    def picture(self, name: str) -> bytes | None:
        """A picture of ``plots/`` in PNG; None where there is none of this name for such a density, or without data."""
        if name in self.drawn:
            return self.drawn[name]
        figure = self._drawings[name]() if name in self._drawings else None
        return None if figure is None else png_of(figure)

    @cached_property
    def _drawings(self) -> Mapping[str, Callable[[], Any]]:
        if self.dataset is None:
            return {}
        return drawings(self.density, history=self.history, seed=self.seed, **arguments_of(self.dataset))


def _some(rows: Rows, seed: int) -> Rows:
    chosen = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[:ROWS].sort().values
    return rows.take(chosen)
