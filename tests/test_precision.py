"""Low precision is for conditioner nets alone: torch.autocast, and bf16_conditioners."""

from contextlib import contextmanager
from functools import partial

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import flowstone
from cases import CASES, disturb
from flowstone.bijections import (
    ActNorm,
    Chain,
    Conditioned,
    LULinear,
)
from flowstone.execution import fused_relu
from flowstone.nets import MLP
from flowstone.priors import PRIORS, ClassConditional, FromTorch, make_prior


class Operations(TorchDispatchMode):
    """The names of all operations that run."""

    def __enter__(self):
        self.names = []
        return super().__enter__()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def in_bf16(layers, x):
    """What the layers give in bfloat16, and whether ReLU was part of their products."""
    with torch.autocast("cpu", dtype=torch.bfloat16), Operations() as operations:
        result = fused_relu.fused_relu(layers, x)
    return result.detach(), any("_linear_pointwise" in name for name in operations.names)


needs_products = pytest.mark.skipif(
    not fused_relu._is_supported(), reason="this processor or torch has no products in bfloat16 with an activation"
)


@needs_products
def test_relu_is_part_of_the_product_in_bfloat16_where_no_gradient_is_asked_for():
    x, layers = torch.randn(300, 3), MLP(3, 5, hidden=(32, 16)).layers
    plain, fused = in_bf16(layers, x)
    assert not fused  # a gradient may be wanted
    with torch.no_grad():
        result, fused = in_bf16(layers, x)
        assert fused
        assert result.dtype == plain.dtype == torch.bfloat16
        torch.testing.assert_close(result, plain, atol=0.1, rtol=0.02)
        torch.testing.assert_close(result.float(), layers(x), atol=0.2, rtol=0.05)
        assert in_bf16(layers, x[:0])[0].shape == (0, 16)
        assert not in_bf16(MLP(3, 5, hidden=(8,), activation="gelu").layers, x)[1]


@needs_products
@torch.no_grad()
def test_relu_in_a_product_hides_no_nan():
    layers = MLP(2, 3, hidden=(8, 8)).layers
    result, fused = in_bf16(layers, torch.tensor([[1.0, torch.nan], [1.0, 1.0]]))
    assert fused
    assert result.isnan().all(1).tolist() == [True, False]
    dict(layers.named_parameters())["2.weight"][3] = -torch.nan
    assert in_bf16(layers, torch.ones(2, 2))[0].isnan().any()


@torch.no_grad()
def test_relu_comes_after_the_product_where_there_are_no_such_products(monkeypatch):
    monkeypatch.setattr(fused_relu, "_is_supported", lambda: False)
    assert not in_bf16(MLP(2, 3, hidden=(8, 8)).layers, torch.ones(2, 2))[1]


@torch.no_grad()
def test_relu_is_by_itself_where_a_layer_has_a_hook_or_other_weights():
    x, seen = torch.ones(2, 2), []
    layers = MLP(2, 3, hidden=(8, 8)).layers
    layers[1].register_forward_hook(lambda module, inputs, output: seen.append(output))
    assert not in_bf16(layers, x)[1]
    assert seen
    layers = MLP(2, 3, hidden=(8, 8)).layers
    torch.nn.utils.parametrizations.weight_norm(layers[2])
    assert not in_bf16(layers, x)[1]


# --- autocast ---------------------------------------------------------------------------------------------------------


def in_autocast(call):
    """The result with and without ``torch.autocast``, from the same random numbers."""
    results = []
    for enabled in (False, True):
        torch.manual_seed(3)
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            results.append(call())
    return results


def nets(bijection):
    return [layer.net for layer in bijection.modules() if isinstance(layer, Conditioned)]


@contextmanager
def hooked(bijection, hook):
    handles = [net.register_forward_hook(hook) for net in nets(bijection)]
    yield
    for handle in handles:
        handle.remove()


def keep(answers, module, inputs, output):
    answers.append(output.clone())


