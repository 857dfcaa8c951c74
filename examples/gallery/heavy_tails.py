"""Heavy tails
===========

A flow whose outermost layers are linear has the tails of its prior. Two flows learn the same data, one with a normal
prior and one with Student's t, and are compared far out.
"""

import matplotlib.pyplot as plt
import torch

import flowstone

torch.manual_seed(0)
truth = torch.distributions.StudentT(3.0)
x = truth.sample((20_000, 1))
levels = torch.logspace(0, 2.3, 60)[:, None]

figure, ax = plt.subplots(figsize=(6.5, 4.2), layout="constrained")
ax.loglog(levels, truth.log_prob(levels).exp(), color="black", linestyle=":", label="true: Student's t, 3 degrees")
for prior, color in (("normal", flowstone.plot.DATA), ("student", flowstone.plot.SAMPLES)):
    torch.manual_seed(0)
    flow = flowstone.realnvp(1, couplings=2, hidden=(16,), prior=prior)
    history = flowstone.fit(flow, x, steps=200, seed=0, progress=False)
    with torch.no_grad():
        ax.loglog(
            levels, flow.log_prob(levels).exp(), color=color, label=f"prior {prior}: {history.best.val_nll:.3f} nats"
        )
ax.set(xlabel="x", ylabel="density", ylim=(1e-12, 1))
ax.legend(frameon=False)
plt.show()

# %%
# The recipe ``spline`` has the option ``log_tails`` for heavy tails, and compresses columns that have far outliers
# (``CompressTails``).
