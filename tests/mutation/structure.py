"""Properties of starts, orders, halves, chains, masks and solvers."""

from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from cases import default_dtype, normal, refuses, same
from flowstone import bijections as b
from flowstone.bijections import linear
from flowstone.errors import SettingError, ShapeError
from flowstone.nets import MADE, MLP
from mutation.formulas import product

__all__ = [
    "autocast_reaches_the_nets_inside_a_chain",
    "chains_are_their_links_in_turn",
    "chains_know_their_widths",
    "conditioner_parameters_come_in_the_precision_that_the_transform_reads",
    "each_direction_checks_the_width_of_its_own_input",
    "exported_triangular_systems_are_solved_as_exactly",
    "halves_are_what_they_say",
    "householder_counts_its_reflections",
    "made_sees_every_feature_before_and_no_other",
    "masks_and_gains_are_made_when_there_is_memory",
    "permutations_are_what_they_say",
    "residual_made_adds_each_layer_to_the_one_before",
    "starts_are_as_promised",
    "states_are_the_values_between_links",
    "triangles_give_back_the_matrix_they_are_set_to",
    "triangular_systems_are_solved_in_half_precision",
]


class Append(b.Bijection):
    """z = (x, 0), for widths of 2 and 3."""

    def __init__(self) -> None:
        super().__init__(2)
        self.latent_features = 3

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return torch.cat((x, x.new_zeros(len(x), 1)), 1), x.new_zeros(len(x))

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return z[:, :2], z.new_zeros(len(z))

    def latent_shape(self, event_shape: torch.Size) -> torch.Size:
        return torch.Size([3])


def each_direction_checks_the_width_of_its_own_input() -> None:
    class Here(Append):  # its directions are wrapped while this function runs
        forward, inverse = Append.forward.__wrapped__, Append.inverse.__wrapped__  # pyright: ignore

    layer, x = Here(), normal(4, 2)
    same(layer.inverse(layer(x)[0])[0], x)
    refuses(lambda: layer(normal(4, 3)), ShapeError)
    refuses(lambda: layer.inverse(normal(4, 2)), ShapeError)


def chains_know_their_widths() -> None:
    widths = [(chain.features, chain.latent_features) for chain in (
        b.Chain(b.LeakyReLU(), b.Scaling(2), b.Scaling(2)),
        b.Chain(b.LeakyReLU(), Append(), b.Scaling(3)),
        b.Chain(Append(), b.Inverse(Append())),
        b.Chain(b.Inverse(Append()), b.LeakyReLU()),
        b.Chain(b.LeakyReLU(), b.Flatten((3, 2, 2)), b.Scaling(12)),
        b.Chain(b.Flatten((3, 2, 2)), b.Scaling(12)),
    )]  # fmt: skip
    assert widths == [(2, 2), (2, 3), (2, 2), (3, 2), (3, 12), (3, 12)], widths
    for links in ((b.Scaling(2), b.LeakyReLU(), b.Scaling(3)), (Append(), b.Scaling(2)), (Append(), Append())):
        refuses(partial(b.Chain, *links), ShapeError)
    assert b.Chain(b.Logit(), b.Flatten((2, 1, 1))).event_dims == 3
    assert b.Chain(b.Flatten((2, 1, 1)), b.Logit()).latent_dims == 1


def states_are_the_values_between_links() -> None:
    links = [b.LeakyReLU(), b.Scaling(3), b.Permutation.reverse(3), b.Inverse(b.LeakyReLU())]
    nn.init.normal_(links[1].log_scale, generator=torch.Generator().manual_seed(0))
    chain, x, z = b.Chain(links[0], b.Chain(*links[1:3]), links[3]), normal(5, 3), normal(5, 3, seed=1)
    for states, start, steps in (
        (chain.states(x), x, links),
        (chain.inverse_states(z), z, [b.Inverse(link) for link in reversed(links)]),
    ):
        assert len(states) == len(steps)
        values = [start, *(state.value for state in states)]
        for state, before, step in zip(states, values, steps, strict=False):
            value, log_det = step(before)
            same(state.value, value)
            same(state.log_det, log_det)


def conditioner_parameters_come_in_the_precision_that_the_transform_reads() -> None:
    for transform, dtype in ((b.Affine(2), torch.float32), (b.RQSpline(), torch.bfloat16)):
        net = MLP(2, 2 * transform.parameters_per_feature, hidden=(4,))
        coupling = b.Coupling(4, transform, net).float()
        seen = normal(3, 2).float()
        assert coupling.conditioner_parameters(seen).dtype == torch.float32
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert coupling.conditioner_parameters(seen).dtype == dtype


