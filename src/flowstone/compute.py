"""How the arithmetic is run: on how many threads, in which precision."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from flowstone.bijections import Autoregressive, Coupling

__all__ = ["bf16_conditioners", "threads_for"]

SMALL_LAYER = 2e7  # multiply-adds in one layer's product below which a second thread costs more than it brings


@contextmanager
def threads_for(model: nn.Module, batch: int) -> Iterator[None]:
    """One thread while the largest layer of ``model`` is small for this batch; otherwise torch's own number."""
    before = torch.get_num_threads()
    largest = max((parameter.numel() for parameter in model.parameters()), default=0)
    # A convolution does its work at every pixel, of which the first squeeze leaves a quarter.
    places = max(1, math.prod(getattr(model, "event_shape", ())[1:]) // 4)
    if batch * largest * places < SMALL_LAYER:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def bf16_conditioners(flow: nn.Module) -> Iterator[None]:
    """The net of every coupling and autoregressive layer runs in bfloat16; what it returns, and the flow's own
    arithmetic, keep their precision. What is recomputed in a backward pass is so within the context alone.
    """
    layers = [module for module in flow.modules() if isinstance(module, Coupling | Autoregressive)]
    nets = {
        layer.net: all(other.transform.reads_bf16 for other in layers if other.net is layer.net) for layer in layers
    }
    hooks = []
    for net, stays in nets.items():  # each once, though several layers may share it
        wrapped = _Autocast(widen=not stays)
        hooks.append(net.register_forward_pre_hook(wrapped.enter))
        hooks.append(net.register_forward_hook(wrapped.leave, always_call=True))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


class _Autocast:
    """The two ends of one autocast region, as hooks of a net."""

    def __init__(self, *, widen: bool) -> None:
        self.widen = widen

    def enter(self, net: nn.Module, inputs):
        x, *rest = inputs
        self.dtype = x.dtype
        self.region = torch.autocast(x.device.type, dtype=torch.bfloat16)
        self.region.__enter__()
        if x.ndim == 4:  # convolutions in bfloat16 are up to twice as fast with the channels of a pixel side by side
            x = x.contiguous(memory_format=torch.channels_last)
        return x, *rest

    def leave(self, net: nn.Module, inputs, output):
        self.region.__exit__(None, None, None)
        return output.to(self.dtype) if self.widen and output is not None else None
