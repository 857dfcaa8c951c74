import inspect
import json

import pytest
import torch
from torch.func import jacrev, vmap

import flowstone
from flowstone.errors import SettingError, UnknownNameError
from flowstone.recipes import DEFAULT, RECIPES, build, recipe
from flowstone.recipes import __all__ as names
from flowstone.recipes.registry import RECIPES as REGISTRY

every_recipe = pytest.mark.parametrize("name", list(RECIPES))


def test_the_default_is_a_recipe():
    assert DEFAULT in RECIPES
    assert set(RECIPES) <= set(names)


@every_recipe
@pytest.mark.parametrize("features", [1, 2, 3, 11])
@pytest.mark.parametrize("context_features", [0, 2])
def test_a_flow_of_any_size_begins_as_the_identity(float64, name, features, context_features):
    flow = build(name, {"features": features, "context_features": context_features, "hidden": (8,)})
    x = torch.randn(10, features)
    context = torch.randn(10, context_features) if context_features else None
    z, log_det = flow.to_latent(x, context)
    torch.testing.assert_close(z, x, atol=1e-12, rtol=0)
    torch.testing.assert_close(log_det, torch.zeros(10), atol=1e-12, rtol=0)
    torch.testing.assert_close(flow.log_prob(x, context), flow.prior.log_prob(x), atol=1e-12, rtol=0)


@every_recipe
def test_shared_arguments_have_the_same_names(name):
    parameters = inspect.signature(RECIPES[name]).parameters
    assert list(parameters)[:2] == ["features", "context_features"]
    assert {"hidden", "prior"} <= set(parameters)
    assert ("couplings" in parameters) != ("layers" in parameters)  # layers where they are no couplings
    assert all(p.kind is p.KEYWORD_ONLY for p in list(parameters.values())[1:])


@every_recipe
def test_spec_is_plain_and_builds_the_same_flow(name):
    flow = build(name, {"features": 4, "hidden": (8, 8)})
    assert flow.spec is not None
    spec = json.loads(json.dumps(flow.spec))
    again = build(spec["recipe"], spec["arguments"])
    assert [p.shape for p in again.parameters()] == [p.shape for p in flow.parameters()]


@every_recipe
@pytest.mark.parametrize("seed", range(4))  # whatever the permutations
def test_every_feature_comes_to_depend_on_every_other(float64, name, seed):
    torch.manual_seed(seed)
    count = {key: 4 for key in ("couplings", "layers") if key in inspect.signature(RECIPES[name]).parameters}
    flow = build(name, {"features": 5, "hidden": (16,), **count})
    for parameter in flow.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    jacobian = vmap(jacrev(lambda v: flow.to_latent(v[None])[0][0]))(torch.randn(16, 5))
    assert (jacobian != 0).any(0).all()  # at one point alone a ReLU may be off


@pytest.mark.parametrize(
    "settings",
    [
        {"separate_nets": True},
        {"scale_bound": "soft"},
        {"leaky_relu": True},
        {"prior": "logistic"},
        {"couplings": 2, "hidden": (8, 8, 8, 8), "activation": "tanh"},
        {"shuffle": False},
    ],
)
def test_what_the_tutorials_vary_can_be_varied(settings):
    flow = flowstone.realnvp(3, **settings)
    x = torch.randn(6, 3)
    torch.testing.assert_close(flow.from_latent(flow.to_latent(x)[0])[0], x, atol=1e-5, rtol=0)


def test_separate_nets_are_two_nets():
    one, two = flowstone.realnvp(2, hidden=(8,)), flowstone.realnvp(2, hidden=(8,), separate_nets=True)
    assert sum(p.numel() for p in two.parameters()) > sum(p.numel() for p in one.parameters())


def test_wrong_names_and_values_are_named():
    with pytest.raises(UnknownNameError, match="did you mean 'spline'"):
        build("splin", {"features": 2})
    with pytest.raises(UnknownNameError, match="did you mean 'couplings'"):
        build("nice", {"features": 2, "coupling": 3})
    with pytest.raises(SettingError, match="couplings=0"):
        build("nice", {"features": 2, "couplings": 0})
    with pytest.raises(SettingError, match=r"hidden=\(-3,\)"):
        build("nice", {"features": 2, "hidden": -3})
    with pytest.raises(UnknownNameError, match="'logistic'"):
        flowstone.nice(2, prior="logistc")
    with pytest.raises(UnknownNameError, match="'relu'"):
        flowstone.nice(2, activation="rely")


def test_a_recipe_of_ones_own_is_known_by_name(tmp_path):
    @recipe
    def my_recipe(features: int, *, strength: int = 2) -> flowstone.Flow:
        return flowstone.nice(features, couplings=strength)

    try:
        flow = build("my_recipe", {"features": 3})
        assert flow.spec == {"recipe": "my_recipe", "arguments": {"features": 3, "strength": 2}}
        flowstone.save(flow, tmp_path)
        assert flowstone.load(tmp_path).spec == flow.spec
    finally:
        del REGISTRY["my_recipe"]
