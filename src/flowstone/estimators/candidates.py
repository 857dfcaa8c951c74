"""The models among which an estimator chooses: each fits rows and gives back a density."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from sklearn import covariance, mixture
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from flowstone.data import Rows
from flowstone.density import Density
from flowstone.evaluation import independent_columns
from flowstone.priors import GaussianMixture
from flowstone.priors.em import Mixture
from flowstone.recipes import build
from flowstone.train import fit
from flowstone.train.history import History

__all__ = ["MODELS", "Candidate", "candidates", "default_models"]

MODELS = ("independent", "gaussian", "mixture", "spline", "maf_spline", "mixed", "embedded")
FOR_CONTEXTS = ("maf_spline", "embedded")  # without a context these are not tried by themselves
WIDE = 20  # numbers of a context, from which on ``embedded`` is tried by itself
COMPONENTS = (1, 2, 4, 8, 16, 32)
FLOW_ROWS, MIXED_ROWS, ROWS_PER_COLUMN = 500, 100, 5  # the fewest from which a net may learn
EMBEDDED_DROPOUT = 0.2
REGULARIZED = ((0.1, 3), (0.2, 5))  # dropout and layers of maf_spline
MEMBERS = 4  # nets with dropout that are averaged: where rows are few, they overfit less than each of them does
MOST_ROWS = 20_000  # that expectation-maximization uses

Fitted = tuple[Density, History | None]


@dataclass(frozen=True)
class Shape:
    """How the components of a mixture are made.

    Attributes:
        covariance: as scikit-learn names it.
        ridge: what is added to the variances of standardised columns.
    """

    covariance: str
    ridge: float = 1e-6


SHAPES = {
    "full": Shape("full"),
    "full, ridge 1e-9": Shape("full", 1e-9),  # for values that repeat
    "full, ridge 0.03": Shape("full", 0.03),
    "tied": Shape("tied"),
    "diagonal": Shape("diag"),
}


@dataclass(frozen=True)
class Candidate:
    """A model that can be fitted.

    Attributes:
        name: such as ``mixture of 4 (tied)``.
        fit: from rows, seed and minutes to a density and the history of its training, if it has one.
        trained: whether a net is trained, which takes long.
        members: how often it is fitted, with one seed after the other, once it is chosen; the densities are averaged.
        family: candidates of one family come in order of size; once one is worse than the one before it, no further
            candidates of its family are tried.
    """

    name: str
    fit: Callable[[Rows, int, float | None], Fitted]
    trained: bool = False
    members: int = 1
    family: str | None = None


def default_models(*, conditional: bool) -> Sequence[str]:
    """The models that are tried where none are named: ``maf_spline`` takes long, and gains most given a context."""
    return MODELS if conditional else tuple(name for name in MODELS if name not in FOR_CONTEXTS)


def candidates(
    models: Sequence[str],
    rows: int,
    columns: int,
    heads: Sequence[dict[str, Any]] | None,
    context_features: int,
    device: str,
) -> list[Candidate]:
    """The candidates of ``models`` for which there are enough rows, simple ones first.

    Args:
        heads: the records of columns of several kinds; None where all are continuous and without gaps.
        context_features: width of a context; with a context there are no independent columns.
    """
    # A model that is named alone is tried however few rows there are.
    able = rows >= max(FLOW_ROWS, ROWS_PER_COLUMN * (columns + context_features)) or len(models) == 1
    shared = {"context_features": context_features} if context_features else {}
    found = []
    if "independent" in models and not context_features:
        found.append(Candidate("independent columns", lambda rows, *_: (_independent(rows.x, heads), None)))
    if heads is not None:
        if "mixed" in models and (rows >= MIXED_ROWS or context_features):
            found.append(_trained("mixed", {"columns": list(heads), **shared}, device))
        return found
    if "gaussian" in models:
        found.append(Candidate("Gaussian", lambda rows, *_: (_gaussian(rows), None)))
        if context_features and rows < ROWS_PER_COLUMN * (columns + context_features):
            found.append(Candidate("Gaussian, context ignored", lambda rows, *_: (_gaussian(_unexplained(rows)), None)))
    if "mixture" in models:
        found.extend(_mixtures(rows, columns))
    return found + (_nets(models, shared, device) if able else [])


def _nets(models: Sequence[str], shared: dict[str, Any], device: str) -> list[Candidate]:
    """The flows among the models, for continuous columns without gaps."""
    found, width = [], shared.get("context_features", 0)
    order = {"order": "given"} if width else {}
    for name, more in {"spline": {}, "maf_spline": {}, "mixed": order}.items():
        if name in models:
            found.append(_trained(name, {**shared, **more}, device))
    if "maf_spline" in models:  # few rows want regularization, sharp densities suffer from it: both are tried
        for dropout, layers in REGULARIZED:
            arguments = {**shared, "layers": layers}
            found.append(_trained("maf_spline", arguments, device, dropout=dropout, members=MEMBERS))
    if "embedded" in models and width >= (1 if len(models) == 1 else WIDE):
        found.append(_trained("embedded", shared, device, dropout=EMBEDDED_DROPOUT))
    return found


def _mixtures(rows: int, columns: int) -> list[Candidate]:
    """Mixtures that have at most half as many parameters as there are numbers."""
    found = []
    for name, shape in SHAPES.items():
        for count in COMPONENTS:
            each = {"full": count * columns * (columns + 1) / 2, "tied": columns * (columns + 1) / 2}
            parameters = count * (columns + 1) + each.get(shape.covariance, count * columns)
            if 2 * parameters <= rows * columns:
                fitted = partial(_mixture, count=count, shape=shape)
                found.append(Candidate(f"mixture of {count} ({name})", fitted, family=name))
    return found


def _independent(x: Tensor, heads: Sequence[dict[str, Any]] | None) -> Density:
    columns = None if heads is None else list(heads)
    small = {"features": x.shape[1], "columns": columns, "order": "any", "width": 8, "blocks": 1}
    return independent_columns(build("mixed", small), x)


def _gaussian(rows: Rows) -> Density:
    """One Gaussian; its covariance is shrunk towards a spherical one, more so for few rows (Ledoit and Wolf 2004)."""
    flow, z = _standardized(rows, components=1)
    size = z.std(0, correction=0).numpy()  # the residuals of a regression on the context are not of size 1
    shrunk = covariance.LedoitWolf().fit(z.numpy() / size)
    return _with_components(
        flow, np.ones(1), (shrunk.location_ * size)[None], (shrunk.covariance_ * np.outer(size, size))[None]
    )


def _unexplained(rows: Rows) -> Rows:
    """Rows of which a regression on the context explains nothing."""
    return Rows(rows.x, None if rows.context is None else torch.zeros_like(rows.context))


def _mixture(rows: Rows, seed: int, _minutes: float | None, *, count: int, shape: Shape) -> Fitted:
    """A mixture by scikit-learn's expectation-maximization on standardised rows."""
    flow, z = _standardized(rows, components=count)
    made: Any = mixture.GaussianMixture(
        count, covariance_type=shape.covariance, reg_covar=shape.ridge, random_state=seed, max_iter=200
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # held-out rows say what such a mixture is worth
        fitted = made.fit(z[:MOST_ROWS].numpy())
    covariances = fitted.covariances_
    if shape.covariance == "tied":
        covariances = np.broadcast_to(covariances, (count, *covariances.shape))
    elif shape.covariance == "diag":
        covariances = np.stack([np.diag(each) for each in covariances])
    return _with_components(flow, fitted.weights_, fitted.means_, covariances), None


@torch.no_grad()
def _standardized(rows: Rows, components: int) -> tuple[Any, Tensor]:
    """A mixture's flow, and the rows as its prior sees them: standardised, and without what a context explains."""
    features, width = rows.x.shape[1], 0 if rows.context is None else rows.context.shape[1]
    flow = build("gaussian_mixture", {"features": features, "context_features": width, "components": components})
    flow.prior.initialized.fill_(True)  # its components are set by ``_with_components``
    flow.double().initialize(rows.x, rows.context)
    return flow, flow.to_latent(rows.x, rows.context)[0]


def _with_components(flow: Any, weights: np.ndarray, means: np.ndarray, covariances: np.ndarray) -> Density:
    prior: GaussianMixture = flow.prior
    scale = np.linalg.cholesky(covariances)
    prior.set_components(Mixture(*(torch.from_numpy(np.ascontiguousarray(part)) for part in (weights, means, scale))))
    return flow.eval()


def _trained(
    recipe: str, arguments: dict[str, Any], device: str, *, dropout: float | None = None, members: int = 1
) -> Candidate:
    def train(rows: Rows, seed: int, minutes: float | None) -> Fitted:
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "validation has not moved")  # the candidates' likelihoods show it
            torch.manual_seed(seed)
            density = build(recipe, {"features": rows.x.shape[1], **arguments}).to(device)
            history = fit(
                density, rows.x, context=rows.context, seed=seed, minutes=minutes, dropout=dropout, progress=False
            )
        return density.eval(), history

    name = recipe if dropout is None else f"{recipe} (dropout {dropout:g})"
    return Candidate(name, train, trained=True, members=members)
