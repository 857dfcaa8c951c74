"""Properties of starts, orders, halves, chains and masks."""

import torch
from torch import Tensor, nn

from cases import normal, same
from flowstone import bijections as b
from flowstone.nets import MADE, MLP
from mutation.formulas import product

__all__ = [
    "chains_are_their_links_in_turn",
    "halves_are_what_they_say",
    "householder_counts_its_reflections",
    "made_sees_every_feature_before_and_no_other",
    "permutations_are_what_they_say",
    "residual_made_adds_each_layer_to_the_one_before",
    "starts_are_as_promised",
    "triangles_give_back_the_matrix_they_are_set_to",
]


def starts_are_as_promised() -> None:
    x, pictures = normal(5, 3), normal(5, 3, 2, 2)
    for layer in (b.Scaling(3), b.LeakyReLU(), b.LULinear(3), b.Householder(3), b.BatchNorm(3).eval()):
        same(layer(x)[0], x)
        same(layer(x)[1], torch.zeros(5))
    same(b.InvertibleConv1x1(3, rotate=False)(pictures)[0], pictures)
    for seed in range(3):
        torch.manual_seed(seed)
        z, log_det = b.InvertibleConv1x1(3)(pictures)
        same(z.norm(dim=1), pictures.norm(dim=1))  # a rotation
        same(log_det, torch.zeros(5))
        assert not torch.allclose(z, pictures)


def triangles_give_back_the_matrix_they_are_set_to() -> None:
    for seed in range(4):
        matrix, triangles = normal(4, 4, seed=seed), b.InvertibleConv1x1(4).triangles
        order = triangles.set(matrix)
        same(product(triangles)[order], matrix)


def householder_counts_its_reflections() -> None:
    assert [len(b.Householder(n).vectors) for n in (1, 2, 3, 4)] == [2, 2, 4, 4]
    layer = b.Householder(4, reflections=2)
    assert len(layer.vectors) == 2


def permutations_are_what_they_say() -> None:
    assert b.Permutation.reverse(4).order.tolist() == [3, 2, 1, 0]
    assert sorted(b.Permutation.random(20).order.tolist()) == list(range(20))
    layer = b.Permutation(torch.tensor([1, 2, 0]))
    assert layer.inverse(torch.tensor([[20.0, 30.0, 10.0]]))[0].tolist() == [[10.0, 20.0, 30.0]]


def halves_are_what_they_say() -> None:
    sizes = [b.Coupling.sizes(n, swap=swap) for n in (1, 4, 5) for swap in (False, True)]
    assert sizes == [(0, 1), (1, 0), (2, 2), (2, 2), (2, 3), (3, 2)]


def chains_are_their_links_in_turn() -> None:
    """Whatever lies between couplings, which hand each other two parts."""
    x, seen, gradients = normal(6, 5), [], []

    def coupling(swap: bool) -> b.Coupling:
        kept, moved = b.Coupling.sizes(5, swap=swap)
        net = MLP(kept, 2 * moved, hidden=(4,), activation="tanh")
        nn.init.normal_(net.output.weight, generator=torch.Generator().manual_seed(0))
        return b.Coupling(5, b.Affine(moved, scale="soft"), net, swap=swap)

    links = [coupling(False), coupling(True), b.Half(5, b.Scaling(2), swap=True), b.Permutation.reverse(5)]
    links += [b.Inverse(coupling(False)), coupling(True), b.Half(5, b.LULinear(3)), coupling(False)]
    for watched in (False, True):
        if watched:
            links[1].register_forward_hook(lambda module, inputs, output: seen.append((inputs[0], output[0])))
            links[5].register_full_backward_hook(lambda module, *by: gradients.append((by[0][0], by[1][0])))
        z, total = x, torch.zeros(6)
        for link in links:
            z, log_det = link(z)
            total = total + log_det
        for got, wanted in zip(b.Chain(*links)(x), (z, total), strict=True):
            same(got, wanted)
        for got, wanted in zip(b.Chain(*links).inverse(z), (x, -total), strict=True):
            same(got, wanted)
    b.Chain(*links)(x.clone().requires_grad_())[0].sum().backward()
    assert seen
    assert gradients
    assert all(isinstance(value, Tensor) and value.shape == (6, 5) for pair in seen + gradients for value in pair)


def wild_made(hidden: tuple[int, ...], *, residual: bool = False) -> MADE:
    net = MADE(4, 2, hidden=hidden, context_features=2, activation="tanh", residual=residual)
    for index, parameter in enumerate(net.parameters()):
        nn.init.normal_(parameter, generator=torch.Generator().manual_seed(index))
    return net


def made_sees_every_feature_before_and_no_other() -> None:
    x, context = normal(1, 4), normal(1, 2, seed=1)
    before = torch.arange(8)[:, None] // 2 > torch.arange(4)
    for net in (wild_made((12, 12)), wild_made((8, 16, 4)), wild_made(()), wild_made((12, 12, 12), residual=True)):
        seen = torch.autograd.functional.jacobian(lambda x, net=net: net(x, context), x)
        given = torch.autograd.functional.jacobian(lambda context, net=net: net(x, context), context)
        assert isinstance(seen, Tensor)
        assert isinstance(given, Tensor)
        assert torch.equal(seen[0, :, 0] != 0, before)
        assert (given != 0).all()


def residual_made_adds_each_layer_to_the_one_before() -> None:
    x, context, net = normal(5, 4), normal(5, 2, seed=1), wild_made((12, 12, 12), residual=True)
    first, second, third = net.layers
    h = first(torch.cat((x, context), -1)).tanh()
    h = h + second(h).tanh()
    same(net(x, context), net.output(h + third(h).tanh()))
