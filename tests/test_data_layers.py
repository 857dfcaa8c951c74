"""The first layers of a flow: standardisation, whitening, bounded domains, dequantization."""

import math

import pytest
import torch

import flowstone
from flowstone.bijections import (
    Bijection,
    Dequantize,
    Interval,
    Logit,
    Positive,
    Regression,
    Standardize,
    Whiten,
)
from flowstone.errors import DataError


def test_standardize_uses_exact_moments_once():
    layer = Standardize(2)
    x = torch.tensor([[1.0, 10.0], [3.0, 30.0]])
    layer.initialize(x)
    torch.testing.assert_close(layer(x)[0], torch.tensor([[-1.0, -1.0], [1.0, 1.0]]))
    layer.initialize(100 * x)
    torch.testing.assert_close(layer.mean, torch.tensor([2.0, 20.0], dtype=torch.float64))


def test_regression_is_set_once_and_keeps_what_was_learned(float64):
    context = torch.randn(200, 2)
    x = context @ torch.tensor([[3.0, 0.0, 1.0], [0.0, -2.0, 1.0]]) + 5
    layer = Regression(3, 2)
    layer.initialize(x, context)
    assert layer(x, context)[0].abs().max() < 0.2
    for parameter in layer.parameters():
        parameter.data += 0.1
    learned = layer(x, context)[0]
    layer.initialize(2 * x, context)
    assert torch.equal(layer(x, context)[0], learned)


def test_standardize_keeps_the_digits_of_a_float64_table():
    layer = Standardize(1)
    x = 1.7e9 + torch.arange(100, dtype=torch.float64)[:, None]  # seconds since 1970: float32 cannot tell them apart
    layer.initialize(x)
    z, _ = layer(x)
    assert z.dtype == torch.float32
    assert len(z.unique()) == 100


def test_whitening_whitens_and_counts_it(float64):
    x = torch.randn(2000, 3) @ torch.randn(3, 3) * torch.tensor([1.0, 100.0, 0.01]) + 7
    gaussian = torch.distributions.MultivariateNormal(x.mean(0), x.T.cov(correction=0))
    for kind in ("zca", "pca"):
        layer = Whiten(3, kind=kind)
        layer.initialize(x)
        z, log_det = layer(x)
        torch.testing.assert_close(z.T.cov(correction=0), torch.eye(3), atol=1e-9, rtol=0)
        normal = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(-1)
        torch.testing.assert_close(normal + log_det, gaussian.log_prob(x))
        before = z.clone()
        layer.initialize(2 * x)
        assert torch.equal(layer(x)[0], before)


def test_zca_is_symmetric_and_pca_orders_by_variance(float64):
    x = torch.randn(500, 4) @ torch.randn(4, 4)
    x = (x - x.mean(0)) / x.std(0, correction=0)
    zca, pca = Whiten(4), Whiten(4, kind="pca")
    zca.initialize(x)
    pca.initialize(x)
    matrix = zca(torch.eye(4))[0] - zca(torch.zeros(1, 4))[0]
    torch.testing.assert_close(matrix, matrix.T)
    rows = (pca(torch.eye(4))[0] - pca(torch.zeros(1, 4))[0]).T
    assert (rows.norm(dim=1).diff() > 0).all()  # the widest direction first, so the least stretched


def test_whitening_in_part_leaves_wide_directions_alone(float64):
    x = torch.randn(5000, 3)
    x[:, 2] = x[:, 1] + 1e-3 * x[:, 2]
    layer = Whiten(3, narrow=0.1)
    layer.initialize(x)
    z, _ = layer(x)
    spread = torch.linalg.eigvalsh(z.T.cov(correction=0)).sqrt()
    torch.testing.assert_close(spread, torch.tensor([0.1, 1.0, math.sqrt(2)]), atol=0.03, rtol=0)
    standardized = (x - x.mean(0)) / x.std(0, correction=0)
    torch.testing.assert_close(z[:, 0], standardized[:, 0], atol=1e-2, rtol=0)


def test_a_singular_table_is_whitened_in_float32():
    x = torch.randn(3000, 2, dtype=torch.float64)
    x = torch.cat((x, x[:, :1]), 1)  # one column twice
    layer = Whiten(3)
    layer.initialize(x)
    z, log_det = layer(x)
    assert z.dtype == torch.float32
    assert z.isfinite().all()
    assert log_det[0].item() == pytest.approx(-math.log(math.sqrt(2) * 1e-6), abs=0.2)
    torch.testing.assert_close(layer.inverse(z)[0].double(), x, atol=1e-5, rtol=0)


