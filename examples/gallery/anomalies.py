"""Anomalies, and the column to blame
==================================

Each strange row is unusual in one way: a value that no row has, or a combination that no row has. The detector gives
a p-value, and names the column that fits the others worst.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import flowstone
from flowstone import FlowOutlierDetector

rng = np.random.default_rng(0)
height = rng.normal(170, 10, 600)
people = pd.DataFrame({"height": height, "weight": 0.9 * height - 85 + rng.normal(0, 6, 600)})
strange = pd.DataFrame({"height": [150.0, 195.0, 230.0], "weight": [95.0, 55.0, 122.0]})

detector = FlowOutlierDetector(contamination=0.01, models="quick", random_state=0).fit(people)
p_values, blame = detector.p_values(strange), detector.blame(strange).argmax(1)
for row, p, column in zip(strange.itertuples(index=False), p_values, blame, strict=True):
    print(f"{tuple(row)}: p = {p:.3f}, blame {people.columns[column]}")

# %%
across, up = np.meshgrid(np.linspace(130, 240, 120), np.linspace(30, 135, 120))
grid = pd.DataFrame({"height": across.ravel(), "weight": up.ravel()})
score = detector.decision_function(grid).reshape(across.shape)

figure, ax = plt.subplots(figsize=(6.5, 4.6), layout="constrained")
ax.contourf(across, up, score, levels=20, cmap="Greys_r", alpha=0.5)
ax.contour(across, up, score, levels=[0], colors="black")
ax.scatter(people.height, people.weight, s=4, color=flowstone.plot.DATA, label="learned from")
ax.scatter(strange.height, strange.weight, s=60, marker="X", color=flowstone.plot.SAMPLES, label="strange")
ax.set(xlabel="height (cm)", ylabel="weight (kg)", title="line: where a row becomes an anomaly")
ax.set(xlim=(130, 240), ylim=(30, 135))
ax.legend(loc="lower right")
plt.show()
