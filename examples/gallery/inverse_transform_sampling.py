"""Inverse transform sampling
==========================

If u is uniform on [0, 1] and F a distribution function, then F⁻¹(u) has the distribution F. Such a map is a
flow whose layer is known in advance. Two of them lead from uniform to exponential to normal.
"""

import matplotlib.pyplot as plt
import torch

torch.manual_seed(0)
u = torch.rand(20_000)
exponential = -torch.log1p(-u)  # F(x) = 1 - exp(-x), so x = -log(1 - u)
back = 1 - torch.exp(-exponential)  # F of it is uniform again
normal = torch.distributions.Normal(0.0, 1.0).icdf(back.clamp(1e-6, 1 - 1e-6))

# %%
# The density follows from the change of variables, $p(x) = p_u(F(x))\,F'(x) = F'(x)$.

grids = (torch.linspace(0, 1, 200), torch.linspace(0, 6, 200), torch.linspace(-4, 4, 200))
densities = (torch.ones(200), torch.exp(-grids[1]), torch.distributions.Normal(0.0, 1.0).log_prob(grids[2]).exp())
figure, axes = plt.subplots(1, 3, figsize=(11, 3.4), layout="constrained")
panels = zip(axes, ("uniform u", "exponential", "normal"), (u, exponential, normal), grids, densities, strict=True)
for ax, title, values, grid, density in panels:
    ax.hist(values.numpy(), bins=60, range=(grid[0].item(), grid[-1].item()), density=True, alpha=0.4, color="#0072B2")
    ax.plot(grid, density, color="#D55E00")
    ax.set_title(title)
plt.show()
