import math

import pytest
import torch

import flowstone
from flowstone.bijections import Scaling
from flowstone.errors import DataError, SettingError, UnknownNameError
from flowstone.priors import (
    PRIORS,
    ClassConditional,
    FromTorch,
    GaussianMixture,
    Logistic,
    StandardNormal,
    StudentT,
    Uniform,
    make_prior,
)

every_prior = pytest.mark.parametrize("name", PRIORS)

REFERENCES = {
    "normal": torch.distributions.Normal(0.0, 1.0),
    "logistic": torch.distributions.TransformedDistribution(
        torch.distributions.Uniform(torch.tensor(0.0, dtype=torch.float64), torch.tensor(1.0, dtype=torch.float64)),
        [torch.distributions.SigmoidTransform().inv],
    ),
    "student": torch.distributions.StudentT(torch.tensor(5.0, dtype=torch.float64)),
}


@pytest.mark.parametrize("name", REFERENCES)
def test_density_is_that_of_torch(float64, name):
    z = 4 * torch.randn(50, 3)
    torch.testing.assert_close(make_prior(name, 3).log_prob(z), REFERENCES[name].log_prob(z).sum(-1))


@every_prior
def test_density_integrates_to_one_and_samples_follow_it(float64, name):
    prior = make_prior(name, 1)
    grid = torch.linspace(-400, 400, 400_001)[:, None]
    density = prior.log_prob(grid).exp()
    assert torch.trapezoid(density, grid[:, 0]).item() == pytest.approx(1, abs=1e-8)
    z = prior.sample(40_000, generator=torch.Generator().manual_seed(0)).flatten()
    entropy = torch.trapezoid(-density * density.log().clamp_min(-700), grid[:, 0])
    assert -prior.log_prob(z[:, None]).mean().item() == pytest.approx(entropy.item(), abs=0.03)
    assert z.isfinite().all()


@every_prior
def test_shapes_and_generator(name):
    prior = make_prior(name, 3)
    one, two = (prior.sample(4, generator=torch.Generator().manual_seed(5)) for _ in range(2))
    assert one.shape == (4, 3)
    assert torch.equal(one, two)
    assert prior.log_prob(one).shape == (4,)
    assert prior.sample(0).shape == (0, 3)


def test_a_mixture_set_from_data_is_the_best_mixture(float64):
    """Three clusters of unlike shapes: as likely on new rows as the truth, to sampling error; copies change nothing."""
    parts = torch.distributions.MultivariateNormal(
        torch.tensor([[0.0, 0.0], [6.0, 0.0], [0.0, 8.0]]),
        torch.tensor([[[1.0, 0.9], [0.9, 1.0]], [[0.1, 0.0], [0.0, 2.0]], [[1.0, 0.0], [0.0, 1.0]]]),
    )
    weights = torch.distributions.Categorical(torch.tensor([0.5, 0.3, 0.2]))
    truth = torch.distributions.MixtureSameFamily(weights, parts)
    torch.manual_seed(3)
    mixture = GaussianMixture(2, components=8)
    mixture.initialize(truth.sample(torch.Size((3000,))))
    new = truth.sample(torch.Size((20_000,)))
    lost = (truth.log_prob(new) - mixture.log_prob(new)).mean().item()
    assert -0.01 < lost < 0.03
    assert mixture.logits.softmax(0).sum().item() == pytest.approx(1)
    before = mixture.means.clone()
    mixture.initialize(new + 100)
    assert torch.equal(before, mixture.means)


def test_a_mixture_of_very_few_or_singular_rows_is_finite():
    for rows in (torch.randn(3, 5), torch.randn(50, 1).expand(-1, 4), torch.zeros(10, 2)):
        mixture = GaussianMixture(rows.shape[1], components=4)
        mixture.initialize(rows)
        assert mixture.log_prob(rows).isfinite().all()


