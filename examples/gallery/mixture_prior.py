"""A mixture as the prior
======================

A flow maps connected sets to connected sets, so with a single Gaussian as the prior thin bridges remain between the
clusters. A mixture of Gaussians as the prior, set from the data and then learned, can have a component for each of
them.
"""

import matplotlib.pyplot as plt
import torch

import flowstone
from flowstone import plot

torch.manual_seed(0)
centers = torch.tensor([[-3.0, -3.0], [-3.0, 3.0], [3.0, -3.0], [3.0, 3.0], [0.0, 0.0]])
x = centers[torch.randint(5, (4000,))] + 0.35 * torch.randn(4000, 2)
limits = plot.limits_of(x)

figure, axes = plt.subplots(1, 2, figsize=(9, 4.2), layout="constrained")
for ax, prior in zip(axes, ("normal", "mixture"), strict=True):
    torch.manual_seed(0)
    flow = flowstone.realnvp(2, couplings=6, hidden=(32, 32), prior=prior)
    history = flowstone.fit(flow, x, steps=400, seed=0, progress=False)
    plot.density(flow, ax, limits=limits, peak=0.3)
    ax.set_title(f"prior {prior}: {history.best.val_nll:.3f} nats")
plt.show()
