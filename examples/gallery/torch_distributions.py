"""With torch.distributions
========================

Any distribution of torch can be the prior, a flow is a ``torch.distributions.Distribution``, and a bijection a
``Transform``.
"""

import matplotlib.pyplot as plt
import torch
from torch.distributions import Independent, Laplace, TransformedDistribution

import flowstone
from flowstone.bijections import Chain, LeakyReLU, Scaling

torch.manual_seed(0)
prior = Independent(Laplace(torch.zeros(2), torch.ones(2)), 1)
bend = LeakyReLU()
torch.nn.init.constant_(bend.log_slope, -1.0)
bijection = Chain(Scaling(2), bend)
flow = flowstone.Flow(bijection, prior)

density = flow.distribution()
x = density.sample((2000,))
print(density, density.log_prob(x).shape)

# %%
# The same with torch's own machinery: ``transform.inv`` runs latent → data.

transform = flowstone.BijectionTransform(bijection)
by_torch = TransformedDistribution(prior, transform.inv)
assert torch.allclose(by_torch.log_prob(x), flow.log_prob(x), atol=1e-5)

figure, ax = plt.subplots(figsize=(5, 4.5), layout="constrained")
flowstone.plot.density(flow, ax, limits=((-6, 4), (-6, 4)))
ax.set_title("a Laplace prior, bent by a LeakyReLU")
plt.show()
