import math

import numpy as np
import pytest
import torch
from sklearn.datasets import make_circles, make_moons

from flowstone.data import TOYS

every_toy = pytest.mark.parametrize("toy", TOYS.values(), ids=lambda toy: toy.name)
# The grid cannot follow an edge of a density closer than one cell, nor the banana's tail to its end.
SHARP = {"uniform": 0.02, "checkerboard": 0.02, "banana": 5e-4}
CURVES = ("moons", "circles", "spirals")  # within ±3, and their densities are dear


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@every_toy
def test_standardised_by_its_exact_moments(toy):
    x = toy(200_000, generator(0)).double()
    assert x.shape == (200_000, 2)
    assert x.mean(0).tolist() == pytest.approx([0, 0], abs=0.01)
    assert x.std(0).tolist() == pytest.approx([1, 1], abs=0.01)


@every_toy
def test_density_is_normalised_and_its_entropy_is_the_one_stated(toy):
    points, half = (160, 3.0) if toy.name in CURVES else (520, 9.0)
    axis = (torch.arange(points, dtype=torch.float64) + 0.5) / points * 2 * half - half
    log_density = toy.log_prob(torch.cartesian_prod(axis, axis))
    density, cell = log_density.exp(), (2 * half / points) ** 2
    assert density.sum().item() * cell == pytest.approx(1, abs=SHARP.get(toy.name, 1e-4))
    entropy = -(density * log_density.clamp_min(-700)).sum().item() * cell
    assert entropy == pytest.approx(toy.entropy, abs=3 * SHARP.get(toy.name, 1e-4))


@every_toy
def test_samples_follow_the_density(toy):
    log_density = toy.log_prob(toy(3000, generator(2)))
    assert log_density.isfinite().all()
    error = log_density.std().item() / math.sqrt(len(log_density))
    assert -log_density.mean().item() == pytest.approx(toy.entropy, abs=4 * error + 1e-6)


@every_toy
def test_the_same_generator_gives_the_same_points(toy):
    assert torch.equal(toy(100, generator(3)), toy(100, generator(3)))


@pytest.mark.parametrize(
    ("name", "make"), [("moons", make_moons), ("circles", lambda *a, **k: make_circles(*a, factor=0.5, **k))]
)
def test_same_distribution_as_scikit_learn(name, make):
    toy = TOYS[name]
    theirs, _ = make(4000, noise=0.05, random_state=0)
    standardised = torch.from_numpy((theirs - np.array(toy.mean)) / np.array(toy.std))
    log_density = toy.log_prob(standardised)
    assert -log_density.mean().item() == pytest.approx(toy.entropy, abs=4 * log_density.std().item() / 4000**0.5)
    assert theirs.std(0).tolist() == pytest.approx(toy.std, rel=0.01)
