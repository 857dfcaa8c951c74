"""Properties of univariate transforms."""

import math
from collections.abc import Iterator

import torch

from cases import normal, same
from flowstone import bijections as b
from flowstone.bijections.univariate import soft_clamp
from flowstone.kernels import kernels

__all__ = [
    "circle_closes_smoothly",
    "log_scales_keep_their_bound",
    "mixture_inverse_is_exact_and_has_a_gradient",
    "mixture_keeps_the_digits_of_its_slope_far_out",
    "numbers_below_one_are_allowed",
    "parameters_are_as_many_as_promised",
    "soft_clamp_is_soft_and_clamps",
    "spline_ends_smoothly",
    "spline_inverse_has_slope_one_at_its_ends",
    "spline_inverse_stays_inside",
    "spline_inverse_survives_a_negative_discriminant",
    "spline_inverse_survives_a_root_at_infinity",
    "spline_keeps_its_least_bin_and_slope",
    "spline_survives_parameters_of_any_size",
    "univariates_increase",
    "zeros_are_the_identity",
]


def univariates() -> Iterator[b.Univariate]:
    yield from (b.Additive(), b.Affine(2), b.Affine(2, scale="soft"), b.Affine(2, shift_first=True))
    yield b.LogisticMixtureCDF(components=3)
    yield from (b.RQSpline(bins=6), b.RQSpline(bins=6, circular=True))


def zeros_are_the_identity() -> None:
    x = torch.linspace(-2.9, 2.9, 101)[:, None].expand(-1, 2)
    for transform in univariates():
        for direction in (transform.forward, transform.inverse):
            out, log_slope = direction(x, torch.zeros(*x.shape, transform.parameters_per_feature))
            same(out, x)
            same(log_slope, torch.zeros_like(x))


def parameters_are_as_many_as_promised() -> None:
    wanted = [1, 2, 2, 2, 9, 17, 19]
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
    """In float32, where b and the discriminant's root cancel: a flat bin that ends a hundred million times as steep."""
    rise, mean_slope, start, end = torch.tensor([0.5, 1e-3, 1e-3, 2e5], dtype=torch.float32)
    back = rise * (start + end - 2 * mean_slope) - start
    assert back == (back.square() + 4 * (mean_slope + back) * mean_slope * rise).sqrt()
    same(b.RQSpline._solve(rise, mean_slope, torch.stack((start, end))), torch.tensor(1.0, dtype=torch.float32), 0)


def numbers_below_one_are_allowed() -> None:
    """Of what need only be positive."""
    far = torch.tensor([[-3.0, 3.0]])
    for transform, bound in (
        (b.Affine(2, scale="soft", limit=0.5), 0.5),
        (b.LogisticMixtureCDF(components=2, limit=0.5), 0.5),
        (b.RQSpline(bound=0.5), 0.0),
    ):
        log_slope = transform(far, 1e3 * torch.ones(1, 2, transform.parameters_per_feature))[1]
        assert log_slope.abs().max() <= bound


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


def mixture_keeps_the_digits_of_its_slope_far_out() -> None:
    """There the logarithms are as large as the value, and the slope is that of the widest component."""
    transform = b.LogisticMixtureCDF(components=2)
    parameters = normal(50, 1, transform.parameters_per_feature)
    widest = transform._mixture(parameters)[2].amax(-1)
    for far in (-1e6, 1e6):
        same(transform(torch.full((50, 1), far), parameters)[1], -widest, 1e-13)
