"""Loss and gradient of a flow of couplings, computed without autograd."""

import math
from collections.abc import Iterator
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn

from flowstone.bijections import Bijection, Chain
from flowstone.density import Density
from flowstone.execution.direct_layers import LAYERS, PRIORS, UnknownLayerError, known, split
from flowstone.execution.override import hooks_of, hooks_of_all_modules
from flowstone.flow import Flow

__all__ = ["DirectGradient"]

PIECE = 2048  # rows whose values between layers fit the caches


class DirectGradient:
    r"""The mean negative log-likelihood of rows; its gradient is left in the ``grad`` of each parameter.

    Both are those of autograd up to rounding. No graph is recorded and no gradient is computed that is not needed, so
    that a training step of narrow nets takes a tenth to a half less time. Batches of more than 2048 rows are taken in
    pieces, so that memory does not grow with them.

    It knows flows of couplings (MLPs or residual nets; additive, affine or spline transforms), permutations,
    ``LULinear`` and ``Scaling`` with a normal or logistic prior. Any bijections without parameters may come before.

    Raises:
        UnknownLayerError: the density is another one, or its modules are of subclasses, have hooks or forwards of their
            own, drop units, share parameters or hold them fixed.

    >>> import flowstone
    >>> flow, x = flowstone.realnvp(3, couplings=2, hidden=(8,)), torch.randn(5, 3)
    >>> torch.allclose(DirectGradient(flow)(x), -flow.log_prob(x).mean())
    True
    """

    def __init__(self, density: Density) -> None:
        if type(density) is not Flow:
            raise UnknownLayerError(type(density).__name__)
        self.flow, modules = density, list(density.modules())
        self.parameters = [parameter for _, parameter in density.named_parameters(remove_duplicate=False)]
        self._attributes = [vars(module) for module in modules]
        self._hooks = [*hooks_of_all_modules(), *(hooks for module in modules for hooks in hooks_of(module))]
        links = list(_links(density.bijection))
        fixed = next((i for i, link in enumerate(links) if any(True for _ in link.parameters())), len(links))
        self.fixed = links[:fixed]
        self.layers = [known(link, LAYERS) for link in links[fixed:]]
        self.by_latent = known(density.prior, PRIORS)
        if not self.applies() or not self._are_plain():
            raise UnknownLayerError(
                "hooks, a replaced forward, or parameters that are shared, fixed or of several kinds"
            )

    def _are_plain(self) -> bool:
        kinds = {(type(p), p.dtype, p.device.type) for p in self.parameters}
        shared = len(self.parameters) > len(set(map(id, self.parameters)))
        computed = any(hasattr(module, "parametrizations") for module in self.flow.modules())
        return kinds == {(nn.Parameter, self.flow.dtype, "cpu")} and not shared and not computed

    def applies(self) -> bool:
        """Whether nothing watches or changes what the layers compute: no hooks, no other forward, no parameter that is
        held fixed, no autocast, no search for anomalies.
        """
        return (
            not any(self._hooks)
            and not any("forward" in attributes for attributes in self._attributes)
            and all(map(attrgetter("requires_grad"), self.parameters))
            and not any(map(attrgetter("_backward_hooks"), self.parameters))
            and not (torch.is_autocast_enabled("cpu") or torch.is_anomaly_enabled())
        )

    def __call__(self, x: Tensor, context: Tensor | None = None, *, total: int | None = None) -> Tensor:
        """The sum of ``-log_prob`` of the rows divided by ``total``, the number of rows if that is None."""
        self.flow.check_shapes(x, context)
        for parameter in self.parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        with torch.no_grad():
            z, context, log_det = self._prepared(x, context)
        with torch.inference_mode():
            share = 1 / (total or len(x))
            loss = self._loss(z, context, share) - share * log_det
        return loss.clone()  # an ordinary tensor again

    def _prepared(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor | None, Tensor | float]:
        """What comes out of the links without parameters, the standardised context, and the log-dets of all rows."""
        flow, log_dets = self.flow, []
        z = x if flow.accepts_any_dtype else x.to(flow.dtype)
        if context is not None and flow.standardize_context is not None:
            context = flow.standardize_context(context)[0]
        for link in self.fixed:
            z, log_det = link(z, context)
            log_dets.append(log_det)
        return z, context, torch.cat(log_dets).sum() if log_dets else 0.0

    def _loss(self, z: Tensor, context: Tensor | None, share: float) -> Tensor:
        """The loss of rows whose part in the mean is ``share``, in pieces that fit the caches; the sum of gradients."""
        pieces = z.chunk(math.ceil(len(z) / PIECE))
        contexts = [None] * len(pieces) if context is None else context.chunk(len(pieces))
        losses = [self._loss_of_piece(pieces[0], contexts[0], share)]
        gradients: Any = [parameter.grad for parameter in self.parameters]
        sums = [gradient.clone() for gradient in gradients] if len(pieces) > 1 else []
        for piece, its_context in zip(pieces[1:], contexts[1:], strict=True):
            losses.append(self._loss_of_piece(piece, its_context, share))
            torch._foreach_add_(sums, gradients)
        for gradient, whole in zip(gradients, sums, strict=False):
            gradient.copy_(whole)
        return torch.stack(losses).sum()

    def _loss_of_piece(self, z: Tensor, context: Tensor | None, share: float) -> Tensor:
        """All layers forward, then backward: each leaves the gradient of its parameters."""
        tape: list[Any] = []
        log_dets: list[Tensor] = []
        halves, context = split(z.t().contiguous()), None if context is None else context.t()
        for layer in self.layers:
            halves, log_det = layer.forward(halves, context, tape)
            if log_det is not None:
                log_dets.append(log_det.flatten())
        z = torch.cat(halves)
        by_halves = split(self.by_latent(z, share))
        for index in reversed(range(len(self.layers))):
            by_halves = self.layers[index].backward(by_halves, share, tape, is_first=index == 0)
        return torch.cat((*log_dets, self.flow.prior.log_prob(z.t()))).sum() * -share


def _links(bijection: Bijection) -> Iterator[Bijection]:
    """The links of a chain, and of the chains in it."""
    if type(bijection) is Chain:
        for link in bijection.sublayers():
            yield from _links(link)
    else:
        yield bijection
