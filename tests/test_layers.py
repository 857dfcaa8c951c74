"""What holds for single layers beyond the laws."""

import importlib
import math
import sys
import textwrap
from typing import Any

import pytest
import torch
from flowstone.nets.linear import Linear
from torch.utils._python_dispatch import TorchDispatchMode

import flowstone
from cases import CASES, disturb
from flowstone.bijections import (
    ActNorm,
    Affine,
    Autoregressive,
    BatchNorm,
    Bijection,
    Coupling,
    Dequantize,
    Householder,
    Interval,
    Inverse,
    LogisticMixtureCDF,
    Logit,
    LogTails,
    LULinear,
    MultiScale,
    Pad,
    Positive,
    Rescale,
    RQSpline,
    Squeeze,
    Whiten,
    checkerboard,
)
from flowstone.bijections.univariate import soft_clamp
from flowstone.errors import SettingError, ShapeError
from flowstone.kernels import kernels
from flowstone.nets import MADE, MLP, FullResolution, ResConvNet, ResNet
from flowstone.nets import linear as linears
from flowstone.priors import FromTorch
from flowstone.recipes import build
from flowstone.recipes.registry import RECIPES, all_recipes
from flowstone.testing import Case, LawBrokenError, check


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


def test_act_norm_is_set_once_and_only_once():
    layer = ActNorm(2)
    x = torch.randn(500, 2, 3, 3) * torch.tensor([2.0, 0.1])[:, None, None] + 5
    layer.initialize(x)
    z, log_det = layer(x)
    assert z.mean((0, 2, 3)).abs().max() < 1e-4
    torch.testing.assert_close(z.std((0, 2, 3), correction=0), torch.ones(2), atol=1e-4, rtol=0)
    assert log_det[0].item() == pytest.approx(9 * (-math.log(0.2)), rel=0.02)
    state = {name: value.clone() for name, value in layer.state_dict().items()}
    fresh = ActNorm(2)
    fresh.load_state_dict(state)
    fresh.initialize(100 * x)
    assert all(torch.equal(state[name], value) for name, value in fresh.state_dict().items())


@pytest.mark.parametrize("statistics", ["running", "batch"])
def test_batch_norm_trains_by_batches_and_evaluates_by_averages(float64, statistics):
    layer = BatchNorm(2, momentum=0.1, eps=1e-5, statistics=statistics)
    x = 3 * torch.randn(4000, 2) + 5
    assert torch.equal(layer.eval()(x)[0], x)
    assert torch.equal(layer(x)[1], torch.zeros(4000))
    layer.train()
    z, log_det = layer(x)
    variance, mean = torch.var_mean(x, 0, correction=0)
    torch.testing.assert_close(layer.mean, 0.1 * mean)
    torch.testing.assert_close(layer.variance, 0.9 * (1 - 1e-5) + 0.1 * variance)
    used = (layer.mean, layer.variance) if statistics == "running" else (mean, variance)
    torch.testing.assert_close(z, (x - used[0]) / (used[1] + 1e-5).sqrt())
    torch.testing.assert_close(log_det, -0.5 * (used[1] + 1e-5).log().sum().expand(4000))
    for _ in range(200):
        layer(x)
    layer.eval()
    torch.testing.assert_close(layer(x)[0].std(0, correction=0), torch.ones(2), atol=1e-3, rtol=0)
    torch.testing.assert_close(layer.inverse(layer(x)[0])[0], x)


def test_the_gradient_flows_through_the_batch_s_own_part_of_the_average(float64):
    layer = BatchNorm(1, momentum=0.5).train()
    x = torch.randn(50, 1, requires_grad=True)
    z, _ = layer(x)
    (gradient,) = torch.autograd.grad(z[0].sum(), x)
    assert gradient[1].abs() > 1e-6  # row 0 follows from row 1 through the mean
    assert not layer.mean.requires_grad


def test_a_flow_with_batch_norm_keeps_the_statistics_of_its_best_weights(tmp_path):
    torch.manual_seed(0)
    flow = flowstone.maf(2, layers=2, hidden=(16,), batch_norm=True)
    x = torch.randn(3000, 2) * 4 + 1
    history = flowstone.fit(flow, x, validation=x[:1000], steps=60, validate_every=20, progress=False)
    assert -flow.log_prob(x[:1000]).mean().item() == pytest.approx(history.best.val_nll, abs=1e-4)
    flowstone.save(flow, tmp_path)
    assert torch.equal(flowstone.load(tmp_path).log_prob(x), flow.log_prob(x))


def test_dequantized_integers_come_back_exactly():
    layer = Dequantize()
    x = torch.arange(256.0).repeat(400, 1)
    for _ in range(20):
        z, log_det = layer(x)
        assert torch.equal(layer.inverse(z)[0], x)
        assert (z >= x).all()
        assert not log_det.any()


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


