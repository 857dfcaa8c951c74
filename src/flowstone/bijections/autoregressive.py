"""The autoregressive layer: every feature moves, told how by a net that sees the features before it."""

import torch
from torch import Tensor, nn

from flowstone.bijections.base import Bijection
from flowstone.bijections.univariate import Univariate
from flowstone.errors import SettingError

__all__ = ["Autoregressive"]


class Autoregressive(Bijection):
    r"""Feature i moves by a transform whose parameters follow from features 1 … i-1 (Papamakarios et al. 2017, MAF).

    $$ z_i = \tau(x_i;\, \theta_i(x_{<i}, c)), \qquad \log|\det| = \sum_i \log \tau'(x_i) $$

    The Jacobian is lower triangular. ``forward`` (density) is one pass through the net, ``inverse`` (sampling) one pass
    a feature. ``Inverse(Autoregressive(…))`` is IAF (Kingma et al. 2016), quick to sample from and slow to score.

    Args:
        features: number of features D.
        transform: the univariate transform τ; every parameter of it comes from the net.
        net: a masked net, ``((batch, D), context) -> (batch, D * transform.parameters_per_feature)``, in which the
            parameters of feature i follow from features before i alone: ``flowstone.nets.MADE``.

    >>> import torch
    >>> from flowstone.bijections import Affine, Autoregressive
    >>> from flowstone.nets import MADE
    >>> layer = Autoregressive(3, Affine(3, bound="soft"), MADE(3, 2, hidden=(16,)))
    >>> layer(torch.ones(2, 3))[0].shape
    torch.Size([2, 3])
    """

    def __init__(self, features: int, transform: Univariate, net: nn.Module) -> None:
        super().__init__()
        if any(True for _ in transform.parameters()):
            raise SettingError(
                f"{type(transform).__name__} learns parameters of its own: an autoregressive layer takes "
                'every one from its net (Affine: bound="soft")'
            )
        self.features = features
        self.transform = transform
        self.net = net

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        z, log_slope = self.transform(*self.asked(x, context))
        return z, log_slope.sum(-1)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        known, log_slopes = z.new_empty(z.shape[0], 0), []
        for index in range(self.features):
            unknown = z.new_zeros(z.shape[0], self.features - index)  # the net does not look at them
            parameters = self.asked(torch.cat((known, unknown), -1), context)[1][:, index : index + 1]
            x, log_slope = self.transform.inverse(z[:, index : index + 1], parameters)
            known = torch.cat((known, x), -1)
            log_slopes.append(log_slope)
        return known, torch.cat(log_slopes, -1).sum(-1)

    def asked(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """X, and the parameters ``(batch, D, parameters_per_feature)`` that the net gives it."""
        return x, self.net(x, context).unflatten(-1, (self.features, self.transform.parameters_per_feature))
