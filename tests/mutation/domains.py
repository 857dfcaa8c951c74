"""Properties of bounded domains, integers, padding and noise."""

import math
from contextlib import nullcontext
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.distributions import biject_to, constraints, transform_to

from cases import normal, refuses, same, vector
from flowstone import bijections as b
from flowstone.bijections import noise as noises
from flowstone.errors import DataError
from flowstone.testing import jacobian
from mutation.initialization import is_standard

__all__ = [
    "borders_are_as_near_as_precision_tells",
    "borders_hold_in_every_precision",
    "dequantized_noise_has_the_density_it_says",
    "dequantized_stays_within_its_integer",
    "domains_are_checked_to_the_precision_of_float32",
    "domains_are_those_of_their_layers",
    "domains_have_the_precision_of_the_data",
    "integers_and_tables_are_read",
    "integers_are_never_rounded_up",
    "integers_that_leave_no_room_for_noise_are_refused",
    "layers_with_borders_are_built_without_memory",
    "noise_is_of_the_precision_and_device_of_its_input",
    "noise_of_a_part_of_a_batch_is_that_of_the_whole",
    "numbers_are_carried_into_domains",
    "outside_its_domain_is_no_density",
    "padding_counts_for_nothing",
    "rescaled_is_between_zero_and_one",
    "tails_have_slope_one_at_their_bound",
    "the_half_that_moves_is_set",
    "what_comes_first_says_what_a_chain_reads",
    "what_is_sampled_is_among_the_levels",
]


def outside_its_domain_is_no_density() -> None:
    for layer, rows in (
        (b.Logit(), [[0.5, -0.1], [0.5, 1.1], [0.2, 0.5]]),
        (b.Logit(alpha=0.05), [[0.5, -0.1], [0.5, 1.1], [0.0, 1.0]]),
        (b.Interval(-2.0, 5.0), [[0.5, -2.1], [0.5, 5.1], [-1.9, 4.9]]),
        (b.Positive(low=1.0), [[0.9, 2.0], [2.0, -5.0], [1.1, 9.0]]),
    ):
        x = torch.tensor(rows, requires_grad=True)
        z, log_det = layer(x)
        assert z.isfinite().all()
        assert (log_det == -math.inf).tolist() == [True, True, False]
        gradient = torch.autograd.grad(z.sum() + log_det[2], x)[0]
        assert gradient.isfinite().all()


SQUASH = b.Inverse(b.Logit())
NOT_SINGLE = b.Chain(b.LULinear(2), b.Logit())  # what satisfies its domain cannot be said of single features
UNKNOWN: Any = object()


