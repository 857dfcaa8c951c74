"""Measurements: likelihood on held-out rows, round trips, a check layer by layer, and judges of synthetic tables."""

from flowstone.evaluation.anomaly import AnomalyJudge, blamed_terms, conformal_p_values, usual_terms
from flowstone.evaluation.baselines import baseline_nll, baselines
from flowstone.evaluation.calibration import Calibration, calibration, conditional_pit, uniformity
from flowstone.evaluation.check import check
from flowstone.evaluation.columns import column_bits, independent_columns, require_comparable
from flowstone.evaluation.diagnosis import Diagnosis, FlowReport, LayerReport
from flowstone.evaluation.jacobian import jacobian
from flowstone.evaluation.latent_classes import LatentClasses
from flowstone.evaluation.metrics import (
    bits_per_dim,
    evaluate,
    grid_integral,
    likelihood_terms,
    log_prob,
    round_trip,
)
from flowstone.evaluation.nearest_rows import NearestRows, nearest_rows
from flowstone.evaluation.overlap import shared_rows
from flowstone.evaluation.reference import reference_metrics
from flowstone.evaluation.samples import sample_rows
from flowstone.evaluation.two_sample import TwoSample, classifier_two_sample_test
from flowstone.evaluation.usefulness import Usefulness, train_on_synthetic
from flowstone.evaluation.verdict import Verdict, verdict

__all__ = [
    "AnomalyJudge",
    "Calibration",
    "Diagnosis",
    "FlowReport",
    "LatentClasses",
    "LayerReport",
    "NearestRows",
    "TwoSample",
    "Usefulness",
    "Verdict",
    "baseline_nll",
    "baselines",
    "bits_per_dim",
    "blamed_terms",
    "calibration",
    "check",
    "classifier_two_sample_test",
    "column_bits",
    "conditional_pit",
    "conformal_p_values",
    "evaluate",
    "grid_integral",
    "independent_columns",
    "jacobian",
    "likelihood_terms",
    "log_prob",
    "nearest_rows",
    "reference_metrics",
    "require_comparable",
    "round_trip",
    "sample_rows",
    "shared_rows",
    "train_on_synthetic",
    "uniformity",
    "usual_terms",
    "verdict",
]
