"""The laws: every bijection, both directions, in float64, on generated inputs."""

import copy
import inspect

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.func import jacrev, vmap

from cases import CASES, make
from flowstone import bijections
from flowstone.bijections import Affine, Bijection, Chain, Permutation, RQSpline, Standardize, Univariate
from flowstone.errors import DataError, FlowstoneError

ROUND_TRIP = 1e-9
LOG_DET = 1e-8

everywhere = pytest.mark.parametrize("name", CASES)
seeds = st.integers(0, 2**32 - 1)
spreads = st.sampled_from([0.1, 1.0, 3.0, 30.0])  # inside, around and far outside every bound


def rows(features: int, context_features: int, seed: int, spread: float, n: int = 16, *, name: str = ""):
    if name.startswith("recipe"):
        spread = min(spread, 3.0)  # further out, chains of ReLU nets are ill-conditioned: that would measure float64
    generator = torch.Generator().manual_seed(seed)
    x = spread * torch.randn(n, features, generator=generator)
    return x, torch.randn(n, context_features, generator=generator) if context_features else None


def test_every_public_bijection_is_a_case():
    public = {name for name in bijections.__all__ if inspect.isclass(getattr(bijections, name))}
    abstract = {name for name in public if inspect.isabstract(getattr(bijections, name))}
    used = {type(module).__name__ for name in CASES for module in make(name)[0].modules()}
    assert public - abstract <= used


@everywhere
@given(seed=seeds, spread=spreads)
def test_inverse_undoes_forward_and_forward_undoes_inverse(float64, name, seed, spread):
    bijection, features, context_features = make(name)
    x, context = rows(features, context_features, seed, spread, name=name)
    z, log_det = bijection(x, context)
    back, back_log_det = bijection.inverse(z, context)
    scale = max(1.0, x.abs().max().item(), z.abs().max().item())
    torch.testing.assert_close(back, x, atol=ROUND_TRIP * scale, rtol=0)
    torch.testing.assert_close(log_det + back_log_det, torch.zeros_like(log_det), atol=LOG_DET, rtol=0)
    x, log_det = bijection.inverse(x, context)
    torch.testing.assert_close(bijection(x, context)[1], -log_det, atol=LOG_DET, rtol=0)


@everywhere
@given(seed=seeds, spread=spreads)
def test_log_det_is_that_of_the_jacobian(float64, name, seed, spread):
    bijection, features, context_features = make(name)
    x, context = rows(features, context_features, seed, spread, n=6, name=name)
    for direction in (bijection.forward, bijection.inverse):

        def one(row, given, direction=direction):
            return direction(row[None], None if given is None else given[None])[0][0]

        jacobian = vmap(jacrev(one), in_dims=(0, None if context is None else 0))(x, context)
        _, expected = torch.linalg.slogdet(jacobian)
        torch.testing.assert_close(direction(x, context)[1], expected, atol=LOG_DET, rtol=1e-9)


@everywhere
def test_shapes_and_rows_do_not_mix(float64, name):
    bijection, features, context_features = make(name)
    x, context = rows(features, context_features, 1, 1.5)
    for direction in (bijection.forward, bijection.inverse):
        out, log_det = direction(x, context)
        assert out.shape == x.shape
        assert log_det.shape == (len(x),)
        for row in (0, 7):
            alone = direction(x[row : row + 1], None if context is None else context[row : row + 1])
            torch.testing.assert_close(alone[0][0], out[row], atol=1e-12, rtol=1e-12)
            torch.testing.assert_close(alone[1][0], log_det[row], atol=1e-12, rtol=1e-12)


@everywhere
def test_gradients_are_finite_at_and_beyond_every_border(float64, name):
    bijection, features, context_features = make(name)
    special = torch.tensor([0.0, -0.0, 2.0, -2.0, 3.0, -3.0, 1e-300, 1e3, -1e3])
    x = special[:, None].expand(-1, features).clone().requires_grad_()
    context = torch.zeros(len(x), context_features) if context_features else None
    for direction in (bijection.forward, bijection.inverse):
        out, log_det = direction(x, context)
        inputs = [x, *bijection.parameters()]
        for gradient in torch.autograd.grad(out.sum() + log_det.sum(), inputs, allow_unused=True):
            assert gradient is None or gradient.isfinite().all()


@everywhere
def test_change_of_dtype_leaves_nothing_behind(name):
    bijection, features, context_features = make(name)
    bijection = bijection.double()
    x, context = rows(features, context_features, 0, 1.0)
    x, context = x.double(), None if context is None else context.double()
    z, log_det = bijection(x, context)
    assert z.dtype == log_det.dtype == torch.float64
    single, single_log_det = copy.deepcopy(bijection).float()(x.float(), None if context is None else context.float())
    assert single.dtype == single_log_det.dtype == torch.float32
    torch.testing.assert_close(single.double(), z, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(single_log_det.double(), log_det, atol=1e-3, rtol=1e-4)


@everywhere
def test_float32_round_trip(name):
    bijection, features, context_features = make(name)
    x, context = rows(features, context_features, 3, 1.0)
    back, _ = bijection.inverse(bijection(x, context)[0], context)
    torch.testing.assert_close(back, x, atol=1e-4, rtol=1e-4)


@everywhere
def test_state_dict_carries_everything(float64, name):
    bijection, features, context_features = make(name)
    constructor, *_ = CASES[name]
    torch.manual_seed(123)  # another random permutation, other weights
    other = constructor().eval()
    other.load_state_dict(bijection.state_dict())
    x, context = rows(features, context_features, 2, 1.0)
    for one, two in zip(bijection(x, context), other(x, context), strict=True):
        assert torch.equal(one, two)


@everywhere
def test_it_moves_to_another_device_whole(name):
    bijection, features, context_features = make(name)
    bijection = bijection.to("meta")
    context = torch.empty(4, context_features, device="meta") if context_features else None
    z, log_det = bijection(torch.empty(4, features, device="meta"), context)
    assert z.device.type == log_det.device.type == "meta"


# --- single bijections ------------------------------------------------------------------------------------------------

UNIVARIATE = {
    "Additive": bijections.Additive,
    "Affine tanh": lambda: Affine(2),
    "Affine soft": lambda: Affine(2, bound="soft"),
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
    with pytest.raises(DataError, match="feature 1 is constant"):
        Standardize(2).initialize(torch.tensor([[1.0, 5.0], [2.0, 5.0]]))
    with pytest.raises(FlowstoneError, match="not a permutation"):
        Permutation(torch.tensor([0, 2]))
    with pytest.raises(FlowstoneError, match="at least one"):
        Chain()
    with pytest.raises(FlowstoneError, match="'tanh'"):
        Affine(2, bound="tanhh")
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