def domains_are_those_of_their_layers() -> None:
    infinity = math.inf
    for bijection, domain, codomain in (
        (b.Logit(), (0, 1), None),
        (b.Logit(alpha=0.1), (-0.125, 1.125), None),
        (b.Interval(-1.0, 4.0), (-1, 4), None),
        (b.Interval(-1.0, 4.0, alpha=0.1), (-1.625, 4.625), None),
        (b.Interval([0.0, -1.0], [1.0, 3.0]), ([0, -1], [1, 3]), None),
        (b.Positive(low=2.0), (2, infinity), None),
        (b.Rescale(0.0, 256.0), None, None),
        (b.LogTails(), None, None),
        (SQUASH, None, (0, 1)),
        (NOT_SINGLE, UNKNOWN, None),
        (b.Chain(b.Positive(), b.Scaling(2), b.LogTails()), (0, infinity), None),
        (b.Chain(b.Positive(low=2.0), b.Inverse(b.Positive(low=3.0))), (2, infinity), (3, infinity)),
        (b.Chain(b.Scaling(2), SQUASH), None, (0, 1)),
        (b.Chain(b.LeakyReLU(), b.Inverse(b.Positive(low=3.0))), None, (3, infinity)),
        (b.Chain(SQUASH, b.Logit(alpha=0.1)), None, UNKNOWN),
        (b.Chain(b.Inverse(b.Interval(-9.0, 0.5)), b.Logit()), UNKNOWN, UNKNOWN),
        (b.Chain(b.Inverse(b.Interval(0.5, 9.0)), b.Logit()), UNKNOWN, UNKNOWN),
        (b.Chain(b.Inverse(b.Interval(0.2, 0.5)), b.Logit()), None, UNKNOWN),
        (b.Chain(b.Scaling(2), b.Logit()), UNKNOWN, None),
        (b.Chain(b.Scaling(2), b.Positive()), UNKNOWN, None),
        (b.Chain(b.Scaling(2), NOT_SINGLE), UNKNOWN, None),
        (b.Chain(b.Dequantize(levels=8), b.Interval(0.0, 8.0, alpha=0.1)), (0, 7), UNKNOWN),
        (b.Chain(b.Dequantize(levels=8), b.Interval(0.0, 7.0)), UNKNOWN, None),
        (b.Dequantize(levels=8), (0, 7), (0, 8)),
        (b.Dequantize(), (-infinity, infinity), None),
        (b.Chain(SQUASH, b.Dequantize()), UNKNOWN, UNKNOWN),
        (b.MultiScale((1, 4, 4), [b.Chain(b.Logit(), b.Squeeze()), b.Squeeze()]), (0, 1), None),
        (b.MultiScale((1, 4, 4), [b.Squeeze(), b.Logit()]), UNKNOWN, None),
        (b.MultiScale((1, 4, 4), [b.Squeeze(), SQUASH]), None, UNKNOWN),
        (b.Partial(2, b.Scaling(1)), None, None),
        (b.Partial(2, b.Logit()), UNKNOWN, None),
        (b.Partial(2, SQUASH), None, UNKNOWN),
        (vector(2, lambda _: b.Additive()), None, None),
    ):
        for constraint, wanted in ((bijection.domain, domain), (bijection.codomain, codomain)):
            if wanted is UNKNOWN:
                assert constraints.is_dependent(constraint), bijection
            elif wanted is None:
                assert constraint is constraints.real, bijection
            else:
                bounds: Any = constraint
                for bound, number in zip((bounds.lower_bound, bounds.upper_bound), wanted, strict=True):
                    same(torch.as_tensor(bound).double(), torch.tensor(number).double())
        first = next(layer for layer in b.walk(bijection) if not layer.sublayers())
        assert bijection.domain.is_discrete == isinstance(first, b.Dequantize), bijection


def domains_are_checked_to_the_precision_of_float32() -> None:
    """A border counts as inside, and so does what float32, rounding it, makes of it: in parts of the larger border."""
    for layer, inside, outside in (
        (b.Logit(), (-1e-7, 0.0, 0.5, 1.0, 1 + 1e-7), (-1e-6, 1 + 1e-6)),
        (b.Interval(-5.0, -1.0), (-5 - 5e-7, -5.0, -2.0, -1.0, -1 + 5e-7), (-5 - 7e-7, -1 + 7e-7, 1.0)),
        (b.Interval([-1.0], [8.0]), (-1 - 9e-7, -1.0, 8.0, 8 + 9e-7), (-1 - 1e-6, 8 + 1e-6)),
        (b.Positive(low=2.0), (2 - 2e-7, 2.0, 1e30), (2 - 3e-7, -5.0)),
    ):
        x = torch.tensor([*inside, *outside])[:, None]
        wanted = [True] * len(inside) + [False] * len(outside)
        assert layer.domain.check(x)[:, 0].tolist() == wanted, layer
        assert layer(x)[1].isfinite().tolist() == wanted, layer
        assert not layer.domain.check(torch.tensor([[math.nan]]))


def numbers_are_carried_into_domains() -> None:
    number = torch.linspace(-9, 9, 19)[:, None].expand(-1, 3)
    for layer, wanted in (
        (b.Logit(), number.sigmoid()),
        (b.Interval([0.0, -1.0, -2.0], [1.0, 3.0, 9.0]), number.sigmoid() * torch.tensor([1, 4, 11]) - torch.arange(3)),
        (b.Positive(low=2.0), 2 + number.exp()),
    ):
        for way in (biject_to, transform_to):
            same(way(layer.domain)(number), wanted)


