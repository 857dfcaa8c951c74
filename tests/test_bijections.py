"""The laws: every bijection, both directions, in float64, on generated inputs; and what is refused."""

import inspect
import math
import shutil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import flowstone
from cases import CASES
from flowstone import bijections
from flowstone.bijections import (
    ActNorm,
    Affine,
    Autoregressive,
    BatchNorm,
    Bijection,
    Chain,
    Dequantize,
    Householder,
    Interval,
    Inverse,
    LeakyReLU,
    Logit,
    LogTails,
    LULinear,
    MultiScale,
    Pad,
    Permutation,
    Rescale,
    RQSpline,
    Squeeze,
    Standardize,
    Whiten,
)
from flowstone.errors import DataError, FlowstoneError, SettingError, ShapeError, UnknownNameError
from flowstone.nets import MADE, ResNet
from flowstone.testing import LAWS, Case, LawBrokenError, check, traces_as_one_graph
from mutation.formulas import MORE_CASES, MORE_LAWS
from mutation.properties import PROPERTIES

everywhere = pytest.mark.parametrize("name", CASES)


seeds = st.integers(0, 2**32 - 1)


spreads = st.floats(0.01, 30.0)  # inside, around and far outside every bound


# Each input has many rows, so few inputs go far; `make laws` takes 400 of them.
few_inputs = settings(max_examples=8 if settings().max_examples == 25 else settings().max_examples)


ONCE = (
    "traces_as_one_graph",
    "measure_is_kept",
    "saved_is_loaded",
    "copies_are_apart",
    "device_follows",
    "shapes",
    "grid_sums_to_one",
)


REPEATED = [
    (law, name)
    for name, case in CASES.items()
    for law in LAWS
    if law not in ONCE and (law != "triangular" or case.triangular)
]


def test_every_public_bijection_is_a_case():
    classes = {name: value for name, value in vars(bijections).items() if name in bijections.__all__}
    public = {name for name, value in classes.items() if inspect.isclass(value) and issubclass(value, nn.Module)}
    abstract = {name for name in public if inspect.isabstract(getattr(bijections, name))}
    used = {type(module).__name__ for case in CASES.values() for module in case.bijection().modules()}
    assert public - abstract <= used


@pytest.mark.parametrize(("law", "name"), REPEATED)
@few_inputs
@given(seed=seeds, spread=spreads)
def test_law(float64, law, name, seed, spread):
    LAWS[law](CASES[name], seed, spread)


@everywhere
@pytest.mark.parametrize("law", [law for law in ONCE if law != "traces_as_one_graph"])
def test_law_once(float64, law, name):
    LAWS[law](CASES[name], 1, 1.5)


# Recipes are traced with their priors, forward and backward, in tests/test_compiled.py. The search by which a mixture
# is inverted takes long: it is traced in the coupling.
TRACED_ELSEWHERE = ("recipe ", "Coupling LogisticMixtureCDF one feature", "Autoregressive LogisticMixtureCDF")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.long if name.startswith(TRACED_ELSEWHERE) else ()) for name in CASES]
)
def test_it_is_traced_whole(float64, name):
    traces_as_one_graph(CASES[name], 1, 1.5)


@pytest.mark.parametrize("check", PROPERTIES.values(), ids=PROPERTIES)
def test_property(float64, check):
    check()


@pytest.mark.parametrize("name", CASES | MORE_CASES)
@pytest.mark.parametrize("law", MORE_LAWS)
def test_more_laws(float64, law, name):
    law((CASES | MORE_CASES)[name], 0, 1.0)


@pytest.mark.long
@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler here, and finds none")
@pytest.mark.filterwarnings("ignore")  # of the compiler's own
@everywhere
def test_compiled(float64, name):
    traces_as_one_graph(CASES[name], 1, 1.5, backend="inductor")


@pytest.mark.parametrize(("law", "name"), REPEATED)
def test_law_in_float32(law, name):
    for seed, spread in ((3, 0.1), (4, 1.0), (5, 3.0)):
        LAWS[law](CASES[name], seed, spread)


def test_users_bijections_are_held_to_the_laws():
    class Doubling(Bijection):
        def __init__(self, log_det: float) -> None:
            super().__init__()
            self.log_det = log_det

        def forward(self, x, context=None):
            return 2 * x, x.new_full((len(x),), self.log_det)

        def inverse(self, z, context=None):
            return z / 2, z.new_full((len(z),), -self.log_det)

    check(Case(lambda: Doubling(2 * math.log(2)), 2, triangular=True), seeds=1)
    with pytest.raises(LawBrokenError, match=r"log-det of forward = log\|det Jacobian\|: row 0 has 2"):
        check(Case(lambda: Doubling(2.0), 2), seeds=1)
    with pytest.raises(LawBrokenError, match=r"log-det of forward"):  # float32 would allow it
        check(Case(lambda: Doubling(2 * math.log(2) + 1e-5), 2), seeds=1)
    with pytest.raises(LawBrokenError, match="lower triangular"):
        check(Case(lambda: Inverse(CASES["LULinear"].bijection()), 4, triangular=True), seeds=1)
    assert torch.get_default_dtype() == torch.float32


def test_a_bijection_without_both_directions_cannot_be_made():
    class Half(Bijection):
        def forward(self, x, context=None):
            return x, x.sum(-1)

    with pytest.raises(TypeError, match="inverse"):
        Half()  # pyright: ignore[reportAbstractUsage]