@pytest.mark.filterwarnings("ignore:validation has not moved")  # the mixture that it begins as is all there is to learn
def test_a_flow_with_a_mixture_begins_as_that_mixture_and_learns_from_there(tmp_path):
    torch.manual_seed(0)
    x = torch.cat((torch.randn(600, 2) - 4, 0.3 * torch.randn(600, 2) + 4))
    flow = flowstone.realnvp(2, couplings=2, hidden=(16,), prior="mixture")
    history = flowstone.fit(flow, x, steps=60, progress=False)
    alone = flowstone.realnvp(2, couplings=2, hidden=(16,))
    plain = flowstone.fit(alone, x, steps=60, progress=False)
    assert history.records[0].val_nll < plain.records[0].val_nll - 0.5
    assert history.best.val_nll <= history.records[0].val_nll
    flowstone.save(flow, tmp_path)
    torch.testing.assert_close(flowstone.load(tmp_path).log_prob(x), flow.log_prob(x))


def test_degrees_of_freedom_are_learned():
    torch.manual_seed(0)
    flow = flowstone.Flow(Scaling(1), StudentT(1, df=30.0))
    x = torch.distributions.StudentT(3.0).sample(torch.Size((20_000, 1)))
    flowstone.fit(flow, x, steps=400, lr=0.05, progress=False)
    assert isinstance(flow.prior, StudentT)
    assert flow.prior.df.item() == pytest.approx(3, abs=0.6)


@pytest.mark.parametrize("prior", [*(make_prior(name, 3) for name in PRIORS), Uniform(3)], ids=str)
def test_the_density_of_nan_is_nan(prior):
    z = torch.full((2, 3), 0.5)
    z[1, 2] = math.nan
    assert prior.log_prob(z).isnan().tolist() == [False, True]


@pytest.mark.parametrize("prior", [*(make_prior(name, 3) for name in PRIORS), Uniform(3)], ids=str)
def test_there_is_no_density_at_infinity(prior):
    z = torch.zeros(3, 3)
    z[0, 1], z[1, 2], z[2, 0], z[2, 1] = math.inf, -math.inf, math.inf, math.nan
    assert prior.log_prob(z)[:2].tolist() == [-math.inf, -math.inf]
    assert prior.log_prob(z)[2].isnan()


def test_a_logistic_draw_of_zero_is_no_farther_out_than_the_numbers_beside_it(monkeypatch):
    """Uniform numbers are multiples of 2**-24 in float32: 0 stands for those below half of that."""
    monkeypatch.setattr(torch, "rand", lambda *size, dtype, **_: torch.zeros(size, dtype=dtype))
    assert Logistic(1).sample(1).item() == pytest.approx(-25 * math.log(2), abs=1e-5)
    assert Logistic(1).double().sample(1).item() == pytest.approx(-54 * math.log(2), abs=1e-9)


def test_uniform_is_nothing_outside():
    prior = Uniform(2, low=-1.0, high=3.0)
    z = torch.tensor([[0.0, 0.0], [0.0, 3.1], [-1.0, 3.0]])
    assert prior.log_prob(z).tolist() == pytest.approx([-math.log(16), -math.inf, -math.log(16)])


def test_classes_have_their_own_gaussian():
    torch.manual_seed(0)
    prior = ClassConditional(2, classes=3)
    flow = flowstone.Flow(Scaling(2), prior, context_features=1)
    label = torch.randint(3, (3000, 1)).float()
    x = torch.randn(3000, 2) * 0.5 + 4 * label
    flowstone.fit(flow, x, context=label, steps=300, lr=0.2, progress=False)
    samples = flow.sample(500, torch.tensor([[0.0], [1.0], [2.0]]), seed=0)
    torch.testing.assert_close(samples.mean((0, 2)), torch.tensor([0.0, 4.0, 8.0]), atol=0.2, rtol=0)
    given = torch.stack([flow.log_prob(x, torch.full((3000, 1), float(kind))) for kind in range(3)], -1)
    assert (given.argmax(-1) == label[:, 0]).float().mean() > 0.99
    with pytest.raises(DataError, match=r"row 1 has class 3; classes are 0 … 2"):
        prior.log_prob(torch.zeros(2, 2), torch.tensor([[0.0], [3.0]]))
    with pytest.raises(DataError, match="needs the class"):
        prior.log_prob(torch.zeros(2, 2))


