"""Figures about a flow: likelihood and its standard error, bits per dimension, round trip, grid integral."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor

from flowstone.bijections import Bijection, Chain, Dequantize
from flowstone.density import CHUNK, NUMBERS
from flowstone.errors import DataError, SettingError, ShapeError
from flowstone.execution import threads_for
from flowstone.flow import Flow

__all__ = ["bits_per_dim", "evaluate", "grid_integral", "log_prob", "round_trip"]


def bits_per_dim(nll_nats: float, dimensions: int) -> float:
    r"""$\text{nll} / (D \ln 2)$, for a density in the units of the data.

    >>> import math
    >>> bits_per_dim(8 * math.log(2) * 784, 784)
    8.0
    """
    return nll_nats / (dimensions * math.log(2))


@torch.no_grad()
def log_prob(flow: Flow, x: Tensor, context: Tensor | None = None, *, bound_samples: int = 1) -> Tensor:
    r"""Log-density of each row in nats, ``(n, *event_shape)`` → ``(n,)``, in chunks, on as many threads as pay.

    A flow that dequantizes (or pads) draws the same noise each time. What it then tells is a lower bound, which more
    draws make tighter (Burda et al. 2016): $\log P(x) \ge \log \tfrac1K \sum_k e^{\ell_k}$, with $\ell_k$ that of the
    k-th draw and K ``bound_samples``.
    """
    if bound_samples < 1:
        raise SettingError(f"bound_samples={bound_samples} must be at least 1")
    device = flow.device
    x, context = x.to(device), None if context is None else context.to(device)
    with threads_for(flow, CHUNK), _same_noise(device):
        draws = bound_samples if flow.stochastic else 1
        bound = torch.stack([flow.log_prob(x, context) for _ in range(draws)]).logsumexp(0) - math.log(draws)
        return bound.cpu()


@torch.no_grad()
def round_trip(flow: Flow, x: Tensor, context: Tensor | None = None) -> float:
    """Largest |x - f⁻¹(f(x))| over all rows and features, in the units of the data.

    Of a flow that dequantizes it is x with its noise that goes and comes: rounding to integers would hide errors of a
    tenth, and make errors of a millionth, next to an integer, 1.
    """
    device, worst = flow.device, []
    size = max(1, min(CHUNK, NUMBERS // flow.event_shape.numel()))
    with _same_noise(device):
        for start in range(0, len(x), size):
            part = x[start : start + size].to(device)
            given = None if context is None else context[start : start + size].to(device)
            rest, part = _dequantized(flow, part, given)
            back, _ = rest.from_latent(rest.to_latent(part, given)[0], given)
            worst.append((back - part).abs().max())
    return torch.stack(worst).max().item()  # torch's max, which does not lose a NaN


@contextmanager
def _same_noise(device: torch.device) -> Iterator[None]:
    """The same each time; nobody else's noise is moved."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        yield


def _dequantized(flow: Flow, x: Tensor, context: Tensor | None) -> tuple[Flow, Tensor]:
    """What comes after the first layer, and x as that layer leaves it, where it draws noise; else both as they are."""
    chain = flow.bijection
    if not (isinstance(chain, Chain) and isinstance(chain.links[0], Dequantize)):
        return flow, x
    conditioning = None if flow.standardize_context is None else flow.standardize_context(context)[0]
    links = [cast(Bijection, link) for link in chain.links]
    rest = Flow(Chain(*links[1:]), flow.prior, context_features=flow.context_features)
    rest.standardize_context = flow.standardize_context
    return rest, links[0](x, conditioning)[0]


def evaluate(flow: Flow, x: Tensor, context: Tensor | None = None, *, bound_samples: int = 1) -> dict[str, Any]:
    """Figures on held-out rows: ``nll_nats`` (mean), ``nll_stderr`` (of that mean), ``nll_median``, ``bits_per_dim``,
    ``round_trip_max``, ``n_test``, ``n_not_finite``. A row whose likelihood is NaN or infinite is counted and never
    dropped: the mean is then not finite either.

    Of a flow that dequantizes also ``bits_per_dim_stderr``, and ``bound_samples``: how many draws of the noise the
    bound is made of (``log_prob``).

    >>> import torch, flowstone
    >>> sorted(flowstone.evaluate(flowstone.nice(2), torch.randn(10, 2)))
    ['bits_per_dim', 'n_not_finite', 'n_test', 'nll_median', 'nll_nats', 'nll_stderr', 'round_trip_max']
    """
    if len(x) < 2:
        raise DataError(f"{len(x)} row(s): at least 2 are needed for a mean and its error")
    nll = -log_prob(flow, x, context, bound_samples=bound_samples).double()
    mean, error = nll.mean().item(), (nll.std() / math.sqrt(len(nll))).item()
    dimensions = flow.event_shape.numel()
    bound = {"bits_per_dim_stderr": bits_per_dim(error, dimensions), "bound_samples": bound_samples}
    return {
        "nll_nats": mean,
        "nll_stderr": error,
        "nll_median": nll.median().item(),
        "bits_per_dim": bits_per_dim(mean, dimensions),
        "round_trip_max": round_trip(flow, x, context),
        "n_test": len(x),
        "n_not_finite": int((~nll.isfinite()).sum()),
        **(bound if flow.stochastic else {}),
    }


def grid_integral(flow: Flow, low: tuple[float, float], high: tuple[float, float], *, points: int = 500) -> float:
    """The density of a flow on the plane summed over a grid of ``points`` x ``points`` cell middles: 1 if all is right
    and the rectangle from ``low`` to ``high`` holds all of the mass.
    """
    if tuple(flow.event_shape) != (2,):
        raise ShapeError(f"a grid integral needs a flow of event shape (2,), got {tuple(flow.event_shape)}")
    axes = [lo + (hi - lo) * (torch.arange(points) + 0.5) / points for lo, hi in zip(low, high, strict=True)]
    cell = (high[0] - low[0]) * (high[1] - low[1]) / points**2
    return log_prob(flow, torch.cartesian_prod(*axes)).double().exp().sum().item() * cell