def test_columns_with_a_large_offset_are_whitened_in_float32():
    x = 1.7e9 + torch.arange(100.0, dtype=torch.float64)[:, None] * torch.tensor([1.0, 0.5])
    x[:, 1] += torch.randn(100)
    layer = Whiten(2)
    layer.initialize(x)
    z, _ = layer(x)
    torch.testing.assert_close(z.T.cov(correction=0), torch.eye(2), atol=1e-2, rtol=0)


def test_what_lies_outside_a_domain_has_no_density_and_no_gradient():
    for layer, inside, outside in (
        (Logit(), 0.3, (-0.1, 1.1)),
        (Logit(alpha=0.05), 1.0, (-0.06, 1.06)),
        (Interval(-1.0, 3.0), 2.0, (-1.5, 3.5)),
        (Positive(low=2.0), 2.5, (1.0,)),
    ):
        assert layer(torch.tensor([[inside]]))[1].isfinite()
        for value in outside:
            x = torch.tensor([[inside, value]], requires_grad=True)
            z, log_det = layer(x)
            assert log_det.item() == -math.inf
            assert z.isfinite().all()
            torch.where(log_det.isfinite(), log_det, 0.0).sum().backward()
            assert x.grad is not None
            assert not x.grad.any()


def test_positive_keeps_small_numbers_apart():
    layer = Positive()
    x = torch.tensor([[1e-9], [1e-20], [1e-37]])
    z, log_det = layer(x)
    torch.testing.assert_close(layer.inverse(z)[0], x, atol=0, rtol=1e-4)
    torch.testing.assert_close(log_det, -x[:, 0].log(), atol=1e-3, rtol=0)


def test_dequantized_integers_come_back_exactly():
    layer = Dequantize()
    x = torch.arange(256.0).repeat(400, 1)
    for _ in range(20):
        z, log_det = layer(x)
        assert torch.equal(layer.inverse(z)[0], x)
        assert (z >= x).all()
        assert not log_det.any()


def test_numbers_that_are_no_level_have_no_density():
    x = torch.tensor([[0.0], [3.0], [0.5], [-1.0], [4.0]])
    assert Dequantize(levels=4)(x)[1].isfinite().tolist() == [True, True, False, False, False]
    pixels = torch.randint(256, (20, 1, 4, 4), dtype=torch.uint8)
    with pytest.raises(DataError, match=r"255 is too large for torch.bfloat16; use flow.float\(\)"):
        Dequantize(levels=256).bfloat16()(pixels)
    flow = flowstone.nice_image((1, 4, 4), hidden=(4,))
    for kind in (torch.uint8, torch.int64, torch.float16, torch.float64):
        flow.require_possible(pixels.to(kind), "data")
    flow.require_possible(torch.full((1, 1, 4, 4), 127, dtype=torch.int8), "data")
    pixels[:2] = 255
    for x, value in ((pixels / 256, "0.996094"), (pixels / 127.5 - 0.5, "1.5"), (pixels + 1.0, "256")):
        message = rf"^data: row 0, feature 0, 0, 0 is {value}; it can be an integer from 0 to 255$"
        with pytest.raises(DataError, match=message):
            flowstone.fit(flow, x, steps=1, progress=False)


def test_variational_dequantization_is_a_bound_that_learning_tightens():
    """Of 8 equally likely integers the bound is below log(1/8), uniform noise reaches it for a uniform density."""
    torch.manual_seed(0)

    class Uniform8(Bijection):
        def forward(self, x, context=None):
            return x, x.new_zeros(len(x))

        def inverse(self, z, context=None):
            return z, z.new_zeros(len(z))

    noise = flowstone.realnvp(1, context_features=1, couplings=2, hidden=(16,)).bijection
    layer = Dequantize(noise, levels=8)
    x = torch.randint(8, (512, 1)).float()
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.02)
    density = flowstone.Flow(Uniform8(), flowstone.priors.StandardNormal(1))

    def bound() -> torch.Tensor:
        z, log_det = layer(x)
        return (density.prior.log_prob((z - 4) / 2) - math.log(2) + log_det).mean()

    with torch.no_grad():
        before = torch.stack([bound() for _ in range(20)]).mean()
    for _ in range(150):
        optimizer.zero_grad()
        (-bound()).backward()
        optimizer.step()
    with torch.no_grad():
        after = torch.stack([bound() for _ in range(20)]).mean()
    grid = torch.arange(8.0)[:, None] + (torch.arange(1000) + 0.5) / 1000
    truth = (density.prior.log_prob(((grid.reshape(-1, 1)) - 4) / 2) - math.log(2)).exp().reshape(8, -1).mean(1).log()
    exact = truth[x.long().flatten()].mean()
    assert before < after <= exact + 0.02
