"""A learning curve, with the best that is possible
================================================

``fit`` returns the history of the training. Where the entropy of the data is known, the curve shows how far the NLL is
from the least that any model can reach.
"""

import matplotlib.pyplot as plt
import torch

import flowstone
from flowstone import plot

spirals = flowstone.data.TOYS["spirals"]
torch.manual_seed(0)
flow = flowstone.spline(2)
history = flowstone.fit(flow, spirals, steps=600, validate_every=30, seed=0, progress=False)

figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
plot.loss_curve(history, axes[0], entropy=spirals.entropy)
plot.density(flow, axes[1], limits=((-3, 3), (-3, 3)))
axes[1].set_title("after 600 steps")
plt.show()
