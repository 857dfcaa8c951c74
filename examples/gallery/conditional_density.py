"""A conditional density
=====================

A conditional flow learns the distribution of x given a context c, for any c. Here x lies on a ring whose radius is the
context.
"""

import matplotlib.pyplot as plt
import torch

import flowstone
from flowstone import plot

torch.manual_seed(0)
radius = 0.5 + 1.5 * torch.rand(6000, 1)
angle = 2 * torch.pi * torch.rand(6000, 1)
x = radius * torch.cat([angle.cos(), angle.sin()], 1) + 0.08 * torch.randn(6000, 2)

flow = flowstone.spline(2, context_features=1, couplings=4)
flowstone.fit(flow, x, context=radius, steps=500, seed=0, progress=False)

# %%
# ``sample(n, context)`` draws n for each row of the context; ``log_prob(x, context)`` takes a row of context for
# each x.

contexts = torch.tensor([[0.7], [1.2], [1.8]])
draws = flow.sample(1500, contexts, seed=1)
print(tuple(draws.shape))

figure, axes = plt.subplots(1, 3, figsize=(11, 3.8), layout="constrained")
for index, ax in enumerate(axes):
    plot.points(draws[:, index], ax, color=plot.SAMPLES, limits=((-2.4, 2.4), (-2.4, 2.4)))
    ax.set_title(f"radius {contexts[index].item():g}")
plt.show()
