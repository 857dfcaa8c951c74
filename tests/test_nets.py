"""Conditioner nets: what each output sees, and that layers run as modules do."""

from typing import Any

import pytest
import torch

from cases import disturb
from flowstone.bijections import (
    Affine,
    Coupling,
    checkerboard,
)
from flowstone.bijections.univariate import soft_clamp
from flowstone.errors import SettingError, ShapeError
from flowstone.nets import MADE, MLP, AnyOrderNet, ConvNet, FullResolution, GatedConvNet, ResConvNet, ResNet
from flowstone.train.regularization import dropout_rate


def test_inverse_autoregressive_begins_with_the_context_alone(float64):
    net = MADE(3, 2, hidden=(12, 12), context_features=1)
    for parameter in net.parameters():
        parameter.data.normal_()
    x, context = torch.randn(1, 3), torch.randn(2, 1)
    one, two = net(x, context[:1]), net(x, context[1:])
    assert (one != two).all()  # the first feature's parameters, too
    moved = net(torch.tensor([[9.0, 0.0, 0.0]]) + x, context[:1])
    assert torch.equal(moved[:, :2], one[:, :2])
    assert (moved[:, 2:] != one[:, 2:]).all()


@pytest.mark.parametrize("swap", [False, True])
def test_a_net_on_the_whole_board_is_the_papers_masked_coupling(float64, swap):
    """z = m x + (1 - m) (x exp(s) + t), s and t of the masked image, its mask beside it."""
    channels, size = 2, 6
    net = ResConvNet(channels + 1, 2 * channels, hidden=8, blocks=1, normed_input=False)
    half = FullResolution(net, channels, swap=swap, norm="none")
    layer = checkerboard(Coupling(4 * channels, Affine((2 * channels, 1, 1), scale="soft"), half, swap=swap)).eval()
    disturb(layer, 0.3)
    x, colour = torch.randn(3, channels, size, size), torch.arange(size)[:, None] + torch.arange(size)
    mask = ((colour % 2 == 0) != swap).to(x)
    raw, shift = net(torch.cat((mask * x, mask.expand(3, 1, size, size)), 1)).unflatten(1, (channels, 2)).unbind(2)
    scale = soft_clamp(raw, 3.0)
    z, log_det = layer(x)
    torch.testing.assert_close(z, mask * x + (1 - mask) * (x * scale.exp() + shift))
    torch.testing.assert_close(log_det, ((1 - mask) * scale).sum((1, 2, 3)))


@pytest.mark.parametrize("part", [0, 1])
def test_a_layer_that_runs_otherwise_is_called(part):
    """By a hook, or because its forward was replaced; of a linear layer and of an activation."""
    x, net = torch.ones(2, 2), MLP(2, 3, hidden=(8, 8))
    torch.nn.init.ones_(net.output.weight)
    plain = net(x)
    layer: Any = net.layers[part]
    handle = layer.register_forward_hook(lambda module, inputs, output: output + 1)
    hooked = net(x)
    handle.remove()
    assert torch.equal(net(x), plain)
    as_it_was = layer.forward
    layer.forward = lambda input: as_it_was(input) + 1
    assert torch.equal(net(x), hooked)
    assert not torch.equal(plain, hooked)


def test_residual_masked_nets_leave_out_units_where_dropout_is_set():
    torch.manual_seed(0)
    net = MADE(3, 2, hidden=(16, 16), residual=True)
    x = torch.randn(5, 3)
    assert torch.equal(net(x), net(x))
    with dropout_rate(net, 0.5):
        assert not torch.equal(net(x), net(x))
        assert torch.equal(net.eval()(x), net(x))


