"""Every bijection by name, with parameters that are not trivial: the laws run over all of it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from flowstone import bijections as b
from flowstone import recipes
from flowstone.flow import Flow
from flowstone.nets import MADE, MLP, ConvNet, Parallel
from flowstone.nets.initialization import initialize_output
from flowstone.testing import Case

__all__ = ["CASES", "default_dtype", "disturb", "normal", "refuses", "reset_outputs", "same"]

Transform = Callable[[int], b.Univariate]


def same(got: Any, wanted: Any, tolerance: float = 1e-9) -> None:
    torch.testing.assert_close(got, wanted, rtol=tolerance, atol=tolerance)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def refuses(call: Callable[[], object], error: type[Exception]) -> None:
    try:
        call()
    except error:
        return
    raise AssertionError(f"no {error.__name__} was raised")


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def disturb(module: nn.Module, size: float = 0.6) -> None:
    """Move every parameter away from where it starts: zeros make every law trivially true."""
    for parameter in module.parameters():
        inputs = parameter[0].numel() if parameter.ndim > 1 else 1
        parameter.data += size * torch.randn_like(parameter) / max(inputs, 1) ** 0.5


def reset_outputs(module: nn.Module) -> None:
    """Set the last layer of every conditioner to zero: couplings are then the identity."""
    for part in module.modules():
        output = getattr(part, "output", None)
        if isinstance(output, nn.Linear):
            initialize_output(output, 0.0)


def disturbed(make: Callable[[], b.Bijection], size: float = 0.6) -> Callable[[], b.Bijection]:
    def make_and_disturb() -> b.Bijection:
        bijection = make()
        disturb(bijection, size)
        return bijection

    return make_and_disturb


def case(make: Callable[[], b.Bijection], features, context_features: int = 0, *, size: float = 0.6, **more) -> Case:
    return Case(disturbed(make, size), features, context_features, **more)


def vector(features: int, transform: Transform, *, swap: bool = False, context: int = 0, separate: bool = False):
    kept, moved = b.Coupling.sizes(features, swap=swap)
    univariate = transform(moved)
    count = univariate.parameters_per_feature

    def net(outputs: int) -> MLP:
        return MLP(kept, outputs, hidden=(8, 8), context_features=context, activation="tanh")

    nets = Parallel(*(net(moved) for _ in range(count))) if separate else net(moved * count)
    return b.Coupling(features, univariate, nets, swap=swap)


def image(channels: int, transform: Transform, *, swap: bool = False, context: int = 0) -> b.Coupling:
    kept, moved = b.Coupling.sizes(channels, swap=swap)
    univariate = transform(moved)
    outputs = moved * univariate.parameters_per_feature
    net = ConvNet(kept, outputs, hidden=8, context_features=context, activation="tanh")
    return b.Coupling(channels, univariate, net, swap=swap)


def ordered(features: int, transform: Transform, *, context: int = 0, residual: bool = False) -> b.Autoregressive:
    univariate = transform(features)
    count = univariate.parameters_per_feature
    net = MADE(features, count, hidden=(9, 9), context_features=context, activation="tanh", residual=residual)
    return b.Autoregressive(features, univariate, net)


def set_from_data(layer: b.Bijection, features: int) -> b.Bijection:
    mix = torch.randn(features, features)
    layer.initialize(torch.randn(50, features) @ mix * torch.arange(1, features + 1) + 3)
    return layer


def set_from_outliers(layer: b.Bijection, features: int) -> b.Bijection:
    """The last column stays as it is; the others have outliers on both sides, or on one."""
    x = torch.randn(400, features)
    x[:8, :-1] = 100 * torch.arange(1, 9)[:, None]
    x[8:12, 0] = -50
    layer.initialize(x)
    return layer


def set_from_images(layer: b.Bijection, *shape: int) -> b.Bijection:
    layer.initialize(3 * torch.randn(40, *shape) + 1)
    return layer


def batch_norm(layer: b.BatchNorm, *shape: int) -> b.BatchNorm:
    layer.initialize(2 * torch.randn(40, *shape) - 1)
    for _ in range(3):
        layer.train()(3 * torch.randn(40, *shape) + 1)
    return layer


def two_scales() -> b.MultiScale:
    first = b.Chain(
        b.checkerboard(image(4, affine_image)), b.Squeeze(), image(4, affine_image, swap=True), b.Inverse(b.Squeeze()),
        b.Squeeze(order="checkerboard"),
    )  # fmt: skip
    return b.MultiScale((1, 4, 4), [first, image(2, affine_image)])


def additive(_: int) -> b.Additive:
    return b.Additive()


def affine(moved: int) -> b.Affine:
    return b.Affine(moved)


def affine_image(moved: int) -> b.Affine:
    return b.Affine((moved, 1, 1))


def narrow_ridge() -> b.LULinear:
    """Its density is a hundred times as long as it is wide, and lies across the axes."""
    layer = b.LULinear(2)
    layer.triangles.log_diagonal.data = torch.tensor([0.0, 5.0])
    layer.triangles.below.data[1, 0] = -100.0
    return layer


def soft(moved: int) -> b.Affine:
    return b.Affine(moved, scale="soft", limit=1.5)


def shift_first(moved: int) -> b.Affine:
    return b.Affine(moved, shift_first=True)


def spline(_: int) -> b.RQSpline:
    return b.RQSpline(bins=5, bound=2.0)


def circular(_: int) -> b.RQSpline:
    return b.RQSpline(bins=4, bound=2.0, circular=True)


def mixture(_: int) -> b.LogisticMixtureCDF:
    return b.LogisticMixtureCDF(components=3, limit=2.0)


def on_the_circle(n: int, generator: torch.Generator, spread: float) -> Tensor:
    # Short of the seam: rounding there may carry a point to the other end, which is the same point.
    return 1.998 * (2 * torch.rand(n, 3, generator=generator) - 1)


def within(low: float, high: float, features: int = 3) -> Callable[[int, torch.Generator, float], Tensor]:
    def draw(n: int, generator: torch.Generator, spread: float) -> Tensor:
        return low + (high - low) * torch.rand(n, features, generator=generator)

    return draw


def above(low: float) -> Callable[[int, torch.Generator, float], Tensor]:
    def draw(n: int, generator: torch.Generator, spread: float) -> Tensor:
        return low + 1e-3 + spread * torch.randn(n, 3, generator=generator).abs()

    return draw


def integers(*shape: int) -> Callable[[int, torch.Generator, float], Tensor]:
    def draw(n: int, generator: torch.Generator, spread: float) -> Tensor:
        return torch.randint(256, (n, *shape), generator=generator).to(torch.get_default_dtype())

    return draw


# Recipes on values far out, and deep chains, are ill-conditioned: tests of them would measure float64.
WHOLE: dict[str, Any] = {"size": 0.3, "widest": 3.0}
# Latents far out are mapped to the border of bounded data.
BOUNDED: dict[str, Any] = {"density": False, "widest": 3.0, "widest_float32": 2.0, "triangular": True}
NOISY: dict[str, Any] = {"stochastic": True, "density": False}


def pictures(make: Callable[[], Flow], shape: tuple[int, ...], context_features: int = 0) -> Case:
    """A recipe of images."""
    return case(lambda: make().bijection, shape, context_features, data=integers(*shape), size=0.1, **NOISY)


def small_realnvp(shape: tuple[int, ...], **settings: Any) -> Flow:
    return recipes.realnvp_image(shape, channels=4, blocks=1, **settings)


CASES: dict[str, Case] = {
    "Coupling Additive": case(lambda: vector(3, additive), 3),
    "Coupling Affine": case(lambda: vector(3, affine), 3),
    "Coupling Affine swapped": case(lambda: vector(3, affine, swap=True), 3),
    "Coupling Affine soft": case(lambda: vector(4, soft), 4),
    "Coupling Affine shift first": case(lambda: vector(4, shift_first), 4),
    "Coupling Affine separate nets": case(lambda: vector(4, affine, separate=True), 4),
    "Coupling Affine conditional": case(lambda: vector(3, affine, context=2), 3, 2),
    "Coupling Affine one feature": case(lambda: vector(1, affine, context=2), 1, 2),
    "Coupling Affine image": case(lambda: image(3, affine_image), (3, 2, 4)),
    "Coupling Affine image conditional": case(lambda: image(4, affine_image, swap=True, context=2), (4, 2, 2), 2),
    "Coupling RQSpline": case(lambda: vector(3, spline), 3),
    "Coupling RQSpline conditional": case(lambda: vector(2, spline, context=1, swap=True), 2, 1),
    "Coupling RQSpline one feature": case(lambda: vector(1, spline), 1),
    "Coupling RQSpline image": case(lambda: image(2, spline), (2, 2, 2)),
    "Coupling RQSpline circular": case(
        lambda: vector(3, circular), 3, data=on_the_circle, latents=on_the_circle, density=False
    ),
    "Coupling LogisticMixtureCDF": case(lambda: vector(3, mixture), 3),
    "Coupling LogisticMixtureCDF one feature": case(lambda: vector(1, mixture), 1),
    "Autoregressive Additive": case(lambda: ordered(3, additive), 3, triangular=True),
    "Autoregressive Affine": case(lambda: ordered(3, soft), 3, triangular=True),
    "Autoregressive Affine conditional": case(lambda: ordered(3, soft, context=2), 3, 2, triangular=True),
    "Autoregressive Affine residual": case(lambda: ordered(4, soft, residual=True), 4, triangular=True),
    "Autoregressive RQSpline": case(lambda: ordered(4, spline), 4, triangular=True),
    "Autoregressive RQSpline one feature": case(lambda: ordered(1, spline, context=1), 1, 1, triangular=True),
    "Autoregressive LogisticMixtureCDF": case(lambda: ordered(2, mixture), 2, triangular=True),
    "Inverse Autoregressive": case(lambda: b.Inverse(ordered(3, soft)), 3, triangular=True),
    "LULinear": case(lambda: b.LULinear(4), 4),
    "LULinear narrow ridge": case(narrow_ridge, 2),
    "LULinear one feature": case(lambda: b.LULinear(1), 1),
    "Householder": case(lambda: b.Householder(3), 3),
    "Householder two": case(lambda: b.Householder(5, reflections=2), 5),
    "InvertibleConv1x1": case(lambda: b.InvertibleConv1x1(3), (3, 2, 2), size=0.3),
    "InvertibleConv1x1 identity": case(lambda: b.InvertibleConv1x1(2, rotate=False), (2, 3, 1)),
    "ActNorm": case(lambda: set_from_data(b.ActNorm(3), 3), 3, triangular=True),
    "ActNorm image": case(lambda: set_from_images(b.ActNorm(2), 2, 2, 3), (2, 2, 3), triangular=True),
    "BatchNorm": case(lambda: batch_norm(b.BatchNorm(3), 3), 3, triangular=True),
    "BatchNorm batch": case(lambda: batch_norm(b.BatchNorm(3, statistics="batch"), 3), 3, triangular=True),
    "BatchNorm image": case(lambda: batch_norm(b.BatchNorm(2), 2, 2, 3), (2, 2, 3), triangular=True),
    "Scaling": case(lambda: set_from_data(b.Scaling(3), 3), 3, triangular=True),
    "LeakyReLU": case(b.LeakyReLU, 3, triangular=True),
    "LogTails": case(lambda: b.LogTails(bound=2.0), 3, triangular=True),
    "Permutation": case(lambda: b.Permutation(torch.tensor([2, 0, 3, 1])), 4),
    "Permutation reverse": case(lambda: b.Permutation.reverse(3), 3),
    "Permutation random": case(lambda: b.Permutation.random(5), 5),
    "Permutation image": case(lambda: b.Permutation.random(3), (3, 2, 2)),
    "Standardize": case(lambda: set_from_data(b.Standardize(3), 3), 3, triangular=True),
    "Standardize outliers": case(lambda: set_from_outliers(b.Standardize(3), 3), 3, triangular=True),
    "CompressTails": case(lambda: set_from_outliers(b.CompressTails(3), 3), 3, triangular=True),
    "Whiten outliers": case(lambda: set_from_outliers(b.Whiten(3), 3), 3),
    "Whiten": case(lambda: set_from_data(b.Whiten(3), 3), 3),
    "Whiten PCA": case(lambda: set_from_data(b.Whiten(4, kind="pca"), 4), 4),
    "Regression": case(lambda: b.Regression(3, 2), 3, 2, triangular=True),
    "Logit": case(b.Logit, 3, data=within(1e-3, 1 - 1e-3), **BOUNDED),
    "Logit alpha": case(lambda: b.Logit(alpha=0.05), 3, data=within(0, 1), **BOUNDED),
    "Interval": case(lambda: b.Interval(-2.0, 5.0), 3, data=within(-1.99, 4.99), **BOUNDED),
    "Interval each": case(
        lambda: b.Interval([0.0, -1.0, -2.0], [1.0, 3.0, 9.0]),
        3,
        data=within(1e-3, 0.999),
        triangular=True,
        density=False,
        widest=3.0,
        widest_float32=2.0,
    ),
    "Positive": case(lambda: b.Positive(low=1.0), 3, data=above(1.0), **BOUNDED),
    "Dequantize": case(b.Dequantize, 3, data=integers(3), **NOISY),
    "Dequantize variational": case(
        lambda: b.Dequantize(vector(3, affine, context=5), levels=256), 3, 2, data=integers(3), **NOISY
    ),
    "Dequantize variational image": case(
        lambda: b.Dequantize(b.checkerboard(image(4, affine_image, context=4 * 3)), levels=256),
        (1, 4, 4),
        2,
        data=integers(1, 4, 4),
        **NOISY,
    ),
    "Rescale": case(lambda: b.Rescale(-2.0, 5.0), 3, triangular=True),
    "Partial": case(lambda: b.Partial(5, vector(3, spline, context=1)), 5, 1),
    "Partial swapped": case(lambda: b.Partial(3, set_from_images(b.ActNorm(1), 1, 2, 2), swap=True), (3, 2, 2)),
    "Flatten": case(lambda: b.Flatten((2, 1, 3)), (2, 1, 3)),
    "Pad": case(lambda: b.Pad((2, 3, 2), (4, 4)), (2, 3, 2), **NOISY),
    "Squeeze": case(b.Squeeze, (2, 4, 2)),
    "Squeeze checkerboard": case(lambda: b.Squeeze(order="checkerboard"), (3, 2, 4)),
    "checkerboard": case(lambda: b.checkerboard(image(4, affine_image)), (1, 4, 4)),
    "MultiScale": case(two_scales, (1, 4, 4), size=0.3),
    "Chain": case(
        lambda: b.Chain(set_from_data(b.Standardize(3), 3), vector(3, spline), b.LeakyReLU(), vector(3, affine)), 3
    ),
    "Inverse": case(lambda: b.Inverse(vector(3, spline)), 3),
    "recipe nice": case(lambda: recipes.nice(4, hidden=(8,)).bijection, 4, **WHOLE),
    "recipe realnvp": case(
        lambda: recipes.realnvp(5, hidden=(8,), leaky_relu=True, context_features=2).bijection,
        5,
        2,
        size=0.3,
        widest=3.0,
    ),
    "recipe realnvp batch norm": case(
        lambda: recipes.realnvp(3, couplings=3, hidden=(8,), shift_first=True, batch_norm=True).bijection, 3, **WHOLE
    ),
    "recipe spline": case(lambda: recipes.spline(3, hidden=(8,), couplings=3).bijection, 3, **WHOLE),
    "recipe glow": case(lambda: recipes.glow(3, hidden=(8,), couplings=3).bijection, 3, **WHOLE),
    "recipe glow image": pictures(
        lambda: recipes.glow(event_shape=(1, 4, 4), scales=2, couplings=2, channels=4, context_features=1), (1, 4, 4), 1
    ),
    "recipe realnvp_image": pictures(lambda: small_realnvp((1, 4, 4), couplings=2), (1, 4, 4)),
    "recipe realnvp_image faithful": pictures(
        lambda: small_realnvp((1, 3, 3), scales=1, preset="faithful", context_features=2), (1, 3, 3), 2
    ),
    "recipe realnvp_image variational": pictures(
        lambda: small_realnvp((1, 4, 4), couplings=1, noise="variational", context_features=2), (1, 4, 4), 2
    ),
    "recipe nice_image": case(
        lambda: recipes.nice_image((1, 2, 3), hidden=(8,)).bijection, (1, 2, 3), data=integers(1, 2, 3), **NOISY
    ),
    "recipe maf": case(
        lambda: recipes.maf(3, hidden=(8,), layers=3, batch_norm=True, context_features=1).bijection, 3, 1, **WHOLE
    ),
    "recipe iaf": case(lambda: recipes.iaf(2, hidden=(8,), layers=2).bijection, 2, **WHOLE),
    "recipe maf_spline": case(lambda: recipes.maf_spline(3, hidden=(8, 8), layers=2).bijection, 3, **WHOLE),
    "recipe spline deep": case(lambda: recipes.spline(2, hidden=(8,), couplings=24).bijection, 2, widest=3.0, size=0.1),
}
