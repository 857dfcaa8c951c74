"""How the arithmetic is run: on how many threads, in which precision, in how much memory, compiled or not."""

from flowstone.compute.compiled import compiled
from flowstone.compute.memory import reuse_memory
from flowstone.compute.precision import bf16_conditioners
from flowstone.compute.recompute import recomputed
from flowstone.compute.threads import threads_for, threads_wanted

__all__ = ["bf16_conditioners", "compiled", "recomputed", "reuse_memory", "threads_for", "threads_wanted"]
