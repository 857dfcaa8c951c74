"""The conditional distribution of one column, given the parameters that a net computes for it."""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowstone.bijections import RQSpline
from flowstone.mixed.column import Column
from flowstone.mixed.encoding import FEW, Encoded, Encoder
from flowstone.mixed.marginals import FARTHEST, log_logistic

__all__ = ["Heads"]

DOUBT = 1e-4  # the part of the probability that is shared equally by all options, so that none is impossible
BOUND = 8.0  # of the splines, on the logistic scale: beyond, they are the identity
MIN_SIZE = 1e-3
LEAST_SHARE = 1e-15  # of a distribution, that lies beyond the ends of its samples


class Heads(nn.Module):
    r"""From parameters to log-probabilities, samples and distribution functions, column by column.

    The parameters of a column are logits of its options (none where there is one alone), a logit of a missing value
    (where the column has gaps) and the raw parameters of a spline (where it has a rest). An option has probability

    $$ \pi_k = (1 - \epsilon) \operatorname{softmax}(a)_k + \epsilon / K, \qquad \epsilon = 10^{-4}. $$

    The rest is a conditional one-dimensional flow on the scale z of the column's marginal distribution function F:
    a rational-quadratic spline s of z, whose latent is logistic,

    $$ \log p(x) = \log \pi_\text{rest} + \log f(x) + \log \sigma'(s(z)) - \log \sigma'(z) + \log s'(z),
       \qquad z = \sigma^{-1}(F(x)), \; f = F'. $$

    With raw parameters of zero the rest has its marginal distribution. On a circle the spline is circular, and the
    latent uniform. On a grid a value has the probability of the step around it, $\sigma(s(z_+)) - \sigma(s(z_-))$,
    without noise; an atom on the grid has its own probability plus $\pi_\text{rest}$ times that of its step.
    """

    learned: Tensor

    def __init__(self, columns: Sequence[Column], encoder: Encoder, bins: int) -> None:
        super().__init__()
        self.columns = columns
        self.encoder = encoder
        self._known_learned: list[bool] | None = None
        self.spline = RQSpline(bins=bins, bound=BOUND, min_size=MIN_SIZE)
        self.register_buffer("learned", torch.ones(len(columns), dtype=torch.bool))
        self.circular = RQSpline(bins=bins, bound=1.0, circular=True, min_size=MIN_SIZE)

    def widths(self) -> list[int]:
        """How many parameters each column takes."""
        return [_logits(column) + column.gaps + self._spline_size(column) for column in self.columns]

    def _spline_size(self, column: Column) -> int:
        if column.rest is None:
            return 0
        return self._transform(column.rest).parameters_per_feature

    def _transform(self, rest: str) -> RQSpline:
        return self.circular if rest == "circle" else self.spline

    def _learned(self) -> list[bool]:
        """Which columns' rests have enough data for a spline of their own (``learned``). A grid without is as in the
        marginal.
        """
        known = self._known_learned
        if known is None:
            known = self._known_learned = [bool(value) for value in self.learned.tolist()]
        return known

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._known_learned = None

    def initialize(self, encoded: Encoded) -> list[Tensor]:
        """Parameters by which each column has its marginal distribution in these rows, whatever the others are."""
        found = []
        for at, index in enumerate(encoded.columns):
            column, missing = self.columns[index], encoded.missing[:, at]
            counts = encoded.option[~missing, at].bincount(minlength=column.options)[: column.options]
            self.learned[index] = column.rest is not None and bool(counts[-1] >= FEW)
            share = missing.double().mean().clamp(0.5 / len(missing), 1 - 0.5 / len(missing))
            parts = [(counts + 0.5).double().log()] if _logits(column) else []
            parts += [share.logit()[None]] if column.gaps else []
            parts += [counts.new_zeros(self._spline_size(column)).double()]
            found.append(torch.cat(parts))
        self._known_learned = None
        return found

    def log_prob(self, encoded: Encoded, parameters: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """The log-probabilities of each value, given that it is not missing, and of whether it is missing.

        Both are ``(rows, columns)``.

        Where a value is missing the first is 0; where a column has no gaps the second is 0. A value that the column
        cannot have has the probability of unseen ones, if the column has one (``Column.unseen``).
        """
        columns = [self.columns[index] for index in encoded.columns]
        rest = self._rest_log_prob(encoded, parameters)
        values = []
        for at, column in enumerate(columns):
            values.append(self._value(column, encoded.option[:, at], parameters[at], rest.get(at)))
        value = torch.stack(values, 1)
        impossible = self.encoder.table("log_unseen", encoded.columns).to(value.dtype)
        value = value.where(encoded.possible, impossible).where(~encoded.missing, 0.0)
        return value, self._missing(columns, encoded.missing, parameters)

    @staticmethod
    def _missing(columns: Sequence[Column], missing: Tensor, parameters: Sequence[Tensor]) -> Tensor:
        terms = []
        for at, (column, raw) in enumerate(zip(columns, parameters, strict=True)):
            if column.gaps:
                logit = raw[:, _logits(column)]
                terms.append(F.logsigmoid(torch.where(missing[:, at], logit, -logit)))
            else:
                terms.append(raw.new_zeros(len(raw)).masked_fill(missing[:, at], -math.inf))
        return torch.stack(terms, 1)

    def _value(self, column: Column, option: Tensor, raw: Tensor, rest: Tensor | None) -> Tensor:
        """The log-probability of values that are there, given that of each as one of the rest."""
        if not _logits(column):
            return raw.new_zeros(len(raw)) if rest is None else rest
        logits = raw[:, : column.options]
        total = logits.logsumexp(1, keepdim=True)
        chosen = logits.gather(1, option.clamp_max(column.options - 1)[:, None]) - total
        chosen = _doubted(chosen[:, 0], column.options)
        if rest is None:
            return chosen
        is_atom = option < len(column.atoms)
        if column.rest != "grid":
            return chosen + rest.masked_fill(is_atom, 0.0)
        also = _doubted(logits[:, -1] - total[:, 0], column.options) + rest
        return torch.where(is_atom, torch.logaddexp(chosen.where(is_atom, 0.0), also), also)

    def _rest_log_prob(self, encoded: Encoded, parameters: Sequence[Tensor]) -> dict[int, Tensor]:
        """The log-density, or on a grid the log-probability, of each value as one of the rest, by position."""
        rests, grids = encoded.rests, encoded.grids
        kinds = [self.columns[encoded.columns[at]].rest for at in rests]
        lines = [at for at, kind in zip(rests, kinds, strict=True) if kind not in ("circle", "grid")]
        circles = [at for at, kind in zip(rests, kinds, strict=True) if kind == "circle"]
        found: dict[int, Tensor] = {}
        for group, method in ((lines, self._on_line), (circles, self._on_circle)):
            if group:
                places = [rests.index(at) for at in group]
                raw = self._raw(encoded, parameters, group)
                ratio = method(encoded.z[:, places], raw)
                terms = ratio + encoded.log_density[:, places].to(ratio.dtype)
                found |= dict(zip(group, terms.unbind(1), strict=True))
        if grids:
            terms = self._on_grids(encoded, parameters, grids).to(parameters[0].dtype)
            found |= dict(zip(grids, terms.unbind(1), strict=True))
        return found

    def _raw(self, encoded: Encoded, parameters: Sequence[Tensor], group: Sequence[int]) -> Tensor:
        size = self._spline_size(self.columns[encoded.columns[group[0]]])
        return torch.stack([parameters[at][:, -size:] for at in group], 1)

    def _on_line(self, z: Tensor, raw: Tensor) -> Tensor:
        z = z.to(raw.dtype)
        latent, log_slope = self.spline(z, raw)
        return log_logistic(latent) - log_logistic(z) + log_slope

    def _on_circle(self, z: Tensor, raw: Tensor) -> Tensor:
        return self.circular((2 * z.sigmoid() - 1).to(raw.dtype), raw)[1]

    def _on_grids(self, encoded: Encoded, parameters: Sequence[Tensor], grids: Sequence[int]) -> Tensor:
        r"""$\log(\sigma(b) - \sigma(a))$, in float64, for steps may be small."""
        ends = torch.stack((encoded.low, encoded.high))
        learned = [place for place, at in enumerate(grids) if self._learned()[encoded.columns[at]]]
        if learned:
            raw = self._raw(encoded, parameters, [grids[place] for place in learned]).double()
            latent, _ = self.spline(ends[..., learned], raw.expand(2, *raw.shape))
            ends = ends.index_copy(2, torch.tensor(learned, device=ends.device), latent)
        low, high = ends
        width = (high - low).clamp_min(1e-30)
        return F.logsigmoid(high) + F.logsigmoid(-low) + (-torch.expm1(-width)).log()

    def probabilities(self, index: int, parameters: Tensor, temperature: float = 1.0) -> Tensor:
        """The probability of each option of column ``index``, ``(rows, options)``, in float64, given that a value is
        there: its atoms, then its rest.
        """
        column = self.columns[index]
        if not _logits(column):
            return parameters.new_ones(len(parameters), 1, dtype=torch.float64)
        odds = (parameters[:, : column.options].double() / temperature).softmax(1)
        return (1 - DOUBT) * odds + DOUBT / column.options

    def missing_probability(self, index: int, parameters: Tensor) -> Tensor:
        """The probability that column ``index`` is missing, ``(rows,)``, in float64."""
        column = self.columns[index]
        if not column.gaps:
            return parameters.new_zeros(len(parameters), dtype=torch.float64)
        return parameters[:, _logits(column)].double().sigmoid()

    def sample(
        self,
        index: int,
        parameters: Tensor,
        generator: torch.Generator | None,
        *,
        temperature: float = 1.0,
        gaps: bool = False,
    ) -> Tensor:
        """Draw a value of column ``index`` for each row of its parameters, in float64; with ``gaps`` also NaN."""
        column, rows = self.columns[index], len(parameters)
        value = None
        if column.rest is not None:
            latent = temperature * _uniform(rows, parameters, generator).logit()
            value = self.rest_quantile(index, parameters, latent)
        if _logits(column):
            odds = self.probabilities(index, parameters, temperature)
            option = (odds.cumsum(1) < _uniform(rows, parameters, generator)[:, None]).sum(1)
            atoms = odds.new_tensor([*column.atoms, math.nan])
            atom = atoms[option.clamp_max(column.options - 1)]
            value = atom if value is None else value.where(option >= len(column.atoms), atom)
        elif value is None:
            value = parameters.new_full((rows,), column.atoms[0], dtype=torch.float64)
        if gaps and column.gaps:
            share = self.missing_probability(index, parameters)
            value = value.where(_uniform(rows, parameters, generator) >= share, math.nan)
        return value

    def rest_latent(self, place: int, encoded: Encoded, parameters: Tensor) -> Tensor:
        """The logistic latents of values on a line, ``(rows,)``, for the column at position ``place`` of those encoded;
        ``rest_quantile`` is the inverse.
        """
        index = encoded.columns[place]
        raw = parameters[:, None, -self._spline_size(self.columns[index]) :].double()
        return self.spline(encoded.z[:, encoded.rests.index(place), None], raw)[0][:, 0]

    def rest_cdf(self, index: int, parameters: Tensor, value: Tensor) -> Tensor:
        """The probability that the rest of column ``index`` is at or below a value, ``(rows,)``, in float64.

        For an angle it is the probability of lying between the low end of the circle and the value.
        """
        column = self.columns[index]
        raw = parameters[:, None, -self._spline_size(column) :].double()
        low, z = self.encoder.scale_below(value, index)
        if column.rest == "circle":
            start, end = (self.circular(2 * at.sigmoid()[:, None] - 1, raw)[0][:, 0] / 2 for at in (low, z))
            return torch.remainder(end - start, 1.0)
        if column.rest == "grid" and not self._learned()[index]:
            return z.sigmoid()
        return self.spline(z[:, None], raw)[0][:, 0].sigmoid()

    def rest_share_quantile(self, index: int, parameters: Tensor, share: Tensor) -> Tensor:
        """The value up to which ``rest_cdf`` of column ``index`` is this share, ``(rows,)``, in float64; the shares 0
        and 1 have the ends of its samples.
        """
        share = share.double().clamp(LEAST_SHARE, 1 - LEAST_SHARE)
        if self.columns[index].rest == "circle":  # whose spline begins elsewhere
            raw = parameters[:, None, -self._spline_size(self.columns[index]) :].double()
            low, _ = self.encoder.scale_below(torch.zeros_like(share), index)
            start = self.circular(2 * low.sigmoid()[:, None] - 1, raw)[0][:, 0] / 2
            share = torch.remainder(share + start + 0.5, 1.0)
        return self.rest_quantile(index, parameters, share.logit())

    def rest_quantile(self, index: int, parameters: Tensor, latent: Tensor) -> Tensor:
        """The value of the rest of column ``index`` for a logistic latent, ``(rows,)``, in float64. On a circle the
        latent gives a share of the turn, counted from where the spline begins.
        """
        column = self.columns[index]
        raw = parameters[:, None, -self._spline_size(column) :].double()
        latent = latent.double()[:, None]
        if column.rest == "circle":
            z = ((self.circular.inverse(2 * latent.sigmoid() - 1, raw)[0] + 1) / 2).logit()
        elif column.rest == "grid" and not self._learned()[index]:
            z = latent
        else:
            z = self.spline.inverse(latent, raw)[0]
        return self.encoder.decode(z.clamp(-FARTHEST, FARTHEST)[:, 0], index)


def _logits(column: Column) -> int:
    """How many logits a column has: none where it has one option alone."""
    return column.options if column.options > 1 else 0


def _doubted(log_probability: Tensor, options: int) -> Tensor:
    r"""$\log((1 - \epsilon) p + \epsilon / K)$."""
    floor = log_probability.new_tensor(math.log(DOUBT / options))
    return torch.logaddexp(log_probability + math.log1p(-DOUBT), floor)


def _uniform(rows: int, like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Numbers between 0 and 1, never the ends, in float64."""
    drawn = torch.rand(rows, dtype=torch.float64, device=like.device, generator=generator)
    return drawn.clamp(LEAST_SHARE, 1 - LEAST_SHARE)
