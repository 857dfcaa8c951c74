"""Deep flows in little memory: what gradients need of a layer is computed again instead of kept."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.utils.checkpoint import checkpoint

from flowstone.bijections import (
    ActNorm,
    Additive,
    Affine,
    Autoregressive,
    BatchNorm,
    Bijection,
    Chain,
    Coupling,
    Half,
    InvertibleConv1x1,
    LULinear,
    Permutation,
    RQSpline,
    Squeeze,
)
from flowstone.bijections.base import Parts, in_turn, joined
from flowstone.compute.replaced import Replaced

__all__ = ["recomputed"]

ANCHOR = 4  # couplings between two values that are kept: rounding of inverses adds up from one to the next alone
REVERSIBLE = (ActNorm, Coupling, InvertibleConv1x1, LULinear, Permutation, Squeeze)
ONCE = (BatchNorm, _BatchNorm, _DropoutNd, nn.RReLU)  # do not give the same again; dropout with p = 0 does
EXACT = (Additive, Affine, RQSpline)  # the mixture's inverse is a search


def recomputed(flow: nn.Module) -> Replaced:
    """A context in which the gradient of a deep flow takes memory that hardly grows with its depth.

    In a chain, runs of couplings and of what lies between them keep one value for every fourth coupling; in the
    backward pass each layer's input is computed from its output by the inverse, and its net runs once more (Gomez et
    al. 2017); but for the last four, with which that pass begins. Gradients differ by the rounding of four inverses.
    Layers that draw random numbers or see the whole batch (dropout, batch normalization), autoregressive layers and
    mixtures are not inverted: they keep their input and run once more, their gradients to the last bit the same (Chen
    et al. 2016). The backward pass is part of the context.
    """
    forwards: dict[nn.Module, Callable] = {}
    chains = [module for module in flow.modules() if type(module) is Chain]
    pieces = {chain: _pieces([cast(Bijection, link) for link in chain.links]) for chain in chains}
    runs = [piece for found in pieces.values() for piece in found if isinstance(piece, _Run)]
    for chain, found in pieces.items():
        if any(isinstance(piece, _Run) for piece in found):
            forwards[chain] = _through(found)
    if runs:
        runs[-1].kept = True  # the backward pass begins with it: nothing is gained by throwing away
    inverted = {link for run in runs for link in run.links}
    for layer in flow.modules():
        if isinstance(layer, Coupling | Autoregressive) and layer not in inverted:
            forwards[layer] = _checkpointed(layer)
    return Replaced(forwards)


def _reversible(link: nn.Module) -> bool:
    if isinstance(link, Half):
        return _reversible(link.bijection)
    exact = not isinstance(link, Coupling) or isinstance(link.transform, EXACT)
    repeatable = not any(isinstance(part, ONCE) and getattr(part, "p", 1) for part in link.modules())
    unwatched = not any(parameter._backward_hooks for parameter in link.parameters())  # hooks would run twice
    return isinstance(link, REVERSIBLE) and exact and repeatable and unwatched


def _pieces(links: Sequence[Bijection]) -> list[Any]:
    """Links as they are, and runs of reversible ones with up to ``ANCHOR`` couplings in each."""
    pieces: list[Any] = []
    run: list[Bijection] = []

    def close() -> None:
        pieces.extend([_Run(run.copy())] if any(isinstance(link, Coupling) for link in run) else run)
        run.clear()

    for link in links:
        if not _reversible(link):
            close()
            pieces.append(link)
            continue
        if isinstance(link, Coupling) and sum(isinstance(other, Coupling) for other in run) == ANCHOR:
            close()
        run.append(link)
    close()
    return pieces


def _through(pieces: Sequence[Any]) -> Callable:
    def forward(chain: Chain, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if not torch.is_grad_enabled():
            return Chain.forward(chain, x, context)
        return in_turn(pieces, x, context)

    return forward


class _Run:
    """Reversible links, of which the output alone is kept."""

    def __init__(self, links: Sequence[Bijection]) -> None:
        self.links = links
        self.parameters = [list(link.parameters()) for link in links]
        self.kept = False

    def __call__(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        if self.kept:
            return in_turn(self.links, x, context)
        wanted = {id(p): p for parameters in self.parameters for p in parameters if p.requires_grad}
        return _FromOutput.apply(self, x, context, *wanted.values())

    def places(self) -> list[list[int]]:
        """Of each link's own parameters among all that ``__call__`` handed on."""
        wanted: dict[int, int] = {}
        own = [[p for p in parameters if p.requires_grad] for parameters in self.parameters]
        return [[wanted.setdefault(id(p), len(wanted)) for p in parameters] for parameters in own]


