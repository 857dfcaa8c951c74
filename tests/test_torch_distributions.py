"""A density as one of torch's distributions, in float64."""

import math
from typing import Any

import pytest
import torch
from torch import distributions as td
from torch.distributions import constraints

import flowstone
from cases import disturb, ordered, same, soft, vector
from flowstone import Flow, priors
from flowstone import bijections as b
from flowstone.density import Density
from flowstone.distribution import FlowDistribution
from flowstone.errors import DataError, SettingError, ShapeError
from flowstone.nets import MADE
from flowstone.recipes import iaf, maf
from gaussian import gaussian_flow, normal_of, some_distribution

batches = pytest.mark.parametrize("batch", [None, (5,), (2, 4), (1, 4)])


@batches
def test_shapes_are_those_of_a_normal_of_torch(float64, batch):
    _, ours, batch_shape = some_distribution(batch)
    theirs = td.Independent(td.Normal(torch.zeros(*batch_shape, 3), 1.0), 1)
    one: Any
    other: Any
    for one, other in ((ours, theirs), (ours.expand((6, 2, *batch_shape)), theirs.expand((6, 2, *batch_shape)))):
        assert (one.batch_shape, one.event_shape) == (other.batch_shape, other.event_shape)
        for shape in map(torch.Size, [(), (7,), (3, 2)]):
            x = one.sample(shape)
            assert x.shape == one.rsample(shape).shape == other.sample(shape).shape
            assert one.log_prob(x).shape == other.log_prob(x).shape
            assert one.support.check(x).shape == other.support.check(x).shape
    for value in (torch.zeros(3), torch.zeros(6, *(1 for _ in batch_shape), 3)):
        assert ours.log_prob(value).shape == theirs.log_prob(value).shape
    assert "FlowDistribution" in repr(ours)


def test_no_samples_where_the_prior_is_one_of_torch():
    for prior in (td.Laplace(torch.zeros(2), 1.0), td.MultivariateNormal(torch.zeros(2), torch.eye(2))):
        density = Flow(b.Scaling(2), prior).distribution()
        x, log_prob = density.rsample_and_log_prob(torch.Size((0, 3)))
        assert x.shape == (0, 3, 2)
        assert log_prob.shape == density.log_prob(x).shape == (0, 3)
        log_prob.sum().backward()


def test_no_samples_and_no_contexts(float64):
    for batch, shape in (((2, 4), (0, 3)), ((0,), (6,)), (None, (0,))):
        _, density, batch_shape = some_distribution(batch)
        x = density.sample(shape)
        assert x.shape == (*shape, *batch_shape, 3)
        assert density.log_prob(x).shape == (*shape, *batch_shape)


@batches
def test_expanded_distribution_has_the_same_density(float64, batch):
    _, density, batch_shape = some_distribution(batch)
    expanded = density.expand((6, *batch_shape))
    x = expanded.sample((3,))
    same(expanded.log_prob(x), density.log_prob(x))


def test_expanding_repeats_a_context_of_one_row(float64):
    flow, density, _ = some_distribution((1,))
    x = torch.randn(4, 3)
    same(density.expand((4,)).log_prob(x), flow.log_prob(x, density.context.expand(4, 2)))


@batches
def test_density_and_samples_are_those_of_the_flow_row_by_row(float64, batch):
    flow, density, batch_shape = some_distribution(batch)
    x = torch.randn(3, *batch_shape, 3)
    rows = None if batch is None else density.context.expand(3, *batch_shape, 2).reshape(-1, 2)
    wanted = flow.log_prob(x.reshape(-1, 3), rows).reshape(3, *batch_shape)
    same(density.log_prob(x), wanted)
    torch.manual_seed(1)
    drawn = density.sample((3,))
    torch.manual_seed(1)
    latent = torch.randn(wanted.numel(), 3)
    same(drawn, flow.from_latent(latent, rows)[0].reshape(x.shape))


def test_batch_dimensions_can_be_reinterpreted(float64):
    _, density, _ = some_distribution((2, 4))
    joint = td.Independent(density, 1)
    assert (joint.batch_shape, joint.event_shape) == ((2,), (4, 3))
    x = joint.rsample((6,))
    assert x.shape == (6, 2, 4, 3)
    same(joint.log_prob(x), density.log_prob(x).sum(-1))
    same(joint.expand((5, 2)).log_prob(x[:, None]), density.log_prob(x).sum(-1)[:, None].expand(6, 5, 2))


