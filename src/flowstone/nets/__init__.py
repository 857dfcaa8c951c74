"""Conditioners: ordinary networks that know nothing of flows."""

from flowstone.nets.mlp import MLP, Parallel

__all__ = ["MLP", "Parallel"]
