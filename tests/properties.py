"""What docstrings of single bijections promise beyond the laws: formulas, bounds, starts. ``mutants.py`` runs it all.

``MORE_LAWS`` have the shape of laws and run over cases; each of ``PROPERTIES`` stands by itself. In float64.
``MORE_CASES`` are cases whose shapes and orders tell apart what is alike in those of ``cases.py``.
"""

import copy
import math
from collections.abc import Callable, Iterator
from functools import reduce
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import cases
from flowstone import bijections as b
from flowstone.bijections.univariate import soft_clamp
from flowstone.kernels import kernels
from flowstone.nets import MADE, MLP
from flowstone.testing import Case, jacobian

__all__ = ["MORE_CASES", "MORE_LAWS", "PROPERTIES"]

Formula = Callable[[Any, Tensor, Tensor | None], Tensor]


def same(got: Any, wanted: Any, tolerance: float = 1e-9) -> None:
    torch.testing.assert_close(got, wanted, rtol=tolerance, atol=tolerance)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# --- more cases -------------------------------------------------------------------------------------------------------


def turned_conv() -> b.InvertibleConv1x1:
    """Its row order is not its own inverse, and not that of its columns."""
    layer = b.InvertibleConv1x1(3)
    layer.order = torch.tensor([1, 2, 0])
    return layer


def three_scales() -> b.MultiScale:
    """No two that leave are of one shape, and there is more than one channel."""
    scales = [cases.image(2, cases.affine_image), b.Squeeze(), cases.image(2, cases.affine_image)]
    return b.MultiScale((2, 4, 4), scales)


MORE_CASES: dict[str, Case] = {
    "InvertibleConv1x1 turned": cases.case(turned_conv, (3, 2, 2), size=0.3),
    "MultiScale three": cases.case(three_scales, (2, 4, 4), size=0.3),
    # Of six directions the row order of LU is hardly ever its own inverse, or that of other data.
    "Whiten PCA six": cases.case(lambda: cases.set_from_data(b.Whiten(6, kind="pca"), 6), 6),
    "Whiten narrow": cases.case(lambda: cases.set_from_data(b.Whiten(3, narrow=0.5), 3), 3),
}


# --- formulas ---------------------------------------------------------------------------------------------------------


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
        return x * bounded.exp() + shift
    if isinstance(transform, b.RQSpline):
        return spline(transform, x, parameters)
    assert isinstance(transform, b.LogisticMixtureCDF)
    return mixture(transform, x, parameters)


def coupling(layer: b.Coupling, x: Tensor, context: Tensor | None) -> Tensor:
    half, each = x.shape[1] // 2, layer.transform.parameters_per_feature
    kept, moving = (x[:, half:], x[:, :half]) if layer.swap else (x[:, :half], x[:, half:])
    asked = layer.net(kept, context)
    parameters = torch.stack([asked[:, i::each] for i in range(each)], -1)
    z = moved(layer.transform, moving, parameters)
    return torch.cat((z, kept) if layer.swap else (kept, z), 1)


def autoregressive(layer: b.Autoregressive, x: Tensor, context: Tensor | None) -> Tensor:
    asked, each = layer.net(x, context), layer.transform.parameters_per_feature
    return moved(layer.transform, x, torch.stack([asked[:, i::each] for i in range(each)], -1))


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
            b, c, r = (it[side, column].item() for it in (layer.knots, layer.widths, layer.ranges))
            distance = sign * (x[row, column].item() - b) / c
            z[row, column] = b + sign * c * (math.log(1 + min(distance, r)) + max(0.0, distance - r) / (1 + r))
    return z


def log_tails(layer: b.LogTails, x: Tensor, context: Tensor | None) -> Tensor:
    beyond = x.sign() * layer.bound * (1 + (x.abs() / layer.bound).log())
    return torch.where(x.abs() <= layer.bound, x, beyond)


def squeeze(layer: b.Squeeze, x: Tensor, context: Tensor | None) -> Tensor:
    z = F.pixel_unshuffle(x, 2)
    if layer.order == "channel":
        return z
    return torch.cat([z[:, [4 * c + k for c in range(x.shape[1]) for k in colour]] for colour in ((0, 3), (1, 2))], 1)


def half(layer: b.Half, x: Tensor, context: Tensor | None) -> Tensor:
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
    b.Half: half,
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


# --- univariate transforms --------------------------------------------------------------------------------------------


