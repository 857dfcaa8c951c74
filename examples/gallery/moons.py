"""
Two moons
=========

The default flow learns a density with two curved ridges from samples, and shows it beside the exact one.
"""

import matplotlib.pyplot as plt
import torch

import flowstone
from flowstone import plot

torch.manual_seed(0)
moons = flowstone.data.TOYS["moons"]
flow = flowstone.spline(features=2, couplings=4)
flowstone.fit(flow, moons, steps=400, seed=0, progress=False)

# %%
# The exact entropy of this toy is known: no model has a smaller mean negative log-likelihood.

test = moons(10_000, torch.Generator().manual_seed(1))
with torch.no_grad():
    nll = -flow.log_prob(test).mean().item()
print(f"{nll:.3f} nats, the data's entropy {moons.entropy:.3f}")

# %%
figure, axes = plt.subplots(1, 2, figsize=(9, 4.5), layout="constrained")
plot.points(test[:2000], axes[0])
axes[0].set_title("data")
plot.density(flow, axes[1], limits=plot.limits_of(test))
axes[1].set_title("learned density")
plt.show()
