"""Figures about a flow: likelihood and its standard error, bits per dimension, round trip, grid integral."""

import math
from typing import Any

import torch
from torch import Tensor

from flowstone.compute import threads_for
from flowstone.errors import DataError, ShapeError
from flowstone.flow import CHUNK, NUMBERS, Flow

__all__ = ["bits_per_dim", "evaluate", "grid_integral", "log_prob", "round_trip"]


def bits_per_dim(nll_nats: float, dimensions: int) -> float:
    r"""$\text{nll} / (D \ln 2)$, for a density in the units of the data.

    >>> import math
    >>> bits_per_dim(8 * math.log(2) * 784, 784)
    8.0
    """
    return nll_nats / (dimensions * math.log(2))


@torch.no_grad()
def log_prob(flow: Flow, x: Tensor, context: Tensor | None = None) -> Tensor:
    """Log-density of each row in nats, ``(n, *event_shape)`` → ``(n,)``, in chunks, on as many threads as pay.

    A flow that dequantizes draws the same noise each time.
    """
    device = flow.device
    with threads_for(flow, CHUNK), torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        return flow.log_prob(x.to(device), None if context is None else context.to(device)).cpu()


@torch.no_grad()
def round_trip(flow: Flow, x: Tensor, context: Tensor | None = None) -> float:
    """Largest |x - f⁻¹(f(x))| over all rows and features, in the units of the data."""
    device, worst = flow.device, []
    size = max(1, min(CHUNK, NUMBERS // flow.event_shape.numel()))
    for start in range(0, len(x), size):
        part = x[start : start + size].to(device)
        given = None if context is None else context[start : start + size].to(device)
        back, _ = flow.from_latent(flow.to_latent(part, given)[0], given)
        worst.append((back - part).abs().max())
    return torch.stack(worst).max().item()  # torch's max, which does not lose a NaN


def evaluate(flow: Flow, x: Tensor, context: Tensor | None = None) -> dict[str, Any]:
    """Figures on held-out rows: ``nll_nats`` (mean), ``nll_stderr`` (of that mean), ``nll_median``, ``bits_per_dim``,
    ``round_trip_max``, ``n_test``, ``n_not_finite``. A row whose likelihood is NaN or infinite is counted and never
    dropped: the mean is then not finite either.

    >>> import torch, flowstone
    >>> sorted(flowstone.evaluate(flowstone.nice(2), torch.randn(10, 2)))
    ['bits_per_dim', 'n_not_finite', 'n_test', 'nll_median', 'nll_nats', 'nll_stderr', 'round_trip_max']
    """
    if len(x) < 2:
        raise DataError(f"{len(x)} row(s): at least 2 are needed for a mean and its error")
    nll = -log_prob(flow, x, context).double()
    mean = nll.mean().item()
    return {
        "nll_nats": mean,
        "nll_stderr": (nll.std() / math.sqrt(len(nll))).item(),
        "nll_median": nll.median().item(),
        "bits_per_dim": bits_per_dim(mean, flow.event_shape.numel()),
        "round_trip_max": round_trip(flow, x, context),
        "n_test": len(x),
        "n_not_finite": int((~nll.isfinite()).sum()),
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
