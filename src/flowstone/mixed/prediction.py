"""The distribution of one column of each row, given the others."""

import numpy as np
import torch
from torch import Tensor

from flowstone.mixed.heads import Heads

__all__ = ["Prediction"]

POINTS = 64  # equally probable values that stand for the rest of a column


class Prediction:
    """What a density says of one column, row by row.

    Attributes:
        atoms: the column's atoms, ``(atoms,)``.
        probabilities: of each atom and, where the column has a rest, of the rest: ``(rows, options)``; they sum to 1.
            On a grid, the rest gives an atom further probability.
        missing: the probability that there is no value, ``(rows,)``.

    >>> import torch, flowstone
    >>> columns = [{"name": "sex", "atoms": [0, 1], "rest": None}, {"name": "height", "rest": "positive"}]
    >>> density = flowstone.recipes.mixed(2, columns=columns, width=16)
    >>> known = torch.tensor([[0.0, float("nan")]])
    >>> prediction = density.predict(known, "height")
    >>> bool(prediction.quantile(0.1) < prediction.quantile(0.9))
    True
    """

    def __init__(self, heads: Heads, index: int, parameters: Tensor) -> None:
        self._heads, self._index, self._parameters = heads, index, parameters
        column = heads.columns[index]
        self.atoms = parameters.new_tensor(column.atoms, dtype=torch.float64)
        self.probabilities = heads.probabilities(index, parameters)
        self.missing = heads.missing_probability(index, parameters)

    def mode(self) -> Tensor:
        """The most probable atom or, where the rest is more probable than any, the median of the rest: ``(rows,)``."""
        best = self.probabilities.argmax(1)
        if len(self.atoms) == self.probabilities.shape[1]:
            return self.atoms[best]
        median = self._rest(0.5)
        if not len(self.atoms):
            return median
        return self.atoms[best.clamp_max(len(self.atoms) - 1)].where(best < len(self.atoms), median)

    def mean(self) -> Tensor:
        """The mean, ``(rows,)``: of the rest that of 64 equally probable values."""
        values, weights = self._points()
        return (values * weights).sum(1)

    def quantile(self, share: float) -> Tensor:
        """The least value with at least this probability at or below it, ``(rows,)``: an atom, or the value of the rest
        that has what the atoms below it leave of the probability.
        """
        atoms, order = self._plain(self.atoms).sort()
        count, rows = len(atoms), len(self.probabilities)
        if not count:
            return self._rest(share)
        held = self.probabilities[:, order].cumsum(1)  # at or below each atom, by atoms
        upto = torch.stack([self.cdf(atom) for atom in atoms], 1)
        passed = (upto < share).sum(1)
        atom = atoms[passed.clamp_max(count - 1)]
        if count == self.probabilities.shape[1]:
            return atom
        below = torch.cat((held.new_zeros(rows, 1), held), 1).gather(1, passed[:, None])[:, 0]
        rest = self._rest((share - below) / self.probabilities[:, count])
        return rest.where(passed == count, rest.minimum(atom))

    def cdf(self, value: Tensor | float) -> Tensor:
        """The probability of a value at or below this one, ``(rows,)``, given that there is one; ``1 - cdf`` is that of
        the tail above it. For an angle it is counted from the low end of its circle.

        Args:
            value: one, or one for each row.
        """
        rows = len(self.probabilities)
        value = torch.as_tensor(value, dtype=torch.float64, device=self.probabilities.device).expand(rows)
        atoms = len(self.atoms)
        below = ((self._plain(self.atoms) <= self._plain(value)[:, None]) * self.probabilities[:, :atoms]).sum(1)
        if atoms == self.probabilities.shape[1]:
            return below
        return below + self.probabilities[:, atoms] * self._heads.rest_cdf(self._index, self._parameters, value)

    def pit(self, value: Tensor, seed: int = 0) -> Tensor:
        r"""The probability integral transform of each row's value, ``(rows,)``, NaN where there is none: uniform if the
        prediction is right.

        $$ u = F(x^-) + V\,(F(x) - F(x^-)) $$

        with V uniform, drawn by ``seed``, where the value has mass (Czado, Gneiting, Held 2009).
        """
        value = value.double()
        present = value.where(~value.isnan(), 0.0)
        upto = self.cdf(present)
        below = upto - self.mass(present)
        # Torch's numbers of this seed are those by which samples are drawn; NumPy's are independent of them.
        share = torch.from_numpy(np.random.default_rng(seed).random(len(value)))
        return (below + share.to(value.device) * (upto - below)).masked_fill(value.isnan(), torch.nan)

    def mass(self, value: Tensor) -> Tensor:
        """The probability of each row's value itself, ``(rows,)``, given that there is one."""
        column, value = self._heads.columns[self._index], self._plain(value)
        mass = ((self._plain(self.atoms) == value[:, None]) * self.probabilities[:, : len(self.atoms)]).sum(1)
        if column.rest == "grid":
            step = self._heads.rest_cdf(self._index, self._parameters, value - (column.step or 1.0))
            upto = self._heads.rest_cdf(self._index, self._parameters, value)
            inside = self._heads.encoder.is_inside(value[:, None], [self._index])[:, 0]
            mass = mass + self.probabilities[:, -1] * (upto - step) * inside
        return mass

    def _plain(self, value: Tensor) -> Tensor:
        return self._heads.encoder.plain(value[:, None], [self._index])[:, 0]

    def _points(self) -> tuple[Tensor, Tensor]:
        """Values and their probabilities, ``(rows, atoms and points of the rest)``."""
        rows, atoms = len(self.probabilities), len(self.atoms)
        values, weights = self.atoms.expand(rows, -1), self.probabilities[:, :atoms]
        if atoms == self.probabilities.shape[1]:
            return values, weights
        rest = torch.stack([self._rest((place + 0.5) / POINTS) for place in range(POINTS)], 1)
        of_each = (self.probabilities[:, atoms:] / POINTS).expand(-1, POINTS)
        return torch.cat((values, rest), 1), torch.cat((weights, of_each), 1)

    def _rest(self, share: Tensor | float) -> Tensor:
        """The values of the rest at or below which it has these shares of its probability."""
        share = torch.as_tensor(share, dtype=torch.float64, device=self._parameters.device)
        return self._heads.rest_share_quantile(self._index, self._parameters, share.expand(len(self._parameters)))
