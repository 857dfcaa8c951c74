"""A density known up to a constant
================================

Here there are no data, but a function: the log of a posterior or minus an energy. The flow is fitted by minimising the
reverse Kullback-Leibler divergence, and importance weights show how good the fit is.
"""

import matplotlib.pyplot as plt
import torch

import flowstone
from flowstone import plot


def log_density(x):
    """A ring with two bumps (the first density of Rezende and Mohamed 2015), without its constant."""
    ring = 0.5 * ((x.norm(dim=1) - 2) / 0.4).square()
    bumps = torch.logaddexp(-0.5 * ((x[:, 0] - 2) / 0.6).square(), -0.5 * ((x[:, 0] + 2) / 0.6).square())
    return bumps - ring


torch.manual_seed(0)
flow = flowstone.spline(2, couplings=4)
fit = flowstone.fit_to_density(flow, log_density, steps=500, seed=0, progress=False)
print(f"effective sample size: {fit.effective_sample_size:.2f} of 1")
print(f"log of the integral:   {fit.sample.log_normalizer:.3f}")

# %%
limits = ((-4.0, 4.0), (-4.0, 4.0))
figure, axes = plt.subplots(1, 2, figsize=(9, 4.2), layout="constrained")
plot.density(lambda x: log_density(x) - fit.sample.log_normalizer, axes[0], limits=limits, peak=0.25)
axes[0].set_title("the function, normalised")
plot.density(flow, axes[1], limits=limits, peak=0.25)
axes[1].set_title("the flow")
plt.show()
