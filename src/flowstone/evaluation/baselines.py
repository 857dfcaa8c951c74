"""Simple models that a density is measured against: independent columns, Gaussians, mixtures."""

from collections.abc import Callable

import torch
from torch import Tensor

from flowstone.bijections import Standardize
from flowstone.density import Density
from flowstone.evaluation.columns import independent_columns
from flowstone.evaluation.latent_classes import LatentClasses
from flowstone.evaluation.metrics import log_prob
from flowstone.flow import Flow
from flowstone.mixed import MixedDensity
from flowstone.priors import GaussianMixture

__all__ = ["baseline_nll", "baselines"]

COMPONENTS = 16  # of a mixture of Gaussians, at most
WIDEST = 256  # features of a Gaussian, at most


@torch.no_grad()
def baselines(density: Density, rows: Tensor) -> dict[str, Callable[[Tensor], Tensor]]:
    """Simple models of the same rows, by name: functions from rows to their log-probabilities in nats.

    Each is a density with respect to the measure of ``density``, so that their likelihoods compare. Rows of mixed
    columns have ``independent columns`` and a ``mixture of independent columns`` (``LatentClasses``). Rows of
    continuous columns without gaps have a ``Gaussian`` and a ``mixture of Gaussians``, whose number of components is
    chosen on held-out rows. A density of images, or one with a context, has none.

    Args:
        rows: those that the density was learned from.
    """
    found: dict[str, Callable[[Tensor], Tensor]] = {}
    if len(density.event_shape) != 1 or density.context_features:
        return found
    rows = rows.cpu()
    if isinstance(density, MixedDensity):
        alone = independent_columns(density, rows).cpu()
        found["independent columns"] = lambda x: log_prob(alone, x)
        found["mixture of independent columns"] = LatentClasses(alone.columns, alone.encoder, rows).log_prob
        if any(column.atoms or column.rest in ("grid", "circle") for column in density.columns) or rows.isnan().any():
            return found
    if rows.shape[1] <= WIDEST:
        for name, components in {"Gaussian": 1, "mixture of Gaussians": COMPONENTS}.items():
            found[name] = _gaussians(rows, components)
    return found


@torch.no_grad()
def baseline_nll(density: Density, rows: Tensor, x: Tensor) -> dict[str, float]:
    """The mean NLL of x, in nats, under each of ``baselines``."""
    return {name: -model(x.cpu()).double().mean().item() for name, model in baselines(density, rows).items()}


def _gaussians(rows: Tensor, components: int) -> Callable[[Tensor], Tensor]:
    """A mixture by expectation-maximization on standardised rows, in float64."""
    width = rows.shape[1]
    flow = Flow(Standardize(width), GaussianMixture(width, components=components)).double()
    flow.initialize(rows.double())
    return lambda x: log_prob(flow, x.double())
