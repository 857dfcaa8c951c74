"""Figures about a density: likelihood and its standard error, bits per dimension, round trip, grid integral."""

import math

import torch
from torch import Tensor

from flowstone.bijections import noise_from
from flowstone.density import Density
from flowstone.errors import DataError, ShapeError
from flowstone.execution import threads_for
from flowstone.flow import Flow
from flowstone.kernels import CHUNK, chunks
from flowstone.validation import require_integer

__all__ = ["bits_per_dim", "evaluate", "grid_integral", "likelihood_terms", "log_prob", "round_trip"]


def bits_per_dim(nll_nats: float, dimensions: int) -> float:
    r"""$\text{nll} / (D \ln 2)$, for a density in the units of the data.

    >>> import math
    >>> bits_per_dim(8 * math.log(2) * 784, 784)
    8.0
    """
    return nll_nats / (dimensions * math.log(2))


@torch.no_grad()
def log_prob(density: Density, x: Tensor, context: Tensor | None = None, *, bound_samples: int = 1) -> Tensor:
    r"""Log-density of each row in nats, ``(n, *event_shape)`` → ``(n,)``, in chunks.

    A density that dequantizes (or pads) draws the same noise each time, from a generator of its own. Its log-density is
    a lower bound, which more draws make tighter (Burda et al. 2016): $\log P(x) \ge \log \tfrac1K \sum_k e^{\ell_k}$,
    with $\ell_k$ that of the k-th draw and K ``bound_samples``.
    """
    require_integer("bound_samples", bound_samples)
    device = density.device
    x, context = x.to(device), None if context is None else context.to(device)
    with threads_for(density, CHUNK), noise_from(torch.Generator(device).manual_seed(0)):
        draws = bound_samples if density.stochastic else 1
        bound = torch.stack([density.log_prob(x, context) for _ in range(draws)]).logsumexp(0) - math.log(draws)
        return bound.cpu()


@torch.no_grad()
def likelihood_terms(flow: Flow, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
    r"""The two terms of each row's log-density, in nats, ``(n, *event_shape)`` → ``(n,)`` and ``(n,)``.

    $$ \log p(x) = \log p_\text{prior}(f(x)) + \log \left| \det \tfrac{\partial f}{\partial x} \right| $$

    Noise is drawn as in ``log_prob``. For the log-det of each layer see ``Flow.states``.

    >>> import torch, flowstone
    >>> flow, x = flowstone.nice(2), torch.randn(10, 2)
    >>> prior, log_det = likelihood_terms(flow, x)
    >>> bool(torch.allclose(prior + log_det, flow.log_prob(x), atol=1e-5))
    True
    """
    device, prior, log_det = flow.device, [], []
    with noise_from(torch.Generator(device).manual_seed(0)):
        for rows in chunks(len(x), flow.event_shape, device):
            given = None if context is None else context[rows].to(device)
            z, change = flow.to_latent(x[rows].to(device), given)
            prior.append(flow.prior.log_prob(z, given))
            log_det.append(change)
    return torch.cat(prior).cpu(), torch.cat(log_det).cpu()


def round_trip(flow: Flow, x: Tensor, context: Tensor | None = None) -> float:
    """Largest $|x - f^{-1}(f(x))|$ over all rows and features, in the units of the data.

    For a flow that dequantizes, x with its noise is compared: rounding to integers would hide most errors, and turn
    tiny ones next to an integer into 1.
    """
    worst, _, _ = _there_and_back(flow, x, context)
    return worst


@torch.no_grad()
def _there_and_back(flow: Flow, x: Tensor, context: Tensor | None) -> tuple[float, float, float]:
    """The largest error of a round trip, and the means of the two ``likelihood_terms``."""
    device, worst, prior, log_det = flow.device, [], [], []
    with noise_from(torch.Generator(device).manual_seed(0)):
        for rows in chunks(len(x), flow.event_shape, device):
            given = None if context is None else context[rows].to(device)
            there = flow.states(x[rows].to(device), given)
            back = flow.inverse_states(there[-1].value, given)
            first = there[1].layer
            start, end = (there[1], back[-2]) if first is not None and first.stochastic else (there[0], back[-1])
            worst.append((end.value - start.value).abs().max())
            prior.append(flow.prior.log_prob(there[-1].value, given).double())
            log_det.append(torch.stack([state.log_det.double() for state in there]).sum(0))
    # torch's max, which does not lose a NaN
    return torch.stack(worst).max().item(), torch.cat(prior).mean().item(), torch.cat(log_det).mean().item()


def evaluate(
    density: Density, x: Tensor, context: Tensor | None = None, *, bound_samples: int = 1
) -> dict[str, float | int]:
    """Figures on held-out rows: ``nll_nats`` (mean), ``nll_stderr`` (of that mean), ``nll_median``, ``bits_per_dim``,
    ``n_test``, ``n_not_finite``, and of a flow ``round_trip_max`` and the means of the two ``likelihood_terms``,
    ``log_prior`` and ``log_det``. A row whose likelihood is NaN or infinite is counted and never dropped: the mean is
    then not finite either.

    A density that dequantizes also has ``bits_per_dim_stderr``, and ``bound_samples``: how many draws of the noise the
    bound is made of (``log_prob``).

    Raises:
        DataError: there are fewer than 2 rows.

    >>> import torch, flowstone
    >>> figures = flowstone.evaluate(flowstone.nice(2), torch.randn(10, 2))
    >>> sorted(figures)[:6]
    ['bits_per_dim', 'log_det', 'log_prior', 'n_not_finite', 'n_test', 'nll_median']
    """
    if len(x) < 2:
        raise DataError(f"{len(x)} row(s): at least 2 are needed for a mean and its error")
    nll = -log_prob(density, x, context, bound_samples=bound_samples).double()
    mean, error = nll.mean().item(), (nll.std() / math.sqrt(len(nll))).item()
    dimensions = density.event_shape.numel()
    figures: dict[str, float | int] = {
        "nll_nats": mean,
        "nll_stderr": error,
        "nll_median": nll.median().item(),
        "bits_per_dim": bits_per_dim(mean, dimensions),
        "n_test": len(x),
        "n_not_finite": int((~nll.isfinite()).sum()),
    }
    if isinstance(density, Flow):
        worst, prior, log_det = _there_and_back(density, x, context)
        figures |= {"round_trip_max": worst, "log_prior": prior, "log_det": log_det}
    if density.stochastic:
        figures |= {"bits_per_dim_stderr": bits_per_dim(error, dimensions), "bound_samples": bound_samples}
    return figures


def grid_integral(density: Density, low: tuple[float, float], high: tuple[float, float], *, points: int = 500) -> float:
    """The sum of a density on the plane over a grid of ``points`` x ``points`` cells: 1 if it is normalized and the
    rectangle from ``low`` to ``high`` holds all of its mass.

    Raises:
        ShapeError: the density is not one of two columns.
    """
    if tuple(density.event_shape) != (2,):
        raise ShapeError(f"a grid integral needs a density of event shape (2,), got {tuple(density.event_shape)}")
    middles = (torch.arange(points, dtype=torch.float64) + 0.5) / points
    axes = [lo + (hi - lo) * middles for lo, hi in zip(low, high, strict=True)]
    cell = (high[0] - low[0]) * (high[1] - low[1]) / points**2
    return log_prob(density, torch.cartesian_prod(*axes).to(density.data_dtype)).double().exp().sum().item() * cell