def test_any_torch_distribution_stands_in():
    base = torch.distributions.MultivariateNormal(torch.zeros(2), torch.tensor([[2.0, 0.5], [0.5, 1.0]]))
    flow = flowstone.Flow(Scaling(2), base)
    x = torch.randn(7, 2)
    torch.testing.assert_close(flow.log_prob(x), base.log_prob(x))
    assert torch.equal(flow.sample(5, seed=1), flow.sample(5, seed=1))
    assert not torch.equal(flow.sample(5, seed=1), flow.sample(5, seed=2))
    torch.testing.assert_close(flow.sample(20_000, seed=0).T.cov(), base.covariance_matrix, atol=0.06, rtol=0)
    state = torch.random.get_rng_state()
    flow.sample(3, seed=4)
    assert torch.equal(state, torch.random.get_rng_state())
    assert FromTorch(torch.distributions.Gamma(torch.ones(4), torch.ones(4))).event_shape == (4,)
    assert flow.double().log_prob(x.double()).dtype == torch.float64


def test_a_prior_of_torch_is_minus_infinity_outside_its_support():
    prior = FromTorch(torch.distributions.Uniform(torch.zeros(2), torch.ones(2)))
    z = torch.tensor([[0.5, 0.5], [0.5, 1.5], [math.nan, 0.5]])
    assert prior.log_prob(z)[:2].tolist() == [0.0, -math.inf]
    assert prior.log_prob(z)[2].isnan()


def test_the_cdf_of_a_prior_of_torch_is_0_below_its_support_and_1_above():
    z = torch.tensor([[-math.inf, -1.0, 0.0, 0.3, 1.0, 2.0, math.inf]]).T
    unit = FromTorch(torch.distributions.Uniform(torch.zeros(1), torch.ones(1)))
    torch.testing.assert_close(unit.cdf(z)[:, 0], torch.tensor([0.0, 0.0, 0.0, 0.3, 1.0, 1.0, 1.0]))
    gamma = torch.distributions.Gamma(torch.tensor([2.0]), torch.tensor([1.0]))
    found = FromTorch(gamma).cdf(z)[:, 0]
    torch.testing.assert_close(found[3:6], gamma.cdf(z[3:6])[:, 0])
    assert found[[0, 1, 2, 6]].tolist() == [0.0, 0.0, 0.0, 1.0]
    assert unit.cdf(torch.tensor([[math.nan]])).isnan()


def test_wrong_settings_are_named():
    with pytest.raises(UnknownNameError, match="did you mean 'normal'"):
        make_prior("norml", 2)
    with pytest.raises(SettingError, match=r"low=2\.0 must be below high=1\.0"):
        Uniform(1, low=2.0, high=1.0)
    with pytest.raises(SettingError, match="high=inf must be a finite number"):
        Uniform(1, high=math.inf)
    for df in (1.0, math.inf, math.nan):
        with pytest.raises(SettingError, match=f"df={df}"):
            StudentT(1, df=df)
    for shape in ((2, 3), [2, 3], torch.tensor([2, 3]), torch.Size((2, 3))):
        assert StandardNormal(shape).event_shape == (2, 3)  # pyright: ignore
    for shape in (0, 2.5, (2, "a")):
        with pytest.raises(SettingError, match=r"StandardNormal: event_shape=.* must be whole numbers, at least 1"):
            StandardNormal(shape)  # pyright: ignore
    with pytest.raises(DataError, match="the class is in column 2 of the context, which has 1"):
        ClassConditional(2, classes=2, column=2).log_prob(torch.zeros(3, 2), torch.zeros(3, 1))
    with pytest.raises(SettingError, match="components=0"):
        GaussianMixture(2, components=0)
    with pytest.raises(SettingError, match="classes=0"):
        ClassConditional(2, classes=0)
