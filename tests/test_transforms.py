"""A bijection as one of torch's transforms: what torch asks of its own, over every case, in float64."""

import copy
import pickle
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import distributions as td
from torch import nn

from cases import CASES, ordered, same, soft, vector
from flowstone import bijections as b
from flowstone.bijections.univariate import Additive
from flowstone.errors import ShapeError
from flowstone.nets import MLP
from flowstone.recipes import maf
from flowstone.transform import BijectionTransform
from gaussian import some_distribution

INVERTIBLE = [name for name, case in CASES.items() if not case.stochastic]
every_case = pytest.mark.parametrize("name", list(CASES))
invertible_cases = pytest.mark.parametrize("name", INVERTIBLE)


def some_transform(name: str, **settings: Any) -> tuple[BijectionTransform, torch.Tensor, torch.Tensor]:
    """The transform of a case, given contexts for six rows, with so many x and z."""
    case = CASES[name]
    x, z, context = case.rows(6, 0)
    return BijectionTransform(case.bijection(), context, event_dim=len(case.shape), **settings), x, z


@contextmanager
def counted(bijection: b.Bijection):
    """How often it is run: forward, and back."""
    calls = {"forward": 0, "inverse": 0}
    inverse = bijection.inverse

    def count_back(*args):
        calls["inverse"] += 1
        return inverse(*args)

    hook = bijection.register_forward_hook(lambda *_: calls.update(forward=calls["forward"] + 1))
    with patch.object(bijection, "inverse", count_back):
        yield calls
    hook.remove()


# --- what torch asks of every transform -------------------------------------------------------------------------------


@invertible_cases
def test_inverse_undoes_it(float64, name):
    transform, x, z = some_transform(name, cache_size=0)
    assert transform.bijective
    same(transform.inv(transform(x)), x, 1e-6)
    assert transform.inv.inv is transform
    assert transform(x).shape == z.shape


@every_case
def test_what_goes_in_and_out_satisfies_domain_and_codomain(float64, name):
    transform, x, z = some_transform(name, cache_size=0)
    assert transform.domain.event_dim == x.ndim - 1
    assert transform.codomain.event_dim == z.ndim - 1
    for constraint, value in (
        (transform.domain, x),
        (transform.codomain, transform(x)),
        (transform.domain, transform.inv(z)),
        (transform.inv.domain, transform(x)),
        (transform.inv.codomain, x),
    ):
        assert constraint.check(value).tolist() == [True] * 6
    assert not transform.domain.check(torch.full_like(x, torch.nan)).any()


@every_case
def test_dimensions_of_events_are_inferred_where_the_bijection_knows_them(name):
    bijection, shape = CASES[name].bijection(), CASES[name].shape
    latent = bijection.latent_shape(shape)
    assert bijection.event_dims in (None, len(shape))
    assert bijection.latent_dims in (None, len(latent))
    if len(shape) == 1 or bijection.event_dims is not None:
        transform = BijectionTransform(bijection)
        assert (transform.domain.event_dim, transform.codomain.event_dim) == (len(shape), len(latent))


@every_case
def test_shapes_are_those_of_values(float64, name):
    transform, x, z = some_transform(name)
    for batch in ((6,), (5, 6), (2, 1, 6), ()):
        shape, latent = torch.Size((*batch, *x.shape[1:])), torch.Size((*batch, *z.shape[1:]))
        value = x[:1].expand(*(batch or (1,)), *x.shape[1:])
        value = value if batch else value[0]
        out = transform(value)
        rows = (6,) if not batch and transform.context is not None else batch  # broadcast with the context's
        assert out.shape == transform.forward_shape(shape) == (*rows, *z.shape[1:])
        assert transform.log_abs_det_jacobian(value, out).shape == rows
        assert transform.inverse_shape(latent) == (*rows, *x.shape[1:])


@invertible_cases
def test_log_determinant_is_that_of_the_jacobian(float64, name):
    case = CASES[name]
    x, z, context = case.rows(1, 1)
    context = None if context is None else context[0]
    transform = BijectionTransform(case.bijection(), context, event_dim=len(case.shape), cache_size=0)
    way: Any
    for way, value in ((transform, x[0]), (transform.inv, z[0])):
        jacobian = torch.autograd.functional.jacobian(way, value).reshape(value.numel(), value.numel())
        same(way.log_abs_det_jacobian(value, way(value)), torch.linalg.slogdet(jacobian).logabsdet, 1e-6)


