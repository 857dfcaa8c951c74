import math

import pytest
import torch
from torch import nn

import flowstone
from flowstone.data import TOYS
from flowstone.errors import NonFiniteError
from flowstone.train import step as stepping
from training import QUICK, small, weights


class Poison(nn.Module):
    """A net that goes bad at its 25th step, or at every validation."""

    def __init__(self, net, *, when_training: bool = True):
        super().__init__()
        self.net, self.calls, self.when_training = net, 0, when_training

    def forward(self, x, context=None):
        self.calls += self.training
        bad = self.calls >= 25 if self.when_training else not self.training
        return self.net(x, context) * (float("nan") if bad else 1.0)


@pytest.mark.parametrize("look_every", [1, 7])  # as on an accelerator
def test_a_loss_that_is_not_finite_names_the_step_and_the_layer(look_every, monkeypatch):
    monkeypatch.setitem(stepping.READ_EVERY, "cpu", look_every)
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
    with pytest.raises(
        NonFiniteError, match=r"step 2: the loss is nan \(seen 4 steps later, when it did not come again"
    ):
        flowstone.fit(flow, TOYS["moons"], steps=100, **QUICK)
    assert all(p.isfinite().all() for p in flow.parameters())


@pytest.mark.parametrize("look_every", [1, 7])
def test_a_gradient_that_is_not_finite_is_found_before_it_spoils_the_weights(look_every, monkeypatch):
    monkeypatch.setitem(stepping.READ_EVERY, "cpu", look_every)
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
