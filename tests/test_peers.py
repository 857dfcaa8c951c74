"""What others wrote says the same: nflows, zuko and torch.distributions, given the same parameters, in float64."""

import math
from collections.abc import Callable
from typing import Any

import nflows.flows
import nflows.transforms as nf
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from nflows.distributions.normal import StandardNormal as NflowsNormal
from nflows.transforms import made as nflows_made
from nflows.transforms.splines.rational_quadratic import (
    rational_quadratic_spline,
    unconstrained_rational_quadratic_spline,
)
from torch import Tensor, nn
from torch import distributions as td

from cases import disturb, image, set_from_data, vector
from flowstone import Flow, priors
from flowstone import bijections as b
from flowstone.distribution import BijectionTransform
from flowstone.nets import MADE, MLP
from flowstone.recipes import maf

with pytest.MonkeyPatch.context() as patch:  # importing zuko switches torch's checks off for the whole process
    patch.setattr(td.Distribution, "_validate_args", td.Distribution._validate_args)
    patch.setattr(td.Distribution, "arg_constraints", td.Distribution.arg_constraints)
    import zuko.transforms as zt
    from zuko.flows.autoregressive import MaskedAutoregressiveTransform

seeds = st.integers(0, 2**32 - 1)
Both = tuple[Tensor, Tensor]


def same(ours: Any, theirs: Any) -> None:
    torch.testing.assert_close(ours, theirs, atol=1e-9, rtol=1e-9)


def agree(ours: b.Bijection, theirs: Any, value: Tensor, context: Tensor | None = None) -> None:
    """Result and log-det, data → latent and latent → data, each at ``value``."""
    same(ours(value, context), theirs(value, context))
    same(ours.inverse(value, context), theirs.inverse(value, context))


class OfZuko:
    """A transform of zuko, made from the context, as a pair of directions."""

    def __init__(self, make: Callable[[Tensor | None], Any]) -> None:
        self.make = make

    def __call__(self, x: Tensor, context: Tensor | None = None) -> Both:
        return self.make(context).call_and_ladj(x)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> Both:
        return self.make(context).inv.call_and_ladj(z)


# --- splines ----------------------------------------------------------------------------------------------------------

splines = given(
    seed=seeds,
    size=st.floats(0.1, 1.5),  # beyond, a slope can change a thousandfold within a bin, and rounding shows
    bins=st.integers(2, 10),
    bound=st.floats(0.3, 20.0),
    least=st.sampled_from([(1e-3, 1e-3), (0.02, 0.3)]),
)


def some_spline(seed, size, bins, bound, least, **settings) -> tuple[b.RQSpline, Tensor, Tensor]:
    """A spline, its parameters, and values inside, at and outside the bound."""
    torch.manual_seed(seed)
    spline = b.RQSpline(bins=bins, bound=bound, min_size=least[0], min_slope=least[1], **settings)
    value = bound * torch.randn(40, 2)
    value[:6, 0] = bound * torch.tensor([1, -1, 1 + 1e-12, -1 - 1e-12, 1 - 1e-12, 50])
    return spline, size * torch.randn(40, 2, spline.parameters_per_feature), value


def shifted(spline: b.RQSpline, raw_slopes: Tensor) -> Tensor:
    """Both slopes are least + softplus(…); ours adds a constant to the raw number, for which 0 is slope 1."""
    return raw_slopes + math.log(math.expm1(1 - spline.min_slope))


def spline_of_nflows(spline: b.RQSpline, value: Tensor, parameters: Tensor, *, inverse: bool) -> Both:
    widths, heights, slopes = parameters.split((spline.bins, spline.bins, spline.bins - 1), -1)
    return unconstrained_rational_quadratic_spline(
        value,
        widths,  # sizes are least + share of the rest for both, and nflows takes the same softmax
        heights,
        shifted(spline, slopes),
        inverse=inverse,
        tail_bound=spline.bound,
        min_bin_width=spline.min_size,
        min_bin_height=spline.min_size,
        min_derivative=spline.min_slope,
    )


def spline_of_zuko(spline: b.RQSpline, parameters: Tensor) -> zt.MonotonicRQSTransform:
    """zuko has no least size: its shares are the softmax of r / (1 + |2r / log slope|), its slopes the exponential of
    r / (1 + |r / log slope|). Undone for our knots: the logarithms of shares, centred to stay small, and of slopes.
    """
    edges, slopes = spline._knots(parameters)
    shares = edges.diff(dim=1).log().movedim(1, -1)
    shares = shares - (shares.amax(-1, keepdim=True) + shares.amin(-1, keepdim=True)) / 2
    log_slope = math.log(1e-30)
    widths, heights = shares / (1 - (2 * shares / log_slope).abs())
    steepness = slopes[1:-1].log().movedim(0, -1)
    steepness = steepness / (1 - (steepness / log_slope).abs())
    return zt.MonotonicRQSTransform(widths, heights, steepness, bound=spline.bound, slope=1e-30)


@splines
def test_spline_is_that_of_nflows(float64, seed, size, bins, bound, least):
    spline, parameters, value = some_spline(seed, size, bins, bound, least)
    same(spline(value, parameters), spline_of_nflows(spline, value, parameters, inverse=False))
    same(spline.inverse(value, parameters), spline_of_nflows(spline, value, parameters, inverse=True))


@splines
def test_spline_is_that_of_zuko(float64, seed, size, bins, bound, least):
    spline, parameters, value = some_spline(seed, size, bins, bound, least)
    theirs = OfZuko(lambda _: spline_of_zuko(spline, parameters))
    knots = spline._knots(parameters)[0][:, 1]  # values at a knot, too, of x and of y
    for ours, peer, at_knot in zip((spline, spline.inverse), (theirs, theirs.inverse), knots, strict=True):
        same(ours(value, parameters), peer(value))
        same(ours(at_knot, parameters), peer(at_knot))