def univariates() -> Iterator[b.Univariate]:
    yield from (b.Additive(), b.Affine(2), b.Affine(2, scale="soft"), b.LogisticMixtureCDF(components=3))
    yield from (b.RQSpline(bins=6), b.RQSpline(bins=6, circular=True))


def zeros_are_the_identity() -> None:
    x = torch.linspace(-2.9, 2.9, 101)[:, None].expand(-1, 2)
    for transform in univariates():
        for direction in (transform.forward, transform.inverse):
            out, log_slope = direction(x, torch.zeros(*x.shape, transform.parameters_per_feature))
            same(out, x)
            same(log_slope, torch.zeros_like(x))


def parameters_are_as_many_as_promised() -> None:
    wanted = [1, 2, 2, 9, 17, 19]
    assert [transform.parameters_per_feature for transform in univariates()] == wanted


def univariates_increase() -> None:
    x = torch.linspace(-5, 5, 401)[:, None].expand(-1, 2)
    for transform in univariates():
        parameters = normal(1, 2, transform.parameters_per_feature).expand(len(x), -1, -1)
        if not getattr(transform, "circular", False):
            assert (transform(x, parameters)[0].diff(dim=0) > 0).all()


def soft_clamp_is_soft_and_clamps() -> None:
    raw = torch.linspace(-1e3, 1e3, 2001, requires_grad=True)
    soft = soft_clamp(raw, 2.5)
    same(soft, 5 / math.pi * (math.pi * raw / 5).atan())
    assert soft.abs().max() <= 2.5
    (slope,) = torch.autograd.grad(soft.sum(), raw)
    same(slope[1000], torch.tensor(1.0))


def spline_ends_smoothly() -> None:
    transform = b.RQSpline(bins=7, bound=2.5)
    parameters = 2 * normal(1, 1, transform.parameters_per_feature).expand(3, -1, -1)
    for edge in (-2.5, 2.5):
        x = torch.tensor([[edge - 1e-9], [edge], [edge + 1e-9]])
        z, log_slope = transform(x, parameters)
        same(z, x, 1e-8)
        same(log_slope, torch.zeros(3, 1), 1e-5)


def circle_closes_smoothly() -> None:
    transform = b.RQSpline(bins=5, bound=2.0, circular=True)
    parameters = normal(1, 1, transform.parameters_per_feature).expand(3, -1, -1)
    z, log_slope = transform(torch.tensor([[-2.0], [2.0 - 1e-9], [2.0 + 1e-9]]), parameters)
    same(z, z[:1].expand(3, 1), 1e-7)
    same(log_slope, log_slope[:1].expand(3, 1), 1e-7)
    assert abs(log_slope[0].item()) > 0.1, "the slope at the seam is free"


def spline_keeps_its_least_bin_and_slope() -> None:
    transform = b.RQSpline(bins=7, bound=2.5)
    size = 20 * normal(200, 1, transform.parameters_per_feature)
    edges, slopes = transform._knots(size)
    same(edges[:, 0], torch.full_like(edges[:, 0], -2.5))
    same(edges[:, -1], torch.full_like(edges[:, -1], 2.5))
    narrowest, flattest = edges.diff(dim=1).min().item(), slopes.min().item()
    assert 0.005 * (1 - 1e-9) <= narrowest < 0.0051
    assert 1e-3 <= flattest < 1.1e-3


def spline_survives_parameters_of_any_size() -> None:
    transform = b.RQSpline()
    for size in (1.0, 1e2, 1e4):
        parameters = (size * normal(400, 1, transform.parameters_per_feature)).requires_grad_()
        x = torch.linspace(-4, 4, 400)[:, None].requires_grad_()
        for direction in (transform.forward, transform.inverse):
            out, log_slope = direction(x, parameters)
            assert out.isfinite().all()
            assert log_slope.isfinite().all()
            gradients = torch.autograd.grad(out.sum() + log_slope.sum(), (x, parameters))
            assert all(gradient.isfinite().all() for gradient in gradients)


def spline_inverse_stays_inside() -> None:
    """In float32, too, whatever the parameters; and without the fused kernel, which is another piece of code."""
    transform = b.RQSpline(bins=4)
    parameters = (1e3 * normal(5000, 1, transform.parameters_per_feature)).float()
    z = torch.linspace(-3, 3, 5000, dtype=torch.float32)[:, None]
    for fused in (True, False):
        with kernels(fused):
            assert transform.inverse(z, parameters)[0].abs().max() <= 3 + 1e-5


