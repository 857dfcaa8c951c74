"""Gaps filled
===========

A third of the second column is missing. If the gaps are filled with the mean, the filled points lie on a line far from
the data; draws given the rest of each row keep the shape of the data.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import flowstone

rng = np.random.default_rng(0)
x = rng.uniform(-2, 2, 800)
table = pd.DataFrame({"x": x, "y": np.sin(2 * x) + rng.normal(0, 0.15, 800)})
full = table.copy()
gaps = rng.random(800) < 0.33
table.loc[gaps, "y"] = np.nan

model = flowstone.learn(table, steps=400, seed=0, progress=False)
drawn = model.impute(table, how="draw", seed=0).to_pandas()
by_mean = table.fillna(table.mean())

figure, axes = plt.subplots(1, 3, figsize=(12, 3.8), layout="constrained", sharex=True, sharey=True)
for ax, title, filled in zip(
    axes, ("truth", "filled with the mean", "drawn by Flowstone"), (full, by_mean, drawn), strict=True
):
    ax.scatter(filled.x[~gaps], filled.y[~gaps], s=5, color=flowstone.plot.DATA, label="observed")
    ax.scatter(filled.x[gaps], filled.y[gaps], s=5, color=flowstone.plot.SAMPLES, label="was missing")
    ax.set(title=title, xlabel="x")
axes[0].set_ylabel("y")
axes[0].legend(frameon=False, markerscale=2)
plt.show()
