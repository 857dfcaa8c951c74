"""Two moons
=========

The default flow learns a density with two curved ridges, from samples alone.
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
# The entropy of this toy is known: no model has a smaller mean negative log-likelihood.

test = moons(10_000, torch.Generator().manual_seed(1))
nll = flowstone.evaluate(flow, test)["nll_nats"]
print(f"{nll:.3f} nats; the entropy of the data is {moons.entropy:.3f}")

# %%
figure, axes = plt.subplots(1, 2, figsize=(9, 4.2), layout="constrained")
limits = plot.limits_of(test)
plot.points(test, axes[0], title="data", limits=limits)
plot.density(flow, axes[1], limits=limits)
axes[1].set_title("learned density")
plt.show()
