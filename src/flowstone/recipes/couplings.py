"""What the coupling recipes share: standardise, then couplings that take turns in which half moves."""

from collections.abc import Callable, Sequence

import torch

from flowstone.bijections import Bijection, Chain, Coupling, LeakyReLU, Permutation, Standardize, Univariate
from flowstone.errors import SettingError
from flowstone.nets import MLP, Parallel

__all__ = ["coupling_chain", "mlp_coupling"]


def mlp_coupling(
    features: int,
    transform: Callable[[int], Univariate],
    *,
    swap: bool,
    context_features: int,
    hidden: Sequence[int],
    activation: str,
    separate: bool = False,
) -> Coupling:
    """A coupling whose net is an MLP; ``transform`` makes the transform of that many moved features.

    With ``separate`` each parameter of the transform comes from an MLP of its own (RealNVP's s and t nets).
    """
    kept, moved = Coupling.sizes(features, swap=swap)
    univariate = transform(moved)
    count = univariate.parameters_per_feature

    def mlp(outputs: int) -> MLP:
        return MLP(kept, outputs, hidden=hidden, context_features=context_features, activation=activation)

    net = Parallel(*(mlp(moved) for _ in range(count))) if separate else mlp(moved * count)
    return Coupling(features, univariate, net, swap=swap)


def coupling_chain(
    features: int,
    couplings: int,
    coupling: Callable[[bool], Coupling],
    *,
    shuffle: bool = False,
    leaky_relu: bool = False,
    last: Sequence[Bijection] = (),
) -> Chain:
    """Standardize, then ``couplings`` layers from ``coupling(swap)``, swap taking turns, then ``last``.

    ``shuffle`` puts a random permutation after every second coupling where there are more than two features, and
    undoes them all at the end, so that the flow begins as the identity. After every second and not after each: two
    couplings in turn move both halves, and four then let every feature depend on every other, however permuted.
    ``leaky_relu`` puts a learned kink between couplings.
    """
    if features < 1 or couplings < 1:
        raise SettingError(f"features={features} and couplings={couplings} must be at least 1")
    links: list[Bijection] = [Standardize(features)]
    order = torch.arange(features)
    for index in range(couplings):
        if index and leaky_relu:
            links.append(LeakyReLU())
        if index and index % 2 == 0 and shuffle and features > 2:
            links.append(permutation := Permutation.random(features))
            order = order[permutation.order]
        # With one feature there is no other half: each coupling moves it, told by the context alone.
        links.append(coupling(features > 1 and index % 2 == 1))
    if shuffle and features > 2 and couplings > 2:
        links.append(Permutation(order.argsort()))
    return Chain(*links, *last)
