"""Univariate transforms: splines, circles, affine maps, mixtures."""

import math

import pytest
import torch

from flowstone import bijections
from flowstone.bijections import (
    Affine,
    LogisticMixtureCDF,
    RQSpline,
    Univariate,
)
from flowstone.errors import SettingError

UNIVARIATE = {
    "Additive": bijections.Additive,
    "Affine tanh": lambda: Affine(2),
    "Affine soft": lambda: Affine(2, scale="soft"),
    "RQSpline": lambda: RQSpline(bins=6),
}


@pytest.mark.parametrize("name", UNIVARIATE)
def test_univariate_is_increasing_and_zero_parameters_are_the_identity(float64, name):
    transform: Univariate = UNIVARIATE[name]()
    x = torch.linspace(-5, 5, 401)[:, None].expand(-1, 2)
    zeros = torch.zeros(*x.shape, transform.parameters_per_feature)
    z, log_slope = transform(x, zeros)
    torch.testing.assert_close(z, x, atol=1e-12, rtol=0)
    torch.testing.assert_close(log_slope, torch.zeros_like(x), atol=1e-12, rtol=0)
    z, _ = transform(x, torch.randn(1, 2, transform.parameters_per_feature).expand(len(x), -1, -1))
    assert (z.diff(dim=0) > 0).all()


def test_spline_is_continuous_and_has_unit_slope_at_its_ends(float64):
    spline = RQSpline(bins=7, bound=2.5)
    parameters = 2 * torch.randn(1, 1, spline.parameters_per_feature)
    for edge in (-2.5, 2.5):
        x = torch.tensor([[edge - 1e-9], [edge], [edge + 1e-9]])
        z, log_slope = spline(x, parameters.expand(3, -1, -1))
        torch.testing.assert_close(z, x, atol=1e-8, rtol=0)
        torch.testing.assert_close(log_slope, torch.zeros(3, 1), atol=1e-5, rtol=0)


def test_spline_survives_parameters_of_any_size():
    spline = RQSpline()
    parameters = (1e4 * torch.randn(200, 1, spline.parameters_per_feature)).requires_grad_()
    x = torch.linspace(-4, 4, 200)[:, None].requires_grad_()
    for direction in (spline.forward, spline.inverse):
        z, log_slope = direction(x, parameters)
        assert z.isfinite().all()
        assert log_slope.isfinite().all()
        assert all(g.isfinite().all() for g in torch.autograd.grad(z.sum() + log_slope.sum(), (x, parameters)))


@pytest.mark.parametrize(("largest", "error"), [(1.0, 1e-5), (2.0, 1e-3), (3.0, 3e-2)])
def test_the_inverse_of_a_spline_in_float32_is_as_exact_as_its_docstring_says(largest, error):
    spline = RQSpline()
    x = 3 * (2 * torch.rand(100_000, 1) - 1)
    parameters = largest * (2 * torch.rand(len(x), 1, spline.parameters_per_feature) - 1)
    assert (spline.inverse(spline(x, parameters)[0], parameters)[0] - x).abs().max() < error


def test_features_that_are_no_numbers_of_features_are_named():
    for features in (0, 2.5, (2, True)):
        with pytest.raises(SettingError, match=r"features=.* must be whole numbers, at least 1"):
            Affine(features)  # pyright: ignore


@pytest.mark.parametrize(("scale", "cap"), [("tanh", 1.0), ("soft", 3.0)])
def test_log_scale_stays_within_its_bound(scale, cap):
    huge = torch.tensor([[[1e6, 0.0]], [[-1e6, 0.0]]])
    _, log_scale = Affine(1, scale=scale)(torch.zeros(2, 1), huge)
    torch.testing.assert_close(log_scale.flatten(), torch.tensor([cap, -cap]), atol=1e-5, rtol=0)


def test_a_circle_has_no_seam(float64):
    torch.manual_seed(1)
    spline = RQSpline(bins=5, bound=math.pi, circular=True)
    parameters = torch.randn(1, 1, spline.parameters_per_feature)

    def at(x: float) -> tuple[torch.Tensor, torch.Tensor]:
        z, log_slope = spline(torch.tensor([[x]]), parameters)
        return torch.stack((z.sin(), z.cos())), log_slope

    for one, two in ((-math.pi + 1e-9, math.pi - 1e-9), (1.0, 1.0 + 2 * math.pi)):
        for left, right in zip(at(one), at(two), strict=True):
            torch.testing.assert_close(left, right, atol=1e-7, rtol=0)
    x = torch.linspace(-math.pi, math.pi, 20_001)[:-1, None]
    slope = spline(x, parameters.expand(len(x), -1, -1))[1].exp()
    assert slope.mean().item() == pytest.approx(1, abs=1e-4)  # once around


def test_a_mixture_of_components_that_start_alike_part_when_trained():
    torch.manual_seed(0)
    transform = LogisticMixtureCDF(components=2)
    parameters = torch.zeros(1, 1, transform.parameters_per_feature, requires_grad=True)
    optimizer = torch.optim.Adam([parameters], lr=0.05)
    x = torch.cat((torch.randn(500, 1) - 5, torch.randn(500, 1) + 5))
    for _ in range(400):
        optimizer.zero_grad()
        z, log_slope = transform(x, parameters.expand(1000, -1, -1))
        loss = (torch.nn.functional.softplus(z) + torch.nn.functional.softplus(-z) - log_slope).mean()
        loss.backward()
        optimizer.step()
    _, means, _ = transform._mixture(parameters)
    assert sorted(means.flatten().tolist()) == pytest.approx([-5, 5], abs=0.5)


def test_the_log_slope_of_a_mixture_has_its_gradient_where_the_mixture_is_one_half(float64):
    transform, x = LogisticMixtureCDF(components=3), torch.zeros(1, 1, requires_grad=True)
    _, log_slope = transform(x, torch.zeros(1, 1, transform.parameters_per_feature))  # the identity
    (gradient,) = torch.autograd.grad(log_slope.sum(), x)
    assert gradient.abs().item() < 1e-12
