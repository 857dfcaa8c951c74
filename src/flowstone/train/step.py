"""The steps of a training: loss, gradient, clipping, optimizer."""

import math
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext

import torch
from torch import Tensor, nn

from flowstone.bijections import NoiseSource, noise_from
from flowstone.data import Rows
from flowstone.density import Density
from flowstone.errors import NonFiniteError, SettingError
from flowstone.execution import (
    DirectGradient,
    UnknownLayerError,
    bf16_conditioners,
    checkpointed,
    compiled,
    fast_few_inputs,
    shared_dropout,
)
from flowstone.execution.precision import has_conditioners
from flowstone.train.batches import FLIP, NOISE, Batches, generator, mirrored
from flowstone.train.forensics import (
    OVERFLOW,
    bad_gradient_rows,
    bad_rows,
    first_bad_gradient,
    first_bad_output,
    named_rows,
)
from flowstone.train.optimizer import FactoryOptimizer, Optimizer
from flowstone.train.processes import Processes
from flowstone.train.settings import ResolvedSettings
from flowstone.train.weights import Weights

__all__ = ["Stepper"]

READ_EVERY = {"cpu": 1, "cuda": 20}  # steps between two readings of the loss: reading it waits for an accelerator


class Stepper:
    """The steps of a training.

    A step's loss stays on the device until ``read`` fetches it, together with those of other steps. A step whose loss
    or gradient is not finite changes nothing; when it is read it raises.

    Attributes:
        last_loss: the loss that was read last, NaN before.
        read_every: steps between two readings.
    """

    def __init__(
        self,
        density: Density,
        settings: ResolvedSettings,
        weights: Weights,
        optimizer: Optimizer | FactoryOptimizer,
        batches: Batches,
        processes: Processes,
    ) -> None:
        self.density, self.settings, self.weights, self.optimizer = density, settings, weights, optimizer
        self.batches, self.processes = batches, processes
        self.device = density.device
        dropout = any(isinstance(module, nn.Dropout) and module.p > 0 for module in density.modules())
        self.stochastic = density.stochastic_training or dropout
        graphs = self.device.type == "cuda"  # no step needs the loss or the gradients of an earlier one
        self._loss = compiled(self._mean_nll, graphs=graphs) if settings.compile else self._mean_nll
        self._contexts = _execution_contexts(density, settings, alone=processes.size == 1)
        self._direct = _direct_gradient(density, settings)
        self.pending_losses: list[tuple[int, Tensor]] = []  # step; loss and norm of the gradient
        self.last_loss = math.nan
        self.read_every = READ_EVERY.get(self.device.type, 1) if optimizer.skips_nonfinite else 1

    def keep_to(self, direct: bool | None) -> bool:
        """Compute gradients as the steps before a resumption did: directly, or by autograd; None: as the settings say.

        Returns whether they are computed directly.

        Warns:
            UserWarning: they were computed directly, which is not possible here.
        """
        if direct and self._direct is None:
            warnings.warn("the training began with direct gradients, and goes on with those of autograd", stacklevel=5)
        elif direct is None:
            direct = self.settings.direct
        if not direct:
            self._direct = None
        return self.is_direct

    @property
    def is_direct(self) -> bool:
        """Whether gradients are computed directly."""
        return self._direct is not None

    def take(self, step: int, rate: float) -> list[tuple[float, float]]:
        """Take the step with this learning rate. Returns the figures of ``read`` if this step reads, else none."""
        loss = self._gradient(step)
        norm = nn.utils.get_total_norm([flat.gradient for flat in self.weights.flats])
        values = torch.stack((loss.detach(), norm.to(loss.dtype)))
        self.pending_losses.append((step, values))
        found_inf, figures = None, []
        if len(self.pending_losses) >= self.read_every:
            figures = self.read(step)  # before clipping, which would spread a NaN over all of the gradient
        else:
            found_inf = (~values.isfinite().all()).float()
        nn.utils.clip_grads_with_norm_(self.weights.arrays, self.settings.clip, norm)
        self.optimizer.step(rate, found_inf)
        self.weights.average(self.settings.ema, step)
        return figures

    def read(self, now: int) -> list[tuple[float, float]]:
        """Loss and norm of the gradient of each step that was not read yet; ``now`` is the step reached.

        Raises:
            NonFiniteError: one of them is not finite; the message names the step and where it went bad.
        """
        if not self.pending_losses:
            return []
        steps, values = zip(*self.pending_losses, strict=True)
        self.pending_losses.clear()
        figures = [(loss, norm) for loss, norm in torch.stack(values).tolist()]
        for step, (loss, norm) in zip(steps, figures, strict=True):
            if not math.isfinite(loss + norm):
                raise self._diagnose(step, loss, now)
            self.last_loss = loss
        return figures

    def forget(self) -> None:
        """Forget the losses that were not read."""
        self.pending_losses.clear()

    def log_prob(self, x: Tensor, context: Tensor | None) -> Tensor:
        """The log-density of rows, computed as gradients are."""
        if self._direct is not None and self._direct.applies():
            return self._direct.log_prob(x, context)
        return self.density.log_prob(x, context)

    @torch.no_grad()
    def loss_of(self, step: int) -> float:
        """The loss of a step's batch with the present weights, without a gradient."""
        rows, total = self._rows(step)
        self._seed_noise(step)
        with self._noise_of_joint_batch(step, total):
            loss = self._mean_nll(rows.x, rows.context) * (len(rows) / total)
        self.processes.add([loss])
        return loss.item()

    def _mean_nll(self, x: Tensor, context: Tensor | None) -> Tensor:
        return -self.density(x, context).mean()

    def _gradient(self, step: int) -> Tensor:
        """The loss of a step, over all processes; its gradient is left with the parameters."""
        rows, total = self._rows(step)
        self._seed_noise(step)
        for flat in self.weights.flats:
            flat.zero_grad()
        if self._direct is not None and not self._direct.applies():
            self._direct = None  # for good, so that a training that is resumed later goes on in the same way
            reason = "something watches or changes what its layers compute"
            warnings.warn(f"from step {step} on gradients are those of autograd: {reason}", stacklevel=2)
        with self._noise_of_joint_batch(step, total):
            if self._direct is not None:
                loss = self._direct(rows.x, rows.context, total=total)
            else:
                loss = self._gradient_by_autograd(rows, total)
        self.processes.add([loss, *(flat.gradient for flat in self.weights.flats)])
        return loss

    def _gradient_by_autograd(self, rows: Rows, total: int) -> Tensor:
        with ExitStack() as stack:
            for context in self._contexts:
                stack.enter_context(context)
            loss = self._loss(rows.x, rows.context)
            if len(rows) != total:
                loss = loss * (len(rows) / total)
            loss.backward()
        for flat in self.weights.flats:
            flat.sync_gradients()
        return loss.detach()

    def _rows(self, step: int) -> tuple[Rows, int]:
        """The part of a step's batch that this process takes, and the number of rows of the whole batch."""
        rows = self._batch(step)
        total = len(rows)
        if self.processes.size > 1:
            if total < self.processes.size:
                raise SettingError(f"a batch of {total} row(s) cannot be shared by {self.processes.size} processes")
            rows = rows.take(self.processes.part(total))
        return rows.to(self.device), total

    def _batch(self, step: int) -> Rows:
        """A step's batch, which each process holds as a whole."""
        rows = self.batches(step)
        return mirrored(rows, generator(self.settings.seed, FLIP, step)) if self.settings.flip else rows

    def _noise_of_joint_batch(self, step: int, total: int) -> AbstractContextManager:
        """A context in which several processes draw for each row the noise that one process draws for it."""
        if self.processes.size == 1 or not self.stochastic:
            return nullcontext()
        seed = generator(self.settings.seed, NOISE, step).initial_seed()
        source = torch.Generator(self.device).manual_seed(seed)
        return noise_from(NoiseSource(source, self.processes.part(total), total))

    def _seed_noise(self, step: int) -> None:
        """Seed the noise by seed and step, so that a resumed training repeats it. Each of several processes has a seed
        of its own, none that of the whole batch, for what it draws by itself: in compiled steps and layers of users.
        """
        if self.stochastic:
            rank = [self.processes.rank] if self.processes.size > 1 else []
            torch.manual_seed(generator(self.settings.seed, NOISE, step, *rank).initial_seed())

    def _diagnose(self, step: int, loss: float, now: int) -> NonFiniteError:
        """The error of a step. It is of the whole batch, because the first process speaks for all of them."""
        again = math.nan
        if late := step < now:  # other steps were taken since: compute it again, with the present weights
            again = self._gradient(step).item()
        where, rows = first_bad_gradient(self.density), self._batch(step).to(self.device)
        if not math.isfinite(loss):
            self._seed_noise(step)
            where = first_bad_output(self.density, rows)
            where += named_rows(bad_rows(self.density, rows), self.batches.numbers(step))
        elif where != OVERFLOW:
            self._seed_noise(step)
            where += named_rows(bad_gradient_rows(self.density, rows), self.batches.numbers(step))
        if late and (where == OVERFLOW if math.isfinite(loss) else math.isfinite(again)):
            where = f"noticed {now - step} steps later, and not repeated"
        what = "the gradient is not finite" if math.isfinite(loss) else f"the loss is {loss}"
        error = NonFiniteError(f"step {step}: {what} ({where})")
        error.step, error.rows = step, rows
        return error


