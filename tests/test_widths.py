"""A layer of another width than the data is refused: when a flow or chain is built, and when it is called by itself."""

from collections.abc import Callable

import pytest
import torch

import flowstone
from flowstone import bijections as b
from flowstone.errors import FlowstoneError, ShapeError
from flowstone.nets import MADE, MLP, ConvNet
from flowstone.priors import StandardNormal

OTHERS = (1, 2, 4, 6)  # not 3; among them half and twice as many


def coupling(features: int, transform: b.Univariate, swap: bool = False) -> b.Coupling:
    kept, changed = b.Coupling.sizes(features, swap=swap)
    return b.Coupling(features, transform, MLP(kept, changed * transform.parameters_per_feature, hidden=()), swap=swap)


def changed(features: int) -> int:
    return b.Coupling.sizes(features)[1]


def autoregressive(features: int) -> b.Autoregressive:
    return b.Autoregressive(features, b.Affine(features, scale="soft"), MADE(features, 2, hidden=()))


def of_images(channels: int) -> b.Coupling:
    kept, rest = b.Coupling.sizes(channels)
    return b.Coupling(channels, b.Affine((rest, 1, 1)), ConvNet(kept, 2 * rest, hidden=4))


# Every bijection that takes a width, as a function of it.
VECTORS: dict[str, Callable[[int], b.Bijection]] = {
    "Coupling Additive": lambda n: coupling(n, b.Additive()),
    "Coupling Affine": lambda n: coupling(n, b.Affine(changed(n))),
    "Coupling Affine swapped": lambda n: coupling(n, b.Affine(n // 2), swap=True) if n > 1 else b.Scaling(n),
    "Coupling Affine soft": lambda n: coupling(n, b.Affine(changed(n), scale="soft")),
    "Coupling RQSpline": lambda n: coupling(n, b.RQSpline()),
    "Coupling LogisticMixtureCDF": lambda n: coupling(n, b.LogisticMixtureCDF()),
    "Autoregressive": autoregressive,
    "Inverse Autoregressive": lambda n: b.Inverse(autoregressive(n)),
    "Inverse Inverse": lambda n: b.Inverse(b.Inverse(b.Scaling(n))),
    "Partial": lambda n: b.Partial(n, b.Scaling(changed(n))),
    "Partial of any width": lambda n: b.Partial(n, b.LeakyReLU()),
    "Chain": lambda n: b.Chain(b.LeakyReLU(), b.Scaling(n), b.LogTails()),
    "Chain of Chain": lambda n: b.Chain(b.Chain(b.LeakyReLU(), b.Scaling(n))),
    "Scaling": b.Scaling,
    "ActNorm": b.ActNorm,
    "BatchNorm": b.BatchNorm,
    "Standardize": b.Standardize,
    "Whiten": b.Whiten,
    "CompressTails": b.CompressTails,
    "Interval": lambda n: b.Interval([0.0] * n, [1.0] * n),
    "Permutation": b.Permutation.reverse,
    "LULinear": b.LULinear,
    "Householder": b.Householder,
}
IMAGES: dict[str, Callable[[int], b.Bijection]] = {
    "Coupling": of_images,
    "Inverse Coupling": lambda n: b.Inverse(of_images(n)),
    "Partial": lambda n: b.Partial(n, b.ActNorm(changed(n))),
    "InvertibleConv1x1": b.InvertibleConv1x1,
    "ActNorm": b.ActNorm,
    "BatchNorm": b.BatchNorm,
    "Permutation": b.Permutation.reverse,
    "Flatten": lambda n: b.Flatten((n, 4, 4)),
    "Pad": lambda n: b.Pad((n, 4, 4), (6, 6)),
    "MultiScale": lambda n: b.MultiScale((n, 4, 4), [b.Squeeze(), b.Squeeze()]),
    "checkerboard": lambda n: b.checkerboard(of_images(4 * n)),
    "Squeeze": lambda n: b.Chain(b.Squeeze(), b.ActNorm(4 * n)),
}
every_vector = pytest.mark.parametrize("make", VECTORS.values(), ids=VECTORS)
every_image = pytest.mark.parametrize("make", IMAGES.values(), ids=IMAGES)


def test_no_public_bijection_is_missing():
    """But for those that take any width."""
    here = {type(layer) for make in VECTORS.values() for layer in b.walk(make(3))}
    here |= {type(layer) for make in IMAGES.values() for layer in b.walk(make(2))}
    public = {getattr(b, name) for name in b.__all__ if isinstance(getattr(b, name), type)}
    bijections = {kind for kind in public if issubclass(kind, b.Bijection) and not kind.__abstractmethods__}
    assert bijections - here <= {b.Dequantize, b.Logit, b.Positive, b.Regression, b.Rescale}


@every_vector
def test_a_flow_of_vectors_refuses_it(make):
    assert flowstone.Flow(make(3), StandardNormal(3)).event_shape == (3,)
    for other in OTHERS:
        with pytest.raises(ShapeError):
            flowstone.Flow(make(other), StandardNormal(3))
        with pytest.raises(ShapeError):
            flowstone.Flow(b.Chain(b.LeakyReLU(), make(other), b.LogTails()), StandardNormal(3))


@every_vector
def test_a_chain_of_vectors_refuses_it(make):
    b.Chain(b.Scaling(3), b.LeakyReLU(), make(3), b.Scaling(3))
    for other in OTHERS:
        with pytest.raises(ShapeError, match=rf"{other} features|{other} come out"):
            b.Chain(b.Scaling(3), b.LeakyReLU(), make(other))
        with pytest.raises(ShapeError, match=r"3 features|3 come out"):
            b.Chain(make(other), b.LeakyReLU(), b.Scaling(3))


@every_vector
def test_called_with_another_width_it_refuses(make):
    layer = make(3).eval()
    for direction in (layer, layer.inverse):
        assert direction(torch.rand(5, 3))[0].shape == (5, 3)
        for other in OTHERS:
            with pytest.raises(ShapeError, match=rf"expected shape \(batch, 3(, …)?\), got \(5, {other}\)"):
                direction(torch.rand(5, other))
        with pytest.raises(ShapeError, match=r"got \(3,\)"):
            direction(torch.rand(3))


@every_image
def test_called_with_images_of_other_channels_it_refuses(make):
    layer = make(2).eval()
    z = layer(torch.rand(5, 2, 4, 4))[0]
    assert layer.inverse(z)[0].shape == (5, 2, 4, 4)
    for other in (3, 4, 6):
        with pytest.raises(FlowstoneError):
            layer(torch.rand(5, other, 4, 4))
        wrong = torch.rand(5, other * 16) if z.ndim == 2 else torch.rand(5, other, *z.shape[2:])
        with pytest.raises(FlowstoneError):
            layer.inverse(wrong)


@every_image
def test_a_flow_of_images_refuses_other_channels(make):
    latent = make(2).latent_shape(torch.Size((2, 4, 4)))
    assert flowstone.Flow(make(2), StandardNormal(tuple(latent))).event_shape == (2, 4, 4)
    for other in (3, 4, 6):
        with pytest.raises(FlowstoneError):
            flowstone.Flow(make(other), StandardNormal(tuple(latent)))


@pytest.mark.parametrize(
    "name", ["Standardize", "Whiten", "Interval", "Scaling", "LULinear", "Householder", "Autoregressive"]
)
def test_what_is_for_vectors_refuses_images(name):
    """Where the width of the images is the number of features, broadcasting would give a wrong log-det."""
    layer, shape = VECTORS[name](3), (3, 2, 3)
    for direction in (layer, layer.inverse):
        with pytest.raises(ShapeError, match=r"expected shape \(batch, 3\), got \(5, 3, 2, 3\)"):
            direction(torch.rand(5, *shape))
    with pytest.raises(ShapeError, match=r"expected shape \(3\), got"):
        flowstone.Flow(layer, StandardNormal(shape))


@pytest.mark.parametrize("name", ["Flatten", "Pad", "MultiScale"])
def test_images_of_another_size_are_refused(name):
    layer = IMAGES[name](2)
    for shape in ((2, 4, 2), (2, 1, 4), (2, 8, 2)):
        with pytest.raises(ShapeError):
            layer(torch.rand(5, *shape))
    if name == "Pad":
        with pytest.raises(ShapeError):
            layer.inverse(torch.rand(5, 2, 8, 8))


def test_what_is_inside_is_of_the_width_of_its_place():
    with pytest.raises(ShapeError, match="Partial, of 3 features, changes 2; its bijection is of 1"):
        b.Partial(3, b.Scaling(1))
    with pytest.raises(ShapeError, match=r"ActNorm: expected shape \(2, …\), got \(1, 4, 4\)"):
        b.MultiScale((1, 4, 4), [b.ActNorm(2)])
    with pytest.raises(ShapeError, match=r"ActNorm: expected shape \(4, …\), got \(2, 2, 2\)"):
        b.MultiScale((1, 4, 4), [b.Squeeze(), b.ActNorm(4)])  # half of the four channels have left
    with pytest.raises(ShapeError, match="Coupling of 3 features transforms 2 of them; its Affine is for 1"):
        coupling(3, b.Affine(1))
    with pytest.raises(ShapeError, match="Autoregressive of 3 features transforms 3 of them; its Affine is for 2"):
        b.Autoregressive(3, b.Affine(2, scale="soft"), MADE(3, 2))


@pytest.mark.parametrize("outputs", [1, 2, 3, 5, 8])
def test_a_net_of_too_few_or_too_many_outputs_is_refused(outputs):
    x = torch.rand(5, 3)
    layer = b.Coupling(3, b.Affine(2, scale="soft"), MLP(1, outputs, hidden=()))
    for direction in (layer, layer.inverse):
        with pytest.raises(ShapeError, match=rf"its net returns {outputs} numbers a row; 2 features with 2 .* take 4"):
            direction(x)
    autoregressive = b.Autoregressive(3, b.RQSpline(), MADE(3, outputs))
    for direction in (autoregressive, autoregressive.inverse):
        with pytest.raises(ShapeError, match=rf"its net returns {3 * outputs} numbers a row"):
            direction(x)


@pytest.mark.parametrize("shape", [(), (1,), (5, 1), (5, 3), (3,)])
def test_a_log_det_of_a_wrong_shape_is_refused(shape):
    class Wrong(b.Bijection):
        def forward(self, x, context=None):
            return x, torch.zeros(shape)

        def inverse(self, z, context=None):
            return z, torch.zeros(shape)

    for bijection in (Wrong(), b.Chain(b.LeakyReLU(), Wrong()), b.Inverse(Wrong()), b.Partial(3, Wrong())):
        for direction in (bijection, bijection.inverse):
            with pytest.raises(ShapeError, match=r"Wrong: log_det has shape .*, expected \(batch,\)"):
                direction(torch.rand(5, 3))


@pytest.mark.parametrize(
    "wrong", [lambda x: x, lambda x: (x, 0.0), lambda x: (x,), lambda x: (x, x.sum(1), x), lambda x: None]
)
def test_what_is_no_value_with_a_log_det_is_refused(wrong):
    class Wrong(b.Bijection):
        def forward(self, x, context=None):
            return wrong(x)

        def inverse(self, z, context=None):
            return wrong(z)

    for direction in (Wrong(), Wrong().inverse):
        for rows in (2, 5):
            with pytest.raises(
                ShapeError, match=r"Wrong: (forward|inverse) returns a value and its log_det, two tensors"
            ):
                direction(torch.rand(rows, 2))


def test_the_width_of_a_bijection_of_one_s_own_is_checked():
    class Doubling(b.Bijection):
        def forward(self, x, context=None):
            return 2 * x, x.new_full(x.shape[:1], 2.0).log() * x.shape[1]

        def inverse(self, z, context=None):
            return z / 2, z.new_full(z.shape[:1], 0.5).log() * z.shape[1]

    Doubling()(torch.rand(5, 7))
    with pytest.raises(ShapeError, match=r"Doubling: expected shape \(batch, 3, …\), got \(5, 7\)"):
        Doubling(3)(torch.rand(5, 7))
    with pytest.raises(ShapeError, match="link 2, Doubling, is of 4 features, but 3 come out"):
        b.Chain(b.Scaling(3), Doubling(4))
    with pytest.raises(ShapeError, match=r"the prior is over \(3,\): Doubling: expected shape \(4, …\), got \(3,\)"):
        flowstone.Flow(Doubling(4), StandardNormal(3))


def test_a_layer_that_squeezes_is_not_held_to_the_width_it_begins_with():
    chain = b.Chain(b.ActNorm(2), b.Squeeze(), b.ActNorm(8))
    assert (chain.features, chain.latent_features) == (2, 8)
    chain = b.Chain(b.ActNorm(2), b.Squeeze())
    assert (chain.features, chain.latent_features) == (2, None)
    back = b.Inverse(b.Chain(b.Squeeze(), b.ActNorm(8)))
    assert (back.features, back.latent_features) == (8, None)
    x = torch.rand(3, 2, 4, 4)
    torch.testing.assert_close(chain.inverse(chain(x)[0])[0], x)
    torch.testing.assert_close(back(back.inverse(x)[0])[0], x)


def test_a_regression_refuses_another_width_and_a_missing_context():
    regression = b.Regression(3, 2)
    with pytest.raises(ShapeError, match=r"Regression: expected shape \(batch, 3\), got \(5, 4\)"):
        regression(torch.zeros(5, 4), torch.zeros(5, 2))
    with pytest.raises(ShapeError, match=r"context of shape \(5, 2\), got none"):
        regression(torch.zeros(5, 3))