class _FromOutput(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, run: _Run, x: Tensor, context: Tensor | None, *parameters: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        z, log_det = in_turn(run.links, x, context)
        ctx.links, ctx.places = run.links, run.places()
        ctx.save_for_backward(z, context, *parameters)
        return z, log_det

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        (z, context, *wanted), (g_z, g_log) = ctx.saved_tensors, gradients
        last = [len(wanted)] if ctx.needs_input_grad[2] else []
        if last:
            context = context.detach().requires_grad_()
            wanted.append(context)
        sums: list[Tensor | None] = [None] * len(wanted)
        for link, own in zip(reversed(ctx.links), reversed(ctx.places), strict=True):
            z, g_z, found = _back(link, z, context, g_z, g_log, [wanted[place] for place in own + last])
            for place, gradient in zip(own + last, found, strict=True):
                before = sums[place]
                sums[place] = gradient if before is None else before if gradient is None else before + gradient
        g_context = sums.pop() if last else None
        return None, joined(g_z), g_context, *sums


def _back(link: Bijection, z: Parts, context: Tensor | None, g_z: Parts, g_log: Tensor, wanted: list):
    """From a layer's output to its input; the gradient by it, and by those of ``wanted`` that the layer uses."""
    if isinstance(link, Coupling):
        return _back_through_coupling(link, z, context, g_z, g_log, wanted)
    if isinstance(link, Half):
        (kept, moved), (g_kept, g_moved) = link.halves(z), link.halves(g_z)
        moving, g_moving, found = _back(link.bijection, moved, context, g_moved, g_log, wanted)
        return link.turned(kept, joined(moving)), link.turned(g_kept, joined(g_moving)), found
    x = link.inverse(joined(z), context)[0].detach().requires_grad_()
    with torch.enable_grad():
        outputs = link(x, context)
    g_x, *found = _gradients(outputs, (x, *wanted), (joined(g_z), g_log))
    return x.detach(), g_x, found


def _back_through_coupling(link: Coupling, z: Parts, context: Tensor | None, g_z: Parts, g_log: Tensor, wanted: list):
    """What is kept is in z as it was, so the net runs once for both directions."""
    (kept, moved), (g_kept, g_moved) = link.halves(z), link.halves(g_z)
    kept, moved = kept.detach().requires_grad_(), moved.detach()
    with torch.enable_grad():
        parameters = link.parameters_given(kept, context)
    with torch.no_grad():
        moving = link.transform.inverse(moved, parameters)[0]
    moving.requires_grad_()
    with torch.enable_grad():
        moved, log_slope = link.transform.forward(moving, parameters)
    g_slope = g_log.view(-1, *[1] * (log_slope.ndim - 1)).expand_as(log_slope)
    g_moving, by_net, *found = _gradients((moved, log_slope), (moving, kept, *wanted), (g_moved, g_slope))
    g_kept = g_kept if by_net is None else g_kept + by_net
    return link.turned(kept.detach(), moving.detach()), link.turned(g_kept, g_moving), found


def _gradients(outputs: tuple[Tensor, ...], inputs: tuple[Tensor, ...], gradients: tuple[Tensor, ...]):
    """By each of the inputs, None where nothing depends on it."""
    depends = [(output, g) for output, g in zip(outputs, gradients, strict=True) if output.requires_grad]
    return torch.autograd.grad([o for o, _ in depends], inputs, [g for _, g in depends], allow_unused=True)


def _checkpointed(layer: nn.Module) -> Callable:
    plainly = type(layer).forward
    norms = [m for m in layer.modules() if isinstance(m, _BatchNorm) and m.num_batches_tracked is not None]

    @contextmanager
    def second_time() -> Iterator[None]:
        before = [(norm.momentum, norm.get_buffer("num_batches_tracked").clone()) for norm in norms]
        for norm in norms:  # the running averages have seen this batch
            norm.momentum = 0.0
        try:
            yield
        finally:
            for norm, (momentum, seen) in zip(norms, before, strict=True):
                norm.momentum = momentum
                norm.get_buffer("num_batches_tracked").copy_(seen)

    def run(layer, value, context=None):
        if not torch.is_grad_enabled():
            return plainly(layer, value, context)
        return checkpoint(
            plainly, layer, value, context, use_reentrant=False, context_fn=lambda: (nullcontext(), second_time())
        )

    return run
