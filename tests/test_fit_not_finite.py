import math
import re
import warnings

import pytest
import torch
from torch import nn

import flowstone
from flowstone.bijections import ActNorm, Affine, Chain, Coupling
from flowstone.data import TOYS
from flowstone.errors import CheckpointError, NonFiniteError
from flowstone.files import tensors_to_bytes
from flowstone.nets import MLP
from flowstone.priors import StandardNormal
from flowstone.recipes import build
from flowstone.train import step as stepping
from flowstone.train.forensics import read_evidence
from flowstone.train.optimizer import Optimizer
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
        flowstone.fit(flow, TOYS["moons"], steps=100, recoveries=0, **QUICK)
    message = str(caught.value)
    assert "step 24: the loss is nan" in message
    assert "first bad output: bijection.links.2.net, Poison; rows 1, 2, 3, 4, 5 and 59 more of the batch" in message
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
        flowstone.fit(flow, TOYS["moons"], steps=100, recoveries=0, **QUICK)
    assert all(p.isfinite().all() for p in flow.parameters())


@pytest.mark.parametrize("read_every", [1, 7])
def test_a_gradient_that_is_not_finite_is_found_before_it_spoils_the_weights(read_every, monkeypatch):
    monkeypatch.setitem(stepping.READ_EVERY, "cpu", read_every)
    flow = small()
    bad = flow.bijection.links[2].net.output.bias  # pyright: ignore
    bad.register_hook(lambda gradient: gradient * float("inf"))
    before = weights(flow)
    with pytest.raises(NonFiniteError, match=r"step 0: the gradient is not finite .*bijection.links.2.net.output.bias"):
        flowstone.fit(flow, TOYS["moons"], steps=100, recoveries=0, **QUICK)
    after = weights(flow)
    assert all(torch.equal(before[name], after[name]) for name, _ in flow.named_parameters())


def test_a_validation_that_is_not_finite_stops_the_training():
    flow = small()
    flow.bijection.links[2].net = Poison(flow.bijection.links[2].net, when_training=False)  # pyright: ignore
    with pytest.raises(NonFiniteError, match=r"step 0: the validation loss is nan .*Poison"):
        flowstone.fit(flow, TOYS["moons"], steps=100, recoveries=0, **QUICK)


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
    with pytest.raises(
        NonFiniteError,
        match=r"step 0: the validation loss is nan .*Broken; rows 1, 2, .* of validation\); kept: the weights",
    ):
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
        flowstone.fit(flow, TOYS["moons"], steps=30, recoveries=0, **QUICK)
    assert all(tensor.isfinite().all() for tensor in weights(flow).values())


def make_fragile(net, monkeypatch):
    """Let a net in training not be finite for a row with a number above 2.5, until the optimizer is reset."""
    bad, reset = True, Optimizer.reset

    def mend(optimizer):
        nonlocal bad
        bad = False
        reset(optimizer)

    def spoil(net, inputs, out):
        return torch.where((inputs[0].abs() > 2.5).any(-1, keepdim=True) & (bad and net.training), torch.nan, out)

    monkeypatch.setattr(Optimizer, "reset", mend)
    net.register_forward_hook(spoil)


def with_an_outlier():
    x = torch.randn(64 * 5, 2, generator=torch.Generator().manual_seed(3)).clamp(-2, 2)
    x[100] = 30.0
    return x


def test_a_training_goes_back_to_its_best_weights_and_goes_on(tmp_path, monkeypatch):
    """It names the row, lowers its rate, and keeps what happened where it can be looked at."""
    flow, x = small(), with_an_outlier()
    make_fragile(flow.bijection.links[2].net, monkeypatch)  # pyright: ignore
    settings = QUICK | {"steps": 45, "schedule": "constant", "warmup": 0.0, "validation": x[:50]}
    with pytest.warns(UserWarning, match=r"the training goes on from the weights of step 0, with 0.3 of the learning"):
        history = flowstone.fit(flow, x, resume=tmp_path, **settings)
    assert history.stopped == "finished"
    assert all(tensor.isfinite().all() for tensor in weights(flow).values())
    assert history.column("recoveries") == [0, 1, 1, 1, 1, 1]  # the last validation is no multiple of ten steps
    assert history.records[-1].learning_rate == pytest.approx(history.records[0].learning_rate * 0.3)
    said = re.match(
        r"step (\d+): the loss is nan \(first bad output: bijection.links.2.net, .*; rows 101\)", history.recoveries[0]
    )
    assert said is not None
    evidence = read_evidence(tmp_path / "not-finite" / f"step-{said[1]}.safetensors")
    assert evidence.message in history.recoveries[0]
    assert (evidence.rows.x == x[100]).all(-1).sum() == 1
    assert evidence.density.log_prob(evidence.rows.x).shape == (64,)


