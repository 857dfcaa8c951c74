"""What tells an anomaly: a p-value against held-out rows, and the column to blame."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from flowstone.bijections import Standardize
from flowstone.blend import Blend
from flowstone.data import add_noise
from flowstone.density import Density
from flowstone.evaluation.metrics import log_prob
from flowstone.flow import Flow
from flowstone.mixed import MixedDensity
from flowstone.priors import GaussianMixture

__all__ = ["AnomalyJudge", "blamed_terms", "conformal_p_values", "usual_terms"]

VALUES = 15  # of a column that are tried in place of a row's own
MOST_HELD_OUT = 1000  # rows whose terms of blame are averaged
FARTHEST = 1e100  # The square of a value beyond it may be infinite, and then says nothing of the columns.


def conformal_p_values(held_out: np.ndarray, scores: np.ndarray) -> np.ndarray:
    r"""The share of held-out rows that are at most as normal as each row, ``(rows,)``:

    $$ p(x) = \frac{1 + \#\{i : s(x_i) \le s(x)\}}{n + 1}. $$

    Where a row is exchangeable with the n held-out rows, $P(p \le a) \le a$ for every a, whatever the score is (Vovk
    et al. 2005; Bates et al. 2023, Testing for Outliers with Conformal p-values). The p-values of several rows depend
    on one another through the held-out rows.

    Args:
        held_out: scores of rows from which the score was not learned, ``(n,)``; larger is more normal.
        scores: of the rows to judge, ``(rows,)``.

    >>> conformal_p_values(np.array([1.0, 2.0, 3.0]), np.array([0.0, 2.5])).tolist()
    [0.25, 0.75]
    """
    below = np.searchsorted(np.sort(held_out), scores, side="right")
    return np.where(np.isnan(scores), np.nan, (1 + below) / (len(held_out) + 1))


def blamed_terms(density: Density, x: Tensor, context: Tensor | None = None, *, values: Tensor) -> np.ndarray:
    r"""How well each value fits the others of its row, ``(rows, columns)``, in nats; NaN where there is a gap.

    Of mixed densities in any order, mixtures of Gaussians, and blends of these, it is $\log p(x_j \mid x_{-j})$. Of
    others it is $\log p(x) - \max_v \log p(x \text{ with } x_j = v)$, over some values v of the column and $x_j$
    itself: minus what could be gained by changing that value alone.

    Args:
        values: rows from which values are taken, ``(n, columns)``.
    """
    with torch.no_grad():
        x = x.clamp(-FARTHEST, FARTHEST) if x.dtype == torch.float64 else x
        terms = _conditional(density, x, context)
        terms = _against_the_best(density, x, context, values) if terms is None else terms
    return terms.double().cpu().masked_fill(x.isnan().cpu(), torch.nan).numpy()


def usual_terms(density: Density, x: Tensor, context: Tensor | None = None) -> np.ndarray:
    """The mean over held-out rows of what ``blamed_terms`` says of each column, ``(columns,)``."""
    terms = blamed_terms(density, x, context, values=x)
    terms = np.where(np.isfinite(terms), terms, np.nan)
    counts = np.maximum((~np.isnan(terms)).sum(0), 1)
    return np.nansum(terms, 0) / counts


class AnomalyJudge:
    """P-values of rows, by their likelihood alone, and the column of each to blame.

    The likelihood alone can mislead (Nalisnick et al. 2019); ``FlowOutlierDetector`` has a better score.

    Args:
        density: whose likelihoods are compared.
        x: rows that were not learned, ``(n, columns)``.
        context: of each of these rows.
        noise: how wide the noise is that was added to each column of x, ``(columns,)``; rows to judge get it, too.

    >>> import torch, flowstone
    >>> _ = torch.manual_seed(0)
    >>> judge = AnomalyJudge(flowstone.nice(2), torch.ones(9, 2))
    >>> p_values, blamed = judge(torch.tensor([[0.5, 0.0], [0.0, 50.0]]))
    >>> p_values.tolist(), blamed.tolist()
    ([1.0, 0.1], [0, 1])
    """

    def __init__(
        self, density: Density, x: Tensor, context: Tensor | None = None, *, noise: np.ndarray | None = None
    ) -> None:
        self.density, self.noise = density, noise
        self.held_out = log_prob(density, x, context).double().numpy()
        self.values = x[:MOST_HELD_OUT]
        self.usual = usual_terms(density, self.values, None if context is None else context[:MOST_HELD_OUT])

    def __call__(self, x: Tensor, context: Tensor | None = None, *, first: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """P-values, ``(rows,)``, and the number of the column to blame, ``(rows,)``: that whose value given the others
        is the most nats below what is usual for it; -1 where a row holds no value.

        Args:
            first: how many rows of the same table come before these.
        """
        if self.noise is not None:
            x = torch.from_numpy(add_noise(x.numpy(), self.noise, seed=0, first=first))
        p_values = conformal_p_values(self.held_out, log_prob(self.density, x, context).double().numpy())
        beyond = self.usual - blamed_terms(self.density, x, context, values=self.values)
        blamed = np.where(np.isnan(beyond), -np.inf, beyond).argmax(1)
        return p_values, np.where(np.isnan(beyond).all(1), -1, blamed)


def _conditional(density: Density, x: Tensor, context: Tensor | None) -> Tensor | None:
    """The log-likelihood of each value given all others; None where the density has no closed form for it."""
    if isinstance(density, MixedDensity) and density.any_order:
        index = torch.arange(x.shape[1], device=density.device)
        x = x.to(density.device)
        return torch.stack([density.conditional_log_prob(x, index != j, context) for j in index.tolist()], 1)
    if isinstance(density, Flow) and isinstance(density.bijection, Standardize):
        prior = density.prior
        return _of_mixture(density, density.bijection, prior, x) if isinstance(prior, GaussianMixture) else None
    if isinstance(density, Blend):
        parts = [_conditional(part, x, context) for part in density.densities]
        return None if any(part is None for part in parts) else _of_blend(density, x, parts, context)
    return None


def _of_mixture(flow: Flow, standardize: Standardize, prior: GaussianMixture, x: Tensor) -> Tensor:
    r"""With the precision $P_k$ of a component, $x_j$ given the others has variance $1/P_{k,jj}$, and lies $(P_k (x -
    \mu_k))_j / P_{k,jj}$ from its mean; components are weighted by their density of the other columns.
    """
    with torch.enable_grad():
        given = x.to(flow.device, flow.data_dtype).detach().requires_grad_()
        z = standardize(given)[0]
        slope = torch.autograd.grad(z.sum(), given)[0]  # of each column by itself
    z = z.detach()
    factor = prior._factor().detach()
    precision = factor.mT @ factor
    whole = prior.component_log_prob(z)
    found = []
    for j in range(z.shape[1]):
        offset = torch.einsum("ki,nki->nk", precision[:, j], z[:, None] - prior.means)
        variance = 1 / precision[:, j, j]
        value = -0.5 * (np.log(2 * np.pi) + variance.log() + offset.square() * variance)
        found.append(whole.logsumexp(1) - (whole - value).logsumexp(1))
    return torch.stack(found, 1) + slope.abs().log()


def _of_blend(density: Blend, x: Tensor, parts: Sequence[Tensor | None], context: Tensor | None) -> Tensor:
    """In each part, the likelihood of a row is that of the column given the others, times that of the others."""
    weights = density.weights.double().log()
    whole = torch.stack([part.log_prob(x.to(part.data_dtype), context).double() for part in density.densities])
    whole = whole + weights[:, None]
    others = torch.stack([w[:, None] - part.double() for w, part in zip(whole, parts, strict=True) if part is not None])
    return whole.logsumexp(0)[:, None] - others.logsumexp(0)


def _against_the_best(density: Density, x: Tensor, context: Tensor | None, values: Tensor) -> Tensor:
    own = log_prob(density, x, context).double()
    found = []
    for j in range(x.shape[1]):
        held = values[:, j][~values[:, j].isnan()].sort().values
        tried = held[torch.linspace(0, len(held) - 1, VALUES).round().long()].unique() if len(held) else held
        best = own
        for value in tried:
            changed = x.clone()
            changed[:, j] = value
            best = torch.maximum(best, log_prob(density, changed, context).double())
        found.append(own - best)
    return torch.stack(found, 1)