@every_case
def test_it_composes(float64, name):
    transform, x, _ = some_transform(name)
    if not transform.bijective:
        return
    latent_dims = transform.codomain.event_dim
    double: Any = td.IndependentTransform(td.AffineTransform(1.0, 2.0), latent_dims)
    chain: Any = td.ComposeTransform([transform, double])
    z = transform(x)
    y = chain(x)
    same(y, 2 * z + 1)
    numbers = z[0].numel()
    same(chain.log_abs_det_jacobian(x, y), transform.log_abs_det_jacobian(x, z) + numbers * torch.tensor(2.0).log())
    assert (chain.domain.event_dim, chain.codomain.event_dim) == (x.ndim - 1, latent_dims)


@pytest.mark.parametrize("batch", [None, (5,), (2, 4), (1, 4)])
def test_transformed_distribution_has_the_density_of_the_flow(float64, batch):
    flow, density, batch_shape = some_distribution(batch)
    base = td.MultivariateNormal(torch.zeros(*batch_shape, 3), torch.eye(3))
    theirs = td.TransformedDistribution(base, [flow.transform(density.context).inv])
    assert (theirs.batch_shape, theirs.event_shape) == (density.batch_shape, density.event_shape)
    x = theirs.rsample((3, 4))
    same(theirs.log_prob(x), density.log_prob(x))
    torch.manual_seed(1)
    drawn = theirs.sample()
    torch.manual_seed(1)
    same(drawn, density.sample())


def test_transformed_distribution_with_transforms_of_torch(float64):
    flow, density, _ = some_distribution(None)
    unit: Any = td.AffineTransform(torch.tensor([1.0, 0.0, -2.0]), torch.tensor([2.0, 0.1, 30.0]), event_dim=1)
    base = td.Independent(td.Normal(torch.zeros(3), 1.0), 1)
    theirs = td.TransformedDistribution(base, [flow.transform().inv, unit])
    x: Any = theirs.sample((20,))
    same(theirs.log_prob(x), density.log_prob((x - unit.loc) / unit.scale) - unit.scale.log().sum())


def test_transforms_that_change_shapes_make_distributions_of_images(float64):
    shape = torch.Size((1, 4, 4))
    for bijection, latent in ((b.Squeeze(), (4, 2, 2)), (b.MultiScale(shape, [b.Squeeze(), b.Squeeze()]), (16,))):
        base = td.Independent(td.Normal(torch.zeros(latent), 1.0), len(latent))
        density = td.TransformedDistribution(base, [BijectionTransform(bijection).inv])
        assert density.event_shape == shape
        x = density.sample(torch.Size((5,)))
        assert x is not None
        assert x.shape == (5, *shape)
        z, log_det = bijection(x)
        same(density.log_prob(x), base.log_prob(z) + log_det)


def test_the_context_of_a_transform_broadcasts(float64):
    layer = maf(2, context_features=1, layers=1, hidden=(8,)).bijection
    for parameter in layer.parameters():
        parameter.data.normal_()
    context = torch.randn(3, 1)
    transform = BijectionTransform(layer, context)
    x = torch.randn(2)
    same(transform(x), layer(x.expand(3, 2), context)[0])
    base = td.MultivariateNormal(torch.zeros(2), torch.eye(2))
    density = td.TransformedDistribution(base, [transform.inv])
    assert density.batch_shape == (3,)
    assert density.rsample(torch.Size((4,))).shape == (4, 3, 2)
    z = torch.randn(2)
    there: Any
    back: Any
    for there, back, value in ((transform, transform.inv, x), (transform.inv, transform, z)):  # kept or not: one shape
        same(back(there(value)), value.expand(3, 2), 1e-6)


# --- one evaluation ---------------------------------------------------------------------------------------------------


@invertible_cases
def test_a_value_and_its_log_determinant_cost_one_evaluation(float64, name):
    transform, x, z = some_transform(name)
    fresh = transform.with_cache(0)
    with counted(transform.bijection) as calls:
        y = transform(x)
        log_det = transform.log_abs_det_jacobian(x, y)
        assert calls == {"forward": 1, "inverse": 0}
        back: Any = transform.inv(z)
        log_det_back = transform.inv.log_abs_det_jacobian(z, back)
        assert transform.log_abs_det_jacobian(back, z) is not None
        assert transform(back) is z
        assert transform.inv(z) is back
        assert calls == {"forward": 1, "inverse": 1}
    same(log_det, fresh.log_abs_det_jacobian(x, y))
    same(log_det_back, -fresh.log_abs_det_jacobian(back, z), 1e-6)


def test_a_cache_of_size_zero_keeps_nothing(float64):
    cached, x, _ = some_transform("Coupling RQSpline")
    transform = cached.with_cache(0)
    assert transform is not cached
    assert transform == cached
    assert transform.with_cache(0) is transform
    assert cached.with_cache() is cached
    assert transform.inv.with_cache(1).inv.with_cache(1) is not transform
    with counted(transform.bijection) as calls:
        z = transform(x)
        transform.log_abs_det_jacobian(x, z)
        transform(x)
        assert transform.inv(z) is not x
    assert calls == {"forward": 3, "inverse": 1}
    with pytest.raises(ValueError, match="cache_size"):
        cached.with_cache(2)


