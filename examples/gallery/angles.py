"""Angles: a density on a circle
=============================

359° and 1° are neighbours. A circular spline has the same density and the same slope of the density on both sides of
the seam at 180°.
"""

import math

import matplotlib.pyplot as plt
import torch

import flowstone
from flowstone.bijections import Coupling, RQSpline
from flowstone.nets import MLP
from flowstone.priors import Uniform

torch.manual_seed(0)
first = torch.distributions.VonMises(torch.tensor(3.0), torch.tensor(4.0)).sample((2000,))
second = torch.distributions.VonMises(torch.tensor(-0.5), torch.tensor(15.0)).sample((1000,))
x = torch.cat([first, second])[:, None]

# %%
# A coupling of one feature keeps no feature and changes this one: its net has no input, and gives every point the same
# spline.

spline = RQSpline(bins=12, bound=math.pi, circular=True)
flow = flowstone.Flow(
    Coupling(1, spline, MLP(0, spline.parameters_per_feature, hidden=(16,))), Uniform(1, low=-math.pi, high=math.pi)
)
flowstone.fit(flow, x, steps=300, seed=0, progress=False)

grid = torch.linspace(-math.pi, math.pi, 721)[:, None]
with torch.no_grad():
    density = flow.log_prob(grid).exp()
print(f"density on both sides of the seam: {density[0].item():.4f}, {density[-1].item():.4f}")

figure, ax = plt.subplots(figsize=(5.5, 5.5), layout="constrained", subplot_kw={"projection": "polar"})
ax.hist(x[:, 0].numpy(), bins=72, density=True, alpha=0.4, color=flowstone.plot.DATA, label="data")
ax.plot(grid, density, color=flowstone.plot.SAMPLES, label="learned")
ax.set_yticklabels([])
ax.legend(loc="lower left", frameon=False)
plt.show()
