"""Deep flows in little memory: what gradients need of a layer is computed again instead of kept."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import reduce
from itertools import compress, zip_longest
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import _SpectralNorm

from flowstone.bijections import Autoregressive, BatchNorm, Chain, Coupling
from flowstone.bijections.base import Parts, joined, passed
from flowstone.compute.replaced import Replaced

__all__ = ["recomputed"]

MOVING = (BatchNorm, _NormBase, _SpectralNorm)  # a run changes their buffers
TOGETHER = {2: 4, 4: 1}  # layers with nets in a piece, of vectors and of images, beside whose nets an image is small


def recomputed(flow: nn.Module) -> Replaced:
    """A context in which the gradient of a deep flow takes memory that hardly grows with its depth.

    Of a chain, every fourth value between couplings is kept (of images, each); in the backward pass the layers from
    one to the next run once more, the last first (Chen et al. 2016), but for the last of these pieces, with which that
    pass begins. Random numbers are the same again, running averages take a batch in once, and so gradients are those of
    a flow that keeps everything, to the last bit (of weights that several pieces share, but for the order of the sum).
    The backward pass is part of the context.
    """
    forwards: dict[nn.Module, Callable] = {}
    again: dict[int, list[_Piece]] = {rank: [] for rank in TOGETHER}
    for chain in flow.modules():
        if type(chain) is Chain:
            by_rank = {rank: _pieces(chain, size) for rank, size in TOGETHER.items()}
            forwards[chain] = _through(chain, by_rank)
            for rank, pieces in by_rank.items():
                again[rank] += [piece for piece in pieces if not piece.kept]
    inside = {module for pieces in again.values() for piece in pieces for module in piece.modules}
    for pieces in again.values():
        for piece in pieces[-1:]:
            piece.kept = True  # the backward pass begins with it: nothing is gained by throwing away
    for layer in flow.modules():
        if isinstance(layer, Coupling | Autoregressive) and layer not in inside:
            forwards[layer] = _alone(layer)
    return Replaced(forwards)


def _pieces(chain: Chain, size: int) -> list["_Piece"]:
    """With up to ``size`` layers that have nets; of what has none, everything is kept."""
    pieces: list[_Piece] = []
    links: list[nn.Module] = []

    def close() -> None:
        if links:
            pieces.append(_Piece(links, links, kept=not any(map(_has_nets, links))))
        links.clear()

    for link in chain.links:
        if any(type(part) is Chain for part in link.modules()):  # a chain has pieces of its own
            close()
            pieces.append(_Piece([link], [link], kept=True))
            continue
        if _has_nets(link) and sum(map(_has_nets, links)) == size:
            close()
        links.append(link)
    close()
    return pieces


def _has_nets(link: nn.Module) -> bool:
    return any(isinstance(part, Coupling | Autoregressive) for part in link.modules())


def _through(chain: Chain, by_rank: dict[int, list["_Piece"]]) -> Callable:
    def forward(this: Chain, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if not torch.is_grad_enabled() or this is not chain:  # a copy has links of its own
            return Chain.forward(this, x, context)
        value: Parts = x
        log_dets: list[Tensor] = []
        for piece in by_rank.get(x.ndim, by_rank[2]):
            value, found = piece(value, context)
            log_dets += found
        return joined(value), reduce(torch.add, log_dets)

    return forward


def _alone(layer: nn.Module) -> Callable:
    plainly = type(layer).forward
    piece = _Piece([lambda value, context: plainly(layer, value, context)], [layer])

    def forward(this: nn.Module, value: Parts, context: Tensor | None = None) -> tuple[Parts, Tensor]:
        if not torch.is_grad_enabled() or this is not layer:
            return plainly(this, value, context)
        value, (log_det,) = piece(value, context)
        return value, log_det

    return forward


class _Piece:
    """Links of which only what goes in is kept or, with ``kept``, everything."""

    def __init__(self, links: Sequence[Any], modules: Sequence[nn.Module], *, kept: bool = False) -> None:
        self.links, self.kept = list(links), kept
        self.modules = list(dict.fromkeys(part for module in modules for part in module.modules()))
        self.places = [(part._parameters, name) for part in self.modules for name in part._parameters]
        self.moving = [part for part in self.modules if isinstance(part, MOVING)]

    def __call__(self, value: Parts, context: Tensor | None) -> tuple[Parts, list[Tensor]]:
        wanted = self.wanted()
        # What looks at a gradient would see it twice; and a cache of weights made without gradients has none for later.
        if self.kept or parametrize._cache_enabled or any(p._backward_hooks for p in wanted):
            return passed(self.links, value, context)
        parts = value if isinstance(value, tuple) else (value,)
        outputs = _OnceMore.apply(self, len(parts), *parts, context, *wanted)
        count = len(outputs) - len(self.links)
        return _value(outputs[:count]), list(outputs[count:])

    def wanted(self) -> list[Tensor]:
        """The parameters, as they are now, of which a gradient is wanted."""
        found = [parameters.get(name) for parameters, name in self.places]
        return list({id(p): p for p in found if p is not None and p.requires_grad}.values())

    def run(self, parts: tuple[Tensor, ...], context: Tensor | None) -> tuple[Tensor, ...]:
        """The parts of what comes out, and the log-det of each link."""
        z, log_dets = passed(self.links, _value(parts), context)
        return (*z, *log_dets) if isinstance(z, tuple) else (z, *log_dets)

    def again(self, device: torch.device) -> Callable:
        """A context in which a second run, later, is what a first run would be now."""
        autocast = {"enabled": torch.is_autocast_enabled(device.type), "dtype": torch.get_autocast_dtype(device.type)}
        numbers = torch.get_rng_state()
        there = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
        modes, averages = self._modes(), [_copied(part._buffers) for part in self.moving]

        @contextmanager
        def second_time() -> Iterator[None]:
            with torch.random.fork_rng([] if there is None else [device]), torch.autocast(device.type, **autocast):
                torch.set_rng_state(numbers)
                if there is not None:
                    torch.cuda.set_rng_state(there, device)
                now = self._modes(), [part._buffers.copy() for part in self.moving]
                try:
                    self._put(modes, [_copied(buffers) for buffers in averages])
                    yield
                finally:
                    self._put(*now)

        return second_time

    def _modes(self) -> list[bool]:
        return [part.training for part in self.modules]

    def _put(self, modes: list[bool], averages: list[dict[str, Tensor | None]]) -> None:
        for part, training in zip(self.modules, modes, strict=True):
            part.training = training
        for part, buffers in zip(self.moving, averages, strict=True):
            part._buffers.update(buffers)


def _copied(buffers: dict[str, Tensor | None]) -> dict[str, Tensor | None]:
    return {name: None if value is None else value.clone() for name, value in buffers.items()}


def _value(parts: tuple[Tensor, ...]) -> Parts:
    return parts[0] if len(parts) == 1 else parts


class _OnceMore(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, piece: _Piece, count: int, *inputs: Any):  # pyright: ignore[reportIncompatibleMethodOverride]
        """``inputs``: so many parts, the context, parameters."""
        ctx.piece, ctx.count, ctx.again = piece, count, piece.again(inputs[0].device)
        ctx.wanted = inputs[count + 1 :]
        ctx.save_for_backward(*inputs)
        return piece.run(inputs[:count], inputs[count])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        needed, told = ctx.needs_input_grad[2:], ctx.count + 1
        if any(p is not now for p, now in zip_longest(ctx.wanted, ctx.piece.wanted())):
            raise RuntimeError("weights of a layer were replaced before the backward pass, which runs it once more")
        inputs = list(ctx.saved_tensors)
        for index, value in enumerate(inputs[:told]):
            inputs[index] = None if value is None else value.detach().requires_grad_(needed[index])
        with torch.enable_grad(), ctx.again():
            outputs = ctx.piece.run(tuple(inputs[: ctx.count]), inputs[ctx.count])
        found = iter(_gradients(outputs, list(compress(inputs, needed)), gradients))
        return None, None, *(next(found) if wanted else None for wanted in needed)


def _gradients(outputs: tuple[Tensor, ...], inputs: Sequence[Tensor], gradients: tuple[Tensor, ...]):
    """By each of the inputs, None where nothing depends on it."""
    depends = [(output, g) for output, g in zip(outputs, gradients, strict=True) if output.requires_grad]
    return torch.autograd.grad([o for o, _ in depends], inputs, [g for _, g in depends], allow_unused=True)
