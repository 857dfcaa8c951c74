"""Validation: the likelihood of held-out rows, and whether it has improved."""

import math

import torch
from torch import Tensor

from flowstone.data import Rows
from flowstone.density import Density

__all__ = ["HeldOut"]

SIGNIFICANT = 2.0  # standard errors


class HeldOut:
    """Rows that are not trained on, by whose mean negative log-likelihood (NLL) weights are chosen.

    Attributes:
        rows: the rows.
        start, best: log-density of each row, in nats, at the first validation and at the best one; None before.
    """

    def __init__(self, density: Density, rows: Rows, seed: int) -> None:
        self.density, self.rows, self.seed = density, rows, seed
        self.start: Tensor | None = None
        self.best: Tensor | None = None
        self.latest = torch.empty(0)

    @torch.no_grad()
    def nll(self) -> float:
        """Mean NLL of the rows, in nats. A stochastic density draws the same noise each time, from its own stream."""
        device, noisy = self.density.device, self.density.stochastic
        with torch.random.fork_rng([device] if device.type == "cuda" else [], enabled=noisy):
            if noisy:
                torch.manual_seed(self.seed)
            self.latest = self.density.log_prob(self.rows.x, self.rows.context).double()
        return -self.latest.mean().item()

    def keep_as_best(self) -> None:
        """Take the latest log-densities as the best so far."""
        if self.start is None:
            self.start = self.latest
        self.best = self.latest

    def improvement(self) -> tuple[float, float]:
        """By how much the best NLL is below the first one, and the standard error of that; both in nats."""
        if self.start is None or self.best is None:
            return math.nan, math.nan
        gains = self.best - self.start
        return gains.mean().item(), (gains.std(correction=0) / math.sqrt(len(gains))).item()

    def has_moved(self) -> bool:
        """Whether the best NLL is below the first one by more than two standard errors."""
        gain, error = self.improvement()
        return not gain <= SIGNIFICANT * error

    def tensors(self) -> dict[str, list[Tensor]]:
        """The tensors that the state of a training stores."""
        return {} if self.start is None or self.best is None else {"held_out": [self.start, self.best.clone()]}

    def restore(self, tensors: dict[str, list[Tensor]]) -> None:
        """Restore what ``tensors`` returned; states of format 1 may lack it."""
        if "held_out" in tensors:
            self.start, self.best = (tensor.to(self.density.device) for tensor in tensors["held_out"])