def spline_inverse_has_slope_one_at_its_ends() -> None:
    """Where rounding, of half of the splines, puts the root of the quadratic beyond the bin."""
    transform = b.RQSpline(bins=4, bound=2.0)
    parameters = normal(200, 1, transform.parameters_per_feature)
    for dtype, off in ((torch.float64, 1e-6), (torch.float32, 0.02)):
        for end in (-2.0, 2.0):
            z = torch.full((200, 1), end, dtype=dtype, requires_grad=True)
            with kernels(False):
                x, log_slope = transform.inverse(z, parameters.to(dtype))
            same(torch.autograd.grad(x.sum(), z)[0], torch.ones_like(z), off)
            same(log_slope, torch.zeros_like(z), off)


def spline_inverse_survives_a_negative_discriminant() -> None:
    """These float32 numbers make one, by rounding."""
    rise, mean_slope, start, end = torch.tensor(
        [0.5111424922943115, 0.0038509590085595846, 72241.546875, 69091.921875], dtype=torch.float32
    )
    curve = rise * (start + end - 2 * mean_slope)
    assert (start - curve).square() < 4 * (mean_slope - start + curve) * -mean_slope * rise
    assert b.RQSpline._solve(rise, mean_slope, torch.stack((start, end))).isfinite()


def spline_inverse_survives_a_root_at_infinity() -> None:
    """In float32, where b and the discriminant's root cancel: a steep bin that ends a thousand times as steep."""
    transform = b.RQSpline(bins=3)
    raw = torch.tensor([0.0, 20, 0, 0, -20, 0, -20, 3e4], dtype=torch.float32)
    z = torch.linspace(-0.0025, 0.0025, 5, dtype=torch.float32)[:, None]
    with kernels(False):
        x, _ = transform.inverse(z, raw.expand(5, 1, -1))
    assert x.isfinite().all()
    assert x.abs().max() <= 3


def log_scales_keep_their_bound() -> None:
    huge = torch.tensor([[[1e6, 0.0]], [[-1e6, 0.0]]])
    for transform, cap in ((b.Affine(1), 1.0), (b.Affine(1, scale="soft", limit=2.0), 2.0)):
        same(transform(torch.zeros(2, 1), huge)[1].flatten(), torch.tensor([cap, -cap]), 1e-5)


def mixture_inverse_is_exact_and_has_a_gradient() -> None:
    """Also where components lie far apart, and in its parameters: by the way back through ``forward``."""
    transform = b.LogisticMixtureCDF(components=3)
    parameters = (8 * normal(300, 1, transform.parameters_per_feature)).requires_grad_()
    z = 4 * normal(300, 1, seed=1)
    x, _ = transform.inverse(z, parameters)
    again, log_slope = transform(x.detach(), parameters)
    same(again, z, 1e-7)
    (by_inverse,) = torch.autograd.grad(x.sum(), parameters)
    # dx/dθ = - (dz/dθ) / (dz/dx)
    (by_forward,) = torch.autograd.grad((again * (-log_slope).exp().detach()).sum(), parameters)
    same(by_inverse, -by_forward, 1e-6)


# --- domains and noise ------------------------------------------------------------------------------------------------


def outside_its_domain_is_no_density() -> None:
    for layer, rows in (
        (b.Logit(), [[0.5, -0.1], [0.5, 1.1], [0.2, 0.5]]),
        (b.Logit(alpha=0.05), [[0.5, -0.1], [0.5, 1.1], [0.0, 1.0]]),
        (b.Interval(-2.0, 5.0), [[0.5, -2.1], [0.5, 5.1], [-1.9, 4.9]]),
        (b.Positive(low=1.0), [[0.9, 2.0], [2.0, -5.0], [1.1, 9.0]]),
    ):
        x = torch.tensor(rows, requires_grad=True)
        z, log_det = layer(x)
        assert z.isfinite().all()
        assert (log_det == -math.inf).tolist() == [True, True, False]
        gradient = torch.autograd.grad(z.sum() + log_det[2], x)[0]
        assert gradient.isfinite().all()


