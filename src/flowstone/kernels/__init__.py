"""Fused kernels: they compute the numbers of the plain arithmetic in one pass over memory.

They run where they apply and where their compiler is installed (``pip install flowstone[fast]``). The plain arithmetic
runs everywhere else, and the kernels are tested against it. ``FLOWSTONE_KERNELS=off`` in the environment, or
``with kernels(False)``, switches them off.
"""

from flowstone.kernels.choice import applicable, kernels
from flowstone.kernels.spline import fused_spline

__all__ = ["applicable", "fused_spline", "kernels"]