def domains_have_the_precision_of_the_data() -> None:
    for high, dtype in ((5.0, torch.float32), (1e-9, torch.float32), (1e-37, torch.float64)):
        domain: Any = b.Interval([0.0], [high]).float().domain
        assert domain.lower_bound.dtype == domain.upper_bound.dtype == dtype


def borders_are_as_near_as_precision_tells() -> None:
    for dtype in (torch.float64, torch.float32):
        eps = torch.finfo(dtype).eps
        z, log_det = b.Logit().to(dtype)(torch.tensor([[0.0], [1.0]], dtype=dtype))
        same(z[:, 0], torch.tensor([math.log(eps), -math.log(eps)], dtype=dtype), 1e-3)
        assert log_det.isfinite().all()
        z, log_det = b.Positive().to(dtype)(torch.tensor([[0.0]], dtype=dtype))
        same(z[0], torch.tensor([math.log(torch.finfo(dtype).tiny)], dtype=dtype), 1e-3)
        assert log_det.isfinite().all()


def borders_hold_in_every_precision() -> None:
    """0.1 and 0.7 are other numbers in float32 than in float64, one above, one below: their data are within."""
    for low, high in ((0.1, 0.7), (0.7, 1.9), (-0.7, -0.1), (1000.1, 1e6 + 0.7), (-1e6 - 0.7, -1.1), (-1e6 - 0.1, 9.1)):
        for written in (torch.float32, torch.float64):
            x = torch.tensor([[low], [(low + high) / 2], [high]], dtype=written).double()
            for flow in (torch.float32, torch.float64):
                for layer in (b.Interval(low, high), b.Interval([low], [high]), b.Positive(low=low)):
                    z, log_det = layer.to(flow)(x)
                    assert z.dtype == log_det.dtype == flow
                    assert log_det.isfinite().all()
                    assert (z.diff(dim=0) > 0).all()
                    assert (layer(x - 1e-3 * max(1.0, abs(low)))[1] == -math.inf).tolist()[0]


def integers_and_tables_are_read() -> None:
    bounded = (b.Logit(alpha=0.4), b.Interval(0, 5), b.Positive(), b.Rescale(0, 5))
    for kind in (torch.uint8, torch.int64, torch.float32, torch.float64):
        x = torch.tensor([[1, 2], [3, 4]]).to(kind)
        for layer in (b.Dequantize(), b.Dequantize(levels=5), *bounded):
            z, log_det = layer.float()(x)
            assert z.dtype == log_det.dtype == layer.inverse(z)[0].dtype == torch.float32
    x = torch.rand(5, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float32)
    for layer in bounded:  # in the flow's precision, where that is the higher one
        same(layer.double()(x)[0], layer(x.double())[0], 0)


def what_comes_first_says_what_a_chain_reads() -> None:
    assert b.Chain(b.Standardize(2), b.LULinear(2)).accepts_any_dtype
    assert not b.Chain(b.LULinear(2), b.Standardize(2)).accepts_any_dtype
    assert b.Chain(b.Chain(b.Logit(), b.LULinear(2)), b.LULinear(2)).accepts_any_dtype


def the_half_that_moves_is_set() -> None:
    x = 3 * normal(100, 5) + 2
    for swap, moving, kept in ((False, slice(2, 5), slice(0, 2)), (True, slice(0, 2), slice(2, 5))):
        layer = b.Partial(5, b.ActNorm(2 if swap else 3), swap=swap)
        layer.initialize(x)
        z = layer(x)[0]
        is_standard(z[:, moving])
        same(z[:, kept], x[:, kept], 0)


def layers_with_borders_are_built_without_memory() -> None:
    with torch.device("meta"):
        assert not b.Rescale(0.0, 1.0).needs_float64
        assert b.Rescale(1e9, 1e9 + 1).needs_float64
        assert not b.Positive().needs_float64
        assert b.Positive(low=1e9).needs_float64