def borders_are_as_near_as_precision_tells() -> None:
    for dtype in (torch.float64, torch.float32):
        eps = torch.finfo(dtype).eps
        z, log_det = b.Logit().to(dtype)(torch.tensor([[0.0], [1.0]], dtype=dtype))
        same(z[:, 0], torch.tensor([math.log(eps), -math.log(eps)], dtype=dtype), 1e-3)
        assert log_det.isfinite().all()
        z, log_det = b.Positive().to(dtype)(torch.tensor([[0.0]], dtype=dtype))
        same(z[0], torch.tensor([math.log(torch.finfo(dtype).tiny)], dtype=dtype), 1e-3)
        assert log_det.isfinite().all()


def borders_hold_in_every_precision() -> None:
    """0.1 and 0.7 are other numbers in float32 than in float64, one above, one below: their data are within."""
    for low, high in ((0.1, 0.7), (0.7, 1.9), (-0.7, -0.1), (1000.1, 1e6 + 0.7), (-1e6 - 0.7, -1.1), (-1e6 - 0.1, 9.1)):
        for written in (torch.float32, torch.float64):
            x = torch.tensor([[low], [(low + high) / 2], [high]], dtype=written).double()
            for flow in (torch.float32, torch.float64):
                for layer in (b.Interval(low, high), b.Interval([low], [high]), b.Positive(low=low)):
                    z, log_det = layer.to(flow)(x)
                    assert z.dtype == log_det.dtype == flow
                    assert log_det.isfinite().all()
                    assert (z.diff(dim=0) > 0).all()
                    assert (layer(x - 1e-3 * max(1.0, abs(low)))[1] == -math.inf).tolist()[0]


def integers_and_tables_are_read() -> None:
    bounded = (b.Logit(alpha=0.4), b.Interval(0, 5), b.Positive(), b.Rescale(0, 5))
    for kind in (torch.uint8, torch.int64, torch.float32, torch.float64):
        x = torch.tensor([[1, 2], [3, 4]]).to(kind)
        for layer in (b.Dequantize(), b.Dequantize(levels=5), *bounded):
            z, log_det = layer.float()(x)
            assert z.dtype == log_det.dtype == layer.inverse(z)[0].dtype == torch.float32
    x = torch.rand(5, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float32)
    for layer in bounded:  # in the flow's precision, where that is the higher one
        same(layer.double()(x)[0], layer(x.double())[0], 0)


def what_comes_first_says_what_a_chain_reads() -> None:
    assert b.Chain(b.Standardize(2), b.LULinear(2)).accepts_any_dtype
    assert not b.Chain(b.LULinear(2), b.Standardize(2)).accepts_any_dtype
    assert b.Chain(b.Chain(b.Logit(), b.LULinear(2)), b.LULinear(2)).accepts_any_dtype


def the_half_that_moves_is_set() -> None:
    x = 3 * normal(100, 5) + 2
    for swap, moving, kept in ((False, slice(2, 5), slice(0, 2)), (True, slice(0, 2), slice(2, 5))):
        layer = b.Half(5, b.ActNorm(2 if swap else 3), swap=swap)
        layer.initialize(x)
        z = layer(x)[0]
        is_standard(z[:, moving])
        same(z[:, kept], x[:, kept], 0)


def rescaled_is_between_zero_and_one() -> None:
    x = torch.tensor([[-2.0, 5.0, 1.5]])
    same(b.Rescale(-2.0, 5.0)(x)[0], torch.tensor([[0.0, 1.0, 0.5]]))


def what_is_sampled_is_among_the_levels() -> None:
    z = torch.tensor([[-3.2, 0.1, 6.9, 7.0, 99.0]])
    same(b.Dequantize(levels=8).inverse(z)[0], torch.tensor([[0.0, 0.0, 6.0, 7.0, 7.0]]), 0)
    same(b.Dequantize().inverse(z)[0], torch.tensor([[-4.0, 0.0, 6.0, 7.0, 99.0]]), 0)
    x = torch.tensor([[0.0, 7.0], [-1.0, 3.0], [3.0, 8.0]])
    for noise in (None, Told(1.0)):
        assert b.Dequantize(noise, levels=8)(x)[1].isfinite().tolist() == [True, False, False]
    assert not b.Dequantize()(x)[1].any()