def test_contexts_can_be_components_of_a_mixture(float64):
    _, density, _ = some_distribution((2, 4))
    weights = td.Categorical(logits=torch.randn(2, 4))
    mixture = td.MixtureSameFamily(weights, density)
    x = mixture.sample((6,))
    assert x.shape == (6, 2, 3)
    same(mixture.log_prob(x), (weights.logits + density.log_prob(x[:, :, None])).logsumexp(-1))


def test_divergence_of_two_flows_is_that_of_their_normals(float64):
    one, other = gaussian_flow(), gaussian_flow()
    p, q = one.distribution(), other.distribution()
    x = p.sample((20_000,))
    ratio = (p.log_prob(x) - q.log_prob(x)).detach()
    exact = td.kl_divergence(normal_of(one), normal_of(other))
    assert (ratio.mean() - exact).abs() < 5 * ratio.std() / math.sqrt(20_000)
    assert ratio.std() / math.sqrt(20_000) < 0.05 * exact


def test_samples_have_the_moments_of_the_normal(float64):
    flow = gaussian_flow()
    normal = normal_of(flow)
    x = flow.distribution().sample((20_000,))
    white = torch.linalg.solve_triangular(normal.scale_tril, (x - normal.mean).T, upper=False)
    assert (white.mean(1)).abs().max() < 5 / math.sqrt(20_000)
    assert (white.cov() - torch.eye(4)).abs().max() < 5 * math.sqrt(2 / 20_000)


def test_gradient_through_samples_is_that_of_torchs_normal(float64):
    norm, scaling = b.ActNorm(3), b.Scaling(3)
    flow = Flow(b.Chain(norm, scaling), priors.StandardNormal(3))
    disturb(flow)
    log_scale = (-norm.log_scale - scaling.log_scale).detach().requires_grad_()
    loc = norm.shift.detach().clone().requires_grad_()
    torch.manual_seed(1)
    ours = flow.distribution().rsample((50,))
    ours.sin().sum().backward()
    torch.manual_seed(1)
    theirs = td.Normal(loc, log_scale.exp()).rsample((50,))
    theirs.sin().sum().backward()
    same(ours, theirs)
    same(norm.shift.grad, loc.grad)
    assert log_scale.grad is not None
    same(norm.log_scale.grad, -log_scale.grad)
    same(scaling.log_scale.grad, -log_scale.grad)


def test_gradient_through_samples_reaches_every_parameter_and_the_context(float64):
    flow, _, _ = some_distribution((5,))
    context = torch.randn(5, 2, requires_grad=True)
    density = flow.distribution(context)
    assert density.has_rsample
    assert not density.sample((4,)).requires_grad
    density.rsample((4,)).square().sum().backward()
    for tensor in (context, *flow.parameters()):
        assert tensor.grad is not None
        assert tensor.grad.abs().sum() > 0


@pytest.mark.parametrize("prior", [priors.StudentT(3), priors.GaussianMixture(3, components=2)])
def test_samples_carry_no_gradient_where_the_prior_has_parameters(prior):
    density = Flow(b.Scaling(3), prior).distribution()
    assert not density.has_rsample
    with pytest.raises(NotImplementedError):
        density.rsample()
    assert density.sample((4,)).shape == (4, 3)


def test_one_row_of_context_is_a_distribution_without_batch():
    flow = maf(2, context_features=1, layers=1, hidden=(8,))
    density = flow.distribution(torch.tensor([0.5]))
    assert density.batch_shape == ()
    assert density.sample(torch.Size((3,))).shape == (3, 2)


def test_the_gradient_reaches_a_prior_made_by_torch():
    mean = torch.zeros(2, requires_grad=True)
    flow = Flow(b.Scaling(2), td.Normal(mean, 1.0))
    flow.distribution().rsample(torch.Size((4,))).sum().backward()
    assert mean.grad is not None
    assert mean.grad.tolist() == [4.0, 4.0]


# --- samples and their density ----------------------------------------------------------------------------------------


