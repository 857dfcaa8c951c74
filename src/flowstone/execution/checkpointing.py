"""Activation checkpointing: deep flows in little memory, by torch's own ``checkpoint``."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.utils.parametrizations import _SpectralNorm
from torch.utils.checkpoint import checkpoint

from flowstone.bijections import BatchNorm, Bijection, Chain, Conditioned, noise_from, noise_source, walk
from flowstone.execution.override import ForwardOverride

__all__ = ["checkpointed"]

RUNNING = (BatchNorm, _NormBase, _SpectralNorm)  # modules whose buffers a run changes
STATE = ("training", "_parameters", "_buffers")  # attributes of a module on which its run depends
NETS_PER_SEGMENT = {2: 6, 4: 1}  # of vectors and of images, by the dimensions of x


def checkpointed(density: nn.Module) -> ForwardOverride:
    """A context in which the gradient of a deep flow takes memory that hardly grows with its depth.

    Each chain is cut into segments of six layers with nets (of images: one). Only what goes into a segment is kept; in
    the backward pass it runs once more (Chen et al. 2016, https://arxiv.org/abs/1604.06174), except the last segment,
    with which that pass begins. Random numbers are the same again and running averages count a batch once, so that
    gradients are those of a flow that keeps everything, bit for bit (that of the context, which all segments share, up
    to the order of its sum). Call ``backward`` inside the context: ``torch.autograd.grad`` and gradients of gradients
    need a flow that keeps everything.
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
            z, log_det = segment(z, log_det, context) if keep else segment.checkpointed(z, log_det, context)
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
        self.modules = [module for link in links for module in link.modules()]

    def __call__(self, x: Tensor, log_det: Tensor | None, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Run the links one after the other and add each log-det to ``log_det``, in the order of ``Chain.forward``."""
        z = x
        for link in self.links:
            z, part = link(z, context)
            log_det = part if log_det is None else log_det + part
        assert log_det is not None
        return z, log_det

    def checkpointed(self, x: Tensor, log_det: Tensor | None, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """The same with nothing kept but x and ``log_det``.

        Torch's reentrant form records no graph in the first run, which takes a third less time than the other form, and
        frees memory in an order in which the C library can use it again. It needs an input that requires a gradient.
        """
        wants_gradient = torch.empty(0, requires_grad=True)
        return checkpoint(_Runs(self), x, log_det, context, wants_gradient, use_reentrant=True)


class _Runs:
    """The first run of a segment, and later ones that find every module as the first one did."""

    def __init__(self, segment: Segment) -> None:
        self.segment = segment
        self.before: _Restored | None = None

    def __call__(self, x: Tensor, log_det: Tensor | None, context: Tensor | None, _: Tensor) -> tuple[Tensor, Tensor]:
        if self.before is None:
            self.before = _Restored(self.segment.modules)
            return self.segment(x, log_det, context)
        with self.before:
            return self.segment(x, log_det, context)


class _Restored(AbstractContextManager):
    """Modules in the mode, with the weights and with the running averages that they had when this was made, and noise
    from the same generator in the same state; afterwards all is as it was. It can be entered again: a graph that is
    retained has several backward passes. (Torch restores its global random state itself.)
    """

    def __init__(self, modules: list[nn.Module]) -> None:
        source = noise_source()
        self.source = None if source is None else source.clone()
        self.before = [(module, _state(module)) for module in modules]
        self.now: list[tuple[nn.Module, dict[str, Any]]] = []

    def __enter__(self) -> None:
        self.noise = nullcontext() if self.source is None else noise_from(self.source.clone())
        self.noise.__enter__()
        self.now = [(module, {name: vars(module)[name] for name in STATE}) for module, _ in self.before]
        for (module, state), (_, now) in zip(self.before, self.now, strict=True):
            vars(module).update(_copied(module, state))
            if not (_is_plain(state) and _is_plain(now)):
                module._parameters = now["_parameters"]  # sharded ones are gathered by FSDP itself

    def __exit__(self, *_: object) -> None:
        self.noise.__exit__(None, None, None)
        for module, now in self.now:
            vars(module).update(now)


def _state(module: nn.Module) -> dict[str, Any]:
    """The state of a module on which its run depends, and which may have changed when it runs again."""
    return _copied(module, vars(module))


def _copied(module: nn.Module, state: Mapping[str, Any]) -> dict[str, Any]:
    buffers = state["_buffers"]
    if isinstance(module, RUNNING):
        buffers = {name: None if value is None else value.clone() for name, value in buffers.items()}
    return {"training": state["training"], "_parameters": dict(state["_parameters"]), "_buffers": dict(buffers)}


def _is_plain(state: Mapping[str, Any]) -> bool:
    return all(type(value) in (nn.Parameter, Tensor, type(None)) for value in state["_parameters"].values())
