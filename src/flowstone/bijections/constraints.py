"""Domains of bijections as torch's constraints on single features, and the domain of bijections made of others."""

import math
from collections.abc import Iterable
from itertools import pairwise

import torch
from torch import Tensor
from torch.distributions import biject_to, constraints, transform_to
from torch.distributions.constraints import Constraint
from torch.distributions.transforms import Transform

__all__ = ["Between", "compose_domain", "is_outside", "is_real", "unknown"]

Bound = float | Tensor
ROUNDING = torch.finfo(torch.float32).eps  # relative error of a border in a table that was written in float32


def is_outside(x: Tensor, low: Bound, high: Bound) -> Tensor:
    """Whether each x lies below ``low`` or above ``high`` by more than the rounding of float32."""
    x, slack = x.double(), abs(low)
    if not (isinstance(high, float) and math.isinf(high)):
        slack = torch.maximum(torch.as_tensor(slack), torch.as_tensor(high))
    return (x < low - ROUNDING * slack) | (x > high + ROUNDING * slack)


class Between(constraints.interval):
    """The numbers from ``low`` to ``high``, and those beyond them by no more than the rounding of float32."""

    def __init__(self, low: Bound, high: Bound = math.inf) -> None:
        super().__init__(low, high)

    def check(self, value: Tensor) -> Tensor:
        """Whether each value lies between the borders."""
        return ~(is_outside(value, self.lower_bound, self.upper_bound) | value.isnan())

    def __repr__(self) -> str:
        low, high = (torch.as_tensor(border).tolist() for border in (self.lower_bound, self.upper_bound))
        return f"Between(lower_bound={low}, upper_bound={high})"


@biject_to.register(Between)
@transform_to.register(Between)
def _to_between(constraint: Between) -> Transform:
    low, high = constraint.lower_bound, constraint.upper_bound
    if isinstance(high, float) and math.isinf(high):
        return biject_to(constraints.greater_than(low))
    return biject_to(constraints.interval(low, high))


def unknown(*, is_discrete: bool = False) -> Constraint:
    """A constraint that depends on several features at once."""
    return constraints.dependent(is_discrete=is_discrete)  # pyright: ignore[reportArgumentType]


def is_real(constraint: Constraint) -> bool:
    """Whether every number satisfies the constraint."""
    while isinstance(constraint, constraints.independent):
        constraint = constraint.base_constraint
    return constraint is constraints.real


def compose_domain(pairs: Iterable[tuple[Constraint, Constraint]]) -> Constraint:
    """The domain of maps one after the other, given the domain and the codomain of each.

    It is the domain of the first map if each later one takes every output of the map before it; else ``unknown``.
    """
    pairs = list(pairs)
    first = pairs[0][0]
    for (_, before), (domain, _) in pairwise(pairs):
        if not _includes(domain, before):
            return unknown(is_discrete=bool(first.is_discrete))
    return first


def _includes(outer: Constraint, inner: Constraint) -> bool:
    if is_real(outer):
        return True
    if constraints.is_dependent(outer) or constraints.is_dependent(inner) or outer.is_discrete > inner.is_discrete:
        return False
    (low, high), (inner_low, inner_high) = _bounds(outer), _bounds(inner)
    return bool((inner_low >= low).all() and (inner_high <= high).all())


def _bounds(constraint: Constraint) -> tuple[Tensor, Tensor]:
    low, high = getattr(constraint, "lower_bound", -math.inf), getattr(constraint, "upper_bound", math.inf)
    return torch.as_tensor(low), torch.as_tensor(high)
