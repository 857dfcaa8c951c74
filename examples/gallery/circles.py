"""Circles: NICE, RealNVP and splines
==================================

NICE's additive couplings cannot change volumes, RealNVP's affine couplings can, and spline couplings also bend each
coordinate by itself. Each flow learns for the same number of steps.
"""

import matplotlib.pyplot as plt
import torch

import flowstone
from flowstone import plot

circles = flowstone.data.TOYS["circles"]
test = circles(4000, torch.Generator().manual_seed(1))
limits = plot.limits_of(test)

figure, axes = plt.subplots(1, 3, figsize=(12, 4.6), layout="constrained")
for ax, recipe in zip(axes, (flowstone.nice, flowstone.realnvp, flowstone.spline), strict=True):
    torch.manual_seed(0)
    flow = recipe(2, couplings=6, hidden=(64, 64))
    flowstone.fit(flow, circles, steps=700, seed=0, progress=False)
    nll = flowstone.evaluate(flow, test)["nll_nats"]
    plot.density(flow, ax, limits=limits, peak=0.6)
    ax.set_title(f"{recipe.__name__}: {nll:.3f} nats")
plt.show()
print(f"entropy of the data: {circles.entropy:.3f} nats")