def padding_counts_for_nothing() -> None:
    """Under a normal latent: the log-probability is that of the image, whatever the noise."""
    x = normal(4, 2, 3, 2)
    z, log_det = b.Pad((2, 3, 2), (4, 6))(x)
    assert z.shape == (4, 2, 4, 6)
    same(z[:, :, :3, :2], x, 0)
    log_normal = [-0.5 * (value.square() + math.log(2 * math.pi)).flatten(1).sum(-1) for value in (z, x)]
    same(log_normal[0] + log_det, log_normal[1])
    added = torch.cat((z[:, :, 3:].flatten(), z[:, :, :3, 2:].flatten()))
    assert added.std() > 0.5
    same(b.Pad((2, 3, 2), (4, 6)).inverse(z)[1], torch.zeros(4), 0)


def tails_have_slope_one_at_their_bound() -> None:
    x = torch.tensor([[-2.0], [2.0]], requires_grad=True)
    for direction in (b.LogTails(bound=2.0).forward, b.LogTails(bound=2.0).inverse):
        (slope,) = torch.autograd.grad(direction(x)[0].sum(), x)
        same(slope, torch.ones(2, 1), 0)


class Told(b.Bijection):
    """A noise that shifts nothing and remembers what it was told."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale, self.context = scale, None

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return x / self.scale, x.new_full((len(x),), -x.shape[1] * math.log(self.scale))

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        self.context = context
        return z * self.scale, z.new_full((len(z),), z.shape[1] * math.log(self.scale))


def dequantized_stays_within_its_integer() -> None:
    x = torch.tensor([[0.0, 1.0, 255.0]]).expand(100, 3)
    for noise in (None, Told(1.0), Told(1e4)):  # the last one is at 0 or at 1, hardly ever between
        layer = b.Dequantize(noise, levels=256)
        z, log_det = layer(x)
        assert (z >= x).all()
        assert (z < x + 1).all()
        assert log_det.isfinite().all()
        same(layer.inverse(z)[0], x)
        same(layer.inverse(z)[1], torch.zeros(100))
    with patch.object(torch, "rand_like", torch.ones_like):
        same(b.Dequantize().inverse(b.Dequantize()(x)[0])[0], x)


def dequantized_noise_has_the_density_it_says() -> None:
    """Minus the log-density of the noise: of a normal, and what becomes of it, by automatic differentiation."""
    x, epsilon = torch.tensor([[3.0, 200.0], [0.0, 17.0]]), normal(2, 2)
    layer = b.Dequantize(Told(1.5), levels=256)
    with patch.object(torch, "randn_like", lambda _: epsilon):
        z, log_det = layer(x)
    assert isinstance(layer.noise, Told)
    assert layer.noise.context is not None
    same(layer.noise.context, x / 256 - 0.5)

    def drawn(given: Tensor, _: Tensor | None) -> tuple[Tensor, Tensor]:
        with patch.object(torch, "randn_like", lambda _: given):
            return layer(torch.zeros_like(given))

    stretched = torch.linalg.slogdet(jacobian(drawn, epsilon, None))[1]
    log_normal = -0.5 * (epsilon.square() + math.log(2 * math.pi)).sum(-1)
    same(log_det, -(log_normal - stretched))
    same(z, x + (1.5 * epsilon).sigmoid())
    context = normal(2, 3)
    layer(x, context)
    same(layer.noise.context, torch.cat((x / 256 - 0.5, context), 1))
    same(b.Dequantize()(x)[1], torch.zeros(2))


# --- what is set from data --------------------------------------------------------------------------------------------


def moments(z: Tensor) -> tuple[Tensor, Tensor]:
    flat = z.movedim(1, -1).flatten(0, -2)
    return flat.mean(0), flat.var(0, correction=0)


def is_standard(z: Tensor, tolerance: float = 1e-6) -> None:
    mean, variance = moments(z)
    same(mean, torch.zeros_like(mean), tolerance)
    same(variance, torch.ones_like(variance), tolerance)


def initialised_is_standard() -> None:
    x = 3 * normal(200, 3) @ normal(3, 3, seed=1) + torch.arange(3)
    pictures = 2 * normal(50, 3, 2, 4) + 5
    for make in (b.Standardize, b.ActNorm, b.Whiten, lambda n: b.Whiten(n, kind="pca")):
        layer = make(3)
        same(layer(x)[0], x)
        layer.initialize(x)
        is_standard(layer(x)[0])
        before = layer(x)[0]
        layer.initialize(x + 7)  # once
        same(layer(x)[0], before, 0)
    for layer in (b.ActNorm(3), b.BatchNorm(3).eval()):
        same(layer(pictures)[0], pictures)
        layer.initialize(pictures)
        is_standard(layer(pictures)[0], 1e-4)


def scaled_to_deviation_one() -> None:
    x = normal(200, 3) * torch.tensor([1e-3, 2.0, 0.0]) + 4
    layer = b.Scaling(3)
    same(layer(x)[0], x)
    layer.initialize(x)
    z = layer(x)[0]
    same(z.std(0, correction=0), torch.tensor([1.0, 1.0, 0.0]))
    same(z, x / torch.stack((*x.std(0, correction=0)[:2], torch.tensor(1e-6))))  # no column is scaled without end
    layer.initialize(7 * x)  # once
    same(layer(x)[0], z, 0)


def whitening(x: Tensor, kind: str, width: float | None = None) -> Tensor:
    """The matrix in Whiten's docstring, of standardised columns."""
    variance, rotation = torch.linalg.eigh(x.T.corrcoef())
    variance, rotation = variance.flip(0).clamp_min(1e-12), rotation.flip(1)
    spread = variance.sqrt() if width is None else (variance.sqrt() / width).clamp_max(1)
    return rotation / spread @ rotation.T if kind == "zca" else (rotation / spread).T


