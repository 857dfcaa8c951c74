"""Train on synthetic rows, test on real ones: what synthetic rows are worth to a model of one column."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from flowstone.errors import DataError
from flowstone.evaluation.trees import classifier, of_few_levels, regressor, require_sklearn, without_empty_columns

__all__ = ["Usefulness", "train_on_synthetic"]


@dataclass(frozen=True)
class Usefulness:
    """The scores of two models of one column on the same real rows.

    Attributes:
        measure: ``"auc"`` for a column of two values, ``"accuracy"`` for several levels, ``"r2"`` for numbers.
        synthetic: score of the model that was trained on synthetic rows; NaN where none of them has a value of the
            column, or where the held-out rows hold too few different values to score a prediction.
        real: score of the same model trained on real rows.
    """

    measure: str
    synthetic: float
    real: float


def train_on_synthetic(
    real: np.ndarray,
    synthetic: np.ndarray,
    test: np.ndarray,
    target: int,
    categorical: np.ndarray | None = None,
    *,
    seed: int = 0,
) -> Usefulness:
    """Train gradient-boosted trees to predict a column from the others, on synthetic and on real rows, and test both on
    the same held-out rows (Esteban et al. 2017).

    Args:
        real, synthetic, test: ``(rows, columns)``, float64; NaN is a gap. Rows whose target is a gap are left out.
        target: index of the column that is predicted.
        categorical: ``(columns,)``, True where numbers are codes of levels.

    Raises:
        DataError: the target has one value alone.

    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(size=(900, 2))
    >>> rows = np.column_stack((x, x.sum(1) > 0))
    >>> scores = train_on_synthetic(rows[:300], rows[300:600], rows[600:], target=2)
    >>> scores.measure, scores.real > 0.95
    ('auc', True)
    """
    require_sklearn()
    coded = np.zeros(real.shape[1], bool) if categorical is None else np.asarray(categorical, bool)
    tables = [table[~np.isnan(table[:, target])] for table in (synthetic, real, test)]
    levels = np.unique(tables[1][:, target])
    if len(levels) < 2:
        raise DataError(f"column {target} has one value alone, {levels[0]:g}: nothing can be learned of it")
    measure = "auc" if len(levels) == 2 else "accuracy" if coded[target] else "r2"
    few = of_few_levels(coded, np.concatenate((real, synthetic, test)))
    inputs = None if few is None else np.delete(few, target)
    make = regressor if measure == "r2" else classifier
    scores, held_out = [], tables[2][:, target]
    can_be_scored = len(np.unique(held_out)) >= (1 if measure == "accuracy" else 2)
    for table in tables[:2]:
        if not len(table) or not can_be_scored:
            scores.append(np.nan)
            continue
        train, test = without_empty_columns(np.delete(table, target, 1), np.delete(tables[2], target, 1))
        model = make(inputs, seed).fit(train, table[:, target])
        scores.append(_score(model, measure, test, held_out, levels))
    return Usefulness(measure, *scores)


def _score(model: Any, measure: str, x: np.ndarray, y: np.ndarray, levels: np.ndarray) -> float:
    if measure != "auc":
        return float(model.score(x, y))
    from sklearn.metrics import roc_auc_score

    second = np.flatnonzero(model.classes_ == levels[1])
    probability = model.predict_proba(x)[:, second[0]] if len(second) else np.zeros(len(x))
    return float(roc_auc_score(y == levels[1], probability))
