"""Gradient-boosted trees of scikit-learn, as judges of tables."""

from typing import Any

import numpy as np

from flowstone.errors import SettingError

__all__ = ["INSTALL", "classifier", "of_few_levels", "regressor", "require_sklearn", "without_empty_columns"]

INSTALL = "install scikit-learn: pip install flowstone[evaluation]"
MOST_LEVELS = 255  # levels of a column that the trees take as categorical


def classifier(categorical: np.ndarray | None, seed: int) -> Any:
    """A classifier of rows, some of whose columns are codes of levels."""
    return _trees("HistGradientBoostingClassifier", categorical, seed)


def regressor(categorical: np.ndarray | None, seed: int) -> Any:
    """A regression of a number on such rows."""
    return _trees("HistGradientBoostingRegressor", categorical, seed)


def require_sklearn() -> None:
    """SettingError where scikit-learn is not installed."""
    try:
        import sklearn  # noqa: F401
    except ImportError as error:
        raise SettingError(f"to judge tables by a classifier, {INSTALL}") from error


def of_few_levels(categorical: np.ndarray | None, rows: np.ndarray) -> np.ndarray | None:
    """Which categorical columns the trees can take as such; codes of more levels are numbers to them."""
    if categorical is None:
        return None
    highest = np.nanmax(rows, axis=0, initial=0.0, where=~np.isnan(rows))
    return np.asarray(categorical, bool) & (highest < MOST_LEVELS)


def without_empty_columns(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same rows with 0 in columns that hold no value in ``train``: nothing can be learned of them, and the trees
    refuse them.
    """
    empty = np.isnan(train).all(0)
    return np.where(empty, 0.0, train), np.where(empty, 0.0, test)


def _trees(name: str, categorical: np.ndarray | None, seed: int) -> Any:
    from sklearn import ensemble

    return getattr(ensemble, name)(categorical_features=categorical, random_state=seed, early_stopping=False)
