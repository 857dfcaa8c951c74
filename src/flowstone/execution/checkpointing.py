"""Activation checkpointing: deep flows in little memory, by torch's own ``checkpoint``."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.utils.parametrizations import _SpectralNorm
from torch.utils.checkpoint import checkpoint

from flowstone.bijections import BatchNorm, Bijection, Chain, Conditioned, walk
from flowstone.execution.override import ForwardOverride

__all__ = ["checkpointed"]

RUNNING = (BatchNorm, _NormBase, _SpectralNorm)  # a run changes their buffers
NETS_PER_SEGMENT = {2: 4, 4: 1}  # of vectors and of images, by the dimensions of x


def checkpointed(density: nn.Module) -> ForwardOverride:
    """A context in which the gradient of a deep flow takes memory that hardly grows with its depth.

    Each chain is cut into segments of four layers with nets (of images: one). Only what goes into a segment is kept; in
    the backward pass it runs once more (Chen et al. 2016, https://arxiv.org/abs/1604.06174), but for the last segment,
    with which that pass begins. Random numbers are the same again and running averages take a batch in once, so that
    gradients are those of a flow that keeps everything. The backward pass belongs into the context.
    """
    chains = [module for module in density.modules() if type(module) is Chain]
    return ForwardOverride({chain: _forward_of(chain, is_last=chain is chains[0]) for chain in chains})


def _forward_of(chain: Chain, *, is_last: bool) -> Callable:
    segments = {ndim: _segments(chain, size) for ndim, size in NETS_PER_SEGMENT.items()}

    def forward(this: Chain, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if not torch.is_grad_enabled() or this is not chain:  # a copy has links of its own
            return Chain.forward(this, x, context)
        z, log_det = x, None
        own = segments.get(x.ndim, segments[2])
        for segment in own:
            keep = not segment.has_nets or segment.has_chains or (is_last and segment is own[-1])
            z, part = segment(z, context) if keep else segment.checkpointed(z, context)
            log_det = part if log_det is None else log_det + part
        assert log_det is not None
        return z, log_det

    return forward


def _segments(chain: Chain, size: int) -> list["Segment"]:
    """Consecutive links with up to ``size`` nets each. A link that holds chains, which have segments, is by itself."""
    groups: list[list[Bijection]] = [[]]
    for link in chain.sublayers():
        if any(type(layer) is Chain for layer in walk(link)):
            groups += [[link], []]
            continue
        if _count_nets([link]) and _count_nets(groups[-1]) == size:
            groups.append([])
        groups[-1].append(link)
    return [Segment(group) for group in groups if group]


def _count_nets(links: list[Bijection]) -> int:
    return sum(any(isinstance(layer, Conditioned) for layer in walk(link)) for link in links)


class Segment:
    """Consecutive links of a chain."""

    def __init__(self, links: list[Bijection]) -> None:
        self.links = links
        self.has_nets = _count_nets(links) > 0
        self.has_chains = any(type(layer) is Chain for link in links for layer in walk(link))
        self.running = [module for link in links for module in link.modules() if isinstance(module, RUNNING)]

    def __call__(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        z, log_det = self.links[0](x, context)
        for link in self.links[1:]:
            z, part = link(z, context)
            log_det = log_det + part
        return z, log_det

    def checkpointed(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """The same with nothing kept but x."""
        return checkpoint(self, x, context, use_reentrant=False, context_fn=self._contexts)

    def _contexts(self) -> tuple[AbstractContextManager, AbstractContextManager]:
        """What the two runs happen in: the second one finds running averages as the first one did."""
        before = [(module, module.training, _clones(module._buffers)) for module in self.running]
        return nullcontext(), _restored(before) if before else nullcontext()


@contextmanager
def _restored(before: Sequence[tuple[nn.Module, bool, dict[str, Tensor | None]]]) -> Iterator[None]:
    """Modules in the mode and with the buffers of before; afterwards as they were."""
    now = [(module, module.training, dict(module._buffers)) for module, _, _ in before]
    for module, training, buffers in before:
        module.training = training
        module._buffers.update(_clones(buffers))
    try:
        yield
    finally:
        for module, training, buffers in now:
            module.training = training
            module._buffers.update(buffers)


def _clones(buffers: dict[str, Tensor | None]) -> dict[str, Tensor | None]:
    return {name: None if value is None else value.clone() for name, value in buffers.items()}
