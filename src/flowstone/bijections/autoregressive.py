"""The autoregressive layer: every feature changes, with parameters from a net that sees the features before it."""

import torch
from torch import Tensor, nn

from flowstone.bijections.conditioned import Conditioned
from flowstone.bijections.univariate import Univariate
from flowstone.errors import SettingError

__all__ = ["Autoregressive"]


class Autoregressive(Conditioned):
    r"""Feature i is transformed with parameters computed from features 1 … i-1 (Papamakarios et al. 2017, MAF).

    $$ z_i = \tau(x_i;\, \theta_i(x_{<i}, c)), \qquad \log|\det| = \sum_i \log \tau'(x_i) $$

    The Jacobian is lower triangular. ``forward`` (density) takes one pass through the net, ``inverse`` (sampling) one
    pass for each feature. ``Inverse(Autoregressive(…))`` is a layer of IAF (Kingma et al. 2016): it samples in one pass
    and needs D passes to score.

    Args:
        features: number of features D.
        transform: the univariate transform τ; every parameter of it comes from the net.
        net: a masked net, ``((batch, D), context) -> (batch, D * transform.parameters_per_feature)``, in which the
            parameters of feature i follow from features before i alone: ``flowstone.nets.MADE``.

    Raises:
        SettingError: the transform learns parameters of its own.
        ShapeError: the transform, or what the net returns, is for another number of features.

    >>> import torch
    >>> from flowstone.bijections import Affine, Autoregressive
    >>> from flowstone.nets import MADE
    >>> layer = Autoregressive(3, Affine(3, scale="soft"), MADE(3, 2, hidden=(16,)))
    >>> layer(torch.ones(2, 3))[0].shape
    torch.Size([2, 3])
    """

    event_dims = latent_dims = 1

    def __init__(self, features: int, transform: Univariate, net: nn.Module) -> None:
        super().__init__(features, features, transform, net)
        if any(True for _ in transform.parameters()):
            raise SettingError(
                f"{type(transform).__name__} learns parameters of its own: an autoregressive layer takes "
                'every one from its net (Affine: scale="soft")'
            )

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        # What a mask hides from the net is multiplied by 0, which makes NaN of an infinite number.
        z, log_slope = self.transform(x, self.conditioner_parameters(x.nan_to_num(0.0, 0.0, 0.0), context))
        return z, log_slope.sum(-1)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x, log_slopes = z.new_empty(z.shape[0], 0), []
        for index in range(z.shape[1]):
            rest = z.new_zeros(z.shape[0], z.shape[1] - index)  # zeros, on which these parameters do not depend
            parameters = self.conditioner_parameters(torch.cat((x, rest), -1), context)[:, index : index + 1]
            x_index, log_slope = self.transform.inverse(z[:, index : index + 1], parameters)
            x = torch.cat((x, x_index), -1)
            log_slopes.append(log_slope)
        return x, torch.cat(log_slopes, -1).sum(-1)

    def split(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """All of x, twice: the net is masked, and the transform changes every feature."""
        return value, value

    def extra_repr(self) -> str:
        return f"{self.features}, {self.transform}, {self.net}"
