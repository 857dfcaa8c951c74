"""What the coupling recipes share: couplings with their nets, and the chain in which they alternate."""

from collections.abc import Callable, Sequence

import torch
from torch import nn

from flowstone.bijections import (
    BatchNorm,
    Bijection,
    Chain,
    Coupling,
    LeakyReLU,
    LULinear,
    Partial,
    Permutation,
    Standardize,
    Univariate,
)
from flowstone.nets import MLP, Parallel, ResNet
from flowstone.nets.initialization import OUTPUT_SCALE
from flowstone.validation import require_choice

__all__ = ["coupling_chain", "vector_coupling"]

MIXINGS = ("none", "permutation", "lu")


def vector_coupling(
    features: int,
    transform: Callable[[int], Univariate],
    *,
    swap: bool,
    context_features: int,
    hidden: Sequence[int],
    activation: str,
    residual: bool = False,
    separate: bool = False,
    output_scale: float = OUTPUT_SCALE,
) -> Coupling:
    """A coupling whose net is an MLP or a ResNet; ``transform(changed)`` makes the transform of its changed features.

    With ``separate`` each parameter of the transform comes from a net of its own (RealNVP's s and t nets).
    ``output_scale`` says how near to the identity the coupling starts.
    """
    kept, changed = Coupling.sizes(features, swap=swap)
    univariate = transform(changed)
    count = univariate.parameters_per_feature
    kind = ResNet if residual else MLP

    def net(outputs: int) -> nn.Module:
        return kind(
            kept,
            outputs,
            hidden=hidden,
            context_features=context_features,
            activation=activation,
            output_scale=output_scale,
        )

    nets = Parallel(*(net(changed) for _ in range(count))) if separate else net(changed * count)
    return Coupling(features, univariate, nets, swap=swap)


def coupling_chain(
    features: int,
    couplings: int,
    coupling: Callable[[bool], Coupling],
    *,
    first: Sequence[Bijection] | None = None,
    mixing: str = "none",
    leaky_relu: bool = False,
    batch_norm: bool = False,
    last: Sequence[Bijection] = (),
) -> Chain:
    """``first`` (Standardize), then ``couplings`` layers from ``coupling(swap)``, ``swap`` alternating, then ``last``.

    Where there are more than two features, ``mixing`` mixes them after every second coupling: ``"permutation"`` by a
    random permutation, all of which are undone at the end, so that the flow begins near the identity; ``"lu"`` by a
    learned ``LULinear`` after each of these. Two consecutive couplings change both halves, and with four of them every
    feature depends on every other, whatever the permutation. ``leaky_relu`` puts a ``LeakyReLU`` between couplings,
    ``batch_norm`` a ``BatchNorm`` of the changed half after each.
    """
    require_choice("mixing", mixing, MIXINGS)
    links: list[Bijection] = [Standardize(features)] if first is None else list(first)
    order = torch.arange(features)
    for index in range(couplings):
        if index and leaky_relu:
            links.append(LeakyReLU())
        if index and index % 2 == 0 and features > 2:
            if mixing != "none":
                links.append(permutation := Permutation.random(features))
                order = order[permutation.order]
            if mixing == "lu":
                links.append(LULinear(features))
        # With one feature there is no other half: each coupling changes it, with parameters from the context alone.
        links.append(layer := coupling(features > 1 and index % 2 == 1))
        if batch_norm:
            changed = Coupling.sizes(features, swap=layer.swap)[1]
            links.append(Partial(features, BatchNorm(changed), swap=layer.swap))
    if mixing != "none" and features > 2 and couplings > 2:
        links.append(Permutation(order.argsort()))
    return Chain(*links, *last)
