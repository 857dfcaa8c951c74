"""The classifier two-sample test: can a classifier tell one table from another?"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from flowstone.errors import DataError
from flowstone.evaluation.trees import classifier as boosted_trees
from flowstone.evaluation.trees import of_few_levels, require_sklearn, without_empty_columns
from flowstone.validation import require_integer

__all__ = ["TwoSample", "classifier_two_sample_test", "score_of"]


@dataclass(frozen=True)
class TwoSample:
    r"""How well a classifier tells two tables apart.

    Attributes:
        score: $1 - (2 \max(\tfrac12, \mathrm{AUC}) - 1)$: 1 where it cannot tell them apart, 0 where it always can.
        auc: area under the ROC curve, mean over the folds.
        stderr: standard error of ``auc`` for the size of the tables (Hanley and McNeil 1982).
    """

    score: float
    auc: float
    stderr: float


def classifier_two_sample_test(
    real: np.ndarray,
    other: np.ndarray,
    categorical: np.ndarray | None = None,
    *,
    folds: int = 3,
    seed: int = 0,
    classifier: Callable[[], Any] | None = None,
) -> TwoSample:
    """Train a classifier to tell rows of ``real`` from rows of ``other``, and test it on rows that it has not seen
    (Lopez-Paz and Oquab 2017).

    The larger table is thinned at random to the size of the smaller one.

    Args:
        real, other: ``(rows, columns)``, float64; NaN is a gap, which the classifier may use.
        categorical: ``(columns,)``, True where numbers are codes of levels.
        folds: parts of the cross-validation.
        seed: seed of the thinning, the folds and the classifier.
        classifier: makes a classifier with scikit-learn's ``fit`` and ``predict_proba``; without it gradient-boosted
            trees of scikit-learn. Scores of different classifiers cannot be compared.

    Raises:
        DataError: the tables have different columns, or fewer rows than folds.

    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> same = classifier_two_sample_test(rng.normal(size=(300, 2)), rng.normal(size=(300, 2)))
    >>> far = classifier_two_sample_test(rng.normal(size=(300, 2)), rng.normal(3, size=(300, 2)))
    >>> same.score > 0.8, far.score < 0.1
    (True, True)
    """
    require_sklearn()
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedKFold

    require_integer("folds", folds, at_least=2)
    if real.shape[1] != other.shape[1]:
        raise DataError(f"tables of {real.shape[1]} and {other.shape[1]} columns cannot be compared")
    n = min(len(real), len(other))
    if n < folds:
        raise DataError(f"{n} rows cannot be split into {folds} folds")
    rng = np.random.default_rng(seed)
    rows = np.concatenate([table[rng.permutation(len(table))[:n]] for table in (real, other)])
    labels = np.repeat([1, 0], n)
    make = classifier or (lambda: boosted_trees(of_few_levels(categorical, rows), seed))
    aucs = []
    for train, test in StratifiedKFold(folds, shuffle=True, random_state=seed).split(rows, labels):
        known, held_out = without_empty_columns(rows[train], rows[test])
        probability = make().fit(known, labels[train]).predict_proba(held_out)[:, 1]
        aucs.append(roc_auc_score(labels[test], probability))
    auc = float(np.mean(aucs))
    return TwoSample(score_of(auc), auc, _auc_error(auc, n))


def score_of(auc: float) -> float:
    """The score of a classifier with this AUC: 1 where it cannot tell two tables apart, 0 where it always can."""
    return 1 - (2 * max(0.5, auc) - 1)


def _auc_error(auc: float, n: int) -> float:
    """Standard error of an AUC of n rows of each class (Hanley and McNeil 1982, equation 1)."""
    one, two = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    return math.sqrt((auc * (1 - auc) + (n - 1) * (one - auc**2 + two - auc**2)) / n**2)
