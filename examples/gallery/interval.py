"""A density on an interval
========================

Proportions lie between 0 and 1, and a density of them should have no mass outside. ``Interval`` maps the interval to
the real line first; with its log-det the likelihood stays that of the proportions.
"""

import matplotlib.pyplot as plt
import torch

import flowstone
from flowstone.bijections import Chain, Interval
from flowstone.priors import StandardNormal

torch.manual_seed(0)
truth = torch.distributions.Beta(0.8, 2.5)
x = truth.sample((4000, 1)).clamp(1e-5, 1 - 1e-5)

inner = flowstone.spline(1, couplings=2)
flow = flowstone.Flow(Chain(Interval(0.0, 1.0), inner.bijection), StandardNormal(1))
flowstone.fit(flow, x, steps=300, seed=0, progress=False)

# %%
grid = torch.linspace(0.001, 0.999, 500)[:, None]
with torch.no_grad():
    learned = flow.log_prob(grid).exp()
print(f"mass between 0.001 and 0.999: {torch.trapezoid(learned, grid[:, 0]).item():.3f}")
print(f"smallest and largest of 10,000 samples: {flow.sample(10_000, seed=1).aminmax()}")

figure, ax = plt.subplots(figsize=(6, 4), layout="constrained")
ax.hist(x[:, 0].numpy(), bins=60, density=True, alpha=0.4, color=flowstone.plot.DATA, label="data")
ax.plot(grid, learned, color=flowstone.plot.SAMPLES, label="learned")
ax.plot(grid, truth.log_prob(grid).exp(), color="black", linestyle=":", label="true")
ax.set(xlabel="proportion", ylabel="density", ylim=(0, 4))
ax.legend(frameon=False)
plt.show()
