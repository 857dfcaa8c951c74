"""What a flow shows of itself: the values between its layers, its printed form, and how short its computation is."""

import itertools
import sys
from pathlib import Path

import pytest
import torch

import flowstone
from cases import CASES, disturb
from flowstone.bijections import Affine, Chain, Coupling, Standardize, walk
from flowstone.errors import ShapeError
from flowstone.nets import MLP
from flowstone.priors import StandardNormal

SOURCE = str(Path(flowstone.__file__).parent)
FLOWS = {
    "vectors": lambda: flowstone.spline(3, couplings=3, hidden=(8,)),
    "a context": lambda: flowstone.realnvp(3, couplings=3, hidden=(8,), context_features=2),
    "inverse layers": lambda: flowstone.iaf(3, layers=2, hidden=(8,)),
    "images": lambda: flowstone.glow(event_shape=(1, 4, 4), scales=2, couplings=1, channels=4),
    "scales": lambda: flowstone.realnvp_image((1, 4, 4), channels=4, blocks=1, couplings=1),
}


def links(bijection):
    """The layers of a chain, chains within it opened."""
    if type(bijection) is not Chain:
        return [bijection]
    return [layer for link in bijection.sublayers() for layer in links(link)]


@pytest.mark.parametrize("name", FLOWS)
def test_states_chain_up_and_their_log_dets_add_up(float64, name):
    flow = FLOWS[name]()
    disturb(flow, 0.2)
    flow.eval()
    images = len(flow.event_shape) > 1
    x = torch.randint(256, (6, *flow.event_shape)).double() if images else torch.randn(6, *flow.event_shape)
    context = torch.randn(6, flow.context_features) if flow.context_features else None
    flow.initialize(x, context)
    given = flow._standardized(context)
    z = torch.randn(6, *flow.prior.event_shape)
    layers = links(flow.bijection)
    for states, start, direct, order, direction in (
        (flow.states, x, flow.to_latent, layers, "forward"),
        (flow.inverse_states, z, flow.from_latent, layers[::-1], "inverse"),
    ):
        torch.manual_seed(0)
        results = states(start, context)
        torch.manual_seed(0)
        end, log_det = direct(start, context)
        assert results[0].layer is None
        assert torch.equal(results[0].value, start)
        assert not results[0].log_det.any()
        assert [state.layer for state in results[1:]] == order
        assert torch.equal(results[-1].value, end)
        torch.testing.assert_close(sum(state.log_det for state in results), log_det)
        for before, after in itertools.pairwise(results):
            assert after.layer is not None
            if not any(layer.stochastic for layer in walk(after.layer)):
                value, part = getattr(after.layer, direction)(before.value, given)
                assert torch.equal(value, after.value)
                assert torch.equal(part, after.log_det)


@pytest.mark.parametrize("name", CASES)
def test_states_of_a_bijection_end_where_it_does(float64, name):
    case = CASES[name]
    bijection, (x, z, context) = case.bijection(), case.rows(4, 0)
    for states, direct, start in (
        (bijection.states, bijection.forward, x),
        (bijection.inverse_states, bijection.inverse, z),
    ):
        torch.manual_seed(0)
        results = states(start, context)
        torch.manual_seed(0)
        end, log_det = direct(start, context)
        assert torch.equal(results[-1].value, end)
        torch.testing.assert_close(sum(state.log_det for state in results), log_det)


def test_states_ask_for_the_shape_of_the_flow():
    flow = flowstone.nice(2)
    for states in (flow.states, flow.inverse_states):
        with pytest.raises(ShapeError, match=r"expected shape \(batch, 2\), got \(4, 3\)"):
            states(torch.zeros(4, 3))


def test_walk_meets_layers_in_the_order_of_the_data():
    met = [type(layer).__name__ for layer in walk(CASES["MultiScale"].bijection())]
    board = ["Chain", "Squeeze", "Coupling", "Inverse", "Squeeze"]
    first = ["Chain", *board, "Squeeze", "Coupling", "Inverse", "Squeeze", "Squeeze"]
    assert met == ["MultiScale", *first, "Coupling"]
    assert [type(layer).__name__ for layer in walk(CASES["Partial"].bijection())] == ["Partial", "Coupling"]


@pytest.mark.parametrize(
    "make", [flowstone.nice, flowstone.realnvp, flowstone.spline, flowstone.glow, flowstone.maf, flowstone.iaf]
)
def test_a_default_flow_prints_in_few_lines(make):
    text = str(make(6))
    assert len(text.splitlines()) <= 30, text
    assert max(map(len, text.splitlines())) < 160, text
    for layer in links(make(6).bijection):
        assert type(layer).__name__ in text


def test_frames_between_x_and_its_log_prob_are_few():
    """A reader who follows ``log_prob`` through two layers opens few files and few functions."""
    kept, changed = Coupling.sizes(4)
    chain = Chain(Standardize(4), Coupling(4, Affine(changed), MLP(kept, 2 * changed)))
    flow, x = flowstone.Flow(chain, StandardNormal(4)), torch.randn(5, 4)
    flow.log_prob(x)
    frames: list[str] = []

    def profile(frame, event, _):
        if event == "call" and frame.f_code.co_filename.startswith(SOURCE):
            frames.append(frame.f_code.co_filename)

    sys.setprofile(profile)
    try:
        flow.log_prob(x)
    finally:
        sys.setprofile(None)
    changes = sum(a != b for a, b in itertools.pairwise(frames))
    assert len(frames) <= 30, frames
    assert changes <= 12, frames
