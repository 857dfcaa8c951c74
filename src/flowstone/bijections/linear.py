"""Bijections that are linear in all features (of images: in all channels, at each pixel) at once."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from flowstone.bijections.base import Bijection
from flowstone.errors import SettingError

__all__ = ["Householder", "InvertibleConv1x1", "LULinear", "Permutation", "solve_lu"]


class Permutation(Bijection):
    r"""$z_i = x_{\text{order}_i}$ along the features (for images: the channels); log-det 0.

    ``order`` is a buffer, so that a random one is saved with the weights.

    Raises:
        SettingError: ``order`` is not a permutation of 0 … D - 1.

    >>> import torch
    >>> Permutation(torch.tensor([1, 2, 0]))(torch.tensor([[10.0, 20.0, 30.0]]))[0]
    tensor([[20., 30., 10.]])
    """

    order: Tensor
    undo: Tensor

    def __init__(self, order: Tensor | Sequence[int]) -> None:
        order = torch.as_tensor(order)
        super().__init__(order.numel())
        _require_permutation(order)
        self.register_buffer("order", order)
        self.register_buffer("undo", order.argsort())

    @classmethod
    def reverse(cls, features: int) -> "Permutation":
        """Last feature first."""
        return cls(torch.arange(features - 1, -1, -1))

    @classmethod
    def random(cls, features: int, generator: torch.Generator | None = None) -> "Permutation":
        """A uniformly random order, drawn once."""
        return cls(torch.randperm(features, generator=generator))

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        _require_permutation(self.order)
        if not self.undo.is_meta:
            self.undo.copy_(self.order.argsort())

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return x.index_select(1, self.order), x.new_zeros(x.shape[0])

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return z.index_select(1, self.undo), z.new_zeros(z.shape[0])


def _require_permutation(order: Tensor) -> None:
    if order.is_meta:
        return
    is_list = order.ndim == 1 and order.dtype in (torch.int32, torch.int64)
    if not is_list or sorted(order.tolist()) != list(range(order.numel())):
        raise SettingError(f"order={order.tolist()} is not a permutation of 0 … {order.numel() - 1}")


class _Triangles(nn.Module):
    r"""The two triangular factors of $W = L U$: L with ones on its diagonal, U with $\pm e^{d}$ on its own."""

    sign: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.below = nn.Parameter(torch.zeros(features, features))
        self.above = nn.Parameter(torch.zeros(features, features))
        self.log_diagonal = nn.Parameter(torch.zeros(features))
        self.register_buffer("sign", torch.ones(features))

    def set(self, matrix: Tensor) -> Tensor:
        """Set the factors to those of ``matrix``; returns its row order (P of the pivoted decomposition)."""
        order, below, above = torch.linalg.lu(matrix)
        with torch.no_grad():
            self.below.copy_(below)
            self.above.copy_(above)
            self.log_diagonal.copy_(above.diagonal().abs().log())
            self.sign.copy_(above.diagonal().sign())
        return order.argmax(-1)

    def factors(self) -> tuple[Tensor, Tensor]:
        """L and U."""
        eye = torch.eye(len(self.sign), dtype=self.sign.dtype, device=self.sign.device)
        return self.below.tril(-1) + eye, self.above.triu(1) + torch.diag(self.sign * self.log_diagonal.exp())


class LULinear(Bijection):
    r"""$z = W x + b$ with a learned $W = L U$: the inverse takes two triangular solves, the log-det a sum.

    $$ \log|\det| = \sum_i d_i, \qquad U_{ii} = e^{d_i} $$

    It starts as the identity. Between couplings it learns how to mix the features (Oliva et al. 2018; Durkan et al.
    2019, section 4.1).

    >>> import torch
    >>> z, log_det = LULinear(3)(torch.ones(2, 3))
    >>> z.tolist(), log_det.tolist()
    ([[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]], [0.0, 0.0])
    """

    event_dims = latent_dims = 1

    def __init__(self, features: int) -> None:
        super().__init__(features)
        self.triangles = _Triangles(features)
        self.bias = nn.Parameter(torch.zeros(features))

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        below, above = self.triangles.factors()
        return torch.addmm(self.bias, x, (below @ above).T), self.triangles.log_diagonal.sum().expand(x.shape[0])

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        below, above = self.triangles.factors()
        return solve_lu(below, above, z - self.bias), -self.triangles.log_diagonal.sum().expand(z.shape[0])


class InvertibleConv1x1(Bijection):
    r"""Glow's invertible 1x1 convolution: one matrix $W = P L U$ mixes the channels of every pixel.

    For x of shape ``(batch, channels, height, width)``,

    $$ z_{:,i,j} = W x_{:,i,j}, \qquad \log|\det| = \text{height} \cdot \text{width} \cdot \sum_k \log|U_{kk}| $$

    with a fixed permutation P and the signs of U's diagonal fixed (Kingma and Dhariwal 2018, section 3.2). W starts as
    a random rotation, as in the paper, or as the identity (``rotate=False``).

    >>> import torch
    >>> InvertibleConv1x1(3, rotate=False)(torch.ones(1, 3, 2, 2))[1].tolist()
    [0.0]
    """

    event_dims = latent_dims = 3
    order: Tensor

    def __init__(self, channels: int, *, rotate: bool = True) -> None:
        super().__init__(channels)
        self.triangles = _Triangles(channels)
        order = torch.arange(channels)
        if rotate:
            order = self.triangles.set(torch.linalg.qr(torch.randn(channels, channels)).Q)
        self.register_buffer("order", order)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        _require_permutation(self.order)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        below, above = self.triangles.factors()
        matrix = (below @ above).index_select(0, self.order)
        return torch.einsum("dc,bchw->bdhw", matrix, x), self._log_det(x)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        below, above = self.triangles.factors()
        channels_last = z.index_select(1, self.order.argsort()).movedim(1, -1)
        pixels = channels_last.reshape(-1, z.shape[1])  # one solve for all pixels instead of one for each image
        return solve_lu(below, above, pixels).reshape(channels_last.shape).movedim(-1, 1), -self._log_det(z)

    def _log_det(self, value: Tensor) -> Tensor:
        return (value.shape[2:].numel() * self.triangles.log_diagonal.sum()).expand(value.shape[0])


def solve_lu(below: Tensor, above: Tensor, rows: Tensor) -> Tensor:
    """Solve ``x @ (below @ above).T == rows`` for x; rows are ``(n, features)``."""
    if torch.compiler.is_exporting():  # ONNX has no triangular solve
        inverse = _triangular_inverse(above) @ _triangular_inverse(below)
        return (rows.double() @ inverse.T).to(rows.dtype)
    wide = torch.promote_types(rows.dtype, torch.float32)  # torch has no solver in half precision
    below, above, given = below.to(wide), above.to(wide), rows.to(wide)
    half = torch.linalg.solve_triangular(below.T, given, upper=True, left=False, unitriangular=True)
    return torch.linalg.solve_triangular(above.T, half, upper=False, left=False).to(rows.dtype)


def _triangular_inverse(triangle: Tensor) -> Tensor:
    r"""The inverse of a triangular matrix by matrix products alone, in float64.

    With $T = D (I - M)$ for the diagonal D, M has zeros on its diagonal, so that its powers from the size of T on
    vanish and $(I - M)^{-1} = I + M + M^2 + \dots = (I + M)(I + M^2)(I + M^4) \cdots$ is exact.
    """
    triangle = triangle.double()
    diagonal = triangle.diagonal()
    inverse = torch.eye(len(triangle), dtype=triangle.dtype, device=triangle.device)
    power = inverse - triangle / diagonal[:, None]
    for _ in range(len(triangle).bit_length()):
        inverse = inverse + inverse @ power
        power = power @ power
    return inverse / diagonal


class Householder(Bijection):
    r"""A learned rotation: the product of ``reflections`` Householder reflections; log-det 0.

    $$ z = H_K \cdots H_1 x, \qquad H_k = I - 2 \frac{v_k v_k^\top}{v_k^\top v_k} $$

    With K = D reflections every orthogonal matrix of determinant $(-1)^K$ can be reached (Tomczak and Welling 2016).
    The reflections start in equal pairs, whose product is the identity; ``reflections`` is therefore even.

    Raises:
        SettingError: ``reflections`` is odd or below 2.

    >>> import torch
    >>> torch.allclose(Householder(3)(torch.ones(1, 3))[0], torch.ones(1, 3))
    True
    """

    event_dims = latent_dims = 1

    def __init__(self, features: int, *, reflections: int | None = None) -> None:
        super().__init__(features)
        count = features + features % 2 if reflections is None else reflections
        if count < 2 or count % 2:
            raise SettingError(f"reflections={count} must be even and at least 2")
        self.vectors = nn.Parameter(torch.randn(count // 2, features).repeat_interleave(2, 0))

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self._reflect(x, self.vectors)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self._reflect(z, self.vectors.flip(0))

    @staticmethod
    def _reflect(value: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
        for vector in vectors / vectors.norm(dim=-1, keepdim=True):
            value = value - 2 * (value @ vector)[:, None] * vector
        return value, value.new_zeros(value.shape[0])
