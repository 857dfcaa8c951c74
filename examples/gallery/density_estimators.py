"""Beside kernels and mixtures
===========================

Three estimates of the same density from 2,000 points, judged on 10,000 new points: kernels whose bandwidth is chosen by
cross-validation, a mixture of ten Gaussians, and a flow.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KernelDensity

import flowstone
from flowstone import plot

toy = flowstone.data.TOYS["pinwheel"]
train, test = toy(2000, torch.Generator().manual_seed(0)), toy(10_000, torch.Generator().manual_seed(1))

kernel = GridSearchCV(KernelDensity(), {"bandwidth": np.geomspace(0.05, 0.5, 8)}).fit(train.numpy()).best_estimator_
mixture = GaussianMixture(10, random_state=0).fit(train.numpy())
torch.manual_seed(0)
flow = flowstone.spline(2)
flowstone.fit(flow, train, steps=400, seed=0, progress=False)


def by_sklearn(model):
    """Its log-density as a function of a tensor."""
    return lambda x: torch.from_numpy(model.score_samples(x.numpy())).float()


figure, axes = plt.subplots(1, 3, figsize=(12, 4.6), layout="constrained")
models = (("kernels", by_sklearn(kernel)), ("10 Gaussians", by_sklearn(mixture)), ("flow", flow))
with torch.no_grad():
    for ax, (name, model) in zip(axes, models, strict=True):
        log_p = model.log_prob(test) if isinstance(model, flowstone.Density) else model(test)
        plot.density(model, ax, limits=((-2.5, 2.5), (-2.5, 2.5)), peak=0.5)
        ax.set_title(f"{name}: {-log_p.mean().item():.3f} nats")
plt.show()
print(f"entropy: {toy.entropy:.3f} nats")