def test_the_methods_that_torch_calls_abstract_evaluate_anew(float64):
    transform, x, z = some_transform("Coupling RQSpline")
    with counted(transform.bijection) as calls:
        for _ in range(2):
            same(transform._call(x), transform(x))
            same(transform._inverse(z), transform.inv(z))
    assert calls == {"forward": 2, "inverse": 2}


def test_composed_and_transformed_run_each_part_once(float64):
    transform, x, _ = some_transform("Autoregressive RQSpline")
    chain: Any = td.ComposeTransform([transform, td.TanhTransform(cache_size=1)], cache_size=1)
    base = td.Independent(td.Normal(torch.zeros(4), 1.0), 1)
    with counted(transform.bijection) as calls:
        chain.log_abs_det_jacobian(x, chain(x))
        assert calls == {"forward": 1, "inverse": 0}
    density = td.TransformedDistribution(base, [transform.inv])
    with counted(transform.bijection) as calls:
        density.log_prob(2 * x)
        assert calls == {"forward": 1, "inverse": 0}
        density.log_prob(density.rsample((6,)))
        assert calls == {"forward": 1, "inverse": 1}


def test_averages_of_batch_norm_move_once(float64):
    x = 5 + 3 * torch.randn(64, 2)
    one, other = b.BatchNorm(2).train(), b.BatchNorm(2).train()
    base = td.Independent(td.Normal(torch.zeros(2), 1.0), 1)
    z, log_det = other(x)
    same(td.TransformedDistribution(base, [BijectionTransform(one).inv]).log_prob(x), base.log_prob(z) + log_det)
    same((one.mean, one.variance), (other.mean, other.variance))


def test_nothing_outdated_is_used_again(float64):
    scaling = b.Scaling(2)
    transform, x = BijectionTransform(scaling), torch.ones(3, 2)
    same(transform(x), x)
    with torch.no_grad():
        scaling.log_scale.fill_(1.0)
    same(transform(x), x * torch.e)
    x += 1
    same(transform(x), 2 * torch.e * torch.ones(3, 2))
    norm, x = b.BatchNorm(2, statistics="batch").train(), torch.randn(9, 2)
    moving = BijectionTransform(norm)
    first = moving(x)
    norm.eval()
    assert not torch.equal(moving(x), first)


def test_gradients_do_not_run_through_a_graph_that_is_gone(float64):
    transform, x, _ = some_transform("Coupling Affine")
    x.requires_grad_()
    rows = [torch.autograd.grad(transform(x)[:, i].sum(), x)[0] for i in range(3)]
    same(torch.stack(rows).sum(0), torch.autograd.grad(transform(x).sum(), x)[0])
    z = transform(x)
    for _ in range(2):
        transform.log_abs_det_jacobian(x, z).sum().backward()
    with torch.no_grad():
        silent = transform(x)
        assert not transform.log_abs_det_jacobian(x, silent).requires_grad
    assert transform(x).requires_grad
    assert transform.log_abs_det_jacobian(x, silent).requires_grad


def test_a_loop_of_training_with_one_batch(float64):
    transform, x, _ = some_transform("Coupling Affine")
    base = td.Independent(td.Normal(torch.zeros(3), 1.0), 1)
    density = td.TransformedDistribution(base, [transform.inv])
    optimizer = torch.optim.SGD(transform.parameters(), lr=0.05)
    losses = []
    for _ in range(20):
        loss = -density.log_prob(x).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.1


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.stochastic])
def test_noise_is_drawn_anew_but_its_log_determinant_stays_with_it(float64, name):
    transform, x, _ = some_transform(name)
    assert not transform.bijective
    assert not transform.inv.bijective
    torch.manual_seed(3)
    first = transform(x)
    log_det = transform.log_abs_det_jacobian(x, first)
    assert not torch.equal(transform(x), first)
    torch.manual_seed(3)
    same((first, log_det), transform.bijection(x, transform.context))
    same(transform.inv(first), x, 1e-6)


# --- a module ---------------------------------------------------------------------------------------------------------


