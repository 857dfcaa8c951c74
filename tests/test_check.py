"""``check``: a flow judged layer by layer, sound ones and faulty ones."""

import json

import pytest
import torch
from torch import nn

import flowstone
from cases import disturb, reset_outputs
from flowstone.bijections import (
    Bijection,
    Chain,
    Coupling,
    Dequantize,
    Inverse,
    LULinear,
    MultiScale,
    Positive,
    RQSpline,
    Squeeze,
)
from flowstone.errors import ShapeError
from flowstone.evaluation import check
from flowstone.execution import bf16_conditioners
from flowstone.nets import MLP
from flowstone.priors import StandardNormal, Uniform


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


class Unsquared(Faulty):
    """The same fault in a scaling of any number of channels by one factor."""

    def forward(self, x, context=None):
        log_det = self.log_scale[0] * x[0].numel() * (-1 if self.fault == "sign" else 1)
        return x * self.log_scale[0].exp(), log_det.expand(len(x))

    def inverse(self, z, context=None):
        log_det = self.log_scale[0] * z[0].numel() * (1 if self.fault == "sign" else -1)
        return z * (-self.log_scale[0]).exp(), log_det.expand(len(z))


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
    diagnosis = check(flow, x)
    assert diagnosis.ok, diagnosis.findings
    assert "nothing wrong" in str(diagnosis)
    assert {report.place for report in diagnosis.layers} == {"data", "outside", "edge"}
    assert all(report.condition is not None and report.condition >= 1 for report in diagnosis.layers)
    assert json.loads(json.dumps(diagnosis.as_dict()))["ok"]


@pytest.mark.parametrize(
    ("fault", "sentence"), [("sign", "claims a log-det that is not its Jacobian's"), ("shift", "does not invert")]
)
def test_one_faulty_layer_among_96_is_named(fault, sentence):
    findings = check(deep(Faulty(fault)), torch.randn(200, 2)).findings
    assert any(f"layer 61, Faulty, {sentence}" in finding for finding in findings), findings
    assert not any("layer 60," in finding or "layer 62," in finding for finding in findings)


def test_96_sound_layers_are_sound_and_what_rounding_does_to_them_is_said():
    assert check(deep(), torch.randn(200, 2)).ok
    # Two features that differ by a ten-millionth of themselves.
    narrow = LULinear(2)
    narrow.triangles.above.data[0, 1] = narrow.triangles.below.data[1, 0] = 1.0
    narrow.triangles.log_diagonal.data[1] = -16.0
    findings = check(deep(narrow, place=97), torch.randn(200, 2)).findings
    assert any("nearly singular" in finding and "layer 98, LULinear" in finding for finding in findings), findings


def test_a_flow_that_float32_cannot_invert_is_told_from_a_wrong_one():
    torch.manual_seed(0)
    flow = flowstone.realnvp(2, couplings=96, hidden=(16,))
    disturb(flow, 0.3)
    findings = check(flow, torch.randn(200, 2)).findings
    assert any("float32" in finding or "even in float64" in finding for finding in findings), findings
    assert not any("claims a log-det" in finding for finding in findings), findings


def test_a_scale_at_its_bound_is_told():
    for bound, reported in (("soft", True), ("tanh", False)):  # the factor of a tanh is learned: that is no bound
        flow = flowstone.realnvp(2, couplings=2, hidden=(8,), scale=bound)
        flow.bijection.links[1].net.output.bias.data[:] = 20.0  # pyright: ignore
        findings = check(flow, torch.randn(100, 2)).findings
        assert any("runs at the bound of its scale" in finding for finding in findings) == reported, findings


def test_images_and_context_are_checked_too():
    image = flowstone.glow(event_shape=(1, 4, 4), scales=2, couplings=1, channels=4)
    assert check(image, torch.randint(256, (20, 1, 4, 4)).float()).ok
    conditional = flowstone.maf(3, context_features=2, layers=2, hidden=(8,))
    assert check(conditional, torch.randn(50, 3), torch.randn(50, 2)).ok
    with pytest.raises(ShapeError):
        check(conditional, torch.randn(50, 3))


def sound(flow: flowstone.Flow, x: torch.Tensor) -> None:
    diagnosis = check(flow, x)
    assert diagnosis.ok, diagnosis.findings


def test_circles_and_bounded_priors_have_no_outside():
    torch.manual_seed(0)
    angles = RQSpline(bins=4, bound=3.0, circular=True)
    layer = Coupling(2, angles, MLP(1, angles.parameters_per_feature, hidden=(8,)))
    disturb(layer)
    sound(flowstone.Flow(layer, Uniform(2, low=-3.0, high=3.0)), 6 * torch.rand(200, 2) - 3)
    uniform = torch.distributions.Uniform(torch.zeros(2), torch.ones(2))
    flow = flowstone.nice(2)
    reset_outputs(flow)
    sound(flowstone.Flow(flow.bijection, uniform), torch.rand(200, 2))


def test_images_of_low_contrast_are_sound():
    flow = flowstone.glow(event_shape=(1, 4, 4), scales=2, couplings=1, channels=4)
    for kind in (torch.uint8, torch.float32, torch.float64):
        sound(flow, torch.randint(100, 103, (50, 1, 4, 4)).to(kind))


class Far(Bijection):
    """Away by so much and back: float32 loses what is behind the point."""

    def __init__(self, by):
        super().__init__()
        self.by = by

    def forward(self, x, context=None):
        return (x + self.by) - self.by, x.new_zeros(len(x))

    def inverse(self, z, context=None):
        return self(z, context)


