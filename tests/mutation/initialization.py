"""Properties of what is set from data."""

import copy
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from cases import default_dtype, normal, refuses, same
from flowstone import bijections as b
from flowstone.bijections.statistics import DataLayer
from flowstone.errors import DataError, ShapeError

__all__ = [
    "a_constant_channel_stays_finite",
    "a_momentum_of_one_is_the_last_batch_alone",
    "batch_norm_trains_by_its_formula",
    "chains_with_nothing_to_set_stay_as_they_are",
    "columns_without_outliers_stay_as_they_are",
    "constant_features_are_refused_but_in_a_context",
    "data_that_float32_cannot_hold_come_back_in_float64",
    "few_rows_are_judged_by_their_biased_deviation",
    "initialised_is_standard",
    "later_layers_are_set_from_what_reaches_them",
    "narrow_directions_are_widened_and_no_others",
    "numbers_of_any_size_are_standardised",
    "outliers_are_compressed_to_their_place",
    "regression_is_ridge_regression",
    "rows_between_the_knots_are_those_whose_columns_all_are",
    "scaled_to_deviation_one",
    "states_without_tails_leave_them_as_they_are",
    "statistics_do_not_depend_on_the_default_precision",
    "statistics_stay_in_float64",
    "tables_keep_their_digits_and_come_out_in_the_precision_of_the_flow",
    "whitened_is_as_promised",
    "whitening_looks_at_the_bulk",
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


def a_momentum_of_one_is_the_last_batch_alone() -> None:
    layer = b.BatchNorm(2, momentum=1.0).train()
    for seed in range(2):
        x = 3 * normal(40, 2, seed=seed) + seed
        is_standard(layer(x)[0], 1e-3)
        for got, wanted in zip((layer.mean, layer.variance), moments(x), strict=True):
            same(got, wanted)


def constant_features_are_refused_but_in_a_context() -> None:
    for x in (torch.cat((normal(5, 1), torch.full((5, 1), 3.0)), 1), normal(1, 2)):
        refuses(partial(b.Standardize(2).initialize, x), DataError)
    layer, x = b.Standardize(2, keep_constant=True), torch.cat((5 * normal(50, 1), torch.full((50, 1), 3.0)), 1)
    layer.initialize(x)
    same(layer.std[1], torch.tensor(1.0), 0)
    same(layer(x)[0], torch.stack(((x[:, 0] - x[:, 0].mean()) / x[:, 0].std(correction=0), torch.zeros(50)), 1))
    alone = b.Standardize(2, keep_constant=True)
    alone.initialize(x[:1])
    same(alone(x)[0], x - x[0])


def numbers_of_any_size_are_standardised() -> None:
    """Also where their squares overflow, or a power of two above the largest of them."""
    unit = torch.rand(200, 1, generator=torch.Generator().manual_seed(0))
    unit[7] = 0.0
    for x in (1.7e308 * unit, -1.7e308 * unit, 1e200 * unit - 1e3, 1e-200 * unit, -1e200 * unit, 1e200 * (unit - 0.5)):
        layer = b.Standardize(1)
        layer.initialize(x)
        is_standard(layer(x)[0])


def standardized(scale: float, offset: float, farthest: float) -> b.Standardize:
    layer = b.Standardize(1)
    layer.initialize(torch.cat((scale * normal(999, 1) + offset, torch.tensor([[farthest]]))))
    return layer


def data_that_float32_cannot_hold_come_back_in_float64() -> None:
    """Or can hold to few digits only; also where the statistics that say so were loaded."""
    for layer, new, wanted in (
        (b.Rescale(-1.0, 5.0), b.Rescale(-1.0, 5.0), torch.float32),
        (b.Rescale(1e6, 1e6 + 10), b.Rescale(1e6, 1e6 + 10), torch.float64),
        (b.Positive(low=1e6), b.Positive(low=1e6), torch.float64),
        (b.Interval(-1.0, 5.0), b.Interval(1e6, 1e6 + 10), torch.float32),
        (b.Interval(1e6, 1e6 + 10), b.Interval(-1.0, 5.0), torch.float64),
        (b.Interval([-1e6 - 10], [-1e6]), b.Interval([0.0], [1.0]), torch.float64),
        (standardized(1.0, 0.0, 3.0), standardized(1.0, 1e6, 1e6), torch.float32),
        (standardized(1.0, 1e6, 1e6), b.Standardize(1), torch.float64),
        (standardized(1e-3, 0.0, 1e36), b.Standardize(1), torch.float32),  # an outlier, which is compressed
        (standardized(1e3, 0.0, 1e38), b.Standardize(1), torch.float64),
        (standardized(1e3, 0.0, 1e38).tails, b.CompressTails(1), torch.float64),
    ):
        new.load_state_dict(layer.state_dict())
        for one in (layer.float(), new.float()):
            assert one.inverse(torch.zeros(1, 1))[0].dtype == wanted
            assert one(torch.ones(1, 1))[0].dtype == torch.float32


def layers_set_from_data() -> Iterator[b.Bijection]:
    """Whose statistics float32 would round."""
    x = 1.7e9 + normal(900, 2)
    x[:4] += 1e6
    for layer in (b.Standardize(2), b.Whiten(2), b.Interval([0.1, -9.1], [1.7e9 + 0.1, 9.7]), b.CompressTails(2)):
        layer.initialize(x)
        yield b.Chain(layer)


def statistics(module: b.Bijection) -> dict[str, Tensor]:
    """What data layers know of the data, in numbers that are not whole."""
    return {
        f"{place}.{name}": value
        for place, layer in module.named_modules()
        if isinstance(layer, DataLayer)
        for name, value in layer.named_buffers(recurse=False)
        if value.is_floating_point() and name != "_reference"
    }


def loaded(module: b.Bijection, state: dict[str, Tensor], **how: bool) -> b.Bijection:
    for value in statistics(module).values():
        value.zero_()
    module.load_state_dict(state, **how)
    return module


def statistics_stay_in_float64() -> None:
    """Whatever precision, device and state the rest is moved to."""
    for layer in layers_set_from_data():
        state = copy.deepcopy(layer.state_dict())
        before = copy.deepcopy(statistics(layer))
        rounded = {name: value.float().double() for name, value in before.items()}
        assert any(not torch.equal(before[name], rounded[name]) for name in before)
        in_float32 = {name: value.float() if value.is_floating_point() else value for name, value in state.items()}
        moved = [copy.deepcopy(layer) for _ in range(7)]
        away = moved.pop().to("meta")
        assert all(value.is_meta for value in away.buffers())
        away.load_state_dict(away.state_dict(), assign=True)  # nothing is asked of numbers that are not there
        for other, wanted in (
            (moved[0].float(), before),
            (moved[1].half().double(), before),
            (loaded(moved[2].float(), state), before),
            (loaded(moved[3].to("meta").to_empty(device="cpu"), state), before),
            (loaded(moved[4], in_float32), rounded),
            (loaded(moved[5].float(), in_float32, assign=True), rounded),
        ):
            found = statistics(other)
            assert found.keys() == before.keys()
            for name, value in found.items():
                assert value.dtype == torch.float64, name
                assert torch.equal(value, wanted[name]), name


def statistics_do_not_depend_on_the_default_precision() -> None:
    makes = (lambda: b.Interval(0.1, 0.7), lambda: b.Interval([0.1], [7]), lambda: b.CompressTails(2))
    for make in makes:
        wanted = statistics(make())
        with default_dtype(torch.float32):
            found = statistics(make())
        assert all(torch.equal(found[name], value) for name, value in wanted.items())


def states_without_tails_leave_them_as_they_are() -> None:
    """Files older than ``CompressTails`` know nothing of it; newer ones say what it is."""
    x = torch.cat((normal(999, 2), torch.full((1, 2), 1e6)))
    old, new = b.Chain(b.Standardize(2)), b.Chain(b.Standardize(2))
    old.initialize(normal(50, 2) + 7)
    new.initialize(x)
    state = {name: value for name, value in old.state_dict().items() if ".tails." not in name}
    assert len(state) == 3
    for written, wanted in ((state, old), (new.state_dict(), new)):
        layer = b.Chain(b.Standardize(2))
        layer.load_state_dict(written)
        for got, expected in zip(layer(x), wanted(x), strict=True):
            same(got, expected, 0)
        layer.initialize(x + 1)
        same(layer(x)[0], wanted(x)[0], 0)


# --- tails ------------------------------------------------------------------------------------------------------------


def bulk_of(column: Tensor) -> tuple[Tensor, Tensor]:
    """The median, and the deviation by the octiles, of a multiple of eight rows and one more."""
    ordered, eighth = column.sort().values, len(column) // 8
    return ordered[4 * eighth], (ordered[7 * eighth] - ordered[eighth]) / 2.3006987


def with_outliers(n: int, *outliers: float) -> Tensor:
    """Rows from -1 to 1 in a random order, with 0 among them, and outliers in the place of the last ones."""
    x = torch.linspace(-1, 1, n)[torch.randperm(n, generator=torch.Generator().manual_seed(0))]
    x[0] = 0.0
    x[n - len(outliers) :] = torch.tensor(outliers)
    return x


def outliers_are_compressed_to_their_place() -> None:
    x = torch.stack((
        with_outliers(801, 1e5, -3e4, 2e5, -2e4),
        1e3 * with_outliers(801, 2e4) - 300,
        1e-5 * with_outliers(801, -1e8, -2e7) + 7,
        1e200 * with_outliers(801, 1e5, -1e6),
        with_outliers(801),
    ), 1)  # fmt: skip
    layer = b.CompressTails(5)
    layer.initialize(x)
    z = layer.compress(x)[0]
    same(z[:, 4], x[:, 4], 0)
    for column, sides in enumerate(((-1, 1), (1,), (-1,), (-1, 1))):
        median, s = bulk_of(x[:, column])
        for sign in (-1, 1):
            place, side = (sign > 0) * 1, sign * (x[:, column] - median) / s
            knot, width, reach = (part[place, column] for part in (layer.knots, layer.widths, layer.ranges))
            if sign in sides:
                same(knot, median + sign * 3 * s)
                farthest = x[side.argmax(), column]
                same(sign * (z[side.argmax(), column] - median) / s, torch.tensor(5.0))
                same(reach, (farthest - knot).abs() / width)
                beyond = x.median(0).values.repeat(2, 1)
                beyond[:, column] = torch.stack((farthest, median + sign * 100 * side.max() * s))
                same(layer.compress(beyond)[1], -torch.log1p(reach).expand(2))
            else:
                assert side.max() < 5
                same(z[side > 0, column], x[side > 0, column], 0)


def columns_without_outliers_stay_as_they_are() -> None:
    """To the last bit, where the deviation of all rows is at most 64 of the bulk: whatever size, whatever sign."""
    near = with_outliers(801, 20.0, -30.0)
    x = torch.stack((near, 1e4 * near, 1e-4 * near, near - 1e3, near + 1e3, 1e200 * near, 0 * near), 1)
    layer = b.CompressTails(x.shape[1])
    layer.initialize(x)
    for value, log_det in (layer(x), layer.inverse(x)):
        same(value, x, 0)
        assert not log_det.any()


def few_rows_are_judged_by_their_biased_deviation() -> None:
    for times, stays in ((63.0, True), (65.0, False)):
        x = torch.tensor([-3.0, -2, -2, -1, 0, 1, 2, 2, 0])
        s = bulk_of(x)[1]
        x[8] = 9 * times * s / 8**0.5  # so far out that eight others hardly count
        assert abs(x.std(correction=0) / s - times) < 0.5
        layer = b.CompressTails(1)
        layer.initialize(x[:, None])
        assert (not layer.active) == stays


def rows_between_the_knots_are_those_whose_columns_all_are() -> None:
    layer = b.CompressTails(2)
    x = torch.tensor([[0.0, 0.0], [-5, 5], [-5.1, 0], [5.1, 0], [0, -1e9], [0, 9.1], [-5.1, 9.1], [5, 9], [4, -1e5]])
    assert layer.is_inside(x).all()
    layer.knots.copy_(torch.tensor([[-5.0, -1e6], [5.0, 9.0]]))
    assert layer.is_inside(x).tolist() == [True, True, False, False, False, False, False, True, True]


def whitening_looks_at_the_bulk() -> None:
    """At the rows without outliers, or at all where those are no more than half."""
    for part, looks_at_bulk in ((0.02, True), (0.1, False)):
        x = normal(800, 6) @ normal(6, 6, seed=1) + 9
        count = round(part * len(x))
        for column in range(6):
            x[column * count : (column + 1) * count, column] += 1e6 * (2 + column)
        for kind in ("zca", "pca"):
            layer = b.Whiten(6, kind=kind)
            layer.initialize(x)
            bulk = layer.standardize.tails.is_inside(x)
            assert (bulk.double().mean() > 0.5) == looks_at_bulk
            z = layer(x)[0]
            same((z[bulk] if looks_at_bulk else z).T.cov(correction=0), torch.eye(6), 1e-6)


def regression_is_ridge_regression() -> None:
    """By least squares: the penalty is that of further rows, whose features are 0. Few rows, so that it tells."""
    context, x = 2 + normal(6, 2), 3 + normal(6, 3, seed=1)
    layer = b.Regression(3, 2)
    layer.initialize(x, context)
    centred = torch.cat((context - context.mean(0), torch.eye(2)))
    wanted = torch.cat((x - x.mean(0), torch.zeros(2, 3)))
    weight = torch.linalg.lstsq(centred, wanted).solution.T
    same(layer.mean.weight.detach(), weight, 1e-10)
    same(layer(x, context)[0].mean(0).detach(), torch.zeros(3), 1e-10)
    layer.initialize(x + 1, context)  # changes nothing
    same(layer.mean.weight.detach(), weight, 1e-10)
    same(layer(x, context)[0].mean(0).detach(), torch.zeros(3), 1e-10)
    for given in (None, context[:3], context[:, :1]):
        refuses(partial(layer, x, given), ShapeError)
