"""Colours that link a point to its latent: one for each direction from the middle of the plane."""

import math

import numpy as np
from torch import Tensor

__all__ = ["direction_colors"]

# Six colours of the colour-blind safe Okabe-Ito set that show on white, in an order in which neighbours differ.
SECTORS = np.array(["#0072B2", "#E69F00", "#56B4E9", "#D55E00", "#009E73", "#CC79A7"])


def direction_colors(z: Tensor, middle: Tensor) -> np.ndarray:
    """The colour of each latent ``(n, 2)``, ``(n,)``: that of the sixth of the plane, seen from ``middle (2,)``, in
    which it lies.

    >>> import torch
    >>> direction_colors(torch.tensor([[1.0, 0.1], [1.0, 0.2], [-1.0, 0.1]]), torch.zeros(2)).tolist()
    ['#0072B2', '#0072B2', '#56B4E9']
    """
    off = (z - middle).double().cpu()
    share = (np.arctan2(off[:, 1].numpy(), off[:, 0].numpy()) / (2 * math.pi)) % 1
    return SECTORS[np.minimum((share * len(SECTORS)).astype(int), len(SECTORS) - 1)]