@splines
def test_circular_spline_is_that_of_nflows_turned(float64, seed, size, bins, bound, least):
    spline, parameters, value = some_spline(seed, size, bins, bound, least, circular=True)
    widths, heights, slopes, turn = parameters.split((bins, bins, bins, 1), -1)
    turn = bound * turn[..., 0]

    def on_circle(angle: Tensor) -> Tensor:
        return torch.remainder(angle + bound, 2 * bound) - bound

    def theirs(angle: Tensor, *, inverse: bool) -> Both:
        closed = torch.cat((slopes, slopes[..., :1]), -1)  # the seam has one slope, from both sides
        return rational_quadratic_spline(
            on_circle(angle), widths, heights, shifted(spline, closed), inverse=inverse,
            left=-bound, right=bound, bottom=-bound, top=bound,
            min_bin_width=spline.min_size, min_bin_height=spline.min_size, min_derivative=spline.min_slope,
        )  # fmt: skip

    z, log_slope = spline(value, parameters)
    their_z, their_log_slope = theirs(value, inverse=False)
    same(on_circle(z - (their_z + turn)), torch.zeros_like(z))
    same(log_slope, their_log_slope)
    x, log_slope = spline.inverse(value, parameters)
    their_x, their_log_slope = theirs(value - turn, inverse=True)
    same(on_circle(x - their_x), torch.zeros_like(x))
    same(log_slope, their_log_slope)


# --- couplings --------------------------------------------------------------------------------------------------------


def scale_and_shift(transform: b.Affine, raw: Tensor) -> Both:
    """The log-scale s and the shift t of every feature; the net's numbers for one feature are next to each other."""
    number, shift = raw[:, 0::2], raw[:, 1::2]
    if transform.factor is not None:
        return transform.factor * number.tanh(), shift
    return 2 * transform.limit / math.pi * torch.atan(math.pi * number / (2 * transform.limit)), shift


class NflowsCoupling(nf.AffineCouplingTransform):
    """nflows' coupling, but for its own scale, sigmoid(r + 2) + 0.001: here any."""

    def _scale_and_shift(self, transform_params: Tensor) -> Both:
        log_scale, shift = transform_params.chunk(2, 1)
        return log_scale.exp(), shift


