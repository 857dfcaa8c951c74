"""Training: fit, and what it is made of."""

from flowstone.train.loop import fit

__all__ = ["fit"]
