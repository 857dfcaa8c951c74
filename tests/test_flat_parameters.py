import pytest
import torch
from torch import nn

import flowstone
from flowstone.bijections import Affine, Chain, Coupling
from flowstone.data import TOYS
from flowstone.nets import MLP
from flowstone.priors import StandardNormal
from training import QUICK, small


def test_gradients_stay_where_they_are_in_memory():
    """Made anew in every step between larger arrays they would break it up, which then grows with a flow's depth."""
    places = []

    def watch(flow, history):
        places.append([p.grad.data_ptr() for p in flow.parameters()])

    flowstone.fit(small(), TOYS["moons"], steps=5, batch_size=64, validate_every=1, watch=watch, progress=False)
    assert len(places) == 6
    assert all(place == places[0] for place in places)


def test_after_training_each_parameter_has_memory_of_its_own():
    flow = small()
    flowstone.fit(flow, TOYS["moons"], steps=5, **QUICK)
    for parameter in flow.parameters():
        assert parameter.grad is None
        assert parameter.untyped_storage().nbytes() == parameter.nbytes


def test_a_net_may_put_its_own_values_elsewhere():
    class Bounded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.by = nn.Parameter(torch.zeros(1, 2))

        def forward(self, x, context=None):
            self.by.data = self.by.data.clamp(-0.02, 0.01)
            return self.by.expand(len(x), 2)

    net = Bounded()
    flow = flowstone.Flow(Chain(Coupling(2, Affine(1), net)), StandardNormal(2))
    far = torch.randn(500, 2) + torch.tensor([0.0, 3.0])  # to be drawn in and shifted down, further than is allowed
    flowstone.fit(flow, far, steps=60, lr=1e-3, ema=0.0, schedule="constant", patience=None, **QUICK)
    assert net.by.flatten().tolist() == pytest.approx([-0.02, -0.02], abs=0.002)  # and no more than the last step's


def test_parameters_of_two_precisions_are_trained():
    class Shift(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.by = nn.Parameter(torch.zeros(1, 2, dtype=torch.float64))

        def forward(self, x, context=None):
            return self.by.float().expand(len(x), 2)

    wide, usual = Shift(), MLP(1, 2)
    flow = flowstone.Flow(Chain(Coupling(2, Affine(1), wide), Coupling(2, Affine(1), usual)), StandardNormal(2))
    flowstone.fit(flow, TOYS["moons"], steps=20, **QUICK)
    assert wide.by.dtype == torch.float64
    assert wide.by.any()
    assert usual.output.bias.any()
