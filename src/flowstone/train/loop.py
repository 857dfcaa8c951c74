"""fit: maximum likelihood training."""

import json
import math
import time
import warnings
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from pathlib import Path
from signal import Signals
from typing import Any

import torch
from torch import Tensor

from flowstone.data import Rows
from flowstone.density import Density
from flowstone.digest import digest_of
from flowstone.errors import NonFiniteError, SettingError
from flowstone.execution import threads_for
from flowstone.execution.flat import FlatParameters, require_density
from flowstone.train.batches import Batches, FixedBatches, FreshBatches, Sampler
from flowstone.train.forensics import bad_rows, first_bad_output, named_rows
from flowstone.train.held_out import HeldOut
from flowstone.train.history import History, Record
from flowstone.train.inputs import check_rows, training_rows
from flowstone.train.interrupt import STOPPED_BY, stop_signal
from flowstone.train.optimizer import make_optimizer
from flowstone.train.processes import Processes
from flowstone.train.progress import Bar, training_bar
from flowstone.train.regularization import dropout_rate, groups_by_decay
from flowstone.train.settings import ResolvedSettings, Settings
from flowstone.train.state import TrainingState
from flowstone.train.step import Stepper
from flowstone.train.store import Store
from flowstone.train.weights import Weights

__all__ = ["Watch", "fit"]

Watch = Callable[[Any, History], None]  # called with the density

SAVE_EVERY = 10.0  # seconds between two writings of the training state
DIVERGED = 10.0  # nats a dimension by which the validation NLL of a diverged training is above its start
SLOWER = 0.3  # factor of the learning rate after each recovery
MOST_KEPT = 64  # rows of a validation that failed
DIGESTED = 4096  # rows that are compared between processes
FEW_STEPS = 50  # after fewer steps there is no warning that validation has not moved


def fit(
    density: Density,
    data: Tensor | Sampler,
    *,
    context: Tensor | None = None,
    validation: Tensor | None = None,
    validation_context: Tensor | None = None,
    settings: Settings | None = None,
    resume: Path | str | None = None,
    progress: bool = True,
    watch: Watch | None = None,
    **overrides: Any,
) -> History:
    r"""Train ``density`` by maximum likelihood, $\min_\theta -\frac1n \sum_i \log p_\theta(x_i \mid c_i)$, in place.

    Training is by Adam (or another ``optimizer``) with warm-up and cosine, gradient clipping, an exponential moving
    average of the weights and early stopping. At the end the density holds the averaged weights that were best on the
    held-out rows.

    Args:
        data: ``(n, *event_shape)``, or a function ``(n, generator) -> (n, *event_shape)``: fresh rows for each step.
        context: ``(n, context_features)``, for a conditional density.
        validation, validation_context: held-out rows; without them a tenth of ``data`` (fresh data: 4096 draws).
        settings: how to train, None for ``Settings()``; ``help(flowstone.train.Settings)`` lists all options.
        resume: a folder in which the training state is kept; if it holds one, training continues from there.
        progress: whether to show a progress bar on stderr.
        watch: called as ``watch(density, history)`` after each validation, while the density holds the averaged weights
            in evaluation mode; such as ``flowstone.plot.Live``, which shows them.
        overrides: options of ``Settings`` by name, such as ``steps=500, lr=1e-3``; they override ``settings``.

    Warns:
        UserWarning: the best validation is no better than the first one by more than chance; or ``precision`` or
            ``memory`` changes nothing for this density.

    Where ``torch.distributed`` is initialised with several processes (torchrun), all call ``fit`` with the same data
    and settings. They start from the weights of process 0, share the rows of each batch and average the gradients, so
    that all end with the same weights; process 0 shows progress, calls ``watch`` and writes to ``resume``. The loss
    curve is that of one process, up to rounding, but for what each process draws or counts by itself: noise in compiled
    steps and in layers of your own, dropout on GPUs, and the means and variances of batch normalization.

    Returns:
        The History, also after Ctrl-C or SIGTERM; the density then holds the best weights so far, and
        ``history.stopped`` says so.

    Raises:
        NonFiniteError: the loss or its gradient is not finite; the density keeps the best weights so far.
        DataError: too few rows, a constant feature, NaN, infinity, or numbers that the density's precision cannot hold.
        ShapeError: data, context or validation do not have the density's shapes.
        SettingError, UnknownNameError: an option has a value, or a name, that it cannot have; the processes were given
            other rows or are not joined; the parameters are sharded (``fully_shard``); or it is no density, as one in
            ``DistributedDataParallel``.
        ProcessLostError: another process has ended, or does not answer; the density keeps the best weights so far.

    >>> import torch, flowstone
    >>> flow = flowstone.nice(2, couplings=2, hidden=(16,))
    >>> history = flowstone.fit(flow, torch.randn(400, 2), steps=20, progress=False)
    >>> history.stopped
    'finished'
    """
    settings, processes = _settings(settings, overrides), Processes()
    require_density("fit trains a density, also in several processes", density)
    given = None if validation is None else Rows(validation, validation_context)
    rows, validation_rows = training_rows(density, data, context, given, settings.seed)
    count = len(rows) if isinstance(rows, Rows) else math.inf
    plan = settings.for_data(density.event_shape, count, density.training_settings(count))
    images = len(density.event_shape) == 3
    if plan.flip and not images:
        raise SettingError(f"flip=True mirrors images; the rows here have shape {tuple(density.event_shape)}")
    device = density.device
    processes.require_same("rows and settings", lambda: _fingerprint(rows, validation_rows, plan))
    if isinstance(rows, Rows):
        batches = FixedBatches(rows.to(device), plan.batch_size, plan.seed)
    else:
        batches = FreshBatches(rows, plan.batch_size, plan.seed)
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng([device] if device.type == "cuda" else []))
        torch.manual_seed(plan.seed)
        _initialize(density, batches, processes)
        stack.enter_context(threads_for(density, plan.batch_size))
        stack.enter_context(dropout_rate(density, plan.dropout))
        update = stack.enter_context(training_bar(plan, enabled=progress and processes.rank == 0, images=images))
        flats = {stack.enter_context(FlatParameters(group)): decay for group, decay in groups_by_decay(density, plan)}
        weights = Weights(density, list(flats))
        optimizer = make_optimizer(plan.optimizer, weights, list(flats.values()))
        stepper = Stepper(density, plan, weights, optimizer, batches, processes)
        held_out = HeldOut(density, validation_rows.to(device), plan.seed, processes, stepper.log_prob)
        subject = {} if resume is None else _subject(density, validation_rows)
        store = Store(resume, weights, optimizer, held_out, processes, subject)
        return _Training(density, plan, weights, stepper, held_out, store, processes, watch).run(update)