def whitens(layer: b.Whiten, x: Tensor, matrix: Tensor) -> None:
    """That it does what ``matrix`` does; the directions of PCA have no sign."""
    layer.initialize(x)
    zero = x.mean(0, keepdim=True)
    got = (layer(zero + torch.eye(len(matrix)))[0] - layer(zero)[0]).T * layer.standardize.std
    same(layer(zero)[0], torch.zeros_like(zero))
    same(*((got, matrix) if layer.kind == "zca" else (got.abs(), matrix.abs())), tolerance=1e-7)


def whitened_is_as_promised() -> None:
    for seed in range(3):
        x = normal(300, 4, seed=seed) @ normal(4, 4, seed=seed + 1)
        for kind in ("zca", "pca"):
            layer = b.Whiten(4, kind=kind)
            whitens(layer, x, whitening(x, kind))
            same(layer(x)[0].T.cov(correction=0), torch.eye(4))
    x = normal(300, 3)
    flat = torch.cat((x, x[:, :1]), 1)  # the last column is the first one again
    layer = b.Whiten(4, kind="pca")
    layer.initialize(flat)
    log_det = whitening(flat, "pca").det().abs().log() - layer.standardize.std.log().sum()
    same(layer(torch.eye(4))[1], log_det.expand(4), 1e-6)


def narrow_directions_are_widened_and_no_others() -> None:
    for rows, narrow in ((300, 0.3), (300, 0.7), (15, 0.3)):
        x = normal(rows, 4) @ normal(4, 4, seed=1)
        for kind in ("zca", "pca"):
            whitens(b.Whiten(4, kind=kind, narrow=narrow), x, whitening(x, kind, narrow))


def tables_keep_their_digits_and_come_out_in_the_precision_of_the_flow() -> None:
    x = 1.7e9 + torch.arange(100)[:, None] + normal(100, 2)  # seconds since 1970: float32 cannot tell them apart
    for layer in (b.Standardize(2).float(), b.Whiten(2).float()):
        layer.initialize(x)
        z, log_det = layer(x)
        assert z.dtype == log_det.dtype == torch.float32
        same(z.double(), copy.deepcopy(layer).double()(x)[0], 1e-5)
    same(z.double().T.cov(correction=0), torch.eye(2), 1e-3)  # although the mean is rounded to float32


def a_constant_channel_stays_finite() -> None:
    layer = b.ActNorm(2)
    layer.initialize(torch.ones(5, 2))
    assert all(part.isfinite().all() for part in layer(torch.zeros(1, 2)))


def batch_norm_trains_by_its_formula() -> None:
    x, mean, variance = 3 * normal(40, 2, 2, 3) + 1, torch.zeros(2), torch.full((2,), 1 - 1e-4)
    for statistics in ("running", "batch"):
        layer = b.BatchNorm(2, momentum=0.3, statistics=statistics).train()
        batch_mean, batch_variance = moments(x)
        running = 0.7 * mean + 0.3 * batch_mean, 0.7 * variance + 0.3 * batch_variance
        m, v = running if statistics == "running" else (batch_mean, batch_variance)
        z, log_det = layer(x)
        same(z, (x - m[:, None, None]) / (v + 1e-4).sqrt()[:, None, None])
        same(log_det, (-0.5 * 6 * (v + 1e-4).log().sum()).expand(40))
        same(layer.mean, running[0])
        same(layer.variance, running[1])


