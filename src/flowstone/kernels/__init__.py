"""What makes a model fast without changing it: fused kernels, chunks that fit the caches, kept memory.

Fused kernels compute the numbers of the plain arithmetic in one pass over memory. They run where they apply and where
their compiler is installed (``pip install flowstone[fast]``). The plain arithmetic runs everywhere else, and the
kernels are tested against it. ``FLOWSTONE_KERNELS=off`` in the environment, or ``with kernels(False)``, switches them
off.
"""

from flowstone.kernels.choice import applicable, kernels
from flowstone.kernels.chunks import CHUNK, chunks, rows_at_once
from flowstone.kernels.fork import one_thread_after_fork
from flowstone.kernels.memory import keep_freed_memory
from flowstone.kernels.parts import computed_parts
from flowstone.kernels.spline import fused_spline

__all__ = [
    "CHUNK",
    "applicable",
    "chunks",
    "computed_parts",
    "fused_spline",
    "keep_freed_memory",
    "kernels",
    "one_thread_after_fork",
    "rows_at_once",
]
