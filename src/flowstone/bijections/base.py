"""The contract of every bijection, and the two ways to build one from others."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from functools import reduce
from typing import Any, cast

import torch
from torch import Tensor, nn

from flowstone.errors import SettingError
from flowstone.kernels import watched

__all__ = ["Bijection", "Chain", "Inverse"]

Parts = Any  # a tensor, or the two parts of one
Link = Callable[[Parts, Tensor | None], tuple[Parts, Tensor]]


class Bijection(nn.Module, ABC):
    r"""An invertible map between data and latent, with its log-determinant.

    One direction for the whole library: ``forward`` runs **data → latent**, ``inverse`` runs **latent → data**.

    $$ z = f(x), \qquad \log p(x) = \log p_\text{prior}(f(x)) + \log |\det \tfrac{\partial f}{\partial x}| $$

    A subclass promises, for x of shape ``(batch, *event)`` and context ``None`` or ``(batch, context_features)``:

    - ``forward(x, context)`` returns ``(z, log_det)``: z like x, log_det of shape ``(batch,)`` = log|det dz/dx|;
    - ``inverse(z, context)`` returns ``(x, log_det)``: log_det of shape ``(batch,)`` = log|det dx/dz|;
    - the two undo each other, and their log-dets cancel;
    - row i of the result depends on row i of the input alone (``BatchNorm`` in training is the one exception);
    - it holds no network of its own making: a network is given to it.

    A subclass is final: wrap it, do not override it.

    Attributes:
        stochastic: whether it draws noise from torch's global random state (``Dequantize``).
        casts: whether ``forward`` reads x in any precision, integers too, and z has that of the flow (preprocessing).
        cut: where it is not None, x may come as a pair of tensors, the first of so many features, and z then does, too.
    """

    stochastic = False
    casts = False
    cut: int | None = None

    @abstractmethod
    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Data → latent: ``(z, log|det dz/dx|)``."""

    @abstractmethod
    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Latent → data: ``(x, log|det dx/dz|)``."""

    def initialize(self, x: Tensor, context: Tensor | None = None) -> None:
        """Set what depends on data (means, scales) from one large batch. Most bijections have nothing to set."""
        del x, context

    def latent_shape(self, event_shape: torch.Size) -> torch.Size:
        """Shape of one z, given that of one x: the same, but for what squeezes or flattens images."""
        return event_shape

    def event_shape(self, latent_shape: torch.Size) -> torch.Size:
        """Shape of one x, given that of one z."""
        return latent_shape


def in_turn(links: Iterable[Link], x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
    """One ``(x, context) -> (z, log_det)`` after the other; the log-dets' sum."""
    z, log_dets = passed(links, x, context)
    return joined(z), reduce(torch.add, log_dets)


def passed(links: Iterable[Link], value: Parts, context: Tensor | None) -> tuple[Parts, list[Tensor]]:
    """What comes out in the end, and the log-det of each link.

    Between neighbours of the same ``cut``, and at both ends, the two parts stay apart: nothing is copied.
    """
    log_dets = []
    for link in links:
        value, log_det = link(suited(value, link), context)
        log_dets.append(log_det)
    return value, log_dets


def suited(value: Parts, link: Any) -> Parts:
    """``value`` as a link takes it: in two parts where it can and nobody looks at what goes in and out, else whole."""
    module = getattr(link, "__self__", link)
    cut = getattr(module, "cut", None)
    return joined(value) if cut is None or watched(module) else parted(value, cut)


def parted(value: Parts, cut: int) -> tuple[Tensor, Tensor]:
    """Two parts, the first of ``cut`` features."""
    if isinstance(value, tuple) and value[0].shape[1] == cut:
        return value
    value = joined(value)
    # Split, not sliced: its gradient is one joining instead of two paddings and a sum.
    return value.split_with_sizes((cut, value.shape[1] - cut), 1)


def joined(value: Parts) -> Tensor:
    """The parts in one tensor."""
    return torch.cat(value, 1) if isinstance(value, tuple) else value


class Chain(Bijection):
    r"""Bijections one after the other; the first one touches the data, the last one the latent.

    $$ f = f_L \circ \dots \circ f_1, \qquad \log|\det| = \sum_l \log|\det J_l| $$

    >>> import torch
    >>> from flowstone.bijections import Chain, Permutation, Scaling
    >>> chain = Chain(Permutation.reverse(3), Scaling(3))
    >>> z, log_det = chain(torch.tensor([[1.0, 2.0, 3.0]]))
    >>> z.tolist(), log_det.tolist()
    ([[3.0, 2.0, 1.0]], [0.0])
    """

    def __init__(self, *bijections: Bijection) -> None:
        super().__init__()
        if not bijections:
            raise SettingError("Chain needs at least one bijection")
        self.links = nn.ModuleList(bijections)
        self.casts = bijections[0].casts

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return in_turn(self.links, x, context)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return in_turn((cast(Bijection, link).inverse for link in reversed(self.links)), z, context)

    def initialize(self, x: Tensor, context: Tensor | None = None) -> None:
        links = [cast(Bijection, link) for link in self.links]
        while links and type(links[-1]).initialize is Bijection.initialize:
            links.pop()  # nothing after the last link that wants to see data need be computed
        for link in links:
            link.initialize(x, context)
            if link is not links[-1]:
                x, _ = link(x, context)

    def latent_shape(self, event_shape: torch.Size) -> torch.Size:
        return reduce(lambda shape, link: cast(Bijection, link).latent_shape(shape), self.links, event_shape)

    def event_shape(self, latent_shape: torch.Size) -> torch.Size:
        return reduce(lambda shape, link: cast(Bijection, link).event_shape(shape), reversed(self.links), latent_shape)


class Inverse(Bijection):
    """The same map with its directions swapped: ``forward`` of the new one is ``inverse`` of the old one.

    Data set nothing in it: what a layer makes standard in one direction, it would take apart in the other.

    >>> import torch
    >>> from flowstone.bijections import Inverse, Permutation
    >>> order = Permutation(torch.tensor([2, 0, 1]))
    >>> Inverse(order)(order(torch.tensor([[5.0, 6.0, 7.0]]))[0])[0].tolist()
    [[5.0, 6.0, 7.0]]
    """

    def __init__(self, bijection: Bijection) -> None:
        super().__init__()
        self.bijection = bijection

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.bijection.inverse(x, context)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.bijection(z, context)

    def latent_shape(self, event_shape: torch.Size) -> torch.Size:
        return self.bijection.event_shape(event_shape)

    def event_shape(self, latent_shape: torch.Size) -> torch.Size:
        return self.bijection.latent_shape(latent_shape)