def later_layers_are_set_from_what_reaches_them() -> None:
    x = 3 * normal(100, 4) + 1
    turned = b.Permutation.reverse(4)
    chain = b.Chain(b.LogTails(bound=1.0), turned, b.ActNorm(4), turned)
    chain.initialize(x)
    is_standard(chain(x)[0])
    first = b.ActNorm(4)
    backwards = b.Chain(b.Inverse(first), b.Standardize(4))
    backwards.initialize(x)
    same(first(x)[0], x, 0)  # turned round, it is not set: it would take apart what it makes standard
    is_standard(backwards(x)[0])
    pictures = 3 * normal(60, 1, 4, 4) + 2
    scales = b.MultiScale((1, 4, 4), [b.Chain(b.Squeeze(), b.ActNorm(4)), b.Chain(b.LogTails(bound=0.5), b.ActNorm(2))])
    scales.initialize(pictures)
    z = scales(pictures)[0]
    is_standard(z[:, :8].unflatten(1, (2, 2, 2)))
    is_standard(z[:, 8:].unflatten(1, (2, 2, 2)))


def chains_with_nothing_to_set_stay_as_they_are() -> None:
    chain = b.Chain(b.LogTails(), b.Permutation.reverse(2))
    before = chain(normal(3, 2))[0]
    chain.initialize(normal(5, 2))
    same(chain(normal(3, 2))[0], before, 0)


# --- starts and orders ------------------------------------------------------------------------------------------------


def starts_are_as_promised() -> None:
    x, pictures = normal(5, 3), normal(5, 3, 2, 2)
    for layer in (b.Scaling(3), b.LeakyReLU(), b.LULinear(3), b.Householder(3), b.BatchNorm(3).eval()):
        same(layer(x)[0], x)
        same(layer(x)[1], torch.zeros(5))
    same(b.InvertibleConv1x1(3, rotate=False)(pictures)[0], pictures)
    for seed in range(3):
        torch.manual_seed(seed)
        z, log_det = b.InvertibleConv1x1(3)(pictures)
        same(z.norm(dim=1), pictures.norm(dim=1))  # a rotation
        same(log_det, torch.zeros(5))
        assert not torch.allclose(z, pictures)


def triangles_give_back_the_matrix_they_are_set_to() -> None:
    for seed in range(4):
        matrix, triangles = normal(4, 4, seed=seed), b.InvertibleConv1x1(4).triangles
        order = triangles.set(matrix)
        same(product(triangles)[order], matrix)


def householder_counts_its_reflections() -> None:
    assert [len(b.Householder(n).vectors) for n in (1, 2, 3, 4)] == [2, 2, 4, 4]
    layer = b.Householder(4, reflections=2)
    assert len(layer.vectors) == 2


def permutations_are_what_they_say() -> None:
    assert b.Permutation.reverse(4).order.tolist() == [3, 2, 1, 0]
    assert sorted(b.Permutation.random(20).order.tolist()) == list(range(20))
    layer = b.Permutation(torch.tensor([1, 2, 0]))
    assert layer.inverse(torch.tensor([[20.0, 30.0, 10.0]]))[0].tolist() == [[10.0, 20.0, 30.0]]


def halves_are_what_they_say() -> None:
    sizes = [b.Coupling.sizes(n, swap=swap) for n in (1, 4, 5) for swap in (False, True)]
    assert sizes == [(0, 1), (1, 0), (2, 2), (2, 2), (2, 3), (3, 2)]