def test_what_recovered_is_resumed_bit_for_bit(tmp_path, monkeypatch):
    monkeypatch.setattr("flowstone.train.loop.SAVE_EVERY", 0.0)
    x = with_an_outlier()
    settings = QUICK | {"validation": x[:50], "schedule": "constant", "lr": 1.0, "warmup": 0.0}
    whole, parts = small(), small()
    with warnings.catch_warnings(action="ignore"):
        uninterrupted = flowstone.fit(whole, x, steps=60, **settings)
        flowstone.fit(parts, x, steps=40, resume=tmp_path, **settings)
        history = flowstone.fit(parts, x, steps=60, resume=tmp_path, **settings)
    assert uninterrupted.column("recoveries") == history.column("recoveries") == [0, 0, 1, 1, 1, 1, 1]
    assert uninterrupted.best.step > 40
    assert same(weights(whole), weights(parts))


def test_a_validation_far_above_its_start_is_a_reason_to_go_back():
    flow = flowstone.spline(2)
    with pytest.warns(UserWarning, match=r"nats, far above .* at the start; the training goes on"):
        history = flowstone.fit(flow, TOYS["moons"], steps=200, lr=1.0, validate_every=20, progress=False)
    assert history.best.val_nll < 2.0


def test_recoveries_are_bounded():
    flow = small()
    flow.bijection.links[2].net = Poison(flow.bijection.links[2].net)  # pyright: ignore
    with (
        warnings.catch_warnings(record=True, action="always") as said,
        pytest.raises(NonFiniteError, match="kept: the best") as caught,
    ):
        flowstone.fit(flow, TOYS["moons"], steps=100, recoveries=3, **QUICK)
    assert len(caught.value.history.recoveries) == len(said) == 3


def test_a_validation_that_failed_is_kept_with_the_averaged_weights(tmp_path, monkeypatch):
    """The weights that steps change are sound here: with them nothing would happen again."""
    original = Weights.average

    def average(self, decay, step):
        original(self, decay, step)
        if step == 14:
            self.averages[0].fill_(1e30)

    monkeypatch.setattr(Weights, "average", average)
    with pytest.warns(UserWarning, match="step 20: the validation loss is"):
        history = flowstone.fit(small(), TOYS["moons"], steps=30, resume=tmp_path, **QUICK)
    assert history.stopped == "finished"
    evidence = read_evidence(tmp_path / "not-finite" / "step-20.safetensors")
    assert not evidence.density.eval().log_prob(evidence.rows.x).isfinite().any()


def test_evidence_that_is_none_is_refused(tmp_path):
    (tmp_path / "step-1.safetensors").write_bytes(tensors_to_bytes({"x": torch.zeros(1)}, {"about": "{}"}))
    with pytest.raises(CheckpointError, match="not what a training keeps of a failure"):
        read_evidence(tmp_path / "step-1.safetensors")


def near_singular():
    x = torch.randn(500, 3, generator=torch.Generator().manual_seed(0))
    return torch.cat((x, x[:, :1] + 1e-7 * x[:, 1:2]), 1)


def with_one_value_at(value):
    x = TOYS["moons"](500, torch.Generator().manual_seed(0))
    x[7, 0] = value
    return x


@pytest.mark.filterwarnings("ignore:.*the training goes on", "ignore:validation has not moved")
@pytest.mark.parametrize(
    ("recipe", "x", "arguments", "settings"),
    [
        (
            "spline",
            torch.randn(500, 19, generator=torch.Generator().manual_seed(0)),
            {"couplings": 32, "hidden": 8},
            {},
        ),
        ("realnvp", torch.randn(500, 19, generator=torch.Generator().manual_seed(0)), {"couplings": 32}, {}),
        ("realnvp", near_singular(), {}, {}),
        ("spline", near_singular(), {}, {}),
        ("maf", near_singular(), {}, {}),
        ("spline", with_one_value_at(0.0), {}, {"batch_size": 1}),
        ("spline", with_one_value_at(1e9), {}, {}),
        ("realnvp", with_one_value_at(1e9), {}, {}),
        ("realnvp", with_one_value_at(0.0), {}, {"lr": 1.0}),
        ("nice", with_one_value_at(0.0), {}, {"lr": 1.0}),
    ],
)
def test_hard_cases_train_through(recipe, x, arguments, settings):
    flow = build(recipe, {"features": x.shape[1], "hidden": 16, **arguments})
    history = flowstone.fit(flow, x, steps=40, progress=False, **settings)
    assert history.stopped == "finished"
    assert history.best.val_nll < history.records[0].val_nll + 1e-3
    assert flow.log_prob(x).isfinite().all()
    assert flow.sample(100, seed=0).isfinite().all()


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
