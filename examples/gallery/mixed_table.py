"""A table of mixed columns
========================

The table has words, whole numbers and prices with many zeros. Each column gets a distribution of its own kind, given
the columns before it, and samples look like rows of the table.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import flowstone

rng = np.random.default_rng(0)
n = 1000
plan = rng.choice(["free", "basic", "pro"], n, p=[0.5, 0.3, 0.2])
months = rng.geometric(np.where(plan == "free", 0.2, 0.07))
spent = np.where(plan == "free", 0.0, np.round(months * rng.gamma(4, np.where(plan == "pro", 6.0, 2.0)), 2))
table = pd.DataFrame({"plan": plan, "months": months, "spent": spent})

model = flowstone.learn(table, steps=400, seed=0, progress=False)
samples = model.sample(1000, seed=0).to_pandas()
print(samples.head().to_string(index=False))
print(f"\nfree, and nothing spent: data {np.mean(spent[plan == 'free'] == 0):.3f}, ", end="")
print(f"samples {(samples.spent[samples.plan == 'free'] == 0).mean():.3f}")

# %%
figure, axes = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
names = ["free", "basic", "pro"]
for offset, frame, color, label in ((-0.2, table, "#0072B2", "data"), (0.2, samples, "#D55E00", "samples")):
    axes[0].bar(np.arange(3) + offset, [(frame.plan == name).mean() for name in names], 0.4, color=color, label=label)
    axes[1].hist(frame.months, bins=range(1, 50), density=True, histtype="step", color=color)
    paid = np.log10(frame.spent[frame.spent > 0])
    axes[2].hist(paid, bins=40, density=True, histtype="step", color=color)
axes[0].set_xticks(range(3), names)
axes[0].legend(frameon=False)
for ax, title in zip(axes, ("plan", "months", "log10 of spent, where above 0"), strict=True):
    ax.set_title(title)
plt.show()
