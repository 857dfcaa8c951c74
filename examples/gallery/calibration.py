"""Is a conditional density calibrated?
====================================

Simulation-based calibration (Talts et al. 2018): among draws given the context of a held-out row, the true value
should have every rank equally often, and the region of highest density with probability 90% should hold 90% of the
rows.
"""

import torch

import flowstone
from flowstone.evaluation import calibration
from flowstone.plot import calibration_figure

torch.manual_seed(0)
context = 4 * torch.rand(5000, 1) - 2
x = torch.cat([context + (0.1 + 0.3 * context.abs()) * torch.randn(5000, 1), context * torch.randn(5000, 1)], 1)

flow = flowstone.spline(2, context_features=1, couplings=4)
flowstone.fit(flow, x[:4000], context=context[:4000], steps=400, seed=0, progress=False)

found = calibration(flow, x[4000:], context[4000:], draws=100)
print(found.p_values())  # small where ranks are far from uniform
figure = calibration_figure(found, ["x1", "x2"])
