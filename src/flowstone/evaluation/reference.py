"""Figures of a table beside its likelihood: simple models, and bits of each column."""

import math
from typing import Any

import torch
from torch import Tensor

from flowstone.density import Density
from flowstone.evaluation.baselines import baselines
from flowstone.evaluation.columns import column_bits, independent_columns
from flowstone.evaluation.metrics import log_prob
from flowstone.mixed import MixedDensity

__all__ = ["reference_metrics"]

MOST_ROWS = 10_000  # whose differences the error is estimated from


def reference_metrics(density: Density, x: Tensor, train: Tensor | None = None) -> dict[str, Any]:
    """What each column of a mixed table costs in bits; where the training rows are at hand, the likelihood of simple
    models that learned from them, too, with the standard error of the difference to that of the density.
    """
    found: dict[str, Any] = {}
    if train is not None:
        found["baselines_nll_nats"], found["baselines_lead_stderr"] = _baselines(density, x, train)
    if isinstance(density, MixedDensity):
        found["bits_per_column"] = column_bits(density, x)
        if train is not None:
            found["independent_bits_per_column"] = column_bits(independent_columns(density, train), x)
    return found


@torch.no_grad()
def _baselines(density: Density, x: Tensor, train: Tensor) -> tuple[dict[str, float], dict[str, float]]:
    """Mean NLL of x under simple models, and the standard error of its difference to that under the density: rows that
    are unlikely are so under all models, so the difference is surer than each of the two.
    """
    nll, errors = {}, {}
    few = slice(MOST_ROWS)
    for name, model in baselines(density, train).items():
        terms = model(x.cpu()).double()
        nll[name] = -terms.mean().item()
        lead = log_prob(density, x[few]).double() - terms[few]
        errors[name] = lead.std().item() / math.sqrt(len(x))
    return nll, errors