@pytest.mark.parametrize(("by", "ok"), [(2.0**12, True), (2.0**28, False)])
def test_a_pixel_whose_noise_ends_at_its_edge_is_no_fault(by, ok):
    flow = flowstone.Flow(Chain(Dequantize(), Far(by)), StandardNormal((1, 16, 16)))
    diagnosis = check(flow, torch.randint(256, (100, 1, 16, 16), generator=torch.Generator().manual_seed(0)))
    wrong = [report.round_trip_float32 for report in diagnosis.whole]
    assert max(wrong) > 0  # a few in 25,600, each by one
    assert diagnosis.ok == ok, diagnosis.findings


def test_columns_of_unlike_units_are_sound():
    torch.manual_seed(0)
    seconds = 1.7e9 + 1e4 * torch.randn(400, 1, dtype=torch.float64)
    x = torch.cat((1e-6 * torch.randn(400, 1).double(), torch.randn(400, 1).double(), seconds), 1)
    flow = flowstone.spline(3, couplings=2, hidden=(8, 8))
    flow.initialize(x)
    sound(flow, x)
    sound(flow.double(), x)


def test_digits_that_a_flow_keeps_are_not_said_to_be_lost_in_float32():
    torch.manual_seed(0)
    x = torch.randn(400, 2, dtype=torch.float64) + torch.tensor([1.7e9, 0.0], dtype=torch.float64)
    flow = flowstone.spline(2, couplings=2, hidden=(8, 8))
    flow.initialize(x)
    on_data, _, edge = check(flow, x).whole
    assert on_data.log_prob_float32 is not None
    assert on_data.log_prob_float32 < 1e-4
    assert edge.log_prob_bf16 < 0.1


def test_rows_outside_the_domain_are_told_and_left_out():
    flow = flowstone.Flow(Chain(Positive(), LULinear(1)), StandardNormal(1))
    x = torch.rand(100, 1) + 0.1
    x[[7, 50]] = -1.0
    diagnosis = check(flow, x)
    (finding,) = diagnosis.findings
    assert "2 of 100 rows have no density (log_prob is -inf), the first is row 7, counted from 0" in finding
    assert len(diagnosis.whole) == 3
    assert check(flow, -x[:5]).layers == ()


def test_a_fault_beside_a_large_column_is_found():
    x = torch.randn(200, 2) * torch.tensor([1.0, 1e7])
    findings = check(flowstone.Flow(Chain(Faulty("shift"), Inverse(Faulty("none"))), StandardNormal(2)), x).findings
    assert any("layer 1, Faulty, does not invert on the data" in finding for finding in findings), findings


def test_layers_inside_scales_and_inverses_are_looked_at():
    torch.manual_seed(0)
    scales = [Chain(Squeeze(), Unsquared("none")), Chain(Unsquared("none"), Inverse(Unsquared("sign")))]
    flow = flowstone.Flow(MultiScale((1, 4, 4), scales), StandardNormal(16))
    findings = check(flow, torch.randn(50, 1, 4, 4)).findings
    assert all("layer 4, Unsquared, claims a log-det" in finding for finding in findings), findings
    iaf = check(flowstone.iaf(2, layers=2, hidden=(8,)), torch.randn(50, 2))
    assert [report.saturation is not None for report in iaf.layers if report.place == "data"] == [
        "Affine" in report.name for report in iaf.layers if report.place == "data"
    ]
    assert sum("Autoregressive Affine" in report.name for report in iaf.layers) == 6


def test_a_diagnosis_is_short_where_it_is_shown_and_long_where_it_is_printed():
    diagnosis = check(flowstone.nice(2), torch.randn(20, 2))
    assert repr(diagnosis) == "Diagnosis(ok=True, findings=[])"
    assert len(str(diagnosis).splitlines()) > 20


@pytest.mark.parametrize("images", [False, True])
def test_it_tells_what_nets_in_bfloat16_cost(images):
    torch.manual_seed(0)
    if images:
        flow, x = flowstone.realnvp_image((1, 4, 4), channels=4, blocks=1), torch.randint(256, (40, 1, 4, 4))
    else:
        flow, x = flowstone.realnvp(3, hidden=(32,)), torch.randn(40, 3)
    flow.initialize(x)
    disturb(flow, 0.1)
    diagnosis = check(flow, x)
    on_data = diagnosis.whole[0]
    assert (on_data.log_prob_float32 is None) == images  # other noise in another precision
    torch.manual_seed(0)
    exact = flow.eval().log_prob(x)
    torch.manual_seed(0)
    with bf16_conditioners(flow):
        off = (flow.log_prob(x) - exact).abs().max().item()
    assert 1e-4 < on_data.log_prob_bf16 < 1
    assert off / 5 < on_data.log_prob_bf16 < 5 * off  # other rows, other noise
    assert f"by {on_data.log_prob_bf16:.1e} with nets in bfloat16" in str(diagnosis)


def test_at_the_edge_densities_are_compared_at_the_same_points():
    """Each flow at its own sample would find the same latent again, and no difference."""
    torch.manual_seed(0)
    flow = flowstone.realnvp(3, hidden=(64,))
    disturb(flow, 0.3)
    on_data, _, edge = check(flow, torch.randn(100, 3)).whole
    assert edge.log_prob_bf16 > 2 * on_data.log_prob_bf16
