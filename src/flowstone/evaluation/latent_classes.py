"""A mixture of independent columns: the simplest density of mixed columns that knows of dependence."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from flowstone.mixed import Column, Encoder
from flowstone.mixed.encoding import Encoded

__all__ = ["LatentClasses"]

BINS = 16  # of the rest of a column, equally probable in its marginal
ROWS = 10_000  # the most rows that expectation-maximization uses
HELD_OUT = 5  # one row in so many chooses the number of classes
MOST = 32  # classes
ROUNDS = 60
TOLERANCE = 1e-3  # nats a row below which a round is the last


class LatentClasses:
    r"""Rows belong to classes that are not observed, and in each class columns are independent (Lazarsfeld 1950):

    $$ p(x) = \sum_{k=1}^K \pi_k \prod_j w_j(x_j) \cdot q_{kj} $$

    with respect to the measure of ``MixedDensity``. The vector $q_{kj}$ holds the probabilities of the atoms of column
    j and of 16 pieces of its rest, and $w_j(x)$ the mass or the density of x in each. Expectation-maximization learns
    them (Dempster et al. 1977); K is the power of 2 that makes held-out rows likeliest.

    Args:
        columns: the description of each column.
        encoder: what reads rows, its marginals set.
        rows: to learn from, ``(rows, columns)``, NaN for gaps.
    """

    def __init__(self, columns: Sequence[Column], encoder: Encoder, rows: Tensor) -> None:
        self.columns, self.encoder = columns, encoder
        generator = torch.Generator().manual_seed(0)
        chosen = rows[torch.randperm(len(rows), generator=generator)[:ROWS]]
        held_out, learned = chosen[::HELD_OUT], chosen[torch.arange(len(chosen)) % HELD_OUT > 0]
        best, count, kept = -math.inf, 1, None
        while count <= min(MOST, max(1, len(learned) // 10)):
            self._learn(learned, count, generator)
            likelihood = self.log_prob(held_out, gaps="event").mean().item() if len(held_out) else 0.0
            if kept is None or likelihood > best:
                best, kept = likelihood, (self.weights, self.shares, self.missing)
            elif likelihood < best - 0.1:
                break
            count *= 2
        assert kept is not None
        self.weights, self.shares, self.missing = kept

    def log_prob(self, x: Tensor, *, gaps: str = "absent") -> Tensor:
        """Log-probability of each row in nats, ``(rows, columns)`` → ``(rows,)``; gaps as in ``MixedDensity``."""
        parts = []
        for rows in x.split(1 << 14):
            encoded, masses = self._masses(rows)
            parts.append(self._class_log_prob(encoded, masses, gaps=gaps).logsumexp(1))
        return torch.cat(parts)

    def _class_log_prob(self, encoded: Encoded, masses: Sequence[tuple[Tensor, Tensor]], *, gaps: str) -> Tensor:
        """Log of weight times probability of each row in each class, ``(rows, classes)``."""
        total = self.weights.log().expand(len(encoded.missing), -1)
        for index, (mass, log_density) in enumerate(masses):
            missing, found = encoded.missing[:, index, None], (mass @ self.shares[index]).log() + log_density[:, None]
            found = found.where(encoded.possible[:, index, None], self.encoder.table("log_unseen", [index]))
            gone = self.missing[index] if self.columns[index].gaps else torch.zeros_like(self.weights)
            if gaps == "event":
                total = total + torch.where(missing, gone.log(), found + (1 - gone).log())
            else:
                total = total + found.masked_fill(missing, 0.0)
        return total

    def _masses(self, x: Tensor) -> tuple[Encoded, list[tuple[Tensor, Tensor]]]:
        """For each column: the mass of each value in the atoms and pieces, or its density relative to the marginal's,
        ``(rows, atoms + pieces)``; and the logarithm of the marginal's density, ``(rows,)``.
        """
        encoded, found = self.encoder.encode(x), []
        for index, column in enumerate(self.columns):
            count = len(column.atoms)
            mass = F.one_hot(encoded.option[:, index].clamp_max(count), count + 1)[:, :count].double()
            log_density = torch.zeros(len(x), dtype=torch.float64)
            if column.rest is not None:
                place = encoded.rests.index(index)
                share = encoded.z[:, place].sigmoid()
                is_rest = encoded.option[:, index] == count
                if column.rest == "grid":
                    at = encoded.grids.index(index)
                    pieces = _covered(encoded.low[:, at].sigmoid(), encoded.high[:, at].sigmoid())
                else:
                    pieces = BINS * F.one_hot((BINS * share).long().clamp(0, BINS - 1), BINS) * is_rest[:, None]
                    log_density = encoded.log_density[:, place].where(is_rest, 0.0)
                mass = torch.cat((mass, pieces.double()), 1)
            found.append((mass * encoded.possible[:, index, None], log_density))
        return encoded, found

    def _learn(self, x: Tensor, count: int, generator: torch.Generator) -> None:
        """Expectation-maximization, from classes that begin as one row each and the marginals."""
        encoded, masses = self._masses(x)
        self.weights = torch.full((count,), 1 / count, dtype=torch.float64)
        first = torch.randint(len(x), (count,), generator=generator)
        self.missing = [(gap + 0.5).expand(count) / (len(x) + 1) for gap in encoded.missing.double().sum(0)]
        self.shares = []
        for mass, _ in masses:
            marginal = _normalized(mass.sum(0) + 1 / mass.shape[1])
            own = _normalized(mass[first].T + marginal[:, None])
            self.shares.append(marginal[:, None].expand(-1, count) if count == 1 else (own + marginal[:, None]) / 2)
        before = -math.inf
        for _ in range(ROUNDS):
            joint = self._class_log_prob(encoded, masses, gaps="event")
            now = joint.logsumexp(1).mean().item()
            if now - before < TOLERANCE:
                return
            before = now
            self._maximize(encoded, masses, joint.softmax(1))

    def _maximize(self, encoded: Encoded, masses: Sequence[tuple[Tensor, Tensor]], belongs: Tensor) -> None:
        """Expected counts, with one row of the marginal beside them so that nothing becomes impossible."""
        self.weights = _normalized(belongs.sum(0) + 1 / belongs.shape[1])
        for index, (mass, _) in enumerate(masses):
            present = belongs * ~encoded.missing[:, index, None]
            expected = self.shares[index] * (mass.T @ (present / (mass @ self.shares[index]).clamp_min(1e-300)))
            marginal = _normalized(expected.sum(1) + 1 / len(expected))
            self.shares[index] = _normalized(expected + marginal[:, None])
            gone = (belongs - present).sum(0)
            share = (gone.sum() + 0.5) / (len(mass) + 1)
            self.missing[index] = (gone + share) / (belongs.sum(0) + 1)


def _normalized(masses: Tensor) -> Tensor:
    return masses / masses.sum(0)


def _covered(low: Tensor, high: Tensor) -> Tensor:
    """The part of each of the pieces of 0 … 1 that lies between low and high, ``(rows, pieces)``."""
    start = torch.arange(BINS, dtype=low.dtype) / BINS
    inside = high[:, None].minimum(start + 1 / BINS) - low[:, None].maximum(start)
    return BINS * inside.clamp_min(0)
