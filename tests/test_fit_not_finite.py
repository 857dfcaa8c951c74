import math

import pytest
import torch
from torch import nn

import flowstone
from flowstone.bijections import ActNorm, Affine, Chain, Coupling
from flowstone.data import TOYS
from flowstone.errors import NonFiniteError
from flowstone.nets import MLP
from flowstone.priors import StandardNormal
from flowstone.train import step as stepping
from flowstone.train.weights import Weights
from training import QUICK, same, small, weights


class Poison(nn.Module):
    """A net that goes bad at its 25th step, or at every validation."""

    def __init__(self, net, *, when_training: bool = True):
        super().__init__()
        self.net, self.calls, self.when_training = net, 0, when_training

    def forward(self, x, context=None):
        self.calls += self.training
        bad = self.calls >= 25 if self.when_training else not self.training
        return self.net(x, context) * (float("nan") if bad else 1.0)


@pytest.mark.parametrize("read_every", [1, 7])  # as on an accelerator
def test_a_loss_that_is_not_finite_names_the_step_and_the_layer(read_every, monkeypatch):
    monkeypatch.setitem(stepping.READ_EVERY, "cpu", read_every)
    flow = small()
    flow.bijection.links[2].net = Poison(flow.bijection.links[2].net)  # pyright: ignore
    with pytest.raises(NonFiniteError) as caught:
        flowstone.fit(flow, TOYS["moons"], steps=100, **QUICK)
    message = str(caught.value)
    assert "step 24: the loss is nan" in message
    assert "first bad output: bijection.links.2.net, Poison" in message
    assert "of step 20" in message
    assert all(p.isfinite().all() for p in flow.parameters())
    assert caught.value.history.best.step == 20


def test_a_bad_step_that_is_seen_later_and_does_not_come_again(monkeypatch):
    monkeypatch.setitem(stepping.READ_EVERY, "cpu", 7)
    flow = small()
    before = flow.bijection.links[2].net  # pyright: ignore

    class Once(nn.Module):
        calls = 0

        def forward(self, x, context=None):
            Once.calls += self.training
            return before(x, context) * (math.nan if Once.calls == 3 and self.training else 1.0)

    flow.bijection.links[2].net = Once()  # pyright: ignore
    with pytest.raises(NonFiniteError, match=r"step 2: the loss is nan \(noticed 4 steps later, and not repeated"):
        flowstone.fit(flow, TOYS["moons"], steps=100, **QUICK)
    assert all(p.isfinite().all() for p in flow.parameters())


@pytest.mark.parametrize("read_every", [1, 7])
def test_a_gradient_that_is_not_finite_is_found_before_it_spoils_the_weights(read_every, monkeypatch):
    monkeypatch.setitem(stepping.READ_EVERY, "cpu", read_every)
    flow = small()
    bad = flow.bijection.links[2].net.output.bias  # pyright: ignore
    bad.register_hook(lambda gradient: gradient * float("inf"))
    before = weights(flow)
    with pytest.raises(NonFiniteError, match=r"step 0: the gradient is not finite .*bijection.links.2.net.output.bias"):
        flowstone.fit(flow, TOYS["moons"], steps=100, **QUICK)
    after = weights(flow)
    assert all(torch.equal(before[name], after[name]) for name, _ in flow.named_parameters())


def test_a_validation_that_is_not_finite_stops_the_training():
    flow = small()
    flow.bijection.links[2].net = Poison(flow.bijection.links[2].net, when_training=False)  # pyright: ignore
    with pytest.raises(NonFiniteError, match=r"step 0: the validation loss is nan .*Poison"):
        flowstone.fit(flow, TOYS["moons"], steps=100, **QUICK)


class Broken(nn.Module):
    """A net that is not finite from the start."""

    def forward(self, x, context=None):
        return torch.full((len(x), 2), math.nan) * self.by

    def __init__(self):
        super().__init__()
        self.by = nn.Parameter(torch.ones(2))


def test_an_initialisation_that_is_not_finite_is_refused_and_undone():
    flow = flowstone.Flow(Chain(ActNorm(2), Coupling(2, Affine(1), MLP(1, 2))), StandardNormal(2))
    before = weights(flow)
    original = ActNorm.initialize
    with pytest.MonkeyPatch.context() as patch:

        def initialize(self, x, context=None):
            original(self, x, context)
            with torch.no_grad():
                self.shift[1] = math.nan

        patch.setattr(ActNorm, "initialize", initialize)
        with pytest.raises(NonFiniteError, match=r"bijection\.links\.0\.shift is not finite after initialisation"):
            flowstone.fit(flow, torch.randn(60, 2), steps=5, progress=False)
    assert same(before, weights(flow))


def test_a_first_loss_that_is_not_finite_leaves_finite_weights():
    flow = flowstone.Flow(Chain(ActNorm(2), Coupling(2, Affine(1), Broken())), StandardNormal(2))
    with pytest.raises(NonFiniteError, match=r"step 0: the validation loss is nan .*Broken\); kept: the weights"):
        flowstone.fit(flow, torch.randn(60, 2), steps=5, progress=False)
    assert all(tensor.isfinite().all() for tensor in weights(flow).values())


def test_weights_that_are_not_finite_are_never_the_best(monkeypatch):
    """The loss may be finite though a weight is not: one that nothing reads."""
    flow = small()
    flow.bijection.register_parameter("spare", nn.Parameter(torch.zeros(3)))
    original = Weights.average

    def average(self, decay, step):
        original(self, decay, step)
        if step == 14:
            flow.get_parameter("bijection.spare").data.fill_(math.inf)
            for average in self.averages:
                average[-1] = math.inf

    monkeypatch.setattr(Weights, "average", average)
    with pytest.raises(NonFiniteError, match=r"step 20: .*kept: the best weights so far, of step 10"):
        flowstone.fit(flow, TOYS["moons"], steps=30, **QUICK)
    assert all(tensor.isfinite().all() for tensor in weights(flow).values())


@pytest.mark.parametrize("scale", [1e44, 1e-60])
@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("recipe", [flowstone.spline, flowstone.maf])
def test_units_beyond_float32_change_the_density_by_their_scale_alone(recipe, double, scale):
    x = torch.randn(300, 2, dtype=torch.float64).exp()
    figures = []
    for factor in (1.0, scale):
        torch.manual_seed(0)
        flow = recipe(2, hidden=(8,))
        flow = flow.double() if double else flow
        flowstone.fit(flow, factor * x, steps=10, progress=False)
        figures.append(flow.log_prob(factor * x).double().mean().item() + 2 * math.log(factor))
        assert flow.sample(5, seed=0).isfinite().all()
    assert figures[0] == pytest.approx(figures[1], abs=0.01)