@batches
@pytest.mark.parametrize("shape", [(), (7,), (3, 2)])
def test_samples_come_with_their_density(float64, batch, shape):
    _, density, batch_shape = some_distribution(batch)
    x, log_prob = density.sample_and_log_prob(shape)
    assert x.shape == (*shape, *batch_shape, 3)
    assert not x.requires_grad
    assert not log_prob.requires_grad
    same(log_prob, density.log_prob(x).detach())
    x, log_prob = density.rsample_and_log_prob(shape)
    assert x.requires_grad
    same(log_prob, density.log_prob(x))


def test_samples_of_iaf_and_their_density_take_one_pass():
    flow = iaf(5, hidden=(8,), layers=1)
    density, calls = flow.distribution(), []
    for module in flow.modules():
        if isinstance(module, MADE):
            module.register_forward_hook(lambda *_: calls.append(1))
    density.rsample_and_log_prob((4,))
    assert len(calls) == 1


# --- support and validation -------------------------------------------------------------------------------------------


def spread(low: float, high: float) -> td.Distribution:
    return td.Uniform(torch.full((2,), low), torch.full((2,), high))


FLOWS = {
    "Logit": lambda: Flow(b.Logit(), priors.StandardNormal(2)),
    "Logit alpha": lambda: Flow(b.Logit(alpha=0.05), priors.StandardNormal(2)),
    "Interval": lambda: Flow(b.Interval(-1.0, 4.0), priors.Logistic(2)),
    "Interval alpha": lambda: Flow(b.Interval(-1.0, 4.0, alpha=0.1), priors.StandardNormal(2)),
    "Interval each": lambda: Flow(b.Interval([0.1, -1.0], [0.3, 3.0]), priors.StandardNormal(2)),
    "Positive": lambda: Flow(b.Chain(b.Positive(low=1.0), b.LULinear(2)), priors.StandardNormal(2)),
    "real": lambda: Flow(vector(2, b.Affine), priors.StandardNormal(2)),
    "Uniform": lambda: Flow(vector(2, b.Affine), priors.Uniform(2, low=-1.0, high=2.0)),
    "Uniform, Interval": lambda: Flow(b.Interval(-1.0, 4.0), priors.Uniform(2)),
    "of torch": lambda: Flow(b.LULinear(2), spread(-1.0, 1.0)),
    "Beta": lambda: Flow(vector(2, b.Affine), td.Beta(torch.full((2,), 2.0), torch.full((2,), 3.0))),
    "Chain": lambda: Flow(b.Chain(b.LULinear(2), b.Logit()), priors.StandardNormal(2)),
    "Partial": lambda: Flow(b.Partial(2, b.Logit()), priors.StandardNormal(2)),
    "conditional": lambda: Flow(vector(2, b.Affine, context=1), priors.Uniform(2), context_features=1),
}


def bounded_distribution(name: str, **settings: Any) -> Any:
    flow = FLOWS[name]()
    disturb(flow)
    return flow.distribution(torch.randn(300, 1) if flow.context_features else None, **settings)


every_flow = pytest.mark.parametrize("name", list(FLOWS))


