"""Rows that an estimator is given: they are read and checked, and must have the same columns each time."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_array, check_is_fitted, validate_data
from torch import Tensor

from flowstone.data.tables import Columns, Unseen, kinds_of, read_table, warn_unseen
from flowstone.errors import DataError, SettingError, UnknownNameError
from flowstone.estimators.tables import as_rows, backend_of, is_frame, is_plain, plain_values, require_numbers, types_of
from flowstone.validation import require_choice

__all__ = ["TableInput", "seed_of"]

KINDS = ("auto", "infer")


def seed_of(random_state: Any) -> int:
    """A seed that is drawn from a seed, or from a generator of NumPy, ``Generator`` or ``RandomState``."""
    if isinstance(random_state, np.random.Generator):
        return int(random_state.integers(2**31))
    return int(check_random_state(random_state).randint(2**31))


class TableInput:
    """What estimators of rows of numbers, or of frames with columns of any kind, have in common."""

    kinds: str | Mapping[str, str]
    columns_: Columns | None
    kinds_: dict[str, str]
    n_features_in_: int
    feature_names_in_: np.ndarray
    least_rows = 2

    def _learned_rows(self, X: Any) -> Tensor:
        """The rows of X as a tensor; the kinds of their columns are kept."""
        if isinstance(self.kinds, str):
            require_choice("kinds", self.kinds, KINDS)
        elif not isinstance(self.kinds, Mapping):
            raise SettingError(
                f"kinds={self.kinds!r}: expected 'auto', 'infer', or kinds by column, such as {{'zip': 'categorical'}}"
            )
        X = as_rows(X)
        self._backend, self._types, self.columns_ = backend_of(X), types_of(X), None
        if is_frame(X):
            table = read_table(X)
            if self.kinds != "auto" or not is_plain(table):
                requested = {name: kind for name, kind in self._requested_kinds().items() if name in table.columns}
                self.columns_ = kinds_of(table, requested)
                if not self.columns_.names:
                    raise DataError(f"no column is left to learn the density of ({', '.join(self.columns_.notes)})")
                self.kinds_ = {kind.column: kind.name for kind in self.columns_.kinds}
                self.n_features_in_, self.feature_names_in_ = len(table.columns), np.array(table.columns, dtype=object)
                return self.columns_.encode(table)
        x = self._numbers(X, reset=True)
        names = getattr(self, "feature_names_in_", [f"x{index}" for index in range(x.shape[1])])
        self.kinds_ = dict.fromkeys(map(str, names), "continuous")
        return x

    def _requested_kinds(self) -> Mapping[str, str]:
        return {} if isinstance(self.kinds, str) else self.kinds

    def _check_kinds(self, more: Iterable[str] = ()) -> None:
        """Refuse kinds of columns that there are not.

        Args:
            more: names of columns beside those of X.
        """
        known = [*getattr(self, "feature_names_in_", ()), *more]
        for name in self._requested_kinds():
            if not known:
                raise SettingError(f"kinds={self.kinds!r}: X has no names of columns; give a frame")
            if name not in known:
                raise UnknownNameError("column", name, known)

    def _numbers(self, X: Any, *, reset: bool) -> Tensor:
        """Rows of numbers, checked by scikit-learn."""
        accepted: dict[str, Any] = {
            "dtype": np.float64, "ensure_all_finite": "allow-nan", "ensure_min_samples": self.least_rows if reset else 1
        }  # fmt: skip
        require_numbers(X)
        if not (is_frame(X) and backend_of(X) == "pyarrow"):
            return torch.from_numpy(np.array(validate_data(self, X, reset=reset, **accepted)))
        table = read_table(X)  # whose names scikit-learn does not look at
        numbers: Any = plain_values(table)
        names = list(getattr(self, "feature_names_in_", ()))
        if not reset and names and names != table.columns:
            raise ValueError(f"columns {table.columns} are not those that were fitted: {names}")
        if reset or not names:
            values = validate_data(self, numbers, reset=reset, **accepted)
        else:
            values = check_array(numbers, **accepted)
        if reset:
            self.feature_names_in_ = np.array(table.columns, dtype=object)
        return torch.from_numpy(np.array(values))

    def _rows(self, X: Any) -> Tensor:
        """The rows of X, to be scored, as the density takes them, with the constant columns; levels that were not
        learned are warned of.
        """
        check_is_fitted(self)
        X = as_rows(X)
        if self.columns_ is None:
            return self._numbers(X, reset=False)
        unseen: list[Unseen] = []
        x = self.columns_.encode(X, unseen=unseen)
        warn_unseen(unseen)
        return x

    def _other_constants(self, X: Any) -> dict[str, np.ndarray]:
        """Where X holds another value in each constant column of a frame of several kinds, ``(rows,)`` by column."""
        check_is_fitted(self)
        if self.columns_ is None or not self.columns_.constants:
            return {}
        table = read_table(as_rows(X))
        return {
            kind.column: kind.differs(table.arrow.column(kind.column))
            if kind.column in table.columns
            else np.zeros(len(table), dtype=bool)
            for kind in self.columns_.constants
        }

    def read_as(self, other: "TableInput") -> None:
        """Take over the columns and their kinds from an estimator that has read rows."""
        for name in ("_backend", "_types", "columns_", "kinds_", "n_features_in_", "feature_names_in_"):
            if hasattr(other, name):
                setattr(self, name, getattr(other, name))
