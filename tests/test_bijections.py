"""The laws: every bijection, both directions, in float64, on generated inputs; and what holds for single ones."""

import inspect
import shutil

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cases import CASES
from flowstone import bijections
from flowstone.bijections import Affine, Bijection, Chain, Permutation, RQSpline, Standardize, Univariate
from flowstone.errors import DataError, FlowstoneError
from flowstone.testing import LAWS, traces_whole
from properties import MORE_CASES, MORE_LAWS, PROPERTIES

everywhere = pytest.mark.parametrize("name", CASES)
seeds = st.integers(0, 2**32 - 1)
spreads = st.floats(0.01, 30.0)  # inside, around and far outside every bound
# Long, and about the code rather than about numbers: one input is as good as many.
ONCE = (
    "traces_whole",
    "measure_is_kept",
    "saved_is_loaded",
    "copies_are_apart",
    "device_follows",
    "shapes",
    "grid_sums_to_one",
)


def test_every_public_bijection_is_a_case():
    public = {name for name in bijections.__all__ if inspect.isclass(getattr(bijections, name))}
    abstract = {name for name in public if inspect.isabstract(getattr(bijections, name))}
    public.discard("State")  # what chains return
    used = {type(module).__name__ for case in CASES.values() for module in case.bijection().modules()}
    assert public - abstract <= used


@everywhere
@pytest.mark.parametrize("law", [name for name in LAWS if name not in ONCE])
@given(seed=seeds, spread=spreads)
def test_law(float64, law, name, seed, spread):
    LAWS[law](CASES[name], seed, spread)


@everywhere
@pytest.mark.parametrize("law", ONCE)
def test_law_once(float64, law, name):
    LAWS[law](CASES[name], 1, 1.5)


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
    traces_whole(CASES[name], 1, 1.5, backend="inductor")


@everywhere
@pytest.mark.parametrize("law", [name for name in LAWS if name not in ONCE])
def test_law_in_float32(law, name):
    for seed in (3, 4):
        for spread in (0.1, 1.0, 3.0):
            LAWS[law](CASES[name], seed, spread)


# --- single bijections ------------------------------------------------------------------------------------------------

UNIVARIATE = {
    "Additive": bijections.Additive,
    "Affine tanh": lambda: Affine(2),
    "Affine soft": lambda: Affine(2, scale="soft"),
    "RQSpline": lambda: RQSpline(bins=6),
}


@pytest.mark.parametrize("name", UNIVARIATE)
def test_univariate_is_increasing_and_zero_parameters_are_the_identity(float64, name):
    transform: Univariate = UNIVARIATE[name]()
    x = torch.linspace(-5, 5, 401)[:, None].expand(-1, 2)
    zeros = torch.zeros(*x.shape, transform.parameters_per_feature)
    z, log_slope = transform(x, zeros)
    torch.testing.assert_close(z, x, atol=1e-12, rtol=0)
    torch.testing.assert_close(log_slope, torch.zeros_like(x), atol=1e-12, rtol=0)
    z, _ = transform(x, torch.randn(1, 2, transform.parameters_per_feature).expand(len(x), -1, -1))
    assert (z.diff(dim=0) > 0).all()


def test_spline_is_continuous_and_has_unit_slope_at_its_ends(float64):
    spline = RQSpline(bins=7, bound=2.5)
    parameters = 2 * torch.randn(1, 1, spline.parameters_per_feature)
    for edge in (-2.5, 2.5):
        x = torch.tensor([[edge - 1e-9], [edge], [edge + 1e-9]])
        z, log_slope = spline(x, parameters.expand(3, -1, -1))
        torch.testing.assert_close(z, x, atol=1e-8, rtol=0)
        torch.testing.assert_close(log_slope, torch.zeros(3, 1), atol=1e-5, rtol=0)


def test_spline_survives_parameters_of_any_size():
    spline = RQSpline()
    parameters = (1e4 * torch.randn(200, 1, spline.parameters_per_feature)).requires_grad_()
    x = torch.linspace(-4, 4, 200)[:, None].requires_grad_()
    for direction in (spline.forward, spline.inverse):
        z, log_slope = direction(x, parameters)
        assert z.isfinite().all()
        assert log_slope.isfinite().all()
        assert all(g.isfinite().all() for g in torch.autograd.grad(z.sum() + log_slope.sum(), (x, parameters)))


@pytest.mark.parametrize(("bound", "cap"), [("tanh", 1.0), ("soft", 3.0)])
def test_log_scale_stays_within_its_bound(bound, cap):
    huge = torch.tensor([[[1e6, 0.0]], [[-1e6, 0.0]]])
    _, log_scale = Affine(1, bound=bound)(torch.zeros(2, 1), huge)
    torch.testing.assert_close(log_scale.flatten(), torch.tensor([cap, -cap]), atol=1e-5, rtol=0)


def test_standardize_uses_exact_moments_once():
    layer = Standardize(2)
    x = torch.tensor([[1.0, 10.0], [3.0, 30.0]])
    layer.initialize(x)
    torch.testing.assert_close(layer(x)[0], torch.tensor([[-1.0, -1.0], [1.0, 1.0]]))
    layer.initialize(100 * x)
    assert layer.mean.tolist() == [2.0, 20.0]


def test_standardize_keeps_the_digits_of_a_float64_table():
    layer = Standardize(1)
    x = 1.7e9 + torch.arange(100, dtype=torch.float64)[:, None]  # seconds since 1970: float32 cannot tell them apart
    layer.initialize(x)
    z, _ = layer(x)
    assert z.dtype == torch.float32
    assert len(z.unique()) == 100


def test_bad_pieces_are_refused():
    with pytest.raises(DataError, match="constant features .* feature 1 \\(5\\)"):
        Standardize(2).initialize(torch.tensor([[1.0, 5.0], [2.0, 5.0]]))
    with pytest.raises(FlowstoneError, match="not a permutation"):
        Permutation(torch.tensor([0, 2]))
    with pytest.raises(FlowstoneError, match="at least one"):
        Chain()
    with pytest.raises(FlowstoneError, match="'tanh'"):
        Affine(2, scale="tanhh")
    with pytest.raises(FlowstoneError, match="bins=1"):
        RQSpline(bins=1)
    with pytest.raises(FlowstoneError, match="bound=0"):
        RQSpline(bound=0.0)


def test_a_bijection_without_both_directions_cannot_be_made():
    class Half(Bijection):
        def forward(self, x, context=None):
            return x, x.sum(-1)

    with pytest.raises(TypeError, match="inverse"):
        Half()  # pyright: ignore[reportAbstractUsage]
