import json

import pytest
import torch
from torch import nn

import flowstone
from cases import disturb
from flowstone.bijections import Bijection, Chain, Scaling
from flowstone.errors import ShapeError
from flowstone.priors import StandardNormal


class Faulty(Bijection):
    """A scaling that is wrong in one way."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.fault = fault
        self.log_scale = nn.Parameter(torch.tensor([0.3, -0.2]))

    def forward(self, x, context=None):
        log_det = self.log_scale.sum() * (-1 if self.fault == "sign" else 1)
        return x * self.log_scale.exp(), log_det.expand(len(x))

    def inverse(self, z, context=None):
        shift = 1e-3 if self.fault == "shift" else 0.0
        log_det = self.log_scale.sum() * (1 if self.fault == "sign" else -1)
        return z * (-self.log_scale).exp() + shift, log_det.expand(len(z))


def deep(*extra: Bijection, place: int = 60) -> flowstone.Flow:
    """A flow of 96 couplings, its weights a little off the identity."""
    torch.manual_seed(0)
    flow = flowstone.realnvp(2, couplings=96, hidden=(16,))
    disturb(flow, 0.03)
    assert isinstance(flow.bijection, Chain)
    links = list(flow.bijection.links)
    return flowstone.Flow(Chain(*links[:place], *extra, *links[place:]), StandardNormal(2))  # pyright: ignore


def test_a_sound_flow_is_found_sound():
    x = torch.randn(300, 3) * 5 + 2
    flow = flowstone.spline(3, couplings=4, hidden=(16,))
    flowstone.fit(flow, x, steps=40, progress=False)
    diagnosis = flow.check(x)
    assert diagnosis.ok, diagnosis.findings
    assert "nothing wrong" in str(diagnosis)
    assert {report.place for report in diagnosis.layers} == {"data", "outside", "edge"}
    assert all(report.condition is not None and report.condition >= 1 for report in diagnosis.layers)
    assert json.loads(json.dumps(diagnosis.as_dict()))["ok"]


@pytest.mark.parametrize(
    ("fault", "sentence"), [("sign", "claims a log-det that is not its Jacobian's"), ("shift", "does not invert")]
)
def test_one_faulty_layer_among_96_is_named(fault, sentence):
    found = deep(Faulty(fault)).check(torch.randn(200, 2)).findings
    assert any(f"layer 61, Faulty, {sentence}" in finding for finding in found), found
    assert not any("layer 60," in finding or "layer 62," in finding for finding in found)


def test_96_sound_layers_are_sound_and_what_rounding_does_to_them_is_said():
    assert deep().check(torch.randn(200, 2)).ok
    # Scales of 1e-5 and 1e5 in turn: each layer inverts, but what one rounds away another makes large.
    stretch, shrink = Scaling(2), Scaling(2)
    stretch.log_scale.data = torch.tensor([12.0, -12.0])
    shrink.log_scale.data = torch.tensor([-12.0, 12.0])
    flow = deep(stretch, place=97)
    found = flow.check(torch.randn(200, 2)).findings
    assert any("nearly singular" in finding and "layer 98, Scaling" in finding for finding in found), found


def test_a_flow_that_float32_cannot_invert_is_told_from_a_wrong_one():
    torch.manual_seed(0)
    flow = flowstone.realnvp(2, couplings=96, hidden=(16,))
    disturb(flow, 0.3)
    found = flow.check(torch.randn(200, 2)).findings
    assert any("float32" in finding or "even in float64" in finding for finding in found), found
    assert not any("claims a log-det" in finding for finding in found), found


def test_a_scale_at_its_bound_is_told():
    flow = flowstone.realnvp(2, couplings=2, hidden=(8,))
    flow.bijection.links[1].net.output.bias.data[:] = 20.0  # pyright: ignore
    found = flow.check(torch.randn(100, 2)).findings
    assert any("runs at the bound of its scale" in finding for finding in found), found


def test_images_and_context_are_checked_too():
    image = flowstone.glow(event_shape=(1, 4, 4), scales=2, couplings=1, channels=4)
    assert image.check(torch.randint(256, (20, 1, 4, 4)).float()).ok
    conditional = flowstone.maf(3, context_features=2, layers=2, hidden=(8,))
    assert conditional.check(torch.randn(50, 3), torch.randn(50, 2)).ok
    with pytest.raises(ShapeError):
        conditional.check(torch.randn(50, 3))