def test_householder_is_a_rotation_that_starts_as_none(float64):
    layer = Householder(4)
    torch.testing.assert_close(layer(torch.eye(4))[0], torch.eye(4))
    layer.vectors.data = torch.randn_like(layer.vectors)
    matrix = layer(torch.eye(4))[0]
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(4))


def test_the_ordered_squeeze_puts_one_colour_first():
    x = torch.arange(2 * 4 * 4.0).reshape(1, 2, 4, 4)
    z, _ = Squeeze(order="checkerboard")(x)
    rows, columns = torch.meshgrid(torch.arange(4), torch.arange(4), indexing="ij")
    even = (rows + columns) % 2 == 0
    assert set(z[:, :4].flatten().tolist()) == set(x[:, :, even].flatten().tolist())
    plain, _ = Squeeze()(x)
    torch.testing.assert_close(plain, torch.nn.functional.pixel_unshuffle(x, 2))


def test_inverse_autoregressive_begins_with_the_context_alone(float64):
    net = MADE(3, 2, hidden=(12, 12), context_features=1)
    for parameter in net.parameters():
        parameter.data.normal_()
    x, context = torch.randn(1, 3), torch.randn(2, 1)
    one, two = net(x, context[:1]), net(x, context[1:])
    assert (one != two).all()  # the first feature's parameters, too
    moved = net(torch.tensor([[9.0, 0.0, 0.0]]) + x, context[:1])
    assert torch.equal(moved[:, :2], one[:, :2])
    assert (moved[:, 2:] != one[:, 2:]).all()


def test_users_bijections_are_held_to_the_laws():
    class Doubling(Bijection):
        def __init__(self, log_det: float) -> None:
            super().__init__()
            self.log_det = log_det

        def forward(self, x, context=None):
            return 2 * x, x.new_full((len(x),), self.log_det)

        def inverse(self, z, context=None):
            return z / 2, z.new_full((len(z),), -self.log_det)

    torch.set_default_dtype(torch.float64)
    try:
        check(Case(lambda: Doubling(2 * math.log(2)), 2, triangular=True), seeds=1)
        with pytest.raises(LawBrokenError, match=r"log-det of forward = log\|det Jacobian\|: row 0 has 2"):
            check(Case(lambda: Doubling(2.0), 2), seeds=1)
        with pytest.raises(LawBrokenError, match="lower triangular"):
            check(Case(lambda: Inverse(CASES["LULinear"].bijection()), 4, triangular=True), seeds=1)
    finally:
        torch.set_default_dtype(torch.float32)


def test_a_recipe_of_an_installed_package_is_found(tmp_path, monkeypatch):
    package = tmp_path / "other_flows"
    package.mkdir()
    (package / "__init__.py").write_text(
        textwrap.dedent("""
        import flowstone

        def tiny(features: int, *, context_features: int = 0) -> flowstone.Flow:
            return flowstone.nice(features, context_features=context_features, couplings=2, hidden=(4,))

        def nice(features: int, *, needed: int) -> flowstone.Flow:
            return flowstone.realnvp(features)
        """)
    )
    info = tmp_path / "other_flows-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other-flows\nVersion: 1\n")
    (info / "entry_points.txt").write_text(
        "[flowstone.recipes]\nsmall-one = other_flows:tiny\nnice = other_flows:nice\nbroken = other_flows:missing\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    all_recipes.cache_clear()
    try:
        ours = RECIPES["nice"]
        with pytest.warns(UserWarning, match="recipe") as warned:
            flow = build("small-one", {"features": 3})
        said = sorted(str(warning.message) for warning in warned)
        assert said[0].startswith("recipe 'broken' of other_flows:missing cannot be loaded")
        assert "recipe 'nice' is there already" in said[1]
        assert RECIPES["nice"] is ours
        assert flow.spec == {"recipe": "small-one", "arguments": {"features": 3, "context_features": 0}}
        flowstone.save(flow, tmp_path / "run")
        assert flowstone.load(tmp_path / "run").spec == flow.spec
    finally:
        RECIPES.pop("small-one", None)
        sys.modules.pop("other_flows", None)
        all_recipes.cache_clear()


def test_glow_learns_images_and_gives_integers_back():
    torch.manual_seed(0)
    base = torch.randint(40, 200, (1, 1, 4, 4)).float()
    x = (base + 10 * torch.randn(600, 1, 4, 4)).round().clamp(0, 255)
    flow = flowstone.glow(event_shape=(1, 4, 4), scales=2, couplings=2, channels=16)
    history = flowstone.fit(flow, x, steps=100, batch_size=128, lr=0.01, progress=False)
    entropy = 16 * (math.log(10) + 0.5 * math.log(2 * math.pi * math.e))  # rounding hardly adds to it
    assert history.best.val_nll == pytest.approx(entropy, abs=1.5)
    back = flow.from_latent(flow.to_latent(x)[0])[0]
    assert (back == x).float().mean() > 0.999
    samples = flow.sample(50, seed=0)
    assert samples.shape == (50, 1, 4, 4)
    assert torch.equal(samples, samples.round())
    again = flowstone.glow(event_shape=(1, 4, 4), scales=2, couplings=2, channels=16)
    flowstone.fit(again, x, steps=5, batch_size=128, progress=False)


def test_a_flow_that_draws_noise_trains_the_same_way_twice():
    results = []
    for _ in range(2):
        torch.manual_seed(0)
        flow = flowstone.glow(event_shape=(1, 2, 2), scales=1, couplings=1, channels=4)
        torch.manual_seed(len(results))  # whatever the global state is by then
        flowstone.fit(flow, torch.arange(400.0).reshape(100, 1, 2, 2) % 256, steps=8, progress=False)
        results.append(flow.state_dict())
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])


