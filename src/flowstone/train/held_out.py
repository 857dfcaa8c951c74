"""Validation: the likelihood of held-out rows, and whether it has improved."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from flowstone.data import Rows
from flowstone.density import Density
from flowstone.train.batches import HELD_OUT_NOISE, generator
from flowstone.train.processes import Processes

__all__ = ["HeldOut"]

LogProb = Callable[[Tensor, Tensor | None], Tensor]

SIGNIFICANT = 2.0  # standard errors


class HeldOut:
    """Rows that are not trained on, by whose mean negative log-likelihood (NLL) weights are chosen.

    Several processes share the chunks in which the density computes, so that each row has the log-density that one
    process gives it, bit for bit.

    Args:
        log_prob: how log-densities are computed; None: by the density itself.

    Attributes:
        rows: the rows.
        start, best: log-density of each row, in nats, at the first validation and at the best one; None before.
    """

    def __init__(
        self, density: Density, rows: Rows, seed: int, processes: Processes, log_prob: LogProb | None = None
    ) -> None:
        self.density, self.rows, self.seed, self.processes = density, rows, seed, processes
        self.log_prob = log_prob or density.log_prob
        self.start: Tensor | None = None
        self.best: Tensor | None = None
        self.latest = torch.empty(0)

    @torch.no_grad()
    def nll(self) -> float:
        """Mean NLL of the rows, in nats. A stochastic density draws the same noise each time, that of each chunk from a
        stream of its own.
        """
        device, noisy, once = self.density.device, self.density.stochastic, self.density.rows_at_once
        latest = torch.zeros(len(self.rows), dtype=torch.float64, device=device)
        with torch.random.fork_rng([device] if device.type == "cuda" else [], enabled=noisy):
            for chunk in range(self.processes.rank, math.ceil(len(latest) / once), self.processes.size):
                if noisy:
                    torch.manual_seed(generator(self.seed, HELD_OUT_NOISE, chunk).initial_seed())
                at = slice(chunk * once, (chunk + 1) * once)
                rows = self.rows.take(at)
                latest[at] = self.log_prob(rows.x, rows.context).double()
        self.processes.add([latest])
        self.latest = latest
        return -latest.mean().item()

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
