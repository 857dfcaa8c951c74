"""What each bijection computes, written another way; laws and cases beyond those of ``flowstone.testing``."""

import math
from collections.abc import Callable
from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import cases
from cases import same
from flowstone import bijections as b
from flowstone.bijections.univariate import soft_clamp
from flowstone.testing import Case

__all__ = [
    "MORE_CASES",
    "MORE_LAWS",
    "product",
]


Formula = Callable[[Any, Tensor, Tensor | None], Tensor]


def permuted_conv() -> b.InvertibleConv1x1:
    """Its row order is not its own inverse, and not that of its columns."""
    layer = b.InvertibleConv1x1(3)
    layer.order = torch.tensor([1, 2, 0])
    return layer


def three_scales() -> b.MultiScale:
    """No two that leave are of one shape, and there is more than one channel."""
    scales = [cases.image(2, cases.affine_image), b.Squeeze(), cases.image(2, cases.affine_image)]
    return b.MultiScale((2, 4, 4), scales)


MORE_CASES: dict[str, Case] = {
    "InvertibleConv1x1 permuted": cases.case(permuted_conv, (3, 2, 2), size=0.3),
    "MultiScale three": cases.case(three_scales, (2, 4, 4), size=0.3),
    # Of six directions the row order of LU is hardly ever its own inverse, or that of other data.
    "Whiten PCA six": cases.case(lambda: cases.set_from_data(b.Whiten(6, kind="pca"), 6), 6),
    "Whiten narrow": cases.case(lambda: cases.set_from_data(b.Whiten(3, narrow=0.5), 3), 3),
}


def along(vector: Tensor, x: Tensor) -> Tensor:
    """One number a channel, shaped to meet x."""
    return vector[:, None, None] if x.ndim == 4 else vector


def spline(transform: b.RQSpline, x: Tensor, parameters: Tensor) -> Tensor:
    """The quotient in the docstring, bin by bin; and the identity outside, or a turn of the circle."""
    bound = transform.bound
    inside = (x + bound) % (2 * bound) - bound if transform.circular else x
    (across, up), slopes = transform._knots(parameters)
    z = inside
    for k in range(transform.bins):
        width, height = across[k + 1] - across[k], up[k + 1] - up[k]
        xi, m = (inside - across[k]) / width, height / width
        bend = xi * (1 - xi)
        quotient = (m * xi**2 + slopes[k] * bend) / (m + (slopes[k + 1] + slopes[k] - 2 * m) * bend)
        z = torch.where((inside >= across[k]) & (inside < across[k + 1]), up[k] + height * quotient, z)
    return (z + bound * parameters[..., -1] + bound) % (2 * bound) - bound if transform.circular else z


def mixture(transform: b.LogisticMixtureCDF, x: Tensor, parameters: Tensor) -> Tensor:
    """Logit of the mixture's distribution function, in plain numbers: not for far out."""
    logits, means, raw = parameters.unflatten(-1, (3, transform.components)).unbind(-2)
    means = means * torch.linspace(0.5, 1.5, transform.components)
    white = (x[..., None] - means) * (-soft_clamp(raw, transform.limit)).exp()
    return (logits.softmax(-1) * white.sigmoid()).sum(-1).logit()


def moved(transform: b.Univariate, x: Tensor, parameters: Tensor) -> Tensor:
    if isinstance(transform, b.Additive):
        return x + parameters[..., 0]
    if isinstance(transform, b.Affine):
        raw, shift = parameters[..., 0], parameters[..., 1]
        bounded = soft_clamp(raw, transform.limit) if transform.factor is None else transform.factor * raw.tanh()
        return (x + shift) * bounded.exp() if transform.shift_first else x * bounded.exp() + shift
    if isinstance(transform, b.RQSpline):
        return spline(transform, x, parameters)
    assert isinstance(transform, b.LogisticMixtureCDF)
    return mixture(transform, x, parameters)


def coupling(layer: b.Coupling, x: Tensor, context: Tensor | None) -> Tensor:
    half, each = x.shape[1] // 2, layer.transform.parameters_per_feature
    kept, moving = (x[:, half:], x[:, :half]) if layer.swap else (x[:, :half], x[:, half:])
    output = layer.net(kept, context)
    parameters = torch.stack([output[:, i::each] for i in range(each)], -1)
    z = moved(layer.transform, moving, parameters)
    return torch.cat((z, kept) if layer.swap else (kept, z), 1)


def autoregressive(layer: b.Autoregressive, x: Tensor, context: Tensor | None) -> Tensor:
    output, each = layer.net(x, context), layer.transform.parameters_per_feature
    return moved(layer.transform, x, torch.stack([output[:, i::each] for i in range(each)], -1))


def product(triangles) -> Tensor:
    """LU, of its parameters."""
    size = len(triangles.sign)
    row, column = torch.arange(size)[:, None], torch.arange(size)
    lower = torch.where(row > column, triangles.below, (row == column).double())
    return lower @ torch.where(row < column, triangles.above, torch.diag(triangles.sign * triangles.log_diagonal.exp()))


def householder(layer: b.Householder, x: Tensor, context: Tensor | None) -> Tensor:
    eye = torch.eye(x.shape[1])
    reflections = [eye - 2 * v[:, None] * v / (v @ v) for v in layer.vectors.flip(0)]
    return x @ reduce(torch.mm, reflections).T


def whiten(layer: b.Whiten, x: Tensor, context: Tensor | None) -> Tensor:
    x = compressed(layer.standardize.tails, x, None)
    return (x - layer.standardize.mean) / layer.standardize.std @ (layer.below @ layer.above)[layer.order].T


