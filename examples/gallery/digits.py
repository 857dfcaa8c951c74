"""Images: handwritten digits
==========================

The digits of scikit-learn, 8 x 8 pixels of 17 grey levels, scaled to bytes. A RealNVP for images learns them for a
few hundred steps, which is enough to see strokes.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_digits

import flowstone
from flowstone import plot

torch.manual_seed(0)
pixels, _ = load_digits(return_X_y=True)
images = torch.from_numpy((15.9 * pixels).astype(np.uint8)).reshape(-1, 1, 8, 8)
train, test = images[:1500], images[1500:]

flow = flowstone.realnvp_image((1, 8, 8), scales=2, couplings=2, channels=16)
flowstone.fit(flow, train, steps=250, batch_size=64, seed=0, progress=False)
print(f"{flowstone.evaluate(flow, test)['bits_per_dim']:.2f} bits/dim on test digits; a uniform model has 8")

# %%
samples = flow.sample(64, seed=1)
figure, axes = plt.subplots(1, 2, figsize=(8, 4), layout="constrained")
for ax, title, shown in ((axes[0], "data", train[:64]), (axes[1], "samples", samples)):
    ax.imshow(plot.mosaic(shown, columns=8), interpolation="nearest")
    ax.set_title(title)
    ax.set_axis_off()
plt.show()