class _ValidationError(NonFiniteError):
    """The likelihood of the held-out rows under the averaged weights is not finite."""


class _Training:
    """The loop of a training: steps, validations, the clock and the end."""

    def __init__(
        self,
        density: Density,
        settings: ResolvedSettings,
        weights: Weights,
        stepper: Stepper,
        held_out: HeldOut,
        store: Store,
        processes: Processes,
        watch: Watch | None,
    ) -> None:
        self.density, self.settings, self.weights, self.stepper = density, settings, weights, stepper
        self.held_out, self.store, self.processes = held_out, store, processes
        self.watch = watch if processes.rank == 0 else None
        self.optimizer = stepper.optimizer
        self.state = store.load()
        self.state.direct = self.state.history.direct = stepper.keep_to(self.state.direct)
        self.seconds = self.state.seconds
        self.started = time.monotonic() - self.seconds

    def run(self, update: Bar) -> History:
        """Train to the end; the density is left with the best weights, also where that fails."""
        history = self.state.history
        self.density.train()
        try:
            with stop_signal() as signalled:
                history.stopped = self._recovering_loop(update, signalled)
            self._save()
        except NonFiniteError as error:
            history.stopped = "not finite"
            complete = NonFiniteError(f"{error}; kept: {self._kept()}")
            complete.history = history
            raise complete from None
        finally:
            if not history.records:  # without a validation the best weights are those of the start
                self.weights.keep_as_best()
            self.weights.restore_best()
            self.density.trained = self.density.trained or self.state.step > 0
        if history.stopped not in STOPPED_BY.values() and self.processes.rank == 0:
            self._warn_if_unmoved()
        return history

    def _recovering_loop(self, update: Bar, signalled: Callable[[], int]) -> str:
        """The loop, begun again from the best weights wherever something was not finite."""
        while True:
            try:
                return self._loop(update, signalled)
            except NonFiniteError as error:
                self._recover(error)

    def _recover(self, error: NonFiniteError) -> None:
        """Go on from the best weights, with other rows; the error is raised again where there are none, or no more
        recoveries.
        """
        history = self.state.history
        with self.weights.averaged() if isinstance(error, _ValidationError) else nullcontext():
            where = self.store.keep_evidence(error, self.density) if error.rows is not None else None
        kept = f"; its batch and weights are in {where}" if where else ""
        if not history.records or len(history.recoveries) >= self.settings.recoveries:
            again = NonFiniteError(f"{error}{kept}")
            again.step, again.rows = error.step, error.rows
            raise again from error
        self._go_back(str(error), kept)
        self.state.step += 1

    def _go_back(self, reason: str, kept: str = "") -> None:
        """Go back to the best weights, with a lower learning rate."""
        history = self.state.history
        self.stepper.forget()
        self.optimizer.reset()
        self.weights.go_back_to_best()
        self.state.sums = TrainingState().sums
        said = f"{reason}; the training goes on from the weights of step {history.best.step}"
        history.recoveries.append(said)
        warnings.warn(f"{said}, with {self._slower():.2g} of the learning rate{kept}", stacklevel=6)

    def _go_back_if_diverged(self) -> None:
        """Go back where the validation is so far above its start that no further step would lead down again."""
        history, size = self.state.history, math.prod(self.density.event_shape)
        start, nll = history.records[0].val_nll, history.records[-1].val_nll
        if nll - start > DIVERGED * size and len(history.recoveries) < self.settings.recoveries:
            self._go_back(
                f"step {self.state.step}: the validation loss is {nll:.4g} nats, far above {start:.4g} at the start"
            )

    def _slower(self) -> float:
        """The factor of the learning rate after the recoveries so far."""
        return SLOWER ** len(self.state.history.recoveries)

    def _loop(self, update: Bar, signalled: Callable[[], int]) -> str:
        settings, state = self.settings, self.state
        if not state.history.records and state.step == 0:
            self._validate(settings.learning_rate(0.0))  # the start may be the best
        while True:
            signal = self._tick(signalled)
            progress = settings.progress(state.step, self.seconds)
            if progress >= 1:
                break
            if signal or self._is_out_of_patience():
                self._count(self.stepper.read(state.step))
                return STOPPED_BY[Signals(signal)] if signal else "patience"
            rate = settings.learning_rate(progress) * self._slower()
            self._count(self.stepper.take(state.step, rate))
            state.direct = state.history.direct = self.stepper.is_direct
            state.step += 1
            if state.step % settings.validate_every == 0:
                self._validate(rate)
                self._go_back_if_diverged()
                if self.processes.first(time.monotonic() - self.store.saved > SAVE_EVERY):
                    self._save()
            update(state.step, self._clock(), self.stepper.last_loss, state.history)
        if not state.history.records or state.history.records[-1].step != state.step:
            self._validate(settings.learning_rate(1.0) * self._slower())
            update(state.step, self._clock(), self.stepper.last_loss, state.history)
        return "finished"

    def _clock(self) -> float:
        return time.monotonic() - self.started

    def _tick(self, signalled: Callable[[], int]) -> int:
        """Read the clock; returns the number of a signal to stop, or 0. All processes agree about both."""
        if self.processes.size > 1 and self.state.step % self.stepper.read_every:
            return 0
        self.seconds, signal = self.processes.maximum((self._clock(), float(signalled())), self.density.device)
        return int(signal)

    def _count(self, figures: list[tuple[float, float]]) -> None:
        for loss, norm in figures:
            self.state.add(loss, norm)

    @torch.no_grad()
    def _validate(self, rate: float) -> None:
        """Record the NLL of the averaged weights on the held-out rows; keep the best weights."""
        state, history = self.state, self.state.history
        self._count(self.stepper.read(state.step))
        with self.weights.averaged():
            self.processes.copy_from_first(self.weights.buffers)
            nll = self.held_out.nll()
            if state.step == 0:  # no step was taken yet: record the loss of the first batch
                state.add(self.stepper.loss_of(0), 0.0)
            self._require_finite(nll)
            train_nll, norm = state.take_means()
            if not history.records or nll < history.best.val_nll:
                self.weights.keep_as_best()
                self.held_out.keep_as_best()
            seconds, recoveries = round(self._clock(), 3), len(history.recoveries)
            history.records.append(Record(state.step, seconds, train_nll, nll, rate, norm, recoveries))
            if self.watch is not None:
                self.watch(self.density, history)

    def _require_finite(self, nll: float) -> None:
        if not math.isfinite(nll):
            rows = self.held_out.rows
            bad = bad_rows(self.density, rows)
            where = first_bad_output(self.density, rows) + named_rows(bad, None).replace("the batch", "validation")
            error = _ValidationError(f"step {self.state.step}: the validation loss is {nll} ({where})")
            error.step, error.rows = self.state.step, rows.take(torch.tensor(bad, device=rows.x.device)[:MOST_KEPT])
            raise error
        if not self.weights.are_finite():
            raise NonFiniteError(f"step {self.state.step}: the averaged weights are not finite")

    def _is_out_of_patience(self) -> bool:
        settings, state = self.settings, self.state
        if settings.patience is None or not state.history.records:
            return False
        return state.step - state.history.best.step >= settings.patience * settings.validate_every

    def _save(self) -> None:
        self.state.seconds = self._clock()
        self.store.save(self.state)

    def _kept(self) -> str:
        history = self.state.history
        return (
            f"the best weights so far, of step {history.best.step}" if history.records else "the weights of the start"
        )

    def _warn_if_unmoved(self) -> None:
        if self.state.step < FEW_STEPS or self.held_out.has_moved():
            return
        first, best = self.state.history.records[0], self.state.history.best
        warnings.warn(
            f"validation has not moved from its start: {first.val_nll:.4f} nats, at best {best.val_nll:.4f} "
            f"(step {best.step}), which is no more than chance: the start was right, or the flow did not learn",
            stacklevel=4,
        )


