"""What ``execution.direct`` promises: the loss, the gradient and the log-densities of autograd and of the flow."""

from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

import flowstone
from flowstone.bijections import Affine, Chain, Coupling, Permutation, RQSpline
from flowstone.execution import DirectGradient, UnknownLayerError, direct, direct_layers
from flowstone.kernels.spline_call import backend
from flowstone.nets import MLP, ResNet
from flowstone.priors import StandardNormal

__all__ = [
    "direct_gradients_are_those_of_autograd",
    "direct_gradients_in_float32",
    "direct_gradients_know_their_nets",
    "large_batches_are_taken_in_pieces",
    "rows_are_read_as_the_flow_reads_them",
    "several_processes_share_a_mean",
    "splines_run_by_their_kernels_where_these_apply",
]

FLOWS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("nice", {"prior": "logistic", "activation": "gelu"}),
    ("nice", {"prior": "normal", "activation": "tanh"}),
    ("realnvp", {"activation": "silu", "couplings": 5}),
    ("realnvp", {"scale": "soft"}),
    ("realnvp", {"scale": "soft", "shift_first": True}),
    ("realnvp", {"separate_nets": True, "prior": "logistic"}),
    ("spline", {}),
    ("spline", {"residual": True, "mixing": "permutation", "activation": "tanh"}),
)


def made(name: str, options: dict[str, Any], features: int, context: int, *, spread: float = 0.1) -> flowstone.Flow:
    """A small flow with its statistics set and its weights moved away from their start."""
    torch.manual_seed(0)
    arguments = {"couplings": 3, "hidden": (8, 8), "context_features": context} | options
    flow = getattr(flowstone, name)(features, **arguments)
    flow.initialize(3 * torch.randn(50, features) + 1, torch.randn(50, context) if context else None)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(spread * torch.randn_like(parameter))
    return flow


def rows(flow: flowstone.Flow, count: int) -> tuple[Tensor, Tensor | None]:
    context = torch.randn(count, flow.context_features) if flow.context_features else None
    return 4 * torch.randn(count, *flow.event_shape), context


def by_autograd(flow: flowstone.Flow, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The loss and its gradient in one array."""
    loss = -flow.log_prob(x, context).mean()
    gradients = torch.autograd.grad(loss, list(flow.parameters()))
    return loss.detach(), torch.cat([gradient.flatten() for gradient in gradients])


def directly(flow: flowstone.Flow, x: Tensor, context: Tensor | None = None, **more: Any) -> tuple[Tensor, Tensor]:
    for parameter in flow.parameters():
        parameter.grad = torch.full_like(parameter, torch.nan)  # every number must be written
    loss = DirectGradient(flow)(x, context, **more)
    return loss, torch.cat([parameter.grad.flatten() for parameter in flow.parameters() if parameter.grad is not None])


def require_close(one: tuple[Tensor, ...], other: tuple[Tensor, ...], precision: float) -> None:
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, rtol=precision, atol=precision * b.abs().max().item())


def require_direct(flow: flowstone.Flow, count: int, precision: float = 1e-12) -> None:
    """The direct loss, gradient and log-densities of so many rows are those of the flow."""
    batch = rows(flow, count)
    require_close(directly(flow, *batch), by_autograd(flow, *batch), precision)
    require_close((DirectGradient(flow).log_prob(*batch),), (flow.log_prob(*batch).detach(),), precision)


def direct_gradients_are_those_of_autograd() -> None:
    for name, options in FLOWS:
        for features, context, count in ((1, 0, 3), (1, 2, 1), (2, 0, 1), (4, 2, 6), (5, 0, 6)):
            require_direct(made(name, options, features, context), count)


def direct_gradients_in_float32() -> None:
    """Of rows in float64, which the first layer reads as they are or rounds; compared with the gradient in float64."""
    for name in ("realnvp", "spline"):
        flow = made(name, {}, 5, 2, spread=0.05).float()
        x, context = rows(flow, 40)
        assert context is not None
        found = directly(flow, x, context.float())
        assert DirectGradient(flow).log_prob(x, context.float()).dtype == torch.float32
        loss, gradient = by_autograd(flow.double(), x, context.float().double())
        require_close(found, (loss.float(), gradient.float()), 1e-5)


def rows_are_read_as_the_flow_reads_them() -> None:
    """Times in seconds keep their digits where the flow standardises them; without that, rows are rounded."""
    flow = made("realnvp", {}, 2, 0)
    times = 1e9 + 4 * torch.randn(50, 2, dtype=torch.float64)
    standardized = flowstone.realnvp(2, couplings=2, hidden=(8,)).float()
    standardized.initialize(times)
    plain = flowstone.Flow(Chain(*flow.bijection.sublayers()[1:]), StandardNormal(2)).float()
    for density, x in ((standardized, times), (plain, times - 1e9)):
        require_close((DirectGradient(density).log_prob(x),), (density.log_prob(x).detach(),), 1e-5)


def splines_run_by_their_kernels_where_these_apply() -> None:
    for circular, kind in ((False, direct_layers._Spline), (True, direct_layers._ByAutograd)):
        torch.manual_seed(0)
        spline = RQSpline(bins=4, circular=circular)
        coupling = Coupling(2, spline, MLP(1, spline.parameters_per_feature, hidden=(8,), output_scale=1.0))
        flow = flowstone.Flow(Chain(coupling), StandardNormal(2)).float()
        assert backend("cpu") is None or type(DirectGradient(flow).layers[0].transform) is kind
        x = torch.randn(6, 2, dtype=torch.float32)
        require_close(directly(flow, x), by_autograd(flow, x), 1e-5)


def several_processes_share_a_mean() -> None:
    flow = made("realnvp", {}, 4, 0)
    x = rows(flow, 7)[0]
    (loss, gradient), (other, rest) = (directly(flow, part, total=7) for part in (x[:3], x[3:]))
    require_close((loss + other, gradient + rest), by_autograd(flow, x), 1e-12)


def large_batches_are_taken_in_pieces() -> None:
    with patch.object(direct, "CHUNK", 3):
        for context in (0, 2):
            require_direct(made("realnvp", {}, 4, context), 7)


def direct_gradients_know_their_nets() -> None:
    """Nets that were changed, or do not fit, are left to autograd; what is computed is never that of another net."""
    blocks, plain, dropping = ResNet(1, 2, hidden=(8,)), MLP(1, 2, hidden=(8,)), ResNet(1, 2, hidden=(8,))
    dropping.blocks[0][3].p = 0.1  # pyright: ignore
    blocks.blocks[0] = nn.Sequential(nn.ReLU(), nn.Linear(8, 8))
    plain.layers[1] = nn.Softplus()
    overwriting = MLP(1, 2, hidden=(8,))
    overwriting.layers[1] = nn.SiLU(inplace=True)
    unknown: list[nn.Module] = [blocks, plain, dropping, overwriting, MLP(1, 2, hidden=()), MLP(1, 4, hidden=(8,))]
    images = Coupling(2, Affine((1, 1, 1)), MLP(1, 2, hidden=(8,)))
    methods = Coupling(2, Affine(1), MLP(1, 2, hidden=(8,)))
    methods.conditioner_parameters = methods.conditioner_parameters
    flows = [images, methods, *(Coupling(2, Affine(1), net) for net in unknown)]
    for link in flows:
        try:
            DirectGradient(flowstone.Flow(Chain(Permutation.reverse(2), link), StandardNormal(2)))
        except UnknownLayerError:
            continue
        raise AssertionError(f"{link} is unknown")
