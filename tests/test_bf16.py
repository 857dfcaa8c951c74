import copy

import pytest
import torch

import flowstone
from flowstone.bijections import Affine, Chain, Coupling
from flowstone.cli.values import precision_of
from flowstone.data import TOYS
from flowstone.execution import bf16_conditioners
from flowstone.nets import MLP
from flowstone.priors import StandardNormal
from flowstone.recipes import build
from training import QUICK, small


def test_bf16_within_bf16_and_copies_made_there():
    flow, x = flowstone.realnvp(4, hidden=(64,)), torch.randn(50, 4)
    for parameter in flow.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    exact, nets = flow.log_prob(x), bf16_conditioners(flow)
    with nets:
        low = flow.log_prob(x)
        with nets:
            assert torch.equal(flow.log_prob(x), low)
        assert torch.equal(flow.log_prob(x), low)
        copied = copy.deepcopy(flow)
    assert torch.equal(flow.log_prob(x), exact)
    for parameter in flow.parameters():
        parameter.data.zero_()
    assert torch.equal(copied.log_prob(x), low)  # its own nets


def test_a_net_that_two_couplings_share_leaves_bf16_behind():
    net = MLP(2, 4, hidden=(8,))
    links = [Coupling(4, Affine(2, scale="soft"), net, swap=swap) for swap in (False, True)]
    flow = flowstone.Flow(Chain(*links), StandardNormal(4))
    x = torch.randn(5, 4)
    with bf16_conditioners(flow):
        inside = flow.log_prob(x)
    assert not torch.is_autocast_enabled("cpu")
    assert inside.dtype == torch.float32
    torch.testing.assert_close(inside, flow.log_prob(x), atol=0.05, rtol=0.05)


def test_bf16_conditioners_learn_and_leave_no_trace():
    flow = small()
    flowstone.fit(flow, TOYS["moons"], steps=30, precision="bf16", **QUICK)
    x = torch.randn(10, 2)
    assert flow.log_prob(x).dtype == torch.float32
    torch.testing.assert_close(flow.from_latent(flow.to_latent(x)[0])[0], x, atol=1e-4, rtol=0)
    net = flow.bijection.links[2].net  # pyright: ignore
    assert "forward" not in vars(net)


def test_a_flow_in_float64_stays_there_as_autocast_leaves_it():
    flow, x = flowstone.realnvp(2, couplings=2, hidden=(8,)).double(), torch.randn(5, 2, dtype=torch.float64)
    for recorded in (True, False):
        with bf16_conditioners(flow), torch.set_grad_enabled(recorded):
            found = flow.log_prob(x)
        assert torch.equal(found, flow.log_prob(x))


def test_a_net_of_a_user_with_layers_without_bias():
    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = torch.nn.Sequential(torch.nn.Linear(1, 8, bias=False), torch.nn.ReLU())
            self.output = torch.nn.Linear(8, 2)

        def forward(self, x, context=None):
            return self.output(self.layers(x))

    flow, x = flowstone.Flow(Coupling(2, Affine(1), Net()), StandardNormal(2)), torch.randn(5, 2)
    with bf16_conditioners(flow), torch.no_grad():
        low = flow.log_prob(x)
    torch.testing.assert_close(low, flow.log_prob(x), atol=0.05, rtol=0.05)


def test_bf16_changes_the_nets_alone():

    flow = flowstone.realnvp(4, hidden=(64,))
    for parameter in flow.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    x = torch.randn(200, 4)
    exact = flow.log_prob(x)
    with bf16_conditioners(flow):
        low = flow.log_prob(x)
        z, log_det = flow.to_latent(x)
    assert low.dtype == z.dtype == log_det.dtype == torch.float32
    assert not torch.equal(low, exact)
    torch.testing.assert_close(low, exact, atol=0.2, rtol=0.05)
    with bf16_conditioners(flow):  # the same low-precision nets both ways: the round trip is still that of float32
        torch.testing.assert_close(flow.from_latent(z)[0], x, atol=1e-3, rtol=1e-3)


def test_bf16_images_are_handed_to_nets_with_the_channels_of_a_pixel_side_by_side():
    flow = flowstone.realnvp_image((1, 8, 8), couplings=1, channels=8, blocks=1)
    x = torch.randint(256, (3, 1, 8, 8))
    flow.initialize(x)
    for parameter in flow.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    net = next(module.net for module in flow.modules() if isinstance(module, Coupling))
    seen = []
    net.get_submodule("input").register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0]))
    exact = _with_noise(flow, x)
    with bf16_conditioners(flow):
        low = _with_noise(flow, x)
    assert [v.is_contiguous(memory_format=torch.channels_last) for v in seen] == [False, True]
    torch.testing.assert_close(low, exact, rtol=0.02, atol=0.5)


def _with_noise(flow, x):
    torch.manual_seed(0)
    return flow.log_prob(x)


@pytest.mark.parametrize("name", ["gaussian_mixture", "mixed", "nice in float64"])
def test_where_low_precision_and_recomputation_change_nothing_a_warning_says_so(name):
    arguments = {"mixed": {"columns": None, "width": 4, "blocks": 1}, "gaussian_mixture": {"components": 2}}
    density = build(name.split()[0], {"features": 2} | arguments.get(name, {"couplings": 2, "hidden": (8,)}))
    density = density.double() if "float64" in name else density
    x = torch.randn(60, 2, dtype=density.data_dtype)
    with pytest.warns(UserWarning, match="^precision bf16 changes nothing: it is for the nets in float32 of couplings"):
        flowstone.fit(density, x, steps=2, precision="bf16", progress=False)
    with torch.no_grad():
        exact = density.log_prob(x)
        with bf16_conditioners(density):
            assert torch.equal(density.log_prob(x), exact)
    if "float64" not in name:
        with pytest.warns(UserWarning, match="^memory recompute changes nothing: it is for the nets of couplings"):
            flowstone.fit(density, x, steps=2, memory="recompute", progress=False)


def test_the_command_says_where_low_precision_changes_nothing(capsys):
    precision_of("bf16", small())
    precision_of("fp32", build("gaussian_mixture", {"features": 2}))
    assert capsys.readouterr().err == ""
    precision_of("bf16", build("gaussian_mixture", {"features": 2}))
    assert capsys.readouterr().err.startswith("--precision bf16 changes nothing: it is for the nets in float32 of")
