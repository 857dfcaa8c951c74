"""Recipes compared
================

Seven recipes learn three toys in the same number of steps. The figure shows by how many nats per point the NLL of each
is above the entropy, the least that any model can reach. Equal steps are not equal seconds.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch

import flowstone
from flowstone.recipes import build

RECIPES = ("nice", "realnvp", "glow", "maf", "iaf", "spline", "maf_spline")
TOYS = ("moons", "circles", "spirals")
above = np.zeros((len(RECIPES), len(TOYS)))
for column, name in enumerate(TOYS):
    toy = flowstone.data.TOYS[name]
    test = toy(4000, torch.Generator().manual_seed(1))
    for row, recipe in enumerate(RECIPES):
        torch.manual_seed(0)
        flow = build(recipe, {"features": 2, "hidden": (32, 32)})
        flowstone.fit(flow, toy, steps=120, seed=0, progress=False)
        above[row, column] = flowstone.evaluate(flow, test)["nll_nats"] - toy.entropy

# %%
figure, ax = plt.subplots(figsize=(5.5, 5), layout="constrained")
shown = ax.imshow(above, cmap="viridis_r", vmin=0)
ax.set_xticks(range(len(TOYS)), TOYS)
ax.set_yticks(range(len(RECIPES)), RECIPES)
for (row, column), value in np.ndenumerate(above):
    ax.text(column, row, f"{value:.2f}", ha="center", color="white" if value > above.max() / 2 else "black")
figure.colorbar(shown, label="nats above the entropy, after 120 steps")
plt.show()
