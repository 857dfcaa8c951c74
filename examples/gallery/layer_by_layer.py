"""Layer by layer
==============

The figure shows what each layer of a trained flow does: the upper row goes from data to the latent, the lower row from
the latent to samples. A point has the same colour in all pictures, by the direction of its latent.
"""

import torch

import flowstone
from flowstone import plot

torch.manual_seed(0)
moons = flowstone.data.TOYS["moons"]
flow = flowstone.realnvp(2, couplings=4, hidden=(64, 64))
flowstone.fit(flow, moons, steps=500, seed=0, progress=False)
x = moons(2000, torch.Generator().manual_seed(1))
figure = plot.layers(flow, x, most=5)

# %%
# The log-dets of the layers and the log-density of the latent add up to log p.

states = flow.states(x[:1])
ledger = [(type(state.layer).__name__, state.log_det.item()) for state in states[1:]]
prior = flow.prior.log_prob(states[-1].value).item()
for name, log_det in ledger:
    print(f"{name:<14} {log_det:8.4f}")
total = prior + sum(log_det for _, log_det in ledger)
print(f"{'prior':<14} {prior:8.4f}\n{'log p(x)':<14} {total:8.4f}")
assert abs(total - flow.log_prob(x[:1]).item()) < 1e-3
