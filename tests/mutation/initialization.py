"""Properties of what is set from data."""

import copy

import torch
from torch import Tensor

from cases import normal, same
from flowstone import bijections as b

__all__ = [
    "a_constant_channel_stays_finite",
    "batch_norm_trains_by_its_formula",
    "chains_with_nothing_to_set_stay_as_they_are",
    "initialised_is_standard",
    "later_layers_are_set_from_what_reaches_them",
    "narrow_directions_are_widened_and_no_others",
    "scaled_to_deviation_one",
    "tables_keep_their_digits_and_come_out_in_the_precision_of_the_flow",
    "whitened_is_as_promised",
]


def moments(z: Tensor) -> tuple[Tensor, Tensor]:
    flat = z.movedim(1, -1).flatten(0, -2)
    return flat.mean(0), flat.var(0, correction=0)


def is_standard(z: Tensor, tolerance: float = 1e-6) -> None:
    mean, variance = moments(z)
    same(mean, torch.zeros_like(mean), tolerance)
    same(variance, torch.ones_like(variance), tolerance)


def initialised_is_standard() -> None:
    x = 3 * normal(200, 3) @ normal(3, 3, seed=1) + torch.arange(3)
    pictures = 2 * normal(50, 3, 2, 4) + 5
    for make in (b.Standardize, b.ActNorm, b.Whiten, lambda n: b.Whiten(n, kind="pca")):
        layer = make(3)
        same(layer(x)[0], x)
        layer.initialize(x)
        is_standard(layer(x)[0])
        before = layer(x)[0]
        layer.initialize(x + 7)  # once
        same(layer(x)[0], before, 0)
    for layer in (b.ActNorm(3), b.BatchNorm(3).eval()):
        same(layer(pictures)[0], pictures)
        layer.initialize(pictures)
        is_standard(layer(pictures)[0], 1e-4)


def scaled_to_deviation_one() -> None:
    x = normal(200, 3) * torch.tensor([1e-3, 2.0, 0.0]) + 4
    layer = b.Scaling(3)
    same(layer(x)[0], x)
    layer.initialize(x)
    z = layer(x)[0]
    same(z.std(0, correction=0), torch.tensor([1.0, 1.0, 0.0]))
    same(z, x / torch.stack((*x.std(0, correction=0)[:2], torch.tensor(1e-6))))  # no column is scaled without end
    layer.initialize(7 * x)  # once
    same(layer(x)[0], z, 0)


def whitening(x: Tensor, kind: str, width: float | None = None) -> Tensor:
    """The matrix in Whiten's docstring, of standardised columns."""
    variance, rotation = torch.linalg.eigh(x.T.corrcoef())
    variance, rotation = variance.flip(0).clamp_min(1e-12), rotation.flip(1)
    spread = variance.sqrt() if width is None else (variance.sqrt() / width).clamp_max(1)
    return rotation / spread @ rotation.T if kind == "zca" else (rotation / spread).T


def whitens(layer: b.Whiten, x: Tensor, matrix: Tensor) -> None:
    """That it does what ``matrix`` does; the directions of PCA have no sign."""
    layer.initialize(x)
    zero = x.mean(0, keepdim=True)
    got = (layer(zero + torch.eye(len(matrix)))[0] - layer(zero)[0]).T * layer.standardize.std
    same(layer(zero)[0], torch.zeros_like(zero))
    same(*((got, matrix) if layer.kind == "zca" else (got.abs(), matrix.abs())), tolerance=1e-7)


def whitened_is_as_promised() -> None:
    for seed in range(3):
        x = normal(300, 4, seed=seed) @ normal(4, 4, seed=seed + 1)
        for kind in ("zca", "pca"):
            layer = b.Whiten(4, kind=kind)
            whitens(layer, x, whitening(x, kind))
            same(layer(x)[0].T.cov(correction=0), torch.eye(4))
    x = normal(300, 3)
    flat = torch.cat((x, x[:, :1]), 1)  # the last column is the first one again
    layer = b.Whiten(4, kind="pca")
    layer.initialize(flat)
    log_det = whitening(flat, "pca").det().abs().log() - layer.standardize.std.log().sum()
    same(layer(torch.eye(4))[1], log_det.expand(4), 1e-6)


def narrow_directions_are_widened_and_no_others() -> None:
    for rows, narrow in ((300, 0.3), (300, 0.7), (15, 0.3)):
        x = normal(rows, 4) @ normal(4, 4, seed=1)
        for kind in ("zca", "pca"):
            whitens(b.Whiten(4, kind=kind, narrow=narrow), x, whitening(x, kind, narrow))


def tables_keep_their_digits_and_come_out_in_the_precision_of_the_flow() -> None:
    x = 1.7e9 + torch.arange(100)[:, None] + normal(100, 2)  # seconds since 1970: float32 cannot tell them apart
    for layer in (b.Standardize(2).float(), b.Whiten(2).float()):
        layer.initialize(x)
        z, log_det = layer(x)
        assert z.dtype == log_det.dtype == torch.float32
        same(z.double(), copy.deepcopy(layer).double()(x)[0], 1e-5)
    same(z.double().T.cov(correction=0), torch.eye(2), 1e-3)  # although the mean is rounded to float32


def a_constant_channel_stays_finite() -> None:
    layer = b.ActNorm(2)
    layer.initialize(torch.ones(5, 2))
    assert all(part.isfinite().all() for part in layer(torch.zeros(1, 2)))


def batch_norm_trains_by_its_formula() -> None:
    x, mean, variance = 3 * normal(40, 2, 2, 3) + 1, torch.zeros(2), torch.full((2,), 1 - 1e-4)
    for statistics in ("running", "batch"):
        layer = b.BatchNorm(2, momentum=0.3, statistics=statistics).train()
        batch_mean, batch_variance = moments(x)
        running = 0.7 * mean + 0.3 * batch_mean, 0.7 * variance + 0.3 * batch_variance
        m, v = running if statistics == "running" else (batch_mean, batch_variance)
        z, log_det = layer(x)
        same(z, (x - m[:, None, None]) / (v + 1e-4).sqrt()[:, None, None])
        same(log_det, (-0.5 * 6 * (v + 1e-4).log().sum()).expand(40))
        same(layer.mean, running[0])
        same(layer.variance, running[1])


def later_layers_are_set_from_what_reaches_them() -> None:
    x = 3 * normal(100, 4) + 1
    reversed_order = b.Permutation.reverse(4)
    chain = b.Chain(b.LogTails(bound=1.0), reversed_order, b.ActNorm(4), reversed_order)
    chain.initialize(x)
    is_standard(chain(x)[0])
    first = b.ActNorm(4)
    backwards = b.Chain(b.Inverse(first), b.Standardize(4))
    backwards.initialize(x)
    same(first(x)[0], x, 0)  # an inverted layer is not set
    is_standard(backwards(x)[0])
    pictures = 3 * normal(60, 1, 4, 4) + 2
    scales = b.MultiScale((1, 4, 4), [b.Chain(b.Squeeze(), b.ActNorm(4)), b.Chain(b.LogTails(bound=0.5), b.ActNorm(2))])
    scales.initialize(pictures)
    z = scales(pictures)[0]
    is_standard(z[:, :8].unflatten(1, (2, 2, 2)))
    is_standard(z[:, 8:].unflatten(1, (2, 2, 2)))


def chains_with_nothing_to_set_stay_as_they_are() -> None:
    chain = b.Chain(b.LogTails(), b.Permutation.reverse(2))
    before = chain(normal(3, 2))[0]
    chain.initialize(normal(5, 2))
    same(chain(normal(3, 2))[0], before, 0)
