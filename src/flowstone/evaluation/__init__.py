"""What is measured of a density: likelihood on held-out rows, round trips, a check layer by layer."""

from flowstone.evaluation.check import Diagnosis, LayerReport, WholeReport, diagnose
from flowstone.evaluation.metrics import bits_per_dim, evaluate, grid_integral, log_prob, round_trip

__all__ = [
    "Diagnosis",
    "LayerReport",
    "WholeReport",
    "bits_per_dim",
    "diagnose",
    "evaluate",
    "grid_integral",
    "log_prob",
    "round_trip",
]