def test_positive_keeps_small_numbers_apart():
    layer = Positive()
    x = torch.tensor([[1e-9], [1e-20], [1e-37]])
    z, log_det = layer(x)
    torch.testing.assert_close(layer.inverse(z)[0], x, atol=0, rtol=1e-4)
    torch.testing.assert_close(log_det, -x[:, 0].log(), atol=1e-3, rtol=0)


def test_a_prior_of_torch_is_minus_infinity_outside_its_support():
    prior = FromTorch(torch.distributions.Uniform(torch.zeros(2), torch.ones(2)))
    z = torch.tensor([[0.5, 0.5], [0.5, 1.5], [math.nan, 0.5]])
    assert prior.log_prob(z)[:2].tolist() == [0.0, -math.inf]
    assert prior.log_prob(z)[2].isnan()


def test_wrong_settings_are_named():
    with pytest.raises(SettingError, match="learns parameters of its own"):
        Autoregressive(2, flowstone.bijections.Affine(2), MADE(2, 2))
    with pytest.raises(SettingError, match="reflections=3"):
        Householder(3, reflections=3)
    with pytest.raises(SettingError, match="statistics='both'"):
        BatchNorm(2, statistics="both")
    with pytest.raises(SettingError, match="momentum=0"):
        BatchNorm(2, momentum=0)
    with pytest.raises(SettingError, match="low=1"):
        Interval(1.0, 1.0)
    with pytest.raises(SettingError, match="alpha="):
        Logit(alpha=0.5)
    with pytest.raises(SettingError, match="bound=0"):
        LogTails(bound=0)
    with pytest.raises(SettingError, match="narrow=2"):
        Whiten(2, narrow=2)
    with pytest.raises(SettingError, match=r"hidden=\(8, 9\)"):
        ResNet(2, 2, hidden=(8, 9))
    with pytest.raises(SettingError, match=r"hidden=\(8, 9\)"):
        MADE(2, 2, hidden=(8, 9), residual=True)
    with pytest.raises(ShapeError, match=r"cannot squeeze shape \(1, 3, 4\)"):
        Squeeze()(torch.zeros(1, 1, 3, 4))
    with pytest.raises(SettingError, match="scale 1 ends with 1 channels"):
        MultiScale((1, 4, 4), [LULinear(1), LULinear(1)])
    with pytest.raises(SettingError, match="either features"):
        flowstone.glow()
    with pytest.raises(SettingError, match=r"event_shape=\(28, 28\): wanted"):
        flowstone.glow(event_shape=(28, 28))
    with pytest.raises(ShapeError, match="cannot pad images of 5 x 4 to 4 x 4"):
        Pad((1, 5, 4), (4, 4))
    with pytest.raises(SettingError, match=r"low=1.0 must be below high=1.0"):
        Rescale(1.0, 1.0)
    with pytest.raises(SettingError, match="needs levels"):
        Dequantize(LULinear(1))


@pytest.mark.parametrize("swap", [False, True])
def test_a_net_on_the_whole_board_is_the_papers_masked_coupling(float64, swap):
    """z = m x + (1 - m) (x exp(s) + t), s and t of the masked image, its mask beside it."""
    channels, size = 2, 6
    net = ResConvNet(channels + 1, 2 * channels, hidden=8, blocks=1, normed_input=False)
    half = FullResolution(net, channels, swap=swap, norm="none")
    layer = checkerboard(Coupling(4 * channels, Affine((2 * channels, 1, 1), scale="soft"), half, swap=swap)).eval()
    disturb(layer, 0.3)
    x, colour = torch.randn(3, channels, size, size), torch.arange(size)[:, None] + torch.arange(size)
    mask = ((colour % 2 == 0) != swap).to(x)
    raw, shift = net(torch.cat((mask * x, mask.expand(3, 1, size, size)), 1)).unflatten(1, (channels, 2)).unbind(2)
    scale = soft_clamp(raw, 3.0)
    z, log_det = layer(x)
    torch.testing.assert_close(z, mask * x + (1 - mask) * (x * scale.exp() + shift))
    torch.testing.assert_close(log_det, ((1 - mask) * scale).sum((1, 2, 3)))


