"""What others wrote says the same: nflows and zuko, given the same parameters, in float64."""

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

from cases import disturb, image, same, vector
from flowstone import Flow, priors
from flowstone import bijections as b
from flowstone.nets import MADE

with pytest.MonkeyPatch.context() as patch:  # importing zuko switches torch's checks off for the whole process
    patch.setattr(td.Distribution, "_validate_args", td.Distribution._validate_args)
    patch.setattr(td.Distribution, "arg_constraints", td.Distribution.arg_constraints)
    import zuko.transforms as zt
    from zuko.flows.autoregressive import MaskedAutoregressiveTransform

seeds = st.integers(0, 2**32 - 1)
Both = tuple[Tensor, Tensor]


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


def coupling_of_zuko(coupling: b.Coupling, features: int, make: Callable[[Tensor], Any]) -> OfZuko:
    """``make`` makes the transform of the moving half from the net's numbers."""
    moves = (torch.arange(features) >= features // 2) != coupling.swap
    return OfZuko(
        lambda context: zt.CouplingTransform(lambda kept: make(coupling.net(kept, context)), ~moves)  # pyright: ignore
    )


@pytest.mark.parametrize("scale", ["tanh", "soft"])
@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize("context_features", [0, 2])
@given(seed=seeds)
def test_affine_coupling_is_that_of_nflows_and_of_zuko(float64, scale, swap, context_features, seed):
    torch.manual_seed(seed)
    transform = b.Affine(b.Coupling.sizes(5, swap=swap)[1], scale=scale, limit=2.0)
    coupling = vector(5, lambda _: transform, swap=swap, context=context_features)
    disturb(coupling, 2.0)
    value, context = 3 * torch.randn(8, 5), torch.randn(8, context_features) if context_features else None
    agree(coupling, coupling_of_nflows(coupling, 5), value, context)
    theirs = coupling_of_zuko(coupling, 5, lambda raw: affine_of_zuko(*scale_and_shift(transform, raw)))
    agree(coupling, theirs, value, context)


@pytest.mark.parametrize("scale", ["tanh", "soft"])
@given(seed=seeds)
def test_affine_coupling_of_images_is_that_of_nflows(float64, scale, seed):
    torch.manual_seed(seed)
    coupling = image(5, lambda moved: b.Affine((moved, 1, 1), scale=scale))
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

    def univariate(raw: Tensor) -> zt.DependentTransform:
        return zt.DependentTransform(spline_of_zuko(spline, raw.unflatten(-1, (moved, -1))), 1)

    agree(coupling, coupling_of_zuko(coupling, 5, univariate), 2 * torch.randn(8, 5))


# --- autoregressive layers --------------------------------------------------------------------------------------------

FEATURES, COPIES = 4, 3  # our hidden layers have degrees 0, 0, 0, 1, 1, 1, …, 3, 3, 3


def units(lowest: int) -> Tensor:
    """Peers count degrees round: lowest, …, 3, lowest, …, 3, …; which of our hidden units is which of theirs."""
    width = FEATURES - lowest
    place = torch.arange(width * COPIES)
    return (place % width + lowest) * COPIES + place // width


def copy_weights(net: MADE, theirs: list[Any], order: Tensor) -> None:
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


def copy_weights_to_nflows(net: MADE, theirs: nflows_made.MADE) -> None:
    """nflows has no units of degree 0, which without context are constants: ours are cut off."""
    for layer in [*net.layers[1:], net.output]:
        layer.weight.data[:, :COPIES] = 0
    copy_weights(net, [theirs.initial_layer, theirs.blocks[0].linear, theirs.final_layer], units(lowest=1))


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
    transform = b.Affine(FEATURES, scale="soft", limit=2.0)
    layer = layer_of(transform)
    theirs = nf.MaskedAffineAutoregressiveTransform(**NFLOWS_NET)
    assert isinstance(layer.net, MADE)
    copy_weights_to_nflows(layer.net, theirs.autoregressive_net)

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
    copy_weights_to_nflows(layer.net, theirs.autoregressive_net)
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
    copy_weights(layer.net, list(theirs.hyper)[::2], units(lowest=0))  # pyright: ignore
    return OfZuko(theirs)


@given(seed=seeds)
def test_autoregressive_affine_with_context_is_that_of_zuko(float64, seed):
    torch.manual_seed(seed)
    transform = b.Affine(FEATURES, scale="soft", limit=2.0)
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
