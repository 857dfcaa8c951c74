"""Temperature: typical or daring samples
======================================

The latent is multiplied by a temperature before it is mapped to data. Below 1, samples stay near the
mode; with 1 they are those of the model; above 1 they also go where data are rare.
"""

import matplotlib.pyplot as plt
import torch

import flowstone
from flowstone import plot

torch.manual_seed(0)
moons = flowstone.data.TOYS["moons"]
flow = flowstone.spline(2, couplings=4)
flowstone.fit(flow, moons, steps=300, seed=0, progress=False)

figure, axes = plt.subplots(1, 4, figsize=(13, 3.6), layout="constrained")
for ax, temperature in zip(axes, (0.3, 0.7, 1.0, 1.4), strict=True):
    samples = flow.sample(1500, temperature=temperature, seed=1)
    with torch.no_grad():
        mean = flow.log_prob(samples).mean().item()
    plot.points(samples, ax, color=plot.SAMPLES, limits=((-3, 3), (-3, 3)))
    ax.set_title(f"temperature {temperature:g}\nmean log p {mean:.2f}")
plt.show()