def replace(answers, module, inputs, output):
    return answers.pop(0)


@pytest.mark.parametrize("name", CASES)
def test_autocast_changes_what_nets_say_and_nothing_else(name):
    """In both directions; with the net's answers rounded to bfloat16 by hand it is the same to the last bit."""
    case = CASES[name]
    bijection = case.bijection()
    x, z, context = case.rows(8, 0, 1.0)
    for direction, value in ((bijection.forward, x), (bijection.inverse, z)):
        exact, lowered = in_autocast(lambda direction=direction, value=value: direction(value, context))
        if not nets(bijection):
            assert all(torch.equal(a, b) for a, b in zip(exact, lowered, strict=True))
            continue
        assert all(value.dtype == torch.float32 for value in (*exact, *lowered))
        answers: list[torch.Tensor] = []
        with hooked(bijection, partial(keep, answers)):
            torch.manual_seed(3)
            with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
                direction(value, context)
        assert all(answer.dtype == torch.bfloat16 for answer in answers)
        with hooked(bijection, partial(replace, answers)), torch.no_grad():
            torch.manual_seed(3)
            replayed = direction(value, context)
        assert all(torch.equal(a, b) for a, b in zip(replayed, lowered, strict=True))


THE_PRIORS = {name: partial(make_prior, name, 3) for name in PRIORS} | {
    "torch's": lambda: FromTorch(torch.distributions.MultivariateNormal(torch.ones(3), torch.eye(3) + 0.5)),
    "class": lambda: ClassConditional(3, classes=1),
}


@pytest.mark.parametrize("name", THE_PRIORS)
def test_autocast_leaves_priors_as_they_are(name):
    prior = THE_PRIORS[name]()
    z, label = 3 * torch.randn(50, 3), torch.zeros(50, 1)
    disturb(prior, 0.2)
    assert torch.equal(*in_autocast(lambda: prior.log_prob(z, label)))
    assert torch.equal(*in_autocast(lambda: prior.sample(50, label, generator=torch.Generator().manual_seed(0))))


def test_autocast_leaves_what_a_mixed_density_computes_with_its_net_s_parameters():
    columns = [{"name": "number", "rest": "real"}, {"name": "level", "atoms": [0, 1], "rest": None}]
    density = flowstone.recipes.mixed(2, columns=columns, width=16, blocks=1, bins=4)
    x = torch.stack((torch.randn(200), torch.randint(2, (200,))), 1).double()
    density.initialize(x)
    disturb(density, 0.1)
    for call in (density.eval().log_prob, density.train()):
        exact, lowered = in_autocast(lambda call=call: call(x))
        assert lowered.dtype == exact.dtype == torch.float32
        assert 0 < (exact - lowered).abs().max() < 0.05
    exact, lowered = in_autocast(lambda: density.eval().sample(50, seed=0)[:, 0])
    assert (exact - lowered).abs().max() < 0.1
    with torch.autocast("cpu", dtype=torch.bfloat16):
        density.train()(x).mean().backward()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["spline", "glow", "gaussian_mixture"])
def test_flows_in_half_precision_draw_samples(name, dtype):
    """Torch solves no triangular system in half precision."""
    torch.manual_seed(0)
    flow = flowstone.recipes.build(name, {"features": 3}).to(dtype)
    x = flow.sample(20, seed=0)
    assert x.dtype == dtype
    assert flow.log_prob(x).isfinite().all()


def test_autocast_leaves_the_gradients_of_the_flow_s_own_layers_as_they_are():
    gradients = []
    for enabled in (False, True):
        torch.manual_seed(0)
        flow = flowstone.Flow(Chain(LULinear(3), ActNorm(3)), make_prior("mixture", 3))
        disturb(flow, 0.3)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            loss = flow.log_prob(torch.randn(20, 3)).mean()
        loss.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in flow.parameters() if p.grad is not None]))
    assert torch.equal(*gradients)