def autocast_reaches_the_nets_inside_a_chain() -> None:
    net, seen = MLP(2, 4, hidden=(4,)), []
    net.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    chain = b.Chain(b.Coupling(4, b.Affine(2), net)).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        z, log_det = chain(normal(3, 4).float())
    assert seen == [torch.bfloat16]
    assert (z.dtype, log_det.dtype) == (torch.float32, torch.float32)


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


def exported_triangular_systems_are_solved_as_exactly() -> None:
    """Without the solver that ONNX lacks; in the precision of the rows, and on their device."""
    lacking = patch.object(torch.linalg, "solve_triangular", None)
    exporting = patch.object(torch.compiler, "is_exporting", lambda: True)
    for size in (1, 2, 3, 4, 5, 8, 9, 17):
        below = normal(size, size).tril(-1) + torch.eye(size)
        above = normal(size, size, seed=1).triu(1) + torch.diag(normal(size).exp())
        x = normal(5, size, seed=2)
        rows = x @ (below @ above).T
        same(linear.solve_lu(below, above, rows), x, 1e-7)
        for dtype in (torch.float64, torch.float32):
            given = [part.to(dtype) for part in (below, above, rows)]
            wanted = linear.solve_lu(*(part.double() for part in given)).to(dtype)
            with exporting, lacking, torch.device("meta"), default_dtype(torch.float32):
                found = linear.solve_lu(*given)
            same(found, wanted, 1e-6)


def householder_counts_its_reflections() -> None:
    assert [len(b.Householder(n).vectors) for n in (1, 2, 3, 4)] == [2, 2, 4, 4]
    layer = b.Householder(4, reflections=2)
    assert len(layer.vectors) == 2


def permutations_are_what_they_say() -> None:
    assert b.Permutation.reverse(4).order.tolist() == [3, 2, 1, 0]
    assert sorted(b.Permutation.random(20).order.tolist()) == list(range(20))
    layer = b.Permutation(torch.tensor([1, 2, 0]))
    assert layer.inverse(torch.tensor([[20.0, 30.0, 10.0]]))[0].tolist() == [[10.0, 20.0, 30.0]]
    assert list(layer.state_dict()) == ["order", "undo"]
    loaded = b.Permutation.reverse(3)
    loaded.load_state_dict({"order": torch.tensor([1, 2, 0]), "undo": torch.tensor([0, 1, 2])})  # not its inverse
    same(loaded.undo, layer.undo, 0)
    orders: tuple[Any, ...] = ([0, 2, 2], [1, 2, 3], [[0, 1]], [0.0, 1.0], torch.tensor(0))
    for order in orders:
        refuses(partial(b.Permutation, order), SettingError)
    with torch.device("meta"):
        assert b.Permutation.random(3).undo.is_meta


def triangular_systems_are_solved_in_half_precision() -> None:
    for dtype, precision in ((torch.float16, 1e-2), (torch.bfloat16, 1e-1)):
        layer = b.LULinear(3).to(dtype)
        x = normal(5, 3).to(dtype)
        same(layer.inverse(layer(x)[0])[0].double(), x.double(), precision)
    below, above = torch.eye(3), 2 * torch.eye(3)
    for at in range(3):  # whichever of the three is in half precision
        given = [part.float() for part in (below, above, torch.ones(2, 3))]
        given[at] = given[at].half()
        same(linear.solve_lu(*given), torch.full((2, 3), 0.5, dtype=given[2].dtype))


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

    links = [coupling(False), coupling(True), b.Partial(5, b.Scaling(2), swap=True), b.Permutation.reverse(5)]
    links += [b.Inverse(coupling(False)), coupling(True), b.Partial(5, b.LULinear(3)), coupling(False)]
    for hooked in (False, True):
        if hooked:
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


def masks_and_gains_are_made_when_there_is_memory() -> None:
    def filled(build):
        with torch.device("meta"):
            empty = build()
        empty.half()
        assert all(buffer.is_meta for buffer in empty.buffers())
        with patch.object(torch, "empty_like", lambda t, **more: torch.full_like(t, 1, **more)):
            return empty.to_empty(device="cpu")

    net = partial(MADE, 3, 2, hidden=(6, 6), context_features=1)
    for build in (net, partial(b.LogisticMixtureCDF, components=3)):
        for found, wanted in zip(filled(build).buffers(), build().half().buffers(), strict=True):
            same(found.double(), wanted.double(), 1e-3)


def residual_made_adds_each_layer_to_the_one_before() -> None:
    x, context, net = normal(5, 4), normal(5, 2, seed=1), wild_made((12, 12, 12), residual=True)
    first, second, third = net.layers
    h = first(torch.cat((x, context), -1)).tanh()
    h = h + second(h).tanh()
    same(net(x, context), net.output(h + third(h).tanh()))