def _direct_gradient(density: Density, settings: ResolvedSettings) -> DirectGradient | None:
    """The direct gradient; None where the settings exclude it, or it does not know a layer."""
    if settings.compile or settings.precision != "fp32" or settings.memory != "keep":
        return None
    try:
        return DirectGradient(density)
    except UnknownLayerError:
        return None


def _execution_contexts(
    density: Density, settings: ResolvedSettings, *, alone: bool
) -> Sequence[AbstractContextManager]:
    """Contexts for the forward and backward pass of a step, made once and entered for each."""
    contexts: list[AbstractContextManager] = [] if settings.compile else [fast_few_inputs(density)]
    if settings.precision == "bf16":
        contexts.append(bf16_conditioners(density))
        _warn_if_idle("precision bf16", has_conditioners(density, torch.float32), "nets in float32")
    if settings.memory == "recompute":
        contexts.append(checkpointed(density))
        _warn_if_idle("memory recompute", has_conditioners(density), "nets")
    if not (alone or settings.compile):
        contexts.append(shared_dropout(density))
    return contexts


def _warn_if_idle(option: str, works: bool, what: str) -> None:
    if not works:
        nets = f"the {what} of couplings and of autoregressive layers"
        warnings.warn(f"{option} changes nothing: it is for {nets}, of which this density has none", stacklevel=6)