def compressed(layer: b.CompressTails, x: Tensor, context: Tensor | None) -> Tensor:
    z = x.clone()
    for side, sign in ((0, -1), (1, 1)):
        for row, column in (sign * x > sign * layer.knots[side]).nonzero().tolist():
            knot, c, r = (it[side, column].item() for it in (layer.knots, layer.widths, layer.ranges))
            distance = sign * (x[row, column].item() - knot) / c
            z[row, column] = knot + sign * c * (math.log(1 + min(distance, r)) + max(0.0, distance - r) / (1 + r))
    return z


def log_tails(layer: b.LogTails, x: Tensor, context: Tensor | None) -> Tensor:
    beyond = x.sign() * layer.bound * (1 + (x.abs() / layer.bound).log())
    return torch.where(x.abs() <= layer.bound, x, beyond)


def squeeze(layer: b.Squeeze, x: Tensor, context: Tensor | None) -> Tensor:
    z = F.pixel_unshuffle(x, 2)
    if layer.order == "channel":
        return z
    return torch.cat([z[:, [4 * c + k for c in range(x.shape[1]) for k in colour]] for colour in ((0, 3), (1, 2))], 1)


def half(layer: b.Partial, x: Tensor, context: Tensor | None) -> Tensor:
    parts = x[:, : x.shape[1] // 2], x[:, x.shape[1] // 2 :]
    moving, kept = parts if layer.swap else parts[::-1]
    moved = layer.bijection(moving, context)[0]
    return torch.cat((moved, kept) if layer.swap else (kept, moved), 1)


def multi_scale(layer: b.MultiScale, x: Tensor, context: Tensor | None) -> Tensor:
    done: list[Tensor] = []
    for index, scale in enumerate(layer.scales):
        h = scale(x, context)[0]
        half = h.shape[1] // 2
        x, gone = (h, None) if index + 1 == len(layer.scales) else (h[:, :half], h[:, half:])
        done += [] if gone is None else [gone.flatten(1)]
    return torch.cat((*done, x.flatten(1)), 1)


FORMULAS: dict[type[b.Bijection], Formula] = {
    b.ActNorm: lambda layer, x, _: (x - along(layer.shift, x)) * along(layer.log_scale, x).exp(),
    b.Autoregressive: autoregressive,
    b.BatchNorm: lambda layer, x, _: (x - along(layer.mean, x)) / (along(layer.variance, x) + layer.eps).sqrt(),
    b.Coupling: coupling,
    b.Flatten: lambda layer, x, _: torch.stack([image.reshape(-1) for image in x]),
    b.Partial: half,
    b.Householder: householder,
    b.Interval: lambda layer, x, _: ((x - layer.low) / (layer.high - layer.low)).logit(),
    b.InvertibleConv1x1: lambda layer, x, _: torch.einsum(
        "dc,nchw->ndhw", torch.eye(x.shape[1])[layer.order] @ product(layer.triangles), x
    ),
    b.LULinear: lambda layer, x, _: x @ product(layer.triangles).T + layer.bias,
    b.LeakyReLU: lambda layer, x, _: torch.where(x >= 0, x, layer.log_slope.exp() * x),
    b.LogTails: log_tails,
    b.Logit: lambda layer, x, _: (layer.alpha + (1 - 2 * layer.alpha) * x).logit(),
    b.MultiScale: multi_scale,
    b.Permutation: lambda layer, x, _: torch.stack([x[:, i] for i in layer.order.tolist()], 1),
    b.Positive: lambda layer, x, _: (x - layer.low).expm1().log(),
    b.Rescale: lambda layer, x, _: (x - layer.low) / layer.width,
    b.Scaling: lambda layer, x, _: x * layer.log_scale.exp(),
    b.Squeeze: squeeze,
    b.CompressTails: compressed,
    b.Standardize: lambda layer, x, _: (compressed(layer.tails, x, None) - layer.mean) / layer.std,
    b.Whiten: whiten,
}


def formula(case: Case, seed: int, spread: float) -> None:
    """Z is what the docstring says, computed another way."""
    bijection, (x, _, context) = case.bijection(), case.rows(16, seed, min(spread, 3.0))
    if type(bijection) in FORMULAS:
        same(bijection(x, context)[0], FORMULAS[type(bijection)](bijection, x, context))


def loaded_runs_backwards(case: Case, seed: int, spread: float) -> None:
    """State → another one, differently initialised: the same inverse."""
    bijection, (_, z, context) = case.bijection(), case.rows(5, seed, spread)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed + 1)
        other = case.make().eval()
    other.load_state_dict(bijection.state_dict())
    for got, wanted in zip(other.inverse(z, context), bijection.inverse(z, context), strict=True):
        same(got, wanted, 0)


def loaded_is_not_set_again(case: Case, seed: int, spread: float) -> None:
    """Where the data were seen, that is loaded, too, whatever a new one has seen."""
    bijection, (x, _, context) = case.bijection(), case.rows(50, seed, spread)
    if not any(bool(getattr(module, "initialized", False)) for module in bijection.modules()):
        return
    other = case.bijection()
    for module in other.modules():
        if hasattr(module, "initialized"):
            module.initialized = torch.tensor(False)
    other.load_state_dict(bijection.state_dict())
    other.initialize(x + 1, context)
    same(other(x, context)[0], bijection(x, context)[0], 0)


def keeps_no_tensor_aside(case: Case, seed: int, spread: float) -> None:
    """Every tensor is a parameter or a buffer, so that ``.to`` moves it: also those an index may take from anywhere."""
    aside = [name for module in case.bijection().modules() for name, it in vars(module).items() if torch.is_tensor(it)]
    assert not aside, f"neither parameters nor buffers: {aside}"


MORE_LAWS = (
    formula,
    loaded_runs_backwards,
    loaded_is_not_set_again,
    keeps_no_tensor_aside,
)