def _settings(settings: Settings | None, overrides: dict[str, Any]) -> Settings:
    if settings is not None and not isinstance(settings, Settings):
        raise SettingError(f"settings is a {type(settings).__name__}: give a flowstone.train.Settings")
    return (settings or Settings()).override(overrides)


def _initialize(density: Density, batches: Batches, processes: Processes) -> None:
    """Set what depends on data, the same in all processes; if that fails, the density stays as it was.

    Raises:
        NonFiniteError: a weight is not finite afterwards.
    """
    rows = batches.initial().to(density.device)
    if isinstance(batches, FreshBatches):
        check_rows(density, rows, "drawn data")
    before = {name: tensor.clone() for name, tensor in density.state_dict().items()}
    try:
        density.initialize(rows.x, rows.context)
        for name, tensor in (*density.named_parameters(), *density.named_buffers()):
            if not tensor.isfinite().all():
                raise NonFiniteError(f"{name} is not finite after initialisation; the flow is left as it was before")
    except BaseException:
        density.load_state_dict(before)
        raise
    if processes.size > 1:
        processes.copy_from_first(density.state_dict().values())
        density.load_state_dict(density.state_dict())  # so that layers derive again what depends on their buffers


def _subject(density: Density, held_out: Rows) -> dict[str, Any]:
    """The recipe of the density with its arguments, and a digest of the held-out rows."""
    spec = density.spec or {"recipe": type(density).__name__, "arguments": {}}
    plain = json.loads(json.dumps(spec["arguments"], default=str))  # as JSON gives it back
    return {"recipe": spec["recipe"], **plain, "held-out rows": digest_of({}, _tensors(held_out))}


def _fingerprint(rows: Rows | Sampler, held_out: Rows, settings: ResolvedSettings) -> tuple[Any, ...]:
    """Numbers of rows, settings and digests of some rows, which must be the same in all processes; functions cannot be
    compared.
    """
    count, digest = (len(rows), _digest(rows)) if isinstance(rows, Rows) else ("drawn", "")
    options = {name: value for name, value in vars(settings).items() if not callable(value)}
    return count, len(held_out), digest, _digest(held_out), options


def _digest(rows: Rows) -> str:
    """A digest of up to 4096 rows, evenly spaced."""
    at = slice(None, None, math.ceil(len(rows) / DIGESTED))
    return digest_of({}, {name: tensor[at] for name, tensor in _tensors(rows).items()})[:8]


def _tensors(rows: Rows) -> dict[str, Tensor]:
    return {"x": rows.x} if rows.context is None else {"x": rows.x, "context": rows.context}
