"""Univariate transforms: one number to one number, with parameters that a conditioner net provides."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from flowstone.validation import require_choice, require_number, require_sizes

__all__ = ["Additive", "Affine", "Univariate", "soft_clamp"]


def soft_clamp(raw: Tensor, limit: float) -> Tensor:
    r"""$\tfrac{2c}{\pi} \arctan \tfrac{\pi r}{2c}$, c = ``limit``: slope 1 at 0, within ±c (Ardizzone et al. 2019)."""
    cap = 2 * limit / math.pi
    return cap * (raw / cap).atan()


class Univariate(nn.Module, ABC):
    """An increasing map of each feature on its own, given its parameters.

    For x of shape ``(batch, *event)`` and parameters of shape ``(batch, *event, parameters_per_feature)``,
    ``forward`` (data → latent) returns ``(z, log_slope)`` and ``inverse`` (latent → data) ``(x, log_slope)``,
    every one of the shape of x; log_slope is the log-derivative of the call's own output with respect to its own
    input. Parameters that are all zero make it the identity.

    Attributes:
        parameters_per_feature: how many numbers the net gives it for each feature.
        features: the number of features (channels) it is for, None where it is for any number.
        reads_bf16: whether parameters may come in bfloat16 for an x in float32.
    """

    parameters_per_feature: int
    features: int | None = None
    reads_bf16 = False

    @abstractmethod
    def forward(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Data → latent."""

    @abstractmethod
    def inverse(self, z: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Latent → data."""

    def saturation(self, x: Tensor, parameters: Tensor) -> float | None:
        """How near the transform is to its bound at these x, from 0 to 1; None where it has no bound."""
        return None


class Additive(Univariate):
    r"""$z = x + t$: the NICE coupling's transform; log-slope 0 (Dinh et al. 2014, section 3.2).

    >>> import torch
    >>> Additive()(torch.tensor([[1.0]]), torch.tensor([[[0.5]]]))
    (tensor([[1.5000]]), tensor([[0.]]))
    """

    parameters_per_feature = 1

    def forward(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        return x + parameters[..., 0], torch.zeros_like(x)

    def inverse(self, z: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        return z - parameters[..., 0], torch.zeros_like(z)


class Affine(Univariate):
    r"""$z = x\,e^{s} + t$ with a smoothly bounded log-scale s: RealNVP's transform (Dinh et al. 2016, section 3).

    With ``shift_first`` it is $z = (x + t)\,e^{s}$: the same maps, other gradients. The log-slope is s either way.

    ``scale`` says how the net's number r becomes s; neither way clips a gradient:

    - ``"tanh"``: $s = a \tanh r$ with a learned factor a per feature, 1 at the start (section 4.1 of the paper);
    - ``"soft"``: a soft clamp to ±``limit``, without parameters of its own.

    ``features`` is how many features it transforms; of images, ``(channels, 1, 1)``.

    >>> import torch
    >>> z, log_slope = Affine(1, scale="soft")(torch.tensor([[2.0]]), torch.tensor([[[0.0, 1.0]]]))
    >>> z, log_slope
    (tensor([[3.]]), tensor([[0.]]))
    """

    parameters_per_feature = 2

    def __init__(
        self, features: int | Sequence[int], *, scale: str = "tanh", limit: float = 3.0, shift_first: bool = False
    ) -> None:
        super().__init__()
        require_choice("scale", scale, ("tanh", "soft"))
        require_number("limit", limit, above=0)
        self.scale = scale
        self.limit = limit
        self.shift_first = shift_first
        shape = require_sizes("features", features)
        self.features = shape[0]
        self.factor = nn.Parameter(torch.ones(shape)) if scale == "tanh" else None

    def extra_repr(self) -> str:
        scale = f"scale={self.scale}" if self.scale == "tanh" else f"scale=soft, limit={self.limit:g}"
        return scale + (", shift_first=True" if self.shift_first else "")

    def _scale_and_shift(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        raw, shift = parameters.unbind(-1)
        if self.factor is not None:
            return self.factor * raw.tanh(), shift
        return soft_clamp(raw, self.limit), shift

    def forward(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        log_scale, shift = self._scale_and_shift(parameters)
        if self.shift_first:
            return (x + shift) * log_scale.exp(), log_scale
        return torch.addcmul(shift, x, log_scale.exp()), log_scale

    def inverse(self, z: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        log_scale, shift = self._scale_and_shift(parameters)
        if self.shift_first:
            return z * (-log_scale).exp() - shift, -log_scale
        return (z - shift) * (-log_scale).exp(), -log_scale

    def saturation(self, x: Tensor, parameters: Tensor) -> float | None:
        """The 95% quantile of the size of s, as a share of ``limit``; None with ``"tanh"``, whose bound is learned."""
        if self.factor is not None:
            return None
        return (soft_clamp(parameters[..., 0], self.limit).abs() / self.limit).quantile(0.95).item()