def test_parameters_are_found_saved_and_moved():
    bijection = vector(3, lambda _: Additive(), context=2)
    transform = BijectionTransform(bijection, torch.randn(5, 2))
    for way in (transform, transform.inv):
        assert isinstance(way, nn.Module)
        assert list(map(id, way.parameters())) == list(map(id, bijection.parameters()))
        other = copy.deepcopy(way)
        for parameter in other.parameters():
            parameter.data.zero_()
        other.load_state_dict(way.state_dict())
        for one, two in zip(way.parameters(), other.parameters(), strict=True):
            assert torch.equal(one, two)
        assert len(nn.ModuleList([way, nn.Linear(1, 1)]).state_dict()) == len(bijection.state_dict()) + 2
    assert transform.double()(torch.zeros(5, 3).double()).dtype == torch.float64
    assert transform.context is not None
    assert transform.context.dtype == torch.float64


def test_copies_are_whole(float64):
    transform, x, _ = some_transform("Coupling Affine conditional")
    z = transform(x)
    for other in (copy.deepcopy(transform), pickle.loads(pickle.dumps(transform))):
        same(other(x), z)
        same(other.inv(z.detach()), x)
        assert other.inv.inv is other
        assert other != transform
    for back in (copy.deepcopy(transform.inv), pickle.loads(pickle.dumps(transform.inv))):
        same(back(z.detach()), x)
        assert back.inv.inv is back
        assert transform.inv.inv.inv is transform.inv


def test_transforms_of_one_bijection_are_equal():
    one, other, context = b.Scaling(2), b.Scaling(2), torch.zeros(3, 1)
    assert BijectionTransform(one) == BijectionTransform(one)
    assert BijectionTransform(one).inv == BijectionTransform(one).inv
    assert len({BijectionTransform(one), BijectionTransform(one)}) == 1
    assert BijectionTransform(one, context) == BijectionTransform(one, context)
    assert BijectionTransform(one) != BijectionTransform(other)
    assert BijectionTransform(one) != BijectionTransform(one, context)
    assert BijectionTransform(one) != BijectionTransform(one).inv
    assert BijectionTransform(one) != "one"


def test_vmap_and_grad_of_torch_func(float64):
    transform, x, _ = some_transform("Coupling Affine")
    same(torch.func.vmap(transform)(x), transform(x))
    jacobian = torch.func.jacrev(transform)(x[0])
    same(torch.linalg.slogdet(jacobian).logabsdet, transform.log_abs_det_jacobian(x[0], transform(x[0])))


# --- what is refused --------------------------------------------------------------------------------------------------


def test_wrong_values_are_refused_in_one_line():
    flat: Any = BijectionTransform(b.Flatten((1, 2, 2)))
    array: Any = torch.zeros(2).numpy()
    refused: list[tuple[Any, str]] = [
        (lambda: BijectionTransform(b.Flatten((1, 2, 2)), event_dim=1), "event_dim=1: Flatten takes events of 3"),
        (lambda: BijectionTransform(b.Scaling(2), torch.tensor(1.0)), r"expected a context .* got one of shape \(\)"),
        (lambda: BijectionTransform(b.Scaling(2), array), "expected a context .* got ndarray"),
        (lambda: flat(torch.zeros(2, 2)), r"last 3 dimensions are one event, got one of shape \(2, 2\)"),
        (lambda: flat(torch.zeros(1, 2, 2).numpy()), "last 3 dimensions are one event, got ndarray"),
        (lambda: BijectionTransform(b.Scaling(2))(torch.zeros(4, 3)), r"expected shape \(batch, 2\), got \(4, 3\)"),
    ]
    for call, message in refused:
        with pytest.raises(ShapeError, match=message) as error:
            call()
        assert "\n" not in str(error.value)


# --- domains ----------------------------------------------------------------------------------------------------------


def test_a_domain_that_is_not_of_single_features_is_found_by_running(float64):
    transform = BijectionTransform(b.Chain(b.LULinear(2), b.Logit()))
    x = 2 * torch.randn(500, 2)
    inside = transform.domain.check(x)
    assert inside.tolist() == transform.bijection(x)[1].isfinite().tolist()
    assert 0 < inside.sum() < 500
    assert transform.domain.event_dim == 1
    landed = td.biject_to(transform.domain)(torch.randn(500, 2))
    assert transform.domain.check(landed).all()
    image = BijectionTransform(b.Inverse(b.Chain(b.LULinear(2), b.Logit())))
    assert image.codomain.check(x).tolist() == inside.tolist()


def test_autoregressive_layers_run_once_for_their_samples_density(float64):
    layer = ordered(3, soft)
    transform = BijectionTransform(b.Inverse(layer))
    base = td.Independent(td.Normal(torch.zeros(3), 1.0), 1)
    density = td.TransformedDistribution(base, [transform.inv])
    with counted(layer) as calls:
        density.log_prob(density.rsample((5,)))
    assert calls == {"forward": 1, "inverse": 0}
    assert isinstance(layer.net, nn.Module)
    assert not isinstance(layer.net, MLP)
