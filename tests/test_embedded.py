"""A density whose context is made narrow by a net."""

from typing import Any

import numpy as np
import pytest
import torch

import flowstone
from flowstone import FlowDensity
from flowstone.embedded import Embedded
from flowstone.errors import SettingError, ShapeError
from flowstone.estimators.candidates import candidates, default_models
from flowstone.recipes import embedded

INNER = [
    {"recipe": "spline", "arguments": {"couplings": 2, "hidden": [8]}},
    {"recipe": "mixed", "arguments": {"width": 8, "blocks": 1, "bins": 4}},
]


def wide(n: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows around the mean of 30 columns of their context, whose others say nothing."""
    generator = torch.Generator().manual_seed(seed)
    context = torch.randn(n, 60, generator=generator) * 5 + 100
    x = context[:, :30].mean(1, keepdim=True) + 0.2 * torch.randn(n, 2, generator=generator)
    return x, context


@pytest.mark.parametrize("inner", INNER)
def test_it_is_the_inner_density_given_what_the_net_makes_of_the_context(inner, float64):
    torch.manual_seed(0)
    density = embedded(2, context_features=60, density=inner, width=3).eval()
    x, context = wide(200)
    density.initialize(x, context)
    narrow = density.embed(context)
    assert narrow.shape == (200, 3)
    torch.testing.assert_close(density.density.standardize_context.mean, narrow.mean(0))  # q is set from what it sees
    torch.testing.assert_close(density.log_prob(x, context), density.density.log_prob(x, narrow))
    drawn, log_prob = density.sample_and_log_prob(4, context[:5], seed=0)
    again = density.log_prob(drawn.flatten(0, 1), context[:5].repeat(4, 1)).unflatten(0, (4, 5))
    torch.testing.assert_close(log_prob, again)
    torch.testing.assert_close(density.sample(4, context[:5], seed=0), drawn)


@pytest.mark.parametrize("inner", INNER)
def test_net_and_density_are_trained_together_and_come_back(inner, tmp_path):
    torch.manual_seed(0)
    density: Any = embedded(2, context_features=60, density=inner, width=2, embedding=(16,))
    x, context = wide(1000)
    before = density.net.output.weight.detach().clone()
    history = flowstone.fit(density, x, context=context, steps=150, validate_every=25, progress=False)
    assert history.best.val_nll < history.records[0].val_nll - 0.2
    assert (density.net.output.weight - before).abs().max() > 1e-3
    flowstone.save(density.eval(), tmp_path)
    again = flowstone.load(tmp_path)
    assert torch.equal(again.log_prob(x[:9], context[:9]), density.log_prob(x[:9], context[:9]))


def test_a_net_of_another_width_is_named():
    density = Embedded(flowstone.nice(2, context_features=4), torch.nn.Linear(10, 3), context_features=10)
    x, context = torch.randn(5, 2), torch.randn(5, 10)
    for call in (lambda: density(x, context), lambda: density.log_prob(x, context), lambda: density.sample(2, context)):
        with pytest.raises(ShapeError, match=r"returns shape \(\d+, 3\), the density takes \(batch, 4\)"):
            call()


def test_latents_are_those_of_the_inner_density():
    torch.manual_seed(0)
    density: Any = embedded(2, context_features=60, density=INNER[0]).eval()
    x, context = wide(50)
    density.initialize(x, context)
    z, log_det = density.to_latent(x, context)
    again, back = density.from_latent(z, context)
    torch.testing.assert_close(again, x, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(back, -log_det, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(density.density.prior.log_prob(z) + log_det, density.log_prob(x, context))


def test_an_estimator_tries_it_for_wide_contexts(tmp_path):
    def names(width: int) -> list[str]:
        return [each.name for each in candidates(default_models(conditional=True), 2000, 2, None, width, "cpu")]

    x, context = (part.double().numpy() for part in wide(600))
    assert "embedded (dropout 0.2)" in names(60)
    assert "embedded (dropout 0.2)" not in names(5)
    density: Any = FlowDensity(models="embedded", random_state=0, time_limit=3).fit(x, context=context)
    assert density.flow_.spec["recipe"] == "embedded"
    z = density.transform(x[:9], context[:9])
    np.testing.assert_allclose(density.inverse_transform(z, context[:9]), x[:9], atol=1e-3)
    flowstone.save(density, tmp_path)
    again = FlowDensity.load(tmp_path)
    assert (again.score_samples(x, context) == density.score_samples(x, context)).all()
    with pytest.raises(SettingError, match="'embedded' needs a context"):
        FlowDensity(models="embedded").fit(x)


def test_nets_for_other_contexts_and_densities_without_one():
    with pytest.raises(SettingError, match="takes none"):
        Embedded(flowstone.nice(2), torch.nn.Linear(5, 2), context_features=5)
    with pytest.raises(ShapeError, match="needs a context"):
        embedded(2, context_features=5).log_prob(torch.zeros(2, 2))