@pytest.mark.parametrize("inputs", [1, 2, 3, 8, 9])
@pytest.mark.parametrize("rows", [(5,), (4, 5)])
def test_linear_layers_are_torchs(inputs, rows):
    torch.manual_seed(0)
    ours, x = Linear(inputs, 6, dtype=torch.float64), torch.randn(*rows, inputs, dtype=torch.float64)
    theirs = torch.nn.Linear(inputs, 6, dtype=torch.float64)
    theirs.load_state_dict(ours.state_dict())
    weights = torch.randn(*rows, 6, dtype=torch.float64)
    found = []
    for layer in (ours, theirs):
        value = x.clone().requires_grad_()
        output = layer(value)
        found.append([output, *torch.autograd.grad((output * weights).sum(), (value, *layer.parameters()))])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-13)


class Seen(TorchDispatchMode):
    """The names of all operations."""

    def __enter__(self):
        self.names = []
        return super().__enter__()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def in_bf16(net, x):
    """What the net gives in bfloat16, and whether ReLU was part of its products."""
    with torch.autocast("cpu", dtype=torch.bfloat16), Seen() as seen:
        result = net(x)
    return result.detach(), any("_linear_pointwise" in name for name in seen.names)


@pytest.mark.skipif(not linears._has_products(), reason="this processor or torch has no such products")
def test_relu_is_part_of_the_product_in_bfloat16_where_no_gradient_is_asked_for():
    torch.manual_seed(0)
    x, net = torch.randn(300, 3), MLP(3, 5, hidden=(32, 16))
    torch.nn.init.normal_(net.output.weight)
    plain, fused = in_bf16(net, x)
    assert not fused  # a gradient may be wanted
    with torch.no_grad():
        result, fused = in_bf16(net, x)
        assert fused
        assert result.dtype == plain.dtype == torch.bfloat16
        torch.testing.assert_close(result, plain, atol=0.1, rtol=0.02)
        torch.testing.assert_close(result.float(), net(x), atol=0.2, rtol=0.05)
        assert in_bf16(net, x[:0])[0].shape == (0, 5)
        assert not in_bf16(MLP(3, 5, hidden=(8,), activation="gelu"), x)[1]
        with kernels(False):
            assert not in_bf16(net, x)[1]


@pytest.mark.skipif(not linears._has_products(), reason="this processor or torch has no such products")
@torch.no_grad()
def test_relu_in_a_product_hides_nothing():
    net = MLP(2, 3, hidden=(8, 8))
    torch.nn.init.ones_(net.output.weight)
    result, fused = in_bf16(net, torch.tensor([[1.0, torch.nan], [1.0, 1.0]]))
    assert fused
    assert result.isnan().all(1).tolist() == [True, False]
    dict(net.named_parameters())["layers.2.weight"][3] = -torch.nan
    assert in_bf16(net, torch.ones(2, 2))[0].isnan().all()


@torch.no_grad()
def test_without_such_products_relu_comes_after_them(monkeypatch):
    monkeypatch.setattr(linears, "_has_products", lambda: False)
    assert not in_bf16(MLP(2, 3, hidden=(8, 8)), torch.ones(2, 2))[1]


@torch.no_grad()
def test_relu_is_by_itself_where_somebody_looks_at_a_layer_or_has_changed_it():
    x, seen = torch.ones(2, 2), []
    net = MLP(2, 3, hidden=(8, 8))
    net.layers[1].register_forward_hook(lambda module, inputs, output: seen.append(output))
    assert not in_bf16(net, x)[1]
    assert seen
    net = MLP(2, 3, hidden=(8, 8))
    torch.nn.utils.parametrizations.weight_norm(net.layers[2])
    assert not in_bf16(net, x)[1]


@pytest.mark.parametrize("part", [0, 1])
def test_a_layer_that_runs_otherwise_is_called(part):
    """By a hook, or because its forward was replaced; of a linear layer and of an activation."""
    x, net = torch.ones(2, 2), MLP(2, 3, hidden=(8, 8))
    torch.nn.init.ones_(net.output.weight)
    plain = net(x)
    layer: Any = net.layers[part]
    handle = layer.register_forward_hook(lambda module, inputs, output: output + 1)
    hooked = net(x)
    handle.remove()
    assert torch.equal(net(x), plain)
    as_it_was = layer.forward
    layer.forward = lambda input: as_it_was(input) + 1
    assert torch.equal(net(x), hooked)
    assert not torch.equal(plain, hooked)
