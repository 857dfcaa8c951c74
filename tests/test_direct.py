"""Gradients that are computed directly are those of autograd, and where something is unknown autograd computes them."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

import flowstone
from flowstone.bijections import Affine, Chain, Coupling, Inverse, LeakyReLU, RQSpline
from flowstone.data import TOYS
from flowstone.execution import DirectGradient, UnknownLayerError
from flowstone.kernels import kernels
from flowstone.nets import MLP, ResNet
from flowstone.priors import StandardNormal, StudentT
from flowstone.train.store import load_state
from mutation.direct import by_autograd, directly, made, require_close, require_direct, rows
from training import QUICK, same, small, weights

RECIPES: dict[str, list[dict[str, Any]]] = {
    "nice": [{}, {"prior": "normal"}],
    "realnvp": [
        {},
        {"scale": "soft"},
        {"shift_first": True},
        {"separate_nets": True},
        {"shuffle": False},
        {"prior": "logistic"},
    ],
    "spline": [{}, {"residual": True}, {"mixing": "permutation"}, {"whiten": None, "log_tails": False}],
}
CONSTANT: dict[str, Any] = QUICK | {"schedule": "constant"}
CHOICES = [(name, options) for name, several in RECIPES.items() for options in several]


@given(
    st.sampled_from(CHOICES),
    st.sampled_from(["relu", "tanh", "silu", "gelu"]),
    st.integers(1, 5),
    st.sampled_from([0, 2]),
    st.integers(1, 7),
    st.sampled_from([0.0, 0.1]),
    st.integers(0, 1000),
)
def test_the_gradient_is_that_of_autograd(float64, choice, activation, features, context, count, spread, seed):
    name, options = choice
    flow = made(name, options | {"activation": activation}, features, context, spread=spread)
    torch.manual_seed(seed)
    require_direct(flow, count)


@pytest.mark.parametrize(("choice", "enabled"), [*((one, True) for one in CHOICES), (("spline", {}), False)], ids=str)
def test_the_gradient_in_float32(choice, enabled):
    name, options = choice
    flow = made(name, options, 5, 2, spread=0.05)
    x, context = rows(flow, 40)
    with kernels(enabled):
        found = directly(flow, x, context)
    assert found[0].dtype == torch.float32
    loss, gradient = by_autograd(flow.double(), x.double(), None if context is None else context.double())
    require_close(found, (loss.float(), gradient.float()), 1e-5)


@pytest.mark.parametrize(
    ("dtype", "enabled", "error"),
    [(torch.float64, False, 1e-12), (torch.float32, False, 1e-5), (torch.float32, True, 1e-5)],
    ids=str,
)
def test_rows_at_the_borders_of_splines(dtype, enabled, error):
    """At the bound itself, beyond it, and at the knots, where the slope is continuous and its derivative is not."""
    torch.manual_seed(0)
    spline = RQSpline(bins=4, bound=2.0)
    flow = flowstone.Flow(
        Chain(*(Coupling(2, spline, MLP(1, 11, hidden=(8,)), swap=swap) for swap in (False, True))), StandardNormal(2)
    )
    edges = torch.tensor([-9.0, -2.0, -1.0, 0.0, 1.0, 2.0, 9.0])
    x = torch.cartesian_prod(edges, edges)
    for start in (True, False):
        if not start:
            flowstone.fit(flow, 2 * torch.randn(300, 2), steps=30, **QUICK)
        flow, x = flow.to(dtype), x.to(dtype)
        with kernels(enabled):
            require_close(directly(flow, x), by_autograd(flow, x), error)


def test_trained_weights(float64):
    flow = flowstone.spline(3, couplings=3, hidden=(8, 8)).double()
    x = torch.randn(400, 3).exp()
    flowstone.fit(flow, x, steps=40, **QUICK)
    require_close(directly(flow, x[:50]), by_autograd(flow, x[:50]), 1e-12)


def test_images_as_vectors(float64):
    torch.manual_seed(0)
    flow = flowstone.nice_image((1, 4, 4), hidden=(8,), couplings=2).double()
    x = torch.randint(256, (6, 1, 4, 4)).to(torch.uint8)
    flow.initialize(x)
    torch.manual_seed(1)
    found = directly(flow, x)
    torch.manual_seed(1)  # the same noise fills the steps between levels
    require_close(found, by_autograd(flow, x), 1e-12)


# --- what is not known ------------------------------------------------------------------------------------------------


class OtherCoupling(Coupling):
    """A subclass may compute anything."""


def changed(change: Callable[[Any], object]) -> Callable[[], Any]:
    """A small flow after a change of it or of its last coupling."""

    def make() -> flowstone.Flow:
        torch.manual_seed(1)
        flow = flowstone.spline(3, couplings=3, hidden=(8, 8))
        change(flow)
        return flow

    return make


def last(flow: Any) -> Any:
    return [link for link in flow.bijection.links if isinstance(link, Coupling)][-1]


def of_links(*links: Any, prior: Any = None) -> Callable[[], Any]:
    return lambda: flowstone.Flow(Chain(*(link() for link in links)), prior or StandardNormal(2))


def coupling(net: Any = None, kind: type[Coupling] = Coupling, transform: Any = None) -> Callable[[], Coupling]:
    return lambda: kind(2, transform or Affine(1), net or MLP(1, 2, hidden=(8,)))


def replace_forward(flow: Any) -> None:
    net = last(flow).net
    net.forward = lambda *inputs: ResNet.forward(net, *inputs)


def share(flow: Any) -> None:
    last(flow).net.blocks[1] = last(flow).net.blocks[0]


class OtherMLP(MLP):
    """A subclass."""


UNKNOWN: dict[str, Callable[[], Any]] = {
    "a hook": changed(lambda flow: last(flow).net.output.register_forward_hook(lambda *_: None)),
    "a hook before": changed(lambda flow: flow.register_forward_pre_hook(lambda *_: None)),
    "a hook on gradients": changed(lambda flow: last(flow).register_full_backward_hook(lambda *_: None)),
    "a hook of a parameter": changed(lambda flow: last(flow).net.output.bias.register_hook(lambda g: g)),
    "a forward of its own": changed(replace_forward),
    "a method of its own": changed(lambda flow: setattr(flow, "log_prob", flow.log_prob)),
    "conditioner parameters of its own": changed(
        lambda flow: setattr(last(flow), "conditioner_parameters", last(flow).conditioner_parameters)
    ),
    "an activation that overwrites what its gradient needs": changed(
        lambda flow: setattr(last(flow).net.blocks[0], "2", nn.SiLU(inplace=True))
    ),
    "a hook after gradients": changed(
        lambda flow: last(flow).net.output.bias.register_post_accumulate_grad_hook(lambda _: None)
    ),
    "an activation with settings": changed(
        lambda flow: setattr(last(flow).net.blocks[0], "0", nn.GELU(approximate="tanh"))
    ),
    "a parameter held fixed": changed(lambda flow: last(flow).net.output.bias.requires_grad_(False)),
    "parameters that are shared": changed(share),
    "a parametrization": changed(lambda flow: weight_norm(last(flow).net.output)),
    "dropout": changed(lambda flow: setattr(last(flow).net.blocks[0][3], "p", 0.1)),
    "parameters of two precisions": changed(lambda flow: last(flow).double()),
    "a subclass of a coupling": of_links(coupling(kind=OtherCoupling)),
    "a subclass of a net": of_links(coupling(OtherMLP(1, 2, hidden=(8,)))),
    "another net": of_links(coupling(nn.Bilinear(1, 1, 2))),
    "a net without hidden layers": of_links(coupling(MLP(1, 2, hidden=()))),
    "a net without biases": changed(lambda flow: setattr(last(flow).net, "input", nn.Linear(2, 8, bias=False))),
    "a net with too few outputs": of_links(coupling(MLP(1, 1, hidden=(8,)))),
    "a block that was changed": changed(lambda flow: setattr(last(flow).net.blocks[0], "4", nn.Tanh())),
    "another bijection": of_links(coupling(), LeakyReLU),
    "an inverted coupling": of_links(lambda: Inverse(coupling()())),
    "another prior": of_links(coupling(), prior=StudentT(2)),
    "another density": lambda: flowstone.recipes.embedded(2, context_features=3),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_it_steps_aside_where_something_is_unknown(name):
    with pytest.raises(UnknownLayerError):
        DirectGradient(UNKNOWN[name]())


@pytest.mark.parametrize("kind", [ResNet, Affine, Coupling, nn.Linear, nn.ReLU])
def test_it_steps_aside_where_the_forward_of_a_class_was_replaced(monkeypatch, kind):
    make = flowstone.spline if kind is ResNet else flowstone.realnvp
    flow = make(3, couplings=2, hidden=(8, 8))
    DirectGradient(flow)
    forward = kind.forward

    def replaced(self, *given):
        return forward(self, *given)

    monkeypatch.setattr(kind, "forward", replaced)
    with pytest.raises(UnknownLayerError, match=f"the forward of {kind.__name__} was replaced"):
        DirectGradient(flow)


@pytest.mark.parametrize(
    "change",
    [
        lambda flow: setattr(last(flow).net.blocks[0][3], "p", 0.1),
        lambda flow: setattr(flow, "log_prob", flow.log_prob),
        lambda flow: setattr(last(flow), "conditioner_parameters", last(flow).conditioner_parameters),
        lambda flow: last(flow).net.blocks[0].register_module("2", nn.Softplus()),
    ],
    ids=["dropout", "log_prob", "conditioner_parameters", "another activation"],
)
def test_it_does_not_apply_after_a_change(change):
    flow = flowstone.spline(3, couplings=3, hidden=(8, 8))
    gradient = DirectGradient(flow)
    assert gradient.applies()
    vars(flow)["note"] = "an attribute that computes nothing"
    assert gradient.applies()
    change(flow)
    assert not gradient.applies()


def counted(monkeypatch) -> list[int]:
    """The list grows by one with each direct gradient."""
    calls: list[int] = []
    original = DirectGradient.__call__

    def call(self, *args, **more):
        calls.append(1)
        return original(self, *args, **more)

    monkeypatch.setattr(DirectGradient, "__call__", call)
    return calls


@pytest.mark.parametrize(
    ("more", "direct"),
    [
        ({}, 5),
        ({"direct": False}, 0),
        ({"precision": "bf16"}, 0),
        ({"memory": "recompute"}, 0),
        ({"dropout": 0.2}, 0),
    ],
)
def test_fit_takes_it_where_it_may(monkeypatch, more, direct):
    calls = counted(monkeypatch)
    flow = flowstone.spline(3, couplings=2, hidden=(8, 8))
    history = flowstone.fit(flow, torch.randn(3000, 3), steps=5, **QUICK, **more)
    assert len(calls) == direct
    assert history.direct == (direct > 0)


def test_fit_steps_aside_while_something_watches(monkeypatch, tmp_path):
    """A hook that comes while a training runs sees every module from then on; autocast lowers precision as asked."""
    calls, seen = counted(monkeypatch), []

    def watch(flow, history):
        if history.records[-1].step == 10:
            flow.bijection.links[-1].register_forward_hook(lambda *_: seen.append(1))

    with pytest.warns(UserWarning, match="from step 10 on gradients are those of autograd"):
        history = flowstone.fit(small(), TOYS["moons"], steps=20, watch=watch, resume=tmp_path, **QUICK)
    assert len(calls) == 10
    assert len(seen) >= 10
    assert history.direct is False
    state = load_state(tmp_path)
    assert state is not None
    assert state.direct is False


def test_a_training_that_stepped_aside_stays_so(monkeypatch):
    calls, hooks = counted(monkeypatch), []

    def watch(flow, history):
        if history.records[-1].step == 10:
            hooks.append(flow.register_forward_hook(lambda *_: None))
        elif hooks:
            hooks.pop().remove()

    with pytest.warns(UserWarning, match="from step 10 on"):
        flowstone.fit(small(), TOYS["moons"], steps=40, watch=watch, **QUICK)
    assert len(calls) == 10


def test_it_does_not_apply_under_autocast_or_a_search_for_anomalies():
    gradient = DirectGradient(small())
    assert gradient.applies()
    for context in (torch.autocast("cpu", dtype=torch.bfloat16), torch.autograd.set_detect_anomaly(True)):
        with context:
            assert not gradient.applies()
    assert gradient.applies()


# --- whole trainings --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("choice", "steps"), [(("realnvp", {}), 200), (("spline", {"bins": 3}), 50)], ids=str)
def test_a_training_is_the_same_either_way(float64, choice, steps):
    curves, x = [], torch.randn(600, 3).exp()
    name, options = choice
    for direct in (True, False):
        flow = made(name, options, 3, 0, spread=0.0)
        # At a high rate splines amplify any rounding: 1e-15 in one weight becomes 1e-3 in 200 steps of 5e-3.
        history = flowstone.fit(flow, x, steps=steps, lr=1e-3, direct=direct, dropout=0.0, **QUICK)
        curves.append([history.column(name) for name in ("train_nll", "val_nll", "grad_norm")])
    torch.testing.assert_close(torch.tensor(curves[0]), torch.tensor(curves[1]), rtol=1e-9, atol=1e-9)


def test_a_training_repeats_bit_for_bit():
    outcomes = []
    for _ in range(2):
        flow = small()
        flowstone.fit(flow, TOYS["moons"], steps=20, **QUICK)
        outcomes.append(weights(flow))
    assert same(*outcomes)


@pytest.mark.parametrize("before", [True, False])
def test_a_resumed_training_keeps_to_its_way(monkeypatch, tmp_path, before):
    uninterrupted, parts = small(), small()
    flowstone.fit(uninterrupted, TOYS["moons"], steps=20, direct=before, **CONSTANT)
    calls = counted(monkeypatch)
    flowstone.fit(parts, TOYS["moons"], steps=10, direct=before, resume=tmp_path, **CONSTANT)
    state = load_state(tmp_path)
    assert state is not None
    assert state.direct is before
    flowstone.fit(parts, TOYS["moons"], steps=20, direct=not before, resume=tmp_path, **CONSTANT)
    assert len(calls) == (20 if before else 0)
    assert same(weights(uninterrupted), weights(parts))


def test_a_resumed_training_says_where_it_cannot_keep_to_its_way(tmp_path):
    flowstone.fit(small(), TOYS["moons"], steps=10, resume=tmp_path, **QUICK)
    flow = small()
    flow.register_forward_hook(lambda *_: None)
    with pytest.warns(UserWarning, match="goes on with those of autograd"):
        flowstone.fit(flow, TOYS["moons"], steps=20, resume=tmp_path, **QUICK)
