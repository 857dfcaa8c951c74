import pytest
import torch

from flowstone.errors import UnknownNameError
from flowstone.priors import PRIORS, make_prior

every_prior = pytest.mark.parametrize("name", PRIORS)

REFERENCES = {
    "normal": torch.distributions.Normal(0.0, 1.0),
    "logistic": torch.distributions.TransformedDistribution(
        torch.distributions.Uniform(torch.tensor(0.0, dtype=torch.float64), torch.tensor(1.0, dtype=torch.float64)),
        [torch.distributions.SigmoidTransform().inv],
    ),
}


@every_prior
def test_density_is_that_of_torch(float64, name):
    z = 4 * torch.randn(50, 3)
    torch.testing.assert_close(make_prior(name, 3).log_prob(z), REFERENCES[name].log_prob(z).sum(-1))


@every_prior
def test_density_integrates_to_one_and_samples_follow_it(float64, name):
    prior = make_prior(name, 1)
    grid = torch.linspace(-40, 40, 200_001)[:, None]
    density = prior.log_prob(grid).exp()
    assert torch.trapezoid(density, grid[:, 0]).item() == pytest.approx(1, abs=1e-9)
    z = prior.sample(40_000, generator=torch.Generator().manual_seed(0)).flatten()
    entropy = torch.trapezoid(-density * density.log().clamp_min(-700), grid[:, 0])
    assert -prior.log_prob(z[:, None]).mean().item() == pytest.approx(entropy.item(), abs=0.03)
    assert z.isfinite().all()


@every_prior
def test_shapes_and_generator(name):
    prior = make_prior(name, (2, 3))
    one, two = (prior.sample(4, generator=torch.Generator().manual_seed(5)) for _ in range(2))
    assert one.shape == (4, 2, 3)
    assert torch.equal(one, two)
    assert prior.log_prob(one).shape == (4,)


def test_unknown_prior():
    with pytest.raises(UnknownNameError, match="did you mean 'normal'"):
        make_prior("norml", 2)