def test_bad_pieces_are_refused():
    with pytest.raises(DataError, match=r"constant features .* feature 1 \(5\)"):
        Standardize(2).initialize(torch.tensor([[1.0, 5.0], [2.0, 5.0]]))
    with pytest.raises(FlowstoneError, match="not a permutation"):
        Permutation(torch.tensor([0, 2]))
    with pytest.raises(FlowstoneError, match="at least one"):
        Chain()
    with pytest.raises(SettingError, match=r"one by one, as in Chain\(a, b\), got a list"):
        Chain([Standardize(2), Permutation.reverse(2)])  # pyright: ignore[reportArgumentType]
    with pytest.raises(SettingError, match="got the class LeakyReLU"):
        Chain(Standardize(2), LeakyReLU)  # pyright: ignore[reportArgumentType]
    with pytest.raises(FlowstoneError, match="'tanh'"):
        Affine(2, scale="tanhh")
    with pytest.raises(FlowstoneError, match="bins=1"):
        RQSpline(bins=1)
    with pytest.raises(FlowstoneError, match="bound=0"):
        RQSpline(bound=0.0)


def test_wrong_settings_are_named():
    with pytest.raises(SettingError, match="learns parameters of its own"):
        Autoregressive(2, flowstone.bijections.Affine(2), MADE(2, 2))
    with pytest.raises(SettingError, match="reflections=3"):
        Householder(3, reflections=3)
    with pytest.raises(UnknownNameError, match="unknown statistics 'both': did you mean 'batch'"):
        BatchNorm(2, statistics="both")
    with pytest.raises(SettingError, match="momentum=0"):
        BatchNorm(2, momentum=0)
    with pytest.raises(SettingError, match="low=1"):
        Interval(1.0, 1.0)
    with pytest.raises(SettingError, match="alpha="):
        Logit(alpha=0.5)
    with pytest.raises(SettingError, match="bound=0"):
        LogTails(bound=0)
    with pytest.raises(SettingError, match="narrow=2"):
        Whiten(2, narrow=2)
    with pytest.raises(SettingError, match=r"hidden=\(8, 9\)"):
        ResNet(2, 2, hidden=(8, 9))
    with pytest.raises(SettingError, match=r"hidden=\(8, 9\)"):
        MADE(2, 2, hidden=(8, 9), residual=True)
    with pytest.raises(ShapeError, match=r"cannot squeeze shape \(1, 3, 4\)"):
        Squeeze()(torch.zeros(1, 1, 3, 4))
    for order in ("channel", "checkerboard"):
        with pytest.raises(ShapeError, match=r"cannot undo a squeeze to shape \(6, 2, 2\)"):
            Squeeze(order=order).inverse(torch.zeros(1, 6, 2, 2))
    for shape in ((3, 2, 2), (4, 2)):
        with pytest.raises(ShapeError, match="its channels come in fours"):
            Squeeze().event_shape(torch.Size(shape))
    with pytest.raises(SettingError, match="scale 1 ends with 1 channels"):
        MultiScale((1, 4, 4), [ActNorm(1), ActNorm(1)])
    with pytest.raises(SettingError, match="either features"):
        flowstone.glow()
    with pytest.raises(SettingError, match=r"event_shape=\(28, 28\): wanted"):
        flowstone.glow(event_shape=(28, 28))
    with pytest.raises(ShapeError, match="cannot pad images of 5 x 4 to 4 x 4"):
        Pad((1, 5, 4), (4, 4))
    with pytest.raises(SettingError, match=r"low=1.0 must be below high=1.0"):
        Rescale(1.0, 1.0)
    with pytest.raises(SettingError, match="needs levels"):
        Dequantize(LULinear(1))
    for levels in (0, 1.5):
        with pytest.raises(SettingError, match=f"levels={levels} must be a whole number"):
            Dequantize(levels=levels)  # pyright: ignore
    with pytest.raises(SettingError, match=r"low=0\.0 must be below high=inf, both finite"):
        Interval(0.0, math.inf)
    with pytest.raises(SettingError, match="high=inf must be a finite number"):
        Rescale(0.0, math.inf)
    for layer in (LULinear, ActNorm, BatchNorm, Standardize):
        for features in (0, 2.5, "two", True):
            message = f"{layer.__name__}: features={features!r} must be a whole number, at least 1"
            with pytest.raises(SettingError, match=message):
                layer(features)  # pyright: ignore
    for order in ([1, 1], [0.0, 1.0], [True, False], [[1, 0]]):
        with pytest.raises(SettingError, match="is not a permutation of 0 … 1"):
            Permutation(order)  # pyright: ignore
    assert torch.equal(Permutation([1, 0])(torch.tensor([[3.0, 4.0]]))[0], torch.tensor([[4.0, 3.0]]))


def test_householder_is_a_rotation_that_starts_as_none(float64):
    layer = Householder(4)
    torch.testing.assert_close(layer(torch.eye(4))[0], torch.eye(4))
    layer.vectors.data = torch.randn_like(layer.vectors)
    matrix = layer(torch.eye(4))[0]
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(4))


def test_the_ordered_squeeze_puts_one_colour_first():
    x = torch.arange(2 * 4 * 4.0).reshape(1, 2, 4, 4)
    z, _ = Squeeze(order="checkerboard")(x)
    rows, columns = torch.meshgrid(torch.arange(4), torch.arange(4), indexing="ij")
    even = (rows + columns) % 2 == 0
    assert set(z[:, :4].flatten().tolist()) == set(x[:, :, even].flatten().tolist())
    plain, _ = Squeeze()(x)
    torch.testing.assert_close(plain, torch.nn.functional.pixel_unshuffle(x, 2))