def rescaled_is_between_zero_and_one() -> None:
    x = torch.tensor([[-2.0, 5.0, 1.5]])
    same(b.Rescale(-2.0, 5.0)(x)[0], torch.tensor([[0.0, 1.0, 0.5]]))


def what_is_sampled_is_among_the_levels() -> None:
    z = torch.tensor([[-3.2, 0.1, 6.9, 7.0, 99.0]])
    same(b.Dequantize(levels=8).inverse(z)[0], torch.tensor([[0.0, 0.0, 6.0, 7.0, 7.0]]), 0)
    same(b.Dequantize().inverse(z)[0], torch.tensor([[-4.0, 0.0, 6.0, 7.0, 99.0]]), 0)
    x = torch.tensor([[0.0, 7.0], [-1.0, 3.0], [3.0, 8.0]])
    for noise in (None, Recording(1.0)):
        assert b.Dequantize(noise, levels=8)(x)[1].isfinite().tolist() == [True, False, False]
    assert not b.Dequantize()(x)[1].any()


def padding_counts_for_nothing() -> None:
    """Under a normal latent: the log-probability is that of the image, whatever the noise."""
    x = normal(4, 2, 3, 2)
    z, log_det = b.Pad((2, 3, 2), (4, 6))(x)
    assert z.shape == (4, 2, 4, 6)
    same(z[:, :, :3, :2], x, 0)
    log_normal = [-0.5 * (value.square() + math.log(2 * math.pi)).flatten(1).sum(-1) for value in (z, x)]
    same(log_normal[0] + log_det, log_normal[1])
    added = torch.cat((z[:, :, 3:].flatten(), z[:, :, :3, 2:].flatten()))
    assert added.std() > 0.5
    same(b.Pad((2, 3, 2), (4, 6)).inverse(z)[1], torch.zeros(4), 0)


def tails_have_slope_one_at_their_bound() -> None:
    x = torch.tensor([[-2.0], [2.0]], requires_grad=True)
    for direction in (b.LogTails(bound=2.0).forward, b.LogTails(bound=2.0).inverse):
        (slope,) = torch.autograd.grad(direction(x)[0].sum(), x)
        same(slope, torch.ones(2, 1), 0)


