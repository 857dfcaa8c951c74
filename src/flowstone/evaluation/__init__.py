"""Measurements of a density: likelihood on held-out rows, round trips, a check layer by layer."""

from flowstone.evaluation.check import check
from flowstone.evaluation.diagnosis import Diagnosis, LayerReport, WholeReport
from flowstone.evaluation.jacobian import jacobian
from flowstone.evaluation.metrics import bits_per_dim, evaluate, grid_integral, log_prob, round_trip

__all__ = [
    "Diagnosis",
    "LayerReport",
    "WholeReport",
    "bits_per_dim",
    "check",
    "evaluate",
    "grid_integral",
    "jacobian",
    "log_prob",
    "round_trip",
]
