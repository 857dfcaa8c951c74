"""Figures of a table beside its likelihood: simple models, bits of each column, rows that were learned from."""

from typing import Any

from torch import Tensor

from flowstone.density import Density
from flowstone.evaluation.baselines import baseline_nll
from flowstone.evaluation.columns import column_bits, independent_columns
from flowstone.evaluation.overlap import shared_rows
from flowstone.mixed import MixedDensity

__all__ = ["beside_metrics"]


def beside_metrics(density: Density, x: Tensor, train: Tensor | None = None) -> dict[str, Any]:
    """What each column of a mixed table costs in bits; where the training rows are at hand, the likelihood of simple
    models that learned from them, too.
    """
    found: dict[str, Any] = {}
    if train is not None:
        found["baselines_nll_nats"] = baseline_nll(density, train, x)
        found["n_also_in_training"] = shared_rows(train, x) if x.ndim == 2 else 0
    if isinstance(density, MixedDensity):
        found["bits_per_column"] = column_bits(density, x)
        if train is not None:
            found["independent_bits_per_column"] = column_bits(independent_columns(density, train), x)
    return found
