"""Simulation-based inference
==========================

The likelihood of a simulator has no formula. A conditional flow learns the posterior of the simulator's parameters from
simulations, and then has it for any observation.
"""

import matplotlib.pyplot as plt
import torch

import flowstone
from flowstone import plot

torch.manual_seed(0)


def simulate(theta):
    """Two moons: a point on a thin half circle, which the parameters move about."""
    angle, radius = torch.pi * (torch.rand(len(theta)) - 0.5), 0.1 + 0.01 * torch.randn(len(theta))
    circle = torch.stack([radius * angle.cos() + 0.25, radius * angle.sin()], 1)
    return circle + torch.stack([-theta.sum(1).abs(), theta[:, 1] - theta[:, 0]], 1) / 2**0.5


theta = 2 * torch.rand(10_000, 2) - 1
x = simulate(theta)
posterior = flowstone.spline(2, context_features=2, couplings=6)
flowstone.fit(posterior, theta, context=x, steps=800, seed=0, progress=False)

# %%
figure, axes = plt.subplots(1, 3, figsize=(12, 4), layout="constrained")
for ax, observed in zip(axes, ([0.0, 0.0], [-0.3, 0.4], [-0.8, -0.2]), strict=True):
    draws = posterior.sample(3000, torch.tensor([observed]), seed=1)[:, 0]
    plot.points(draws, ax, color=plot.SAMPLES, limits=((-1.1, 1.1), (-1.1, 1.1)))
    ax.set(title=f"observed {tuple(observed)}", xlabel="θ1", ylabel="θ2")
plt.show()