def chains_are_their_links_in_turn() -> None:
    """Whatever lies between couplings, which hand each other two parts."""
    x, seen, gradients = normal(6, 5), [], []

    def coupling(swap: bool) -> b.Coupling:
        kept, moved = b.Coupling.sizes(5, swap=swap)
        net = MLP(kept, 2 * moved, hidden=(4,), activation="tanh")
        nn.init.normal_(net.output.weight, generator=torch.Generator().manual_seed(0))
        return b.Coupling(5, b.Affine(moved, scale="soft"), net, swap=swap)

    links = [coupling(False), coupling(True), b.Half(5, b.Scaling(2), swap=True), b.Permutation.reverse(5)]
    links += [b.Inverse(coupling(False)), coupling(True), b.Half(5, b.LULinear(3)), coupling(False)]
    for watched in (False, True):
        if watched:
            links[1].register_forward_hook(lambda module, inputs, output: seen.append((inputs[0], output[0])))
            links[5].register_full_backward_hook(lambda module, *by: gradients.append((by[0][0], by[1][0])))
        z, total = x, torch.zeros(6)
        for link in links:
            z, log_det = link(z)
            total = total + log_det
        for got, wanted in zip(b.Chain(*links)(x), (z, total), strict=True):
            same(got, wanted)
        for got, wanted in zip(b.Chain(*links).inverse(z), (x, -total), strict=True):
            same(got, wanted)
    b.Chain(*links)(x.clone().requires_grad_())[0].sum().backward()
    assert seen
    assert gradients
    assert all(isinstance(value, Tensor) and value.shape == (6, 5) for pair in seen + gradients for value in pair)


def wild_made(hidden: tuple[int, ...], *, residual: bool = False) -> MADE:
    net = MADE(4, 2, hidden=hidden, context_features=2, activation="tanh", residual=residual)
    for index, parameter in enumerate(net.parameters()):
        nn.init.normal_(parameter, generator=torch.Generator().manual_seed(index))
    return net


def made_sees_every_feature_before_and_no_other() -> None:
    x, context = normal(1, 4), normal(1, 2, seed=1)
    before = torch.arange(8)[:, None] // 2 > torch.arange(4)
    for net in (wild_made((12, 12)), wild_made((8, 16, 4)), wild_made(()), wild_made((12, 12, 12), residual=True)):
        seen = torch.autograd.functional.jacobian(lambda x, net=net: net(x, context), x)
        told = torch.autograd.functional.jacobian(lambda context, net=net: net(x, context), context)
        assert isinstance(seen, Tensor)
        assert isinstance(told, Tensor)
        assert torch.equal(seen[0, :, 0] != 0, before)
        assert (told != 0).all()


def residual_made_adds_each_layer_to_the_one_before() -> None:
    x, context, net = normal(5, 4), normal(5, 2, seed=1), wild_made((12, 12, 12), residual=True)
    first, second, third = net.layers
    h = first(torch.cat((x, context), -1)).tanh()
    h = h + second(h).tanh()
    same(net(x, context), net.output(h + third(h).tanh()))


PROPERTIES: dict[str, Callable[[], None]] = {
    check.__name__: check
    for check in (
        zeros_are_the_identity,
        parameters_are_as_many_as_promised,
        univariates_increase,
        soft_clamp_is_soft_and_clamps,
        spline_ends_smoothly,
        circle_closes_smoothly,
        spline_keeps_its_least_bin_and_slope,
        spline_survives_parameters_of_any_size,
        spline_inverse_stays_inside,
        spline_inverse_has_slope_one_at_its_ends,
        spline_inverse_survives_a_root_at_infinity,
        spline_inverse_survives_a_negative_discriminant,
        log_scales_keep_their_bound,
        mixture_inverse_is_exact_and_has_a_gradient,
        outside_its_domain_is_no_density,
        borders_are_as_near_as_precision_tells,
        borders_hold_in_every_precision,
        integers_and_tables_are_read,
        what_comes_first_says_what_a_chain_reads,
        the_half_that_moves_is_set,
        rescaled_is_between_zero_and_one,
        what_is_sampled_is_among_the_levels,
        padding_counts_for_nothing,
        tails_have_slope_one_at_their_bound,
        dequantized_stays_within_its_integer,
        dequantized_noise_has_the_density_it_says,
        initialised_is_standard,
        scaled_to_deviation_one,
        whitened_is_as_promised,
        narrow_directions_are_widened_and_no_others,
        tables_keep_their_digits_and_come_out_in_the_precision_of_the_flow,
        a_constant_channel_stays_finite,
        batch_norm_trains_by_its_formula,
        later_layers_are_set_from_what_reaches_them,
        chains_with_nothing_to_set_stay_as_they_are,
        starts_are_as_promised,
        triangles_give_back_the_matrix_they_are_set_to,
        householder_counts_its_reflections,
        permutations_are_what_they_say,
        halves_are_what_they_say,
        chains_are_their_links_in_turn,
        made_sees_every_feature_before_and_no_other,
        residual_made_adds_each_layer_to_the_one_before,
    )
}
