"""A bijection of your own, under the laws
=======================================

A new layer is a class with two methods. The laws test it on random inputs, and it works in a flow like any other.
"""

import matplotlib.pyplot as plt
import torch

import flowstone
from flowstone.bijections import Bijection, Chain, Scaling
from flowstone.priors import StandardNormal
from flowstone.testing import Case, check


class Twist(Bijection):
    """Turns each point of the plane by an angle that grows with its radius; a turn keeps areas, so the log-det is 0."""

    event_dims = latent_dims = 1

    def __init__(self, speed: float) -> None:
        super().__init__(2)
        self.speed = speed

    def _turn(self, x, sign):
        angle = sign * self.speed * x.norm(dim=1)
        cos, sin = angle.cos(), angle.sin()
        return torch.stack([cos * x[:, 0] - sin * x[:, 1], sin * x[:, 0] + cos * x[:, 1]], 1), x.new_zeros(len(x))

    def forward(self, x, context=None):
        """Data → latent."""
        return self._turn(x, 1.0)

    def inverse(self, z, context=None):
        """Latent → data."""
        return self._turn(z, -1.0)


check(Case(lambda: Twist(0.7), event_shape=2), seeds=1)
print("all laws hold")

# %%
torch.manual_seed(0)
narrow = Scaling(2)
narrow.log_scale.data = torch.tensor([0.5, -1.0])
flow = flowstone.Flow(Chain(Twist(1.2), narrow), StandardNormal(2))
figure, ax = plt.subplots(figsize=(5, 4.5), layout="constrained")
flowstone.plot.density(flow, ax, limits=((-6, 6), (-6, 6)), samples=flow.sample(400, seed=0))
ax.set_title("a long Gaussian, twisted")
plt.show()
