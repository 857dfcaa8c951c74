"""Given a picture
===============

An embedding net maps a wide context to a few numbers: where is the spot, given a noisy picture of 12 x 12 pixels? Two
densities learn the position given the 144 pixels; the one with a net for the pixels gives held-out positions a higher
likelihood.
"""

import matplotlib.pyplot as plt
import torch

import flowstone
from flowstone import plot

torch.manual_seed(0)
side = torch.linspace(-1.3, 1.3, 12)


def picture(where):
    """A spot at each place, in noise of a third of its brightness."""
    x, y = where[:, 0, None], where[:, 1, None]
    spot = torch.exp(-((side - y) ** 2) / 0.1)[:, :, None] * torch.exp(-((side - x) ** 2) / 0.1)[:, None]
    return (spot + 0.33 * torch.randn(spot.shape)).flatten(1)


where = 2 * torch.rand(4500, 2) - 1
pixels = picture(where)
train, test = slice(0, 4000), slice(4000, 4500)

densities = {
    "spline": flowstone.spline(2, context_features=144),
    "embedded": flowstone.recipes.embedded(2, context_features=144, width=8),
}
for name, density in densities.items():
    flowstone.fit(density, where[train], context=pixels[train], steps=800, dropout=0.2, seed=0, progress=False)
    print(f"{name}: {density.log_prob(where[test], pixels[test]).mean():.2f} nats a held-out position")

# %%
figure, axes = plt.subplots(2, 3, figsize=(10, 6.8), layout="constrained")
for column, row in zip(axes.T, (4003, 4008, 4011), strict=True):
    extent = (-1.4, 1.4, -1.4, 1.4)
    column[0].imshow(pixels[row].reshape(12, 12), origin="lower", extent=extent, cmap="Greys")
    draws = densities["embedded"].sample(1000, pixels[row, None], seed=0)[:, 0]
    plot.points(draws, column[1], color=plot.SAMPLES, limits=((-1.4, 1.4), (-1.4, 1.4)))
    for ax in column:
        ax.plot(*where[row], "x", color=plot.DATA, markersize=9, markeredgewidth=2)
        ax.set_aspect("equal")
axes[0, 0].set_title("the picture, and the true place")
axes[1, 0].set_title("1000 draws of the place given the picture")
plt.show()
