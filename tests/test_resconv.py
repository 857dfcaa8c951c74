"""RealNVP's residual net for images without normalization."""

import torch
from torch import nn

from flowstone.nets import ResConvNet


def test_without_a_norm_the_residual_stream_is_not_overwritten():
    """The first ReLU of a block reads what is added after the block: in place it would change it."""
    net = ResConvNet(2, 3, hidden=6, blocks=2, norm="none").double()
    nn.init.normal_(net.output.parametrizations.weight.original0)  # pyright: ignore
    x = torch.randn(5, 2, 4, 4, dtype=torch.float64)
    output = net(x)
    output.square().sum().backward()  # raises where a saved tensor was overwritten
    gradients = [parameter.grad for parameter in net.parameters()]
    for module in net.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    net.zero_grad()
    expected = net(x)
    expected.square().sum().backward()
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(output, expected)
    for gradient, parameter in zip(gradients, net.parameters(), strict=True):
        torch.testing.assert_close(gradient, parameter.grad)
