"""From integers to continuous numbers, by noise."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.constraints import Constraint

from flowstone.bijections.base import Bijection
from flowstone.bijections.noise import normal_like, uniform_like
from flowstone.bijections.statistics import DataLayer
from flowstone.errors import DataError, SettingError
from flowstone.validation import require_integer

__all__ = ["Dequantize"]


# Up to these, noise keeps 3 bits.
LARGEST_INTEGER = {torch.float32: 2**21 - 1, torch.bfloat16: 2**5 - 1, torch.float16: 2**8 - 1}


class Dequantize(DataLayer):
    r"""$z = x + u$ with noise u in [0, 1): integers become continuous, and ``inverse`` gives the integers back exactly.

    This layer is not a bijection but gives a bound: with the density $q(u \mid x)$ of the noise,

    $$ \log P(x) \ge \mathbb E_{u \sim q} \left[ \log p(x + u) - \log q(u \mid x) \right] $$

    for the probability P(x) of integers x. ``forward`` draws u from torch's global random state, and its log-det is
    $-\log q(u \mid x)$, which is 0 for uniform noise (Theis et al. 2016). ``inverse`` is the floor, with log-det 0.

    Args:
        noise: None for uniform noise; else a bijection whose latent ε is standard normal: variational dequantization,
            $u = \sigma(\text{noise}^{-1}(\epsilon; x))$ (Ho et al. 2019, section 3.1). Its context is x / levels - 1/2,
            followed by the flow's own context, if there is one (for images: as channels).
        levels: how many integers there are, from 0: ``inverse`` then returns only these, and other numbers have no
            density (log-det $-\infty$). None allows any integer, with uniform noise alone.

    Raises:
        SettingError: ``noise`` is given without ``levels``, or ``levels`` is no number of integers.
        DataError: from ``forward``: an integer is too large for the flow's precision.

    >>> import torch
    >>> dequantize = Dequantize()
    >>> x = torch.tensor([[0.0, 255.0]])
    >>> dequantize.inverse(dequantize(x)[0])[0]
    tensor([[  0., 255.]])
    """

    stochastic = True
    keeps_autocast = True

    def __init__(self, noise: Bijection | None = None, *, levels: int | None = None) -> None:
        super().__init__()
        if noise is not None and levels is None:
            raise SettingError(
                "Dequantize(noise) needs levels, how many integers there are: the noise sees x / levels - 1/2"
            )
        if levels is not None:
            require_integer("levels", levels)
        self.noise = noise
        self.levels = levels

    @property
    def domain(self) -> Constraint:
        if self.levels is None:
            return constraints.integer_interval(-math.inf, math.inf)
        return constraints.integer_interval(0, self.levels - 1)

    @property
    def codomain(self) -> Constraint:
        return constraints.real if self.levels is None else constraints.interval(0.0, float(self.levels))

    def extra_repr(self) -> str:
        return "" if self.levels is None else f"levels={self.levels}"

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x, outside = self._exact(x), None
        if self.levels is not None:
            outside = ((x < 0) | (x > self.levels - 1) | (x != x.floor())).flatten(1).any(-1)
            x = x.clamp(0, self.levels - 1)  # infinite numbers would become NaN
        if self.noise is None:
            u, log_density = uniform_like(x), x.new_zeros(x.shape[0])
        else:
            epsilon = normal_like(x)
            raw, log_det = self.noise.inverse(epsilon, self._noise_context(x, context))
            u = raw.sigmoid()
            log_normal = -0.5 * (epsilon.square() + math.log(2 * math.pi))
            log_density = (log_normal - F.logsigmoid(raw) - F.logsigmoid(-raw)).flatten(1).sum(-1) - log_det
        if outside is not None:
            log_density = torch.where(outside, math.inf, log_density)
        # Rounding may carry x + u up to the next integer; it is then set to the last number below.
        return torch.minimum(x + u, _next_below(x + 1)), -log_density

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x = z.floor() if self.levels is None else z.floor().clamp(0, self.levels - 1)
        return x, z.new_zeros(z.shape[0])

    def _exact(self, x: Tensor) -> Tensor:
        """Convert x to the flow's precision, which must hold these integers and the noise between them."""
        most = LARGEST_INTEGER.get(self.dtype)
        if most is not None and x.numel() and not torch.compiler.is_compiling():
            largest = x.abs().max().item() if self.levels is None else self.levels - 1
            if largest > most:
                wider = "float" if largest <= LARGEST_INTEGER[torch.float32] else "double"
                raise DataError(f"Dequantize: {largest:.0f} is too large for {self.dtype}; use flow.{wider}()")
        return x.to(self.dtype)

    def _noise_context(self, x: Tensor, context: Tensor | None) -> Tensor:
        """The context of the noise: x, and the flow's own context at each of its pixels."""
        assert self.levels is not None
        centred = x / self.levels - 0.5
        if context is None:
            return centred
        everywhere = context.reshape(*context.shape, *(1 for _ in x.shape[2:])).expand(-1, -1, *x.shape[2:])
        return torch.cat((centred, everywhere), 1)


def _next_below(integer: Tensor) -> Tensor:
    """The nearest floating-point number below a positive integer; for other integers, one that is almost as near.

    Unlike ``torch.nextafter``, it consists of operations that ONNX has.
    """
    is_positive = (integer > 0).to(integer.dtype)
    return integer - torch.finfo(integer.dtype).eps * (1 - is_positive / 2) * integer.abs().clamp_min(1)