def coupling_of_nflows(coupling: b.Coupling, features: int) -> NflowsCoupling:
    moves = (torch.arange(features) >= features // 2) != coupling.swap
    transform = coupling.transform
    assert isinstance(transform, b.Affine)

    def net(kept: Tensor, context: Tensor | None) -> Tensor:
        return torch.cat(scale_and_shift(transform, coupling.net(kept, context)), 1)

    return NflowsCoupling(moves, lambda *_: net)


def affine_of_zuko(log_scale: Tensor, shift: Tensor) -> zt.DependentTransform:
    """zuko's log-scale is r / (1 + |r / log slope|): undone."""
    raw = log_scale / (1 - (log_scale / math.log(1e-9)).abs())
    return zt.DependentTransform(zt.MonotonicAffineTransform(shift, raw, slope=1e-9), 1)


def coupling_of_zuko(coupling: b.Coupling, features: int, told: Callable[[Tensor], Any]) -> OfZuko:
    """``told`` makes the transform of the moving half from the net's numbers."""
    moves = (torch.arange(features) >= features // 2) != coupling.swap
    return OfZuko(
        lambda context: zt.CouplingTransform(lambda kept: told(coupling.net(kept, context)), ~moves)  # pyright: ignore
    )


@pytest.mark.parametrize("bound", ["tanh", "soft"])
@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize("context_features", [0, 2])
@given(seed=seeds)
def test_affine_coupling_is_that_of_nflows_and_of_zuko(float64, bound, swap, context_features, seed):
    torch.manual_seed(seed)
    transform = b.Affine(b.Coupling.sizes(5, swap=swap)[1], bound=bound, limit=2.0)
    coupling = vector(5, lambda _: transform, swap=swap, context=context_features)
    disturb(coupling, 2.0)
    value, context = 3 * torch.randn(8, 5), torch.randn(8, context_features) if context_features else None
    agree(coupling, coupling_of_nflows(coupling, 5), value, context)
    theirs = coupling_of_zuko(coupling, 5, lambda raw: affine_of_zuko(*scale_and_shift(transform, raw)))
    agree(coupling, theirs, value, context)


@pytest.mark.parametrize("bound", ["tanh", "soft"])
@given(seed=seeds)
def test_affine_coupling_of_images_is_that_of_nflows(float64, bound, seed):
    torch.manual_seed(seed)
    coupling = image(5, lambda moved: b.Affine((moved, 1, 1), bound=bound))
    disturb(coupling)
    agree(coupling, coupling_of_nflows(coupling, 5), torch.randn(3, 5, 4, 2))


@given(seed=seeds)
def test_additive_coupling_is_that_of_nflows(float64, seed):
    torch.manual_seed(seed)
    coupling = vector(5, lambda _: b.Additive())
    disturb(coupling, 2.0)
    theirs = nf.AdditiveCouplingTransform(torch.arange(5) >= 2, lambda *_: coupling.net)
    agree(coupling, theirs, 3 * torch.randn(8, 5))


@pytest.mark.parametrize("swap", [False, True])
@given(seed=seeds)
def test_spline_coupling_is_that_of_zuko(float64, swap, seed):
    torch.manual_seed(seed)
    spline = b.RQSpline(bins=5, bound=2.0)
    coupling = vector(5, lambda _: spline, swap=swap)
    disturb(coupling, 2.0)
    moved = b.Coupling.sizes(5, swap=swap)[1]

    def told(raw: Tensor) -> zt.DependentTransform:
        return zt.DependentTransform(spline_of_zuko(spline, raw.unflatten(-1, (moved, -1))), 1)

    agree(coupling, coupling_of_zuko(coupling, 5, told), 2 * torch.randn(8, 5))


# --- autoregressive layers --------------------------------------------------------------------------------------------

FEATURES, COPIES = 4, 3  # our hidden layers have degrees 0, 0, 0, 1, 1, 1, …, 3, 3, 3


def units(lowest: int) -> Tensor:
    """Peers count degrees round: lowest, …, 3, lowest, …, 3, …; which of our hidden units is which of theirs."""
    width = FEATURES - lowest
    place = torch.arange(width * COPIES)
    return (place % width + lowest) * COPIES + place // width


def hand_over(net: MADE, theirs: list[Any], order: Tensor) -> None:
    """Weights as they are, to be masked by the peer; the masks must be ours, too."""
    own = torch.arange(net.layers[0].in_features)  # pyright: ignore
    outputs = torch.arange(net.output.out_features)
    ours = [*net.layers, net.output]
    wanted = [own, *(order for _ in net.layers), outputs]
    for index, (layer, peer) in enumerate(zip(ours, theirs, strict=True)):
        rows, columns = wanted[index + 1], wanted[index]
        assert torch.equal(peer.mask.bool(), layer.mask[rows][:, columns])
        peer.weight.data.copy_(layer.weight[rows][:, columns])
        peer.bias.data.copy_(layer.bias[rows])


def hand_to_nflows(net: MADE, theirs: nflows_made.MADE) -> None:
    """nflows has no units of degree 0, which without context are constants: ours are cut off."""
    for layer in [*net.layers[1:], net.output]:
        layer.weight.data[:, :COPIES] = 0
    hand_over(net, [theirs.initial_layer, theirs.blocks[0].linear, theirs.final_layer], units(lowest=1))


def layer_of(transform: b.Univariate, context_features: int = 0) -> b.Autoregressive:
    width = FEATURES * COPIES
    count = transform.parameters_per_feature
    net = MADE(FEATURES, count, hidden=(width, width), context_features=context_features, activation="tanh")
    disturb(net, 2.0)
    return b.Autoregressive(FEATURES, transform, net)


NFLOWS_NET: dict[str, Any] = {
    "features": FEATURES,
    "hidden_features": (FEATURES - 1) * COPIES,
    "num_blocks": 1,
    "use_residual_blocks": False,
    "activation": torch.tanh,
}


class Translated(nn.Module):
    def __init__(self, net: nn.Module, translate: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.net, self.translate = net, translate

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return self.translate(self.net(x, context))


@given(seed=seeds)
def test_autoregressive_affine_is_that_of_nflows(float64, seed):
    torch.manual_seed(seed)
    transform = b.Affine(FEATURES, bound="soft", limit=2.0)
    layer = layer_of(transform)
    theirs = nf.MaskedAffineAutoregressiveTransform(**NFLOWS_NET)
    assert isinstance(layer.net, MADE)
    hand_to_nflows(layer.net, theirs.autoregressive_net)

    def translate(raw: Tensor) -> Tensor:
        log_scale, shift = scale_and_shift(transform, raw)
        return torch.stack((torch.expm1(log_scale.exp() - 1e-3).log(), shift), -1)  # scale = softplus(r) + 0.001

    theirs.autoregressive_net = Translated(theirs.autoregressive_net, translate)
    agree(layer, theirs, torch.randn(8, FEATURES))


@given(seed=seeds)
def test_autoregressive_spline_is_that_of_nflows(float64, seed):
    torch.manual_seed(seed)
    spline = b.RQSpline(bins=5, bound=2.0)
    layer = layer_of(spline)
    theirs = nf.MaskedPiecewiseRationalQuadraticAutoregressiveTransform(
        num_bins=5, tails="linear", tail_bound=2.0, **NFLOWS_NET
    )
    assert isinstance(layer.net, MADE)
    hand_to_nflows(layer.net, theirs.autoregressive_net)
    slopes = theirs.autoregressive_net.final_layer.bias.data.unflatten(0, (FEATURES, -1))[:, 10:]
    slopes.copy_(shifted(spline, slopes))
    agree(layer, theirs, 2 * torch.randn(8, FEATURES))


def autoregressive_of_zuko(layer: b.Autoregressive, univariate: Callable[..., Any], shapes: list[tuple]) -> OfZuko:
    theirs = MaskedAutoregressiveTransform(
        FEATURES,
        context=2,  # with context, zuko has units of degree 0, too
        univariate=univariate,
        shapes=[torch.Size(shape) for shape in shapes],
        hidden_features=[FEATURES * COPIES] * 2,
        activation=nn.Tanh,
    )
    assert isinstance(layer.net, MADE)
    hand_over(layer.net, list(theirs.hyper)[::2], units(lowest=0))  # pyright: ignore
    return OfZuko(theirs)


@given(seed=seeds)
def test_autoregressive_affine_with_context_is_that_of_zuko(float64, seed):
    torch.manual_seed(seed)
    transform = b.Affine(FEATURES, bound="soft", limit=2.0)
    layer = layer_of(transform, context_features=2)

    def univariate(number: Tensor, shift: Tensor) -> Any:
        return affine_of_zuko(*scale_and_shift(transform, torch.stack((number, shift), -1).flatten(1))).base

    theirs = autoregressive_of_zuko(layer, univariate, [(), ()])
    agree(layer, theirs, torch.randn(8, FEATURES), torch.randn(8, 2))


@given(seed=seeds)
def test_autoregressive_spline_with_context_is_that_of_zuko(float64, seed):
    torch.manual_seed(seed)
    spline = b.RQSpline(bins=5, bound=2.0)
    layer = layer_of(spline, context_features=2)

    def univariate(*raw: Tensor) -> Any:
        return spline_of_zuko(spline, torch.cat(raw, -1))

    theirs = autoregressive_of_zuko(layer, univariate, [(5,), (5,), (4,)])
    agree(layer, theirs, 2 * torch.randn(8, FEATURES), torch.randn(8, 2))


# --- linear layers and normalization ----------------------------------------------------------------------------------


def lu_of_zuko(layer: b.LULinear | b.InvertibleConv1x1) -> zt.LULinearTransform:
    """zuko has the diagonal in L and ours in U: L U = (L D)(D⁻¹ U)."""
    below, above = layer.triangles.factors()
    diagonal = above.diagonal()
    return zt.LULinearTransform((below * diagonal).tril() + (above / diagonal[:, None]).triu(1))


@pytest.mark.filterwarnings("ignore:torch.triangular_solve is deprecated:UserWarning")  # nflows' LULinear.inverse
@given(seed=seeds)
def test_lu_linear_is_that_of_nflows_and_of_zuko(float64, seed):
    torch.manual_seed(seed)
    layer = b.LULinear(4)
    disturb(layer)
    theirs = nf.LULinear(4)
    below, above = layer.triangles.factors()
    theirs.bias.data.copy_(layer.bias)
    theirs.lower_entries.data.copy_(below[tuple(torch.tril_indices(4, 4, -1))])
    theirs.upper_entries.data.copy_(above[tuple(torch.triu_indices(4, 4, 1))])
    theirs.unconstrained_upper_diag.data.copy_(torch.expm1(above.diagonal() - theirs.eps).log())  # softplus(r) + eps
    agree(layer, theirs, torch.randn(8, 4))
    shift = zt.DependentTransform(zt.AdditiveTransform(layer.bias), 1)
    agree(layer, OfZuko(lambda _: zt.ComposedTransform(lu_of_zuko(layer), shift)), torch.randn(8, 4))


@given(seed=seeds)
def test_invertible_convolution_is_zukos_lu_at_every_pixel(float64, seed):
    torch.manual_seed(seed)
    layer = b.InvertibleConv1x1(3)
    z, log_det = layer(torch.eye(3).reshape(3, 3, 1, 1))
    same(z.flatten(1) @ z.flatten(1).T, torch.eye(3))  # it starts as a rotation
    same(log_det, torch.zeros(3))
    disturb(layer, 0.2)
    theirs = zt.ComposedTransform(lu_of_zuko(layer), zt.PermutationTransform(layer.order))  # pyright: ignore
    x = torch.randn(5, 3, 4, 2)
    for ours, pixel in ((layer, theirs), (layer.inverse, theirs.inv)):
        z, log_det = pixel.call_and_ladj(x.movedim(1, -1))  # pyright: ignore
        same(ours(x), (z.movedim(-1, 1), log_det.sum((1, 2))))


@given(seed=seeds)
def test_householder_and_permutation_are_those_of_nflows(float64, seed):
    torch.manual_seed(seed)
    rotation = b.Householder(4)
    disturb(rotation)
    theirs = nf.HouseholderSequence(4, 4)
    theirs.q_vectors.data.copy_(rotation.vectors)
    agree(rotation, theirs, torch.randn(8, 4))
    permutation = b.Permutation.random(4)
    agree(permutation, nf.Permutation(permutation.order), torch.randn(8, 4))


def test_squeeze_is_that_of_nflows(float64):
    squeeze, theirs = b.Squeeze(), nf.SqueezeTransform()
    same(squeeze(x := torch.randn(3, 2, 4, 6)), theirs(x))
    same(squeeze.inverse(z := torch.randn(3, 8, 2, 3)), theirs.inverse(z))


@given(seed=seeds)
def test_leaky_relu_is_that_of_nflows(float64, seed):
    torch.manual_seed(seed)
    layer = b.LeakyReLU()
    disturb(layer)
    agree(layer, nf.LeakyReLU(layer.log_slope.exp().item()), torch.randn(8, 4))


@given(seed=seeds, shape=st.sampled_from([(3,), (3, 4, 2)]))
def test_act_norm_is_that_of_nflows(float64, seed, shape):
    torch.manual_seed(seed)
    ours, theirs = b.ActNorm(3), nf.ActNorm(3)
    data = 3 * torch.randn(20, *shape) + torch.arange(3.0).reshape(3, *(1 for _ in shape[1:]))
    ours.initialize(data)
    theirs.train()(data)
    count = data.numel() // 3
    unbiased = 0.5 * math.log(count / (count - 1))  # nflows makes the unbiased variance 1
    same(ours.log_scale, theirs.log_scale + unbiased)
    disturb(ours)
    theirs.log_scale.data.copy_(ours.log_scale)
    theirs.shift.data.copy_(-ours.shift * ours.log_scale.exp())  # nflows shifts after it scales
    agree(ours, theirs, torch.randn(8, *shape))


@given(seed=seeds)
def test_batch_norm_in_evaluation_is_that_of_nflows(float64, seed):
    torch.manual_seed(seed)
    ours, theirs = b.BatchNorm(3, eps=1e-3), nf.BatchNorm(3, eps=1e-3)  # its weight starts at 1, its bias at 0
    for _ in range(3):
        ours.train()(torch.randn(20, 3) * torch.tensor([0.01, 1.0, 7.0]) + 2)
    theirs.running_mean.copy_(ours.mean)  # pyright: ignore
    theirs.running_var.copy_(ours.variance)  # pyright: ignore
    agree(ours.eval(), theirs.eval(), torch.randn(8, 3))


@given(seed=seeds)
def test_batch_norm_in_training_is_that_of_torch(float64, seed):
    torch.manual_seed(seed)
    ours = b.BatchNorm(3, momentum=0.3, eps=1e-3, statistics="batch")
    theirs = nn.BatchNorm1d(3, momentum=0.3, eps=1e-3, affine=False)
    x = torch.randn(20, 3) * torch.tensor([0.01, 1.0, 7.0]) + 2
    z, log_det = ours.train()(x)
    same(z, theirs(x))
    same(ours.mean, theirs.running_mean)
    slope = torch.linalg.norm(z[1:] - z[:1], dim=0) / torch.linalg.norm(x[1:] - x[:1], dim=0)
    same(log_det, slope.log().sum().expand(20))


@given(seed=seeds)
def test_whole_flow_is_that_of_nflows(float64, seed):
    torch.manual_seed(seed)
    coupling = vector(4, b.Affine, context=2)
    norm, rotation, permutation = b.ActNorm(4), b.Householder(4), b.Permutation.random(4)
    flow = Flow(b.Chain(norm, coupling, permutation, rotation), priors.StandardNormal(4), context_features=2)
    disturb(flow)
    scale = norm.log_scale.exp().detach()
    their_rotation = nf.HouseholderSequence(4, 4)
    their_rotation.q_vectors.data.copy_(rotation.vectors)
    their_chain = nf.CompositeTransform(
        [
            nf.PointwiseAffineTransform(-norm.shift.detach() * scale, scale),
            coupling_of_nflows(coupling, 4),
            nf.Permutation(permutation.order),
            their_rotation,
        ]
    )
    theirs = nflows.flows.Flow(their_chain, NflowsNormal([4]))
    x, context = 2 * torch.randn(8, 4), torch.randn(8, 2)
    same(flow.log_prob(x, context), theirs.log_prob(x, context))
    same(flow.from_latent(x, context), their_chain.inverse(x, context))


# --- densities in closed form -----------------------------------------------------------------------------------------


def gaussian_flow(*, kind: str = "zca") -> Flow:
    """One of every layer that is affine in all features, couplings and autoregressive ones by nets that are linear."""
    kept, moved = b.Coupling.sizes(4)
    linear = MLP(kept, 2 * moved, hidden=())
    masked = MADE(4, 2, hidden=())
    lu, normalized = b.LULinear(4), b.ActNorm(4)
    learned = [
        lu,
        normalized,
        b.Permutation.random(4),
        b.Coupling(4, b.Affine(moved), linear),
        b.Householder(4),
        b.Coupling(4, b.Affine(2, bound="soft"), MLP(2, 4, hidden=()), swap=True),
        b.Autoregressive(4, b.Affine(4, bound="soft"), masked),
        b.Scaling(4),
    ]
    for layer in learned:
        disturb(layer, 0.5)
    for net in (linear, learned[5].net, masked):
        net.output.weight.data[0::2] = 0  # the log-scale is a constant, the shift is linear
    batch_norm = b.BatchNorm(4)
    batch_norm.initialize(3 * torch.randn(50, 4) + 1)
    first = [set_from_data(b.Whiten(4, kind=kind), 4), set_from_data(b.Standardize(4), 4), batch_norm]
    return Flow(b.Chain(*first, *learned, b.Inverse(b.Scaling(4))), priors.StandardNormal(4)).eval()


def normal_of(flow: Flow) -> td.MultivariateNormal:
    """Basis vectors through the way back: x = mean + M z."""
    with torch.no_grad():
        mean = flow.from_latent(torch.zeros(1, 4))[0][0]
        transposed = flow.from_latent(torch.eye(4))[0] - mean
    upper = torch.linalg.qr(transposed).R  # M Mᵀ = Rᵀ R without its squared condition number
    return td.MultivariateNormal(mean, scale_tril=(upper.diagonal().sign()[:, None] * upper).T)


@pytest.mark.parametrize("kind", ["zca", "pca"])
@given(seed=seeds)
def test_flow_of_affine_layers_is_a_multivariate_normal(float64, kind, seed):
    torch.manual_seed(seed)
    flow = gaussian_flow(kind=kind)
    normal = normal_of(flow)
    x = normal.mean + 2 * (normal.sample((20,)) - normal.mean)
    same(flow.log_prob(x), normal.log_prob(x))
    same(flow.from_latent(torch.randn(3, 4))[1], normal.scale_tril.diagonal().log().sum().expand(3))


def bounded(name: str) -> tuple[b.Bijection, list[td.Transform]]:
    """A bijection, and torch's way from the latent to the data."""
    low, high = torch.tensor([-1.0, 0.0, 2.0]), torch.tensor([3.0, 0.5, 10.0])
    squeezed = td.AffineTransform(-0.05 / 0.9, 1 / 0.9)
    return {
        "Positive": lambda: (b.Positive(low=2.0), [td.SoftplusTransform(), td.AffineTransform(2.0, 1.0)]),
        "Interval": lambda: (
            b.Interval(low.tolist(), high.tolist()),
            [td.SigmoidTransform(), td.AffineTransform(low, high - low)],
        ),
        "Interval alpha": lambda: (
            b.Interval(-2.0, 3.0, alpha=0.05),
            [td.SigmoidTransform(), squeezed, td.AffineTransform(-2.0, 5.0)],
        ),
        "Logit": lambda: (b.Logit(), [td.SigmoidTransform()]),
        "Logit alpha": lambda: (b.Logit(alpha=0.05), [td.SigmoidTransform(), squeezed]),
    }[name]()


def logistic() -> td.TransformedDistribution:
    return td.TransformedDistribution(td.Uniform(torch.zeros(3), torch.ones(3)), [td.SigmoidTransform().inv])


@pytest.mark.parametrize("name", ["Positive", "Interval", "Interval alpha", "Logit", "Logit alpha"])
@pytest.mark.parametrize("prior", ["normal", "logistic"])
@given(seed=seeds)
def test_bounded_density_is_that_of_torch(float64, name, prior, seed):
    torch.manual_seed(seed)
    bijection, transforms = bounded(name)
    flow = Flow(bijection, priors.make_prior(prior, 3))
    base = td.Normal(torch.zeros(3), torch.ones(3)) if prior == "normal" else logistic()
    theirs = td.Independent(td.TransformedDistribution(base, transforms), 1)
    x = theirs.sample((20,))
    same(flow.log_prob(x), theirs.log_prob(x))
    z = 3 * torch.randn(20, 3)
    way = td.ComposeTransform(transforms)
    same(flow.from_latent(z), (way(z), way.log_abs_det_jacobian(z, way(z)).sum(-1)))


def test_logistic_on_an_interval_is_uniform(float64):
    low, high = torch.tensor([-1.0, 0.0]), torch.tensor([3.0, 0.5])
    flow = Flow(b.Interval(low.tolist(), high.tolist()), priors.Logistic(2))
    uniform = td.Uniform(low, high)
    x = uniform.sample((20,))
    same(flow.log_prob(x), uniform.log_prob(x).sum(-1))


def test_logarithmic_tails_of_a_normal_are_log_normal(float64):
    flow = Flow(b.LogTails(bound=3.0), priors.StandardNormal(1))
    beyond = torch.logspace(math.log10(3.1), 6, 50)[:, None]
    log_normal = td.LogNormal(torch.tensor(math.log(3.0) - 1), torch.tensor(1 / 3))  # x = 3 exp(z / 3 - 1)
    for x in (beyond, -beyond):
        same(flow.log_prob(x), log_normal.log_prob(x.abs()).sum(-1))
    within = torch.linspace(-2.9, 2.9, 20)[:, None]
    same(flow.log_prob(within), td.Normal(0.0, 1.0).log_prob(within).sum(-1))


@given(seed=seeds)
def test_mixture_cdf_is_the_distribution_function_of_torchs_mixture(float64, seed):
    torch.manual_seed(seed)
    transform = b.LogisticMixtureCDF(components=3, limit=2.0)
    x, raw = torch.randn(20, 2), torch.randn(20, 2, 9)
    logits, means, log_scales = raw.split(3, -1)
    means = means * torch.tensor([0.5, 1.0, 1.5])
    scales = (4 / math.pi * torch.atan(math.pi * log_scales / 4)).exp()
    uniform = td.Uniform(torch.zeros(20, 2, 3), torch.ones(20, 2, 3))
    component = td.TransformedDistribution(uniform, [td.SigmoidTransform().inv, td.AffineTransform(means, scales)])
    mixture = td.MixtureSameFamily(td.Categorical(logits=logits), component)
    below = mixture.cdf(x)
    assert ((below > 1e-6) & (below < 1 - 1e-6)).all()  # where a logit of it has its digits
    z, log_slope = below.logit(), mixture.log_prob(x) - below.log() - (-below).log1p()
    same(transform(x, raw), (z, log_slope))
    same(transform.inverse(z, raw), (x, -log_slope))


# --- priors -----------------------------------------------------------------------------------------------------------


@given(seed=seeds)
def test_student_density_is_that_of_torch(float64, seed):
    torch.manual_seed(seed)
    prior = priors.StudentT(3, df=4.0)
    same(prior.df, torch.full((3,), 4.0))
    disturb(prior)
    z = 5 * torch.randn(20, 3)
    same(prior.log_prob(z), td.StudentT(prior.df).log_prob(z).sum(-1))


def test_student_samples_have_the_quantiles_of_torchs(float64):
    prior = priors.StudentT(1, df=2.5)
    ours, theirs = prior.sample(40_000).flatten(), td.StudentT(torch.tensor(2.5)).sample((40_000,))
    levels = torch.linspace(0.01, 0.99, 33)
    at = theirs.quantile(levels)
    share = (ours[:, None] < at).double().mean(0)
    error = (2 * levels * (1 - levels) / 40_000).sqrt()
    assert ((share - levels).abs() < 4.5 * error).all()


def test_uniform_density_is_that_of_torch(float64):
    prior = priors.Uniform(2, low=-1.0, high=3.0)
    z = 4 * torch.randn(200, 2)
    theirs = td.Uniform(torch.tensor(-1.0), torch.tensor(3.0), validate_args=False).log_prob(z).sum(-1)
    assert theirs.isfinite().any()
    assert theirs.isinf().any()
    same(prior.log_prob(z), theirs)
    drawn = prior.sample(1000)
    assert td.Uniform(-1.0, 3.0).support.check(drawn).all()  # pyright: ignore
    assert (drawn.mean(0) - 1).abs().max() < 5 * 4 / math.sqrt(12 * 1000)


def mixture_of_torch(prior: priors.GaussianMixture) -> td.MixtureSameFamily:
    factor = prior.below.tril(-1) + torch.diag_embed(prior.log_diagonal.exp())
    components = td.MultivariateNormal(prior.means, precision_matrix=factor.mT @ factor)
    return td.MixtureSameFamily(td.Categorical(logits=prior.logits), components)


@given(seed=seeds)
def test_mixture_density_is_that_of_torch(float64, seed):
    torch.manual_seed(seed)
    prior = priors.GaussianMixture(3, components=4)
    disturb(prior)
    z = 3 * torch.randn(20, 3)
    same(prior.log_prob(z), mixture_of_torch(prior).log_prob(z))


def test_mixture_samples_have_the_moments_of_torchs(float64):
    prior = priors.GaussianMixture(3, components=4)
    disturb(prior)
    theirs = mixture_of_torch(prior)
    z = prior.sample(40_000)
    for sampled, exact in ((z, theirs.mean), ((z - theirs.mean).square(), theirs.variance)):
        assert ((sampled.mean(0) - exact).abs() < 5 * sampled.std(0) / 200).all()
    # The correlations, which the marginal moments do not see: mean log-density against torch's own samples.
    drawn = theirs.sample((40_000,))
    ours, other = theirs.log_prob(z), theirs.log_prob(drawn)
    assert (ours.mean() - other.mean()).abs() < 5 * (ours.var() + other.var()).sqrt() / 200


def test_class_conditional_density_is_that_of_torch(float64):
    prior = priors.ClassConditional(3, classes=4, column=1)
    disturb(prior)
    label = torch.randint(4, (20,))
    context = torch.stack((torch.randn(20), label.double()), -1)
    z = 2 * torch.randn(20, 3)
    theirs = td.Normal(prior.means[label], prior.log_scales[label].exp())
    same(prior.log_prob(z, context), theirs.log_prob(z).sum(-1))


# --- a flow as a torch distribution -----------------------------------------------------------------------------------


def some_distribution(batch: tuple[int, ...] | None) -> tuple[Flow, Any, torch.Size]:
    """A flow, its distribution given contexts of shape ``batch`` (of a flow without context: None), its batch shape."""
    flow = Flow(
        b.Chain(vector(3, b.Affine, context=0 if batch is None else 2), b.Permutation.random(3), b.Scaling(3)),
        priors.StandardNormal(3),
        context_features=0 if batch is None else 2,
    )
    disturb(flow)
    if flow.standardize_context is None or batch is None:
        return flow, flow.distribution(), torch.Size()
    flow.standardize_context.initialize(3 * torch.randn(50, 2) + 1)
    return flow, flow.distribution(torch.randn(*batch, 2)), torch.Size(batch)


batches = pytest.mark.parametrize("batch", [None, (5,), (2, 4), (1, 4)])


@batches
def test_shapes_are_those_of_a_normal_of_torch(float64, batch):
    _, ours, batch_shape = some_distribution(batch)
    theirs = td.Independent(td.Normal(torch.zeros(*batch_shape, 3), 1.0), 1)
    one: Any
    other: Any
    for one, other in ((ours, theirs), (ours.expand((6, 2, *batch_shape)), theirs.expand((6, 2, *batch_shape)))):
        assert (one.batch_shape, one.event_shape) == (other.batch_shape, other.event_shape)
        for shape in map(torch.Size, [(), (7,), (3, 2)]):
            x = one.sample(shape)
            assert x.shape == one.rsample(shape).shape == other.sample(shape).shape
            assert one.log_prob(x).shape == other.log_prob(x).shape
            assert one.support.check(x).shape == other.support.check(x).shape
    for value in (torch.zeros(3), torch.zeros(6, *(1 for _ in batch_shape), 3)):
        assert ours.log_prob(value).shape == theirs.log_prob(value).shape
    assert "FlowDistribution" in repr(ours)


def test_no_samples_and_no_contexts(float64):
    for batch, shape in (((2, 4), (0, 3)), ((0,), (6,)), (None, (0,))):
        _, density, batch_shape = some_distribution(batch)
        x = density.sample(shape)
        assert x.shape == (*shape, *batch_shape, 3)
        assert density.log_prob(x).shape == (*shape, *batch_shape)


@batches
def test_expanded_distribution_has_the_same_density(float64, batch):
    _, density, batch_shape = some_distribution(batch)
    expanded = density.expand((6, *batch_shape))
    x = expanded.sample((3,))
    same(expanded.log_prob(x), density.log_prob(x))


def test_expanding_repeats_a_context_of_one_row(float64):
    flow, density, _ = some_distribution((1,))
    x = torch.randn(4, 3)
    same(density.expand((4,)).log_prob(x), flow.log_prob(x, density.context.expand(4, 2)))


@batches
def test_density_and_samples_are_those_of_the_flow_row_by_row(float64, batch):
    flow, density, batch_shape = some_distribution(batch)
    x = torch.randn(3, *batch_shape, 3)
    rows = None if batch is None else density.context.expand(3, *batch_shape, 2).reshape(-1, 2)
    wanted = flow.log_prob(x.reshape(-1, 3), rows).reshape(3, *batch_shape)
    same(density.log_prob(x), wanted)
    torch.manual_seed(1)
    drawn = density.sample((3,))
    torch.manual_seed(1)
    latent = torch.randn(wanted.numel(), 3)
    same(drawn, flow.from_latent(latent, rows)[0].reshape(x.shape))


@batches
def test_transformed_distribution_has_the_density_of_the_flow(float64, batch):
    flow, density, batch_shape = some_distribution(batch)
    context = None
    if flow.standardize_context is not None:
        context = flow.standardize_context(density.context.reshape(-1, 2))[0].reshape(*batch_shape, 2)
    base = td.MultivariateNormal(torch.zeros(*batch_shape, 3), torch.eye(3))
    transform = BijectionTransform(flow.bijection, context)
    theirs = td.TransformedDistribution(base, [transform.inv])
    assert (theirs.batch_shape, theirs.event_shape) == (density.batch_shape, density.event_shape)
    x = theirs.rsample((3, 4))
    same(theirs.log_prob(x), density.log_prob(x))
    torch.manual_seed(1)
    drawn = theirs.sample()
    torch.manual_seed(1)
    same(drawn, density.sample())


def test_transform_composes_with_those_of_torch(float64):
    flow, density, _ = some_distribution(None)
    unit: Any = td.AffineTransform(torch.tensor([1.0, 0.0, -2.0]), torch.tensor([2.0, 0.1, 30.0]), event_dim=1)
    base = td.Independent(td.Normal(torch.zeros(3), 1.0), 1)
    theirs = td.TransformedDistribution(base, [BijectionTransform(flow.bijection).inv, unit])
    x: Any = theirs.sample((20,))
    same(theirs.log_prob(x), density.log_prob((x - unit.loc) / unit.scale) - unit.scale.log().sum())


def test_transform_has_the_log_determinant_of_its_jacobian(float64):
    flow, _, _ = some_distribution(None)
    transform = BijectionTransform(flow.bijection)
    way: Any
    for way in (transform, transform.inv):
        x = torch.randn(3)
        jacobian = torch.autograd.functional.jacobian(way, x)
        same(way.log_abs_det_jacobian(x, way(x)), torch.linalg.slogdet(jacobian).logabsdet)
        same(way.inv(way(x)), x)
        assert way.forward_shape(torch.Size((5, 3))) == way.inverse_shape(torch.Size((5, 3))) == (5, 3)


def test_batch_dimensions_can_be_reinterpreted(float64):
    _, density, _ = some_distribution((2, 4))
    joint = td.Independent(density, 1)
    assert (joint.batch_shape, joint.event_shape) == ((2,), (4, 3))
    x = joint.rsample((6,))
    assert x.shape == (6, 2, 4, 3)
    same(joint.log_prob(x), density.log_prob(x).sum(-1))
    same(joint.expand((5, 2)).log_prob(x[:, None]), density.log_prob(x).sum(-1)[:, None].expand(6, 5, 2))


def test_contexts_can_be_components_of_a_mixture(float64):
    _, density, _ = some_distribution((2, 4))
    weights = td.Categorical(logits=torch.randn(2, 4))
    mixture = td.MixtureSameFamily(weights, density)
    x = mixture.sample((6,))
    assert x.shape == (6, 2, 3)
    same(mixture.log_prob(x), (weights.logits + density.log_prob(x[:, :, None])).logsumexp(-1))


def test_divergence_of_two_flows_is_that_of_their_normals(float64):
    one, other = gaussian_flow(), gaussian_flow()
    p, q = one.distribution(), other.distribution()
    x = p.sample((20_000,))
    ratio = (p.log_prob(x) - q.log_prob(x)).detach()
    exact = td.kl_divergence(normal_of(one), normal_of(other))
    assert (ratio.mean() - exact).abs() < 5 * ratio.std() / math.sqrt(20_000)
    assert ratio.std() / math.sqrt(20_000) < 0.05 * exact


def test_samples_have_the_moments_of_the_normal(float64):
    flow = gaussian_flow()
    normal = normal_of(flow)
    x = flow.distribution().sample((20_000,))
    white = torch.linalg.solve_triangular(normal.scale_tril, (x - normal.mean).T, upper=False)
    assert (white.mean(1)).abs().max() < 5 / math.sqrt(20_000)
    assert (white.cov() - torch.eye(4)).abs().max() < 5 * math.sqrt(2 / 20_000)


def test_gradient_through_samples_is_that_of_torchs_normal(float64):
    norm, scaling = b.ActNorm(3), b.Scaling(3)
    flow = Flow(b.Chain(norm, scaling), priors.StandardNormal(3))
    disturb(flow)
    log_scale = (-norm.log_scale - scaling.log_scale).detach().requires_grad_()
    loc = norm.shift.detach().clone().requires_grad_()
    torch.manual_seed(1)
    ours = flow.distribution().rsample((50,))
    ours.sin().sum().backward()
    torch.manual_seed(1)
    theirs = td.Normal(loc, log_scale.exp()).rsample((50,))
    theirs.sin().sum().backward()
    same(ours, theirs)
    same(norm.shift.grad, loc.grad)
    assert log_scale.grad is not None
    same(norm.log_scale.grad, -log_scale.grad)
    same(scaling.log_scale.grad, -log_scale.grad)


def test_gradient_through_samples_reaches_every_parameter_and_the_context(float64):
    flow, _, _ = some_distribution((5,))
    context = torch.randn(5, 2, requires_grad=True)
    density = flow.distribution(context)
    assert density.has_rsample
    assert not density.sample((4,)).requires_grad
    density.rsample((4,)).square().sum().backward()
    for tensor in (context, *flow.parameters()):
        assert tensor.grad is not None
        assert tensor.grad.abs().sum() > 0


@pytest.mark.parametrize("prior", [priors.StudentT(3), priors.GaussianMixture(3, components=2)])
def test_samples_carry_no_gradient_where_the_prior_has_parameters(prior):
    density = Flow(b.Scaling(3), prior).distribution()
    assert not density.has_rsample
    with pytest.raises(NotImplementedError):
        density.rsample()
    assert density.sample((4,)).shape == (4, 3)


# --- what the shapes and contexts of a transform may be --------------------------------------------------------------


def test_a_transform_that_changes_shapes_makes_whole_distributions(float64):
    shape = torch.Size((1, 4, 4))
    for bijection, latent in ((b.Squeeze(), (4, 2, 2)), (b.MultiScale(shape, [b.Squeeze(), b.Squeeze()]), (16,))):
        base = td.Independent(td.Normal(torch.zeros(latent), 1.0), len(latent))
        transform = BijectionTransform(bijection, event_dim=3)
        density = td.TransformedDistribution(base, [transform.inv])
        assert density.event_shape == shape
        x = density.sample(torch.Size((5,)))
        assert x is not None
        assert x.shape == (5, *shape)
        z, log_det = bijection(x)
        torch.testing.assert_close(density.log_prob(x), base.log_prob(z) + log_det)


def test_a_transform_s_context_broadcasts(float64):
    layer = maf(2, context_features=1, layers=1, hidden=(8,)).bijection
    for parameter in layer.parameters():
        parameter.data.normal_()
    context = torch.randn(3, 1)
    transform = BijectionTransform(layer, context)
    x = torch.randn(2)
    torch.testing.assert_close(transform(x), layer(x.expand(3, 2), context)[0])
    base = td.MultivariateNormal(torch.zeros(2), torch.eye(2))
    density = td.TransformedDistribution(base, [transform.inv])
    assert density.batch_shape == (3,)
    assert density.rsample(torch.Size((4,))).shape == (4, 3, 2)


def test_one_row_of_context_is_a_distribution_without_batch():
    flow = maf(2, context_features=1, layers=1, hidden=(8,))
    density = flow.distribution(torch.tensor([0.5]))
    assert density.batch_shape == ()
    assert density.sample(torch.Size((3,))).shape == (3, 2)


def test_the_gradient_reaches_a_prior_made_by_torch():
    mean = torch.zeros(2, requires_grad=True)
    flow = Flow(b.Scaling(2), td.Normal(mean, 1.0))
    flow.distribution().rsample(torch.Size((4,))).sum().backward()
    assert mean.grad is not None
    assert mean.grad.tolist() == [4.0, 4.0]
