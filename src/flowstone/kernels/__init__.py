"""Fused kernels: the numbers of the plain arithmetic, in one pass over memory.

Chosen where they apply and where what they need is installed (``pip install flowstone[fast]``); the plain arithmetic
is what they are tested against and what runs everywhere else. ``FLOWSTONE_KERNELS=off`` in the environment, or
``with kernels(False)``, switches them off.
"""

from flowstone.kernels.choice import applicable, kernels
from flowstone.kernels.spline import fused_spline

__all__ = ["applicable", "fused_spline", "kernels"]