class Recording(b.Bijection):
    """A noise that scales by a number and records its context."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale, self.context = scale, None

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return x / self.scale, x.new_full((len(x),), -x.shape[1] * math.log(self.scale))

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        self.context = context
        return z * self.scale, z.new_full((len(z),), z.shape[1] * math.log(self.scale))


def dequantized_stays_within_its_integer() -> None:
    x = torch.tensor([[0.0, 1.0, 255.0]]).expand(100, 3)
    for noise in (None, Recording(1.0), Recording(1e4)):  # the last one is at 0 or at 1, hardly ever between
        layer = b.Dequantize(noise, levels=256)
        z, log_det = layer(x)
        assert (z >= x).all()
        assert (z < x + 1).all()
        assert log_det.isfinite().all()
        same(layer.inverse(z)[0], x)
        same(layer.inverse(z)[1], torch.zeros(100))
    for value in (-1.0, 0.5, 4.0, math.inf, -math.inf):  # none of the levels
        z, log_det = b.Dequantize(levels=4)(torch.tensor([[value, 3.0], [1.0, 2.0]]))
        assert ((z >= 0) & (z < 4)).all()
        assert log_det.tolist() == [-math.inf, 0.0]
    with patch.object(torch, "rand_like", torch.ones_like):
        same(b.Dequantize().inverse(b.Dequantize()(x)[0])[0], x)


def integers_are_never_rounded_up() -> None:
    """Noise that rounding carries to the next integer ends just below it: above zero at the nearest number there is."""
    for dtype, most in ((torch.float64, 2**16), (torch.float32, 2**16), (torch.bfloat16, 2**4)):
        x = torch.arange(-most, most, dtype=dtype)[:, None]
        with patch.object(torch, "rand_like", torch.ones_like):
            z = b.Dequantize().to(dtype)(x)[0]
        following = x + 1
        same(z[following > 0], following.nextafter(x)[following > 0], 0)
        assert (z < following).all()
        assert (z >= following - 2 * torch.finfo(dtype).eps * following.abs().clamp_min(1)).all()


def integers_that_leave_no_room_for_noise_are_refused() -> None:
    far, near = torch.tensor([[0, 2**21]]), torch.tensor([[0, 2**21 - 1]])
    for x in (far, -far):
        refuses(partial(b.Dequantize().float(), x), DataError)
    refuses(partial(b.Dequantize(levels=2**21 + 1).float(), far[:, :1]), DataError)  # of which 2**21 is one
    for layer, x in (
        (b.Dequantize().float(), far[:, :1]),
        (b.Dequantize().float(), far[:0]),
        (b.Dequantize().double(), far),
        (b.Dequantize().float(), near),
        (b.Dequantize(levels=2**21).float(), near),
    ):
        same(layer(x)[0].floor(), x.to(layer.dtype), 0)
    with patch.object(torch.compiler, "is_compiling", lambda: True):  # a number that is looked at would break the graph
        assert b.Dequantize().float()(far)[0].isfinite().all()


def noise_is_of_the_precision_and_device_of_its_input() -> None:
    x = torch.zeros(3, 2, dtype=torch.float32)
    for draw in (noises.uniform_like, noises.normal_like):
        for drawn_from in (nullcontext(), b.noise_from(torch.Generator().manual_seed(0))):
            with drawn_from, torch.device("meta"):  # wherever tensors are made that do not say where
                noise = draw(x)
            assert (noise.shape, noise.dtype, noise.device) == (x.shape, x.dtype, x.device)
    with torch.device("meta"):
        assert noises.drawn(torch.rand, (3, 2), torch.device("cpu")).device.type == "cpu"


def noise_of_a_part_of_a_batch_is_that_of_the_whole() -> None:
    """Along any dimension, where each row has one number or several, and on the device that is asked for."""
    cpu = torch.device("cpu")
    for rows, each in ((0, 1), (1, 1), (1, 3), (2, 2)):
        for part in (slice(0, 2), slice(2, 5), slice(3, 3), slice(0, 5)):
            size = [4, 4, 4]
            size[rows] = each * 5
            with b.noise_from(torch.Generator().manual_seed(0)):
                whole = noises.drawn(torch.rand, size, cpu, rows=rows)
            size[rows] = each * (part.stop - part.start)
            source = b.NoiseSource(torch.Generator().manual_seed(0), part, 5)
            with b.noise_from(source), torch.device("meta"):
                found = noises.drawn(torch.rand, size, cpu, rows=rows)
            same(found, whole.narrow(rows, each * part.start, size[rows]), 0)


def dequantized_noise_has_the_density_it_says() -> None:
    """Minus the log-density of the noise: of a normal, and what becomes of it, by automatic differentiation."""
    x, epsilon = torch.tensor([[3.0, 200.0], [0.0, 17.0]]), normal(2, 2)
    layer = b.Dequantize(Recording(1.5), levels=256)
    with patch.object(torch, "randn_like", lambda _: epsilon):
        z, log_det = layer(x)
    assert isinstance(layer.noise, Recording)
    assert layer.noise.context is not None
    same(layer.noise.context, x / 256 - 0.5)

    def drawn(given: Tensor, _: Tensor | None) -> tuple[Tensor, Tensor]:
        with patch.object(torch, "randn_like", lambda _: given):
            return layer(torch.zeros_like(given))

    stretched = torch.linalg.slogdet(jacobian(drawn, epsilon, None))[1]
    log_normal = -0.5 * (epsilon.square() + math.log(2 * math.pi)).sum(-1)
    same(log_det, -(log_normal - stretched))
    same(z, x + (1.5 * epsilon).sigmoid())
    context = normal(2, 3)
    layer(x, context)
    same(layer.noise.context, torch.cat((x / 256 - 0.5, context), 1))
    same(b.Dequantize()(x)[1], torch.zeros(2))
