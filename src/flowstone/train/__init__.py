"""Training: fit, and what it is made of."""

from flowstone.train.fit import fit

__all__ = ["fit"]