NETS = {
    "MLP": lambda given: MLP(2, 3, hidden=(4,), context_features=given),
    "ResNet": lambda given: ResNet(2, 3, hidden=(4, 4), context_features=given),
    "MADE": lambda given: MADE(2, 3, hidden=(4,), context_features=given),
    "ConvNet": lambda given: ConvNet(2, 3, hidden=4, context_features=given),
    "GatedConvNet": lambda given: GatedConvNet(2, 3, hidden=4, blocks=1, context_features=given),
    "ResConvNet": lambda given: ResConvNet(2, 3, hidden=4, blocks=1, context_features=given),
}


@pytest.mark.parametrize("name", NETS)
def test_inputs_that_a_net_was_not_built_for_are_named(name):
    x = torch.zeros(5, 2, *((4, 4) if "Conv" in name else ()))
    with_three, alone = NETS[name](3), NETS[name](0)
    assert with_three(x, torch.zeros(5, 3)).shape[0] == alone(x).shape[0] == 5
    contexts = (None, torch.zeros(5, 2), torch.zeros(4, 3), torch.zeros(1, 5, 3))
    for net, given in [*((with_three, context) for context in contexts), (alone, torch.zeros(5, 3))]:
        with pytest.raises(ShapeError, match=r"the net takes \d (columns|channels) of input and context together, got"):
            net(x, given)
    if name != "ResConvNet":  # whose norm sees the channels first
        with pytest.raises(ShapeError, match="got input of shape"):
            alone(x[:, :1])


@pytest.mark.parametrize("net", [MLP, ResNet, MADE])
@pytest.mark.parametrize("hidden", [(-1,), (8, 2.5), (True,)])
def test_widths_that_are_no_numbers_of_units_are_named(net, hidden):
    with pytest.raises(SettingError, match=r"hidden=\(.*\) must be whole numbers, at least 1"):
        net(2, 2, hidden=hidden)


@pytest.mark.parametrize("net", [MLP, ResNet, MADE])
def test_widths_may_come_in_any_sequence(net):
    count = sum(p.numel() for p in net(2, 2, hidden=(8, 8)).parameters())
    for hidden in ([8, 8], (width for width in (8, 8)), torch.tensor([8, 8]), torch.Size((8, 8))):
        assert sum(p.numel() for p in net(2, 2, hidden=hidden).parameters()) == count


@pytest.mark.parametrize("net", [ConvNet, GatedConvNet, ResConvNet])
def test_numbers_of_channels_that_cannot_be_are_named(net):
    with pytest.raises(SettingError, match=r"hidden=2\.5 must be a whole number, at least 1"):
        net(2, 2, hidden=2.5)


@pytest.mark.parametrize("net", [GatedConvNet, ResConvNet])
def test_numbers_of_blocks_that_cannot_be_are_named(net):
    with pytest.raises(SettingError, match="blocks=-1 must be a whole number, at least 0"):
        net(2, 2, blocks=-1)


def test_one_column_of_a_net_is_named_as_one():
    with pytest.raises(ShapeError, match="the net takes 1 column of input and context together"):
        MLP(1, 2)(torch.zeros(5, 2))


@pytest.mark.parametrize("scaled", [True, False])
def test_a_column_reads_the_scaled_sum_of_those_before_it(float64, scaled):
    net = AnyOrderNet([2, 3, 1], width=4, blocks=1, context_features=2, scaled=scaled)
    assert (net.scales is not None) == scaled
    if net.scales is not None:
        torch.nn.init.normal_(net.scales)
    tokens, context = torch.randn(5, 3, 4), torch.randn(5, 2)
    assert net.context is not None
    before = torch.tensor([[False, True, True], [False, False, True], [False, False, False]])
    found = net(tokens, before, context)
    for column, known in enumerate(([1, 2], [2], [])):
        scale = 1.0 if net.scales is None else net.scales[column]
        h = net.targets[column] + net.context(context) + scale * tokens[:, known].sum(1)
        wanted = net.outputs[column](net.blocks(h))
        torch.testing.assert_close(found[column], wanted)
        torch.testing.assert_close(net.column(tokens[:, known], column, context), wanted)
        torch.testing.assert_close(net(tokens, before, context, columns=[column])[0], wanted)
