"""The density of some columns given values of others."""

from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flowstone.data.tables import Columns
from flowstone.data.tables.kinds import Categorical
from flowstone.errors import SettingError, UnknownNameError
from flowstone.mixed import MixedDensity
from flowstone.validation import as_integer

__all__ = ["Conditional"]


class Conditional:
    r"""What a density says of the other columns, given values of some: $p(x_U \mid x_K = \text{given})$.

    ``FlowDensity.conditional`` makes it. Quantiles, distribution function and probabilities are of one column given
    those values alone: of all other columns nothing is known.

    Args:
        density: the density of the columns that vary.
        names: the names of the columns that vary.
        columns: the kinds of the columns that vary; None where all are numbers.
        numbered: the names of all columns of X, in order, so that a number can stand for a column.
        given: the values that are given, by column.
        known: the same values as a row, ``(1, columns)``, NaN elsewhere.
        context: of a conditional density, ``(1, context_features)``.
        encode: X → rows as the density takes them.
        draw: n and a random state → n rows that hold the given values, as X.
    """

    def __init__(
        self,
        density: MixedDensity,
        names: Sequence[str],
        columns: Columns | None,
        *,
        numbered: Sequence[str],
        given: Mapping[Any, Any],
        known: Tensor,
        context: Tensor | None,
        encode: Callable[[Any], Tensor],
        draw: Callable[[int, Any], Any],
    ) -> None:
        self._density, self._names, self._columns = density, list(names), columns
        self._numbered = list(numbered)
        self._given, self._known, self._context = dict(given), known.to(density.device), context
        self._encode, self._draw = encode, draw

    def sample(self, n: int = 1, *, random_state: Any = None) -> Any:
        """Draw n whole rows that hold the given values, in the container that the estimator was fitted in."""
        return self._draw(n, random_state)

    def score_samples(self, X: Any) -> np.ndarray:
        """The log-likelihood in nats of the other columns of each row, ``(rows,)``; values of X in the columns that are
        given are ignored.
        """
        x = self._encode(X).to(self._density.device)
        known = ~self._known[0].isnan()
        x = torch.where(known, self._known, x)
        context = None if self._context is None else self._context.expand(len(x), -1)
        with torch.no_grad():
            return self._density.conditional_log_prob(x, known, context).double().cpu().numpy()

    def quantile(self, column: str | int, probabilities: Sequence[float] | float) -> np.ndarray:
        """The quantiles of one column at these probabilities, in its own units.

        Raises:
            SettingError: its levels have no order, or a probability does not lie between 0 and 1.
        """
        index = self._ordered(column)
        kind = None if self._columns is None else self._columns.modelled[index]
        prediction = self._density.predict(self._known, index, self._context)
        shares = np.atleast_1d(np.asarray(probabilities))
        if shares.dtype.kind not in "iuf" or shares.ndim > 1 or not ((shares >= 0) & (shares <= 1)).all():
            raise SettingError(f"probabilities={probabilities}: they lie between 0 and 1")
        found = np.array([prediction.quantile(share).item() for share in shares.tolist()])
        return found if kind is None else kind.decode(found).to_numpy(zero_copy_only=False)

    def cdf(self, column: str | int, value: Any) -> float:
        """The probability that one column is at or below a value; 1 minus it is that of the tail above.

        Raises:
            SettingError: its levels have no order, or there is no value.
        """
        index = self._ordered(column)
        if self._columns is None:
            number = float(value) if isinstance(value, Real) else np.nan
        else:
            number = self._columns.select([self._names[index]]).encode({self._names[index]: [value]})[0, 0].item()
        if np.isnan(number):
            raise SettingError(f"value={value!r}: expected a value of column {self._names[index]!r}")
        return self._density.predict(self._known, index, self._context).cdf(number).item()

    def probabilities(self, column: str | int) -> dict[Any, float]:
        """The probability of each level of a column, or of each value that holds mass; levels that were too rare to
        have one of their own have their part of that of all of these.
        """
        index = self._index_of(column)
        prediction = self._density.predict(self._known, index, self._context)
        shares = [prediction.mass(atom[None]).item() for atom in prediction.atoms]
        atoms = prediction.atoms.cpu().numpy()
        if self._columns is None:
            return dict(zip(atoms, shares, strict=True))
        kind = self._columns.modelled[index]
        if isinstance(kind, Categorical) and kind.grouped:  # the last atom is all of them
            rare = np.array(kind.grouped_counts) / sum(kind.grouped_counts) * shares.pop()
            return dict(zip((*kind.levels, *kind.grouped), (*shares, *rare.tolist()), strict=True))
        return dict(zip(kind.decode(atoms).to_pylist(), shares, strict=True))

    def _ordered(self, column: str | int) -> int:
        """The index of a column that is not given and whose values have an order."""
        index = self._index_of(column)
        if self._columns is not None and not self._columns.modelled[index].ordered:
            raise SettingError(
                f"column {column!r} has no quantiles and no tails, its levels have no order: ask its probabilities"
            )
        return index

    def _index_of(self, column: str | int) -> int:
        """The index of a column that is not given."""
        column = as_integer(column)
        if type(column) is int and 0 <= column < len(self._numbered):
            column = self._numbered[column]
        if column in self._numbered and column not in self._names:
            raise SettingError(f"column {column!r} is constant or left out: the density is not of it")
        if column not in self._names:
            raise UnknownNameError("column", str(column), self._names)
        index = self._names.index(str(column))
        if not self._known[0, index].isnan():
            raise SettingError(f"column {column!r} is given: {self._given}")
        return index