@every_flow
def test_the_support_is_where_there_is_density(float64, name):
    density = bounded_distribution(name, validate_args=False)
    x = 3 * torch.randn(300, 2)
    finite = density.log_prob(x).isfinite()
    assert density.support.check(x).tolist() == finite.tolist()
    assert finite.any()
    assert finite.all() == (name == "real")
    assert not density.support.check(torch.full((300, 2), torch.nan)).any()
    assert density.support.event_dim == 1
    assert not density.support.is_discrete


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@every_flow
def test_what_is_bijected_to_the_support_has_density(name, dtype):
    density = bounded_distribution(name)
    density.density.to(dtype)
    if density.context is not None:
        density.context = density.context.to(dtype)
    free = 2 * torch.randn(300, 2, dtype=dtype)
    for registry in (td.biject_to, td.transform_to):
        way = registry(density.support)
        assert density.log_prob(way(free)).isfinite().all()
    torch.testing.assert_close(way.inv(way(free)).to(dtype), free, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("name", ["Logit", "Logit alpha", "Interval", "Interval alpha", "Interval each"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_borders_belong_to_the_support_in_every_precision(name, dtype):
    density = bounded_distribution(name).density.to(dtype).distribution()
    domain = density.support.base_constraint
    for given in (torch.float32, torch.float64):
        borders = [torch.as_tensor(border).expand(2).to(given) for border in (domain.lower_bound, domain.upper_bound)]
        assert density.log_prob(torch.stack(borders)).isfinite().all()
    assert density.log_prob(td.biject_to(density.support)(torch.tensor([[-200.0, 200.0]]))).isfinite().all()


def test_the_support_of_the_class_is_a_dependent_property():
    assert constraints.is_dependent(FlowDistribution.support)


def test_the_support_of_integers_is_discrete():
    flow = Flow(b.Chain(b.Dequantize(levels=8), b.Interval(0.0, 8.0)), priors.StandardNormal(2))
    density = flow.distribution()
    assert density.support.is_discrete
    assert density.log_prob(density.sample((20,))).isfinite().all()
    with pytest.raises(DataError, match=r"outside of the support .* the first is 2\.5, 3"):
        density.log_prob(torch.tensor([2.5, 3.0]))


def test_values_without_density_are_refused_where_arguments_are_validated():
    flow = Flow(b.Interval(-1.0, 4.0), priors.StandardNormal(2))
    x = torch.tensor([[0.0, 0.0], [5.0, 0.0], [torch.nan, 0.0]])
    for density in (flow.distribution(), flow.distribution(validate_args=True), flow.distribution().expand((3,))):
        with pytest.raises(ValueError, match=r"2 of 3 values lie outside .*Between\(.*the first is 5, 0$") as error:
            density.log_prob(x)
        assert "\n" not in str(error.value)
        with pytest.raises(DataError):
            density._validate_sample(x)
        assert density.log_prob(x[:0, None].expand(0, 3, 2)).shape == (0, 3)
    for density in (flow.distribution(validate_args=False), flow.distribution(validate_args=False).expand((3,))):
        assert density.log_prob(x)[1] == -torch.inf
    td.Distribution.set_default_validate_args(False)
    try:
        assert flow.distribution().log_prob(x)[1] == -torch.inf
    finally:
        td.Distribution.set_default_validate_args(True)


def test_validating_runs_the_flow_once():
    density = bounded_distribution("Uniform")
    calls = []
    density.density.bijection.register_forward_hook(lambda *_: calls.append(1))
    density.log_prob(density.sample((5,)))
    assert len(calls) == 1


# --- subclasses, other densities --------------------------------------------------------------------------------------


class Mine(FlowDistribution):
    pass


class MineWithMore(FlowDistribution):
    def __init__(self, density: Density, name: str) -> None:
        self.name = name
        super().__init__(density)


def test_expanding_keeps_a_subclass():
    flow = Flow(b.Scaling(2), priors.StandardNormal(2))
    assert type(Mine(flow).expand((3,))) is Mine
    with pytest.raises(NotImplementedError, match=r"custom \.expand"):
        MineWithMore(flow, "it").expand((3,))


@pytest.mark.parametrize(("batch", "shape"), [((5,), ()), ((5,), (3,)), ((5,), (5, 2)), ((2, 4), (4, 4))])
def test_batches_are_not_shrunk(batch, shape):
    _, density, _ = some_distribution(batch)
    with pytest.raises(ShapeError, match="cannot expand batch shape"):
        density.expand(shape)
    flow = Flow(b.Scaling(2), priors.StandardNormal(2))
    with pytest.raises(ShapeError, match="cannot expand batch shape"):
        FlowDistribution(flow, batch_shape=batch).expand(shape)


class Gaussian(Density):
    """A density that is no flow."""

    def __init__(self) -> None:
        super().__init__((2,), 1)

    @property
    def device(self):
        return torch.device("cpu")

    @property
    def dtype(self):
        return torch.float32

    def initialize(self, x, context=None):
        pass

    def _log_prob(self, x, context):
        assert context is not None
        return td.Normal(context, 1.0).log_prob(x).sum(-1)

    def _sample(self, n, context, generator, temperature):
        assert context is not None
        return context + temperature * torch.randn(n, 2, generator=generator)

    def _sample_and_log_prob(self, n, context, generator):
        x = self._sample(n, context, generator, 1.0)
        return x, self._log_prob(x, context)


def test_any_density_is_a_distribution():
    context = torch.randn(4, 1)
    density = FlowDistribution(Gaussian(), context)
    theirs = td.Independent(td.Normal(context.expand(4, 2), 1.0), 1)
    x, log_prob = density.sample_and_log_prob((3,))
    assert x.shape == (3, 4, 2)
    same(log_prob, theirs.log_prob(x), 1e-5)
    same(density.log_prob(x), theirs.log_prob(x), 1e-5)
    assert density.support.check(x).all()
    assert not density.has_rsample
    with pytest.raises(NotImplementedError, match="no samples with gradients"):
        density.rsample()
    with pytest.raises(NotImplementedError, match="cdf is of flows: Gaussian has no prior"):
        density.cdf(x)


@pytest.mark.parametrize("recipe", ["blend", "embedded", "mixed", "gaussian_mixture", "spline"])
def test_the_density_of_every_recipe_of_vectors_makes_a_distribution(recipe):
    torch.manual_seed(0)
    model = flowstone.recipes.build(recipe, {"features": 2, "context_features": 1}).eval()
    context = torch.randn(4, 1)
    density = model.distribution(context)
    x, log_prob = density.sample_and_log_prob((3,))
    assert x.shape == (3, 4, 2)
    same(density.log_prob(x), log_prob, 1e-4)
    same(density.log_prob(x)[1], model.log_prob(x[1], context), 1e-4)
    with pytest.raises(ValueError, match="outside of the support"):
        model.distribution(context, validate_args=True).log_prob(torch.full((4, 2), torch.nan))


# --- one feature ------------------------------------------------------------------------------------------------------


def falling() -> b.LULinear:
    layer = b.LULinear(1)
    layer.triangles.sign.fill_(-1.0)
    return layer


ONE_FEATURE = {
    "normal": lambda: (Flow(b.Scaling(1), priors.StandardNormal(1)), None),
    "logistic": lambda: (Flow(vector(1, lambda _: b.RQSpline(bins=5)), priors.Logistic(1)), None),
    "uniform": lambda: (Flow(b.Scaling(1), priors.Uniform(1, low=-1.0, high=2.0)), None),
    "of torch": lambda: (Flow(b.LogTails(), td.Laplace(torch.zeros(1), 2.0)), None),
    "positive": lambda: (Flow(b.Chain(b.Positive(low=-3.0), b.ActNorm(1)), priors.StandardNormal(1)), None),
    "autoregressive": lambda: (Flow(ordered(1, soft), priors.StandardNormal(1)), None),
    "inverse autoregressive": lambda: (Flow(b.Inverse(ordered(1, soft)), priors.StandardNormal(1)), None),
    "falling": lambda: (Flow(b.Chain(b.Scaling(1), falling()), priors.StandardNormal(1)), None),
    "conditional": lambda: (
        Flow(b.Chain(vector(1, b.Affine, context=2), falling()), priors.StandardNormal(1), context_features=2),
        torch.randn(4, 2),
    ),
}


@pytest.mark.parametrize("name", list(ONE_FEATURE))
def test_cdf_is_the_integral_of_the_density(float64, name):
    flow, context = ONE_FEATURE[name]()
    disturb(flow)
    density = flow.distribution(context)
    levels = torch.linspace(0.01, 0.99, 9).reshape(9, *(1 for _ in density.batch_shape)).expand(9, *density.batch_shape)
    x = density.icdf(levels)
    assert x.shape == (*levels.shape, 1)
    same(density.cdf(x), levels)
    assert (x.diff(dim=0) > 0).all()
    steps = torch.linspace(0, 1, 20_001).reshape(-1, *(1 for _ in x[0].shape))
    grid = torch.lerp(x[0], x[-1], steps)
    mass = torch.trapezoid(density.log_prob(grid).exp(), grid[..., 0], dim=0)
    same(mass, levels[-1] - levels[0], 1e-4)
    ends = density.icdf(torch.tensor([0.0, 1.0]).reshape(2, *(1 for _ in density.batch_shape)))
    same(
        density.cdf(ends),
        torch.tensor([0.0, 1.0]).reshape(2, *(1 for _ in density.batch_shape)).expand(ends.shape[:-1]),
    )
    wider = density.expand((3, *density.batch_shape))
    assert wider.cdf(x[0]).shape == (3, *density.batch_shape)
    assert wider.icdf(levels[0]).shape == (3, *density.batch_shape, 1)


def test_cdf_that_does_not_exist_says_why():
    wide, student = Flow(b.Scaling(2), priors.StandardNormal(2)), Flow(b.Scaling(1), priors.StudentT(1))
    noisy = Flow(b.Dequantize(), priors.StandardNormal(1))
    foreign = Flow(b.Scaling(1), td.StudentT(torch.full((1,), 3.0)))
    spline = b.RQSpline(bins=2, bound=1.0, circular=True)
    turned = Flow(
        b.Autoregressive(1, spline, MADE(1, spline.parameters_per_feature)), priors.Uniform(1, low=-1.0, high=1.0)
    )
    refused = [
        (turned, "no i?cdf on a circle"),
        (wide, r"cdf is of one feature; the events here are of \(2,\)"),
        (student, "StudentT has no (cdf|quantiles) in closed form"),
        (noisy, "no i?cdf of a flow that draws noise"),
        (foreign, "StudentT has no i?cdf in closed form"),
    ]
    for flow, message in refused:
        density: Any = flow.distribution()
        for call in (density.cdf, density.icdf):
            with pytest.raises(NotImplementedError, match=message):
                call(torch.full((2,) if flow is wide else (1,), 0.5))
    with pytest.raises(DataError, match=r"between 0 and 1, got 1\.5"):
        Flow(b.Scaling(1), priors.StandardNormal(1)).distribution().icdf(torch.tensor([0.5, 1.5]))
    with pytest.raises(DataError, match="outside of the support"):
        Flow(b.Positive(), priors.StandardNormal(1)).distribution().cdf(torch.tensor([-1.0]))


def test_what_has_no_closed_form_says_so_in_one_sentence():
    density: Any = Flow(b.Scaling(2), priors.StandardNormal(2)).distribution()
    for name in ("mean", "mode", "variance", "stddev"):
        with pytest.raises(NotImplementedError, match=r"a flow has no .* in closed form"):
            getattr(density, name)
    for name in ("entropy", "perplexity"):
        with pytest.raises(NotImplementedError, match="a flow has no entropy"):
            getattr(density, name)()
    with pytest.raises(NotImplementedError, match="cannot be listed"):
        density.enumerate_support()
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = density.nothing


# --- what is refused --------------------------------------------------------------------------------------------------


def test_wrong_arguments_are_refused_in_one_line():
    flow: Any = Flow(vector(3, b.Affine, context=2), priors.StandardNormal(3), context_features=2)
    density: Any = flow.distribution(torch.zeros(4, 2))
    one: Any = Flow(b.Scaling(1), priors.StandardNormal(1)).distribution()
    refused: list[tuple[Any, str]] = [
        (lambda: density.log_prob(torch.zeros(4, 3).numpy()), "expected a torch.Tensor, got ndarray"),
        (lambda: one.icdf(torch.zeros(2).numpy()), "expected a torch.Tensor, got ndarray"),
        (lambda: density.log_prob(torch.zeros(4, 2)), r"expected values of shape \(…, 3\), got \(4, 2\)"),
        (lambda: density.log_prob(torch.tensor(0.0)), r"expected values of shape \(…, 3\), got \(\)"),
        (lambda: density.log_prob(torch.zeros(5, 3)), r"\(5, 3\) do not broadcast with batch shape \(4,\)"),
        (lambda: density.sample(3), r"sample_shape=3 must be a tuple of sizes, such as \(100,\)"),
        (lambda: flow.distribution(torch.zeros(4, 2).numpy()), "the context as a torch.Tensor, got ndarray"),
        (lambda: flow.distribution(torch.tensor(1.0)), r"expected a context of shape \(batch, 2\), got \(\)"),
        (lambda: flow.distribution(torch.zeros(4, 3)), r"expected a context of shape \(batch, 2\), got"),
        (flow.distribution, "the density is conditional"),
        (lambda: flow.transform(torch.zeros(4, 3)), r"expected a context of shape \(batch, 2\), got"),
        (lambda: flow.sample((3,), torch.zeros(4, 2)), r"n=\(3,\): the number of samples is a whole number"),
        (
            lambda: Flow(b.Scaling(1), td.Normal(0.0, 1.0)),
            "one z needs a dimension at least",
        ),
    ]
    for call, message in refused:
        with pytest.raises((ShapeError, SettingError), match=message) as error:
            call()
        assert "\n" not in str(error.value)
