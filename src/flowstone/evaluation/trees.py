"""Gradient-boosted trees of scikit-learn, as judges of tables."""

from typing import Any

import numpy as np

from flowstone.errors import SettingError

__all__ = ["classifier", "regressor"]

MOST_LEVELS = 255  # levels of a column that the trees take as categorical


def classifier(categorical: np.ndarray | None, seed: int) -> Any:
    """A classifier of rows, some of whose columns are codes of levels."""
    return _trees("HistGradientBoostingClassifier", categorical, seed)


def regressor(categorical: np.ndarray | None, seed: int) -> Any:
    """A regression of a number on such rows."""
    return _trees("HistGradientBoostingRegressor", categorical, seed)


def _trees(name: str, categorical: np.ndarray | None, seed: int) -> Any:
    try:
        from sklearn import ensemble
    except ImportError as error:
        raise SettingError(
            "to judge tables by a classifier, install scikit-learn: pip install flowstone[evaluation]"
        ) from error
    return getattr(ensemble, name)(categorical_features=categorical, random_state=seed, early_stopping=False)
