"""fit: maximum likelihood, by the recipe that measured best per second."""

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from flowstone.bijections import Affine
from flowstone.data import Rows
from flowstone.errors import CheckpointError, NonFiniteError, SettingError
from flowstone.execution import bf16_conditioners, checkpointed, compiled, threads_for
from flowstone.execution.flat import Flat, alike, trainable
from flowstone.flow import Flow
from flowstone.train.batches import (
    FLIP,
    NOISE,
    Batches,
    FixedBatches,
    FreshBatches,
    Sampler,
    flipped,
    generator,
    hold_out,
)
from flowstone.train.forensics import OVERFLOW, first_bad_gradient, first_bad_output
from flowstone.train.history import History, Record
from flowstone.train.optimizer import Optimizer
from flowstone.train.progress import Bar, training_bar
from flowstone.train.settings import ResolvedSettings, Settings
from flowstone.train.state import TrainingState, load_state, save_state

__all__ = ["Watch", "fit"]

Watch = Callable[[Flow, History], None]

SAVE_EVERY = 10.0  # seconds between two writings of the training state
LOOK_EVERY = {"cpu": 1, "cuda": 20}  # steps between two looks at the loss, for which an accelerator has to be waited


def fit(
    density: Flow,
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

    Adam (or another ``optimizer``) with warm-up and cosine, gradient clipping, an exponential moving average of the
    weights, early stopping; at the end the density holds the averaged weights that were best on the held-out rows.

    Args:
        data: ``(n, *event_shape)``, or a function ``(n, generator) -> (n, *event_shape)``: fresh rows for each step.
        context: ``(n, context_features)``, for a conditional density.
        validation, validation_context: held-out rows; without them a tenth of ``data`` (fresh data: 4096 draws).
        settings: how to train, None for ``Settings()``; ``help(flowstone.train.Settings)`` lists all options.
        resume: a folder in which the training state is kept; if it holds one, training goes on from there.
        progress: whether to show a progress bar on stderr.
        watch: called as ``watch(density, history)`` after each validation, while the density holds the averaged weights
            in evaluation mode.
        overrides: options of ``Settings`` by name, such as ``steps=500, lr=1e-3``; they go before ``settings``.

    Returns:
        The History. After Ctrl-C, too: the density then holds the best weights so far, and ``history.stopped`` says so.

    Raises:
        NonFiniteError: the loss or its gradient is not finite; the density keeps the best weights so far.
        DataError: too few rows, NaN or infinity in them, a constant feature.
        SettingError, UnknownNameError: an option has a value, or a name, that it cannot have.

    >>> import torch, flowstone
    >>> flow = flowstone.nice(2, couplings=2, hidden=(16,))
    >>> history = flowstone.fit(flow, torch.randn(400, 2), steps=20, progress=False)
    >>> history.stopped
    'finished'
    """
    flow, device = density, density.device
    settings = (settings or Settings()).override(overrides)
    seed, flip = settings.seed, settings.flip
    resume = None if resume is None else Path(resume)
    held_out = None if validation is None else Rows(validation, validation_context)
    rows, held_out = hold_out(data, context, held_out, seed)
    count = len(rows) if isinstance(rows, Rows) else math.inf
    settings = settings.for_data(held_out.x.shape[1:], count)
    if flip and held_out.x.ndim != 4:
        raise SettingError(f"flip=True turns images; the rows here have shape {tuple(held_out.x.shape[1:])}")
    if isinstance(rows, Rows):
        batches = FixedBatches(rows.to(device), settings.batch_size, seed)
    else:
        batches = FreshBatches(rows, settings.batch_size, seed)
    first = batches.initial().to(device)
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng([device] if device.type == "cuda" else []))
        torch.manual_seed(seed)
        flow.initialize(first.x, first.context)
        stack.enter_context(threads_for(flow, settings.batch_size))
        stack.enter_context(_dropout(flow, settings.dropout))
        update = stack.enter_context(training_bar(settings, enabled=progress, images=held_out.x.ndim == 4))
        flats = {stack.enter_context(Flat(group)): decay for group, decay in _by_decay(flow, settings)}
        return _Trainer(flow, settings, flats, batches, held_out.to(device), resume, watch).run(update)


class _Trainer:
    """The state of one training, and its loop."""

    def __init__(
        self,
        flow: Flow,
        settings: ResolvedSettings,
        flats: Mapping[Flat, float],
        batches: Batches,
        held_out: Rows,
        resume: Path | None,
        watch: Watch | None,
    ) -> None:
        self.flow, self.settings, self.batches, self.held_out, self.folder = flow, settings, batches, held_out, resume
        self.watch = watch
        self.device = flow.device
        self.flats = list(flats)
        self.arrays: list[Tensor] = [flat.array for flat in flats]
        self.buffers = list(flow.buffers())
        self.averages = _clones(self.arrays)
        self.best, self.best_buffers = _clones(self.arrays), _clones(self.buffers)
        self.noisy = any(
            getattr(module, "stochastic", False) or (isinstance(module, nn.Dropout) and module.p > 0)
            for module in flow.modules()
        )
        self.optimizer = Optimizer(str(settings.optimizer), self.arrays, list(flats.values()))
        graphs = self.device.type == "cuda"  # a step is done with loss and gradients before the next one begins
        self.loss = compiled(self._loss, graphs=graphs) if settings.compile else self._loss
        self.arithmetic = _arithmetic(flow, settings)
        self.unread: list[tuple[int, Tensor]] = []  # the last steps, loss and norm of each
        self.last_loss = math.nan
        self.look_every = LOOK_EVERY.get(self.device.type, 1) if settings.optimizer != "adamax" else 1
        self.state = TrainingState()
        if resume is not None and (state := load_state(resume)) is not None:
            self._restore(state)
        self.started = time.monotonic() - self.state.seconds
        self.saved = time.monotonic()

    def run(self, update: Bar) -> History:
        history = self.state.history
        self.flow.train()
        try:
            with _interrupt_flag() as interrupted:
                history.stopped = self._loop(update, interrupted)
        except NonFiniteError as error:
            history.stopped = "not finite"
            error.history = history
            raise
        finally:
            if not history.records:  # nothing was validated yet: what there is, is the best
                self._keep_as_best()
            raw, raw_buffers = _clones(self.arrays), _clones(self.buffers)
            _copy(self.arrays, self.best)
            _copy(self.buffers, self.best_buffers)
            self.flow.eval()
        self._save(raw, raw_buffers)
        return history

    def _loop(self, update: Bar, interrupted: Callable[[], bool]) -> str:
        settings, state = self.settings, self.state
        if not state.history.records and state.step == 0:
            self._validate(settings.learning_rate(0.0))  # where training only harms, the start is the best
        while (progress := settings.progress(state.step, self._seconds())) < 1:
            if interrupted():
                self._look()
                return "interrupted"
            if self._out_of_patience():
                self._look()
                return "patience"
            rate = settings.learning_rate(progress)
            self._train_step(rate)
            state.step += 1
            if state.step % settings.validate_every == 0:
                self._validate(rate)
                if time.monotonic() - self.saved > SAVE_EVERY:
                    self._save(self.arrays, self.buffers)
            update(state.step, self._seconds(), self.last_loss, state.history)
        if not state.history.records or state.history.records[-1].step != state.step:
            self._validate(settings.learning_rate(1.0))
        return "finished"

    def _seconds(self) -> float:
        return time.monotonic() - self.started

    def _train_step(self, rate: float) -> None:
        loss = self._gradient(self.state.step)
        norm = nn.utils.get_total_norm([flat.gradient for flat in self.flats])
        values = torch.stack((loss.detach(), norm.to(loss.dtype)))
        self.unread.append((self.state.step, values))
        found_inf = None
        if len(self.unread) >= self.look_every:
            self._look()  # before clipping, which would spread a NaN over all of the gradient
        else:
            found_inf = (~values.isfinite().all()).float()  # then nothing may change until it is seen
        nn.utils.clip_grads_with_norm_(self.arrays, self.settings.clip, norm)
        self.optimizer.step(rate, found_inf)
        # The average forgets faster at first, when it would otherwise hold on to the untrained weights.
        decay = min(self.settings.ema, (1 + self.state.step) / (10 + self.state.step))
        with torch.no_grad():
            torch._foreach_lerp_(self.averages, self.arrays, 1 - decay)

    def _gradient(self, step: int) -> Tensor:
        """The loss of a step, its gradient left with the parameters."""
        rows = self._rows(step)
        self._make_noise(step)
        for flat in self.flats:
            flat.zero_grad()
        with ExitStack() as stack:
            for context in self.arithmetic:
                stack.enter_context(context)
            loss = self.loss(rows.x, rows.context)
            loss.backward()
        for flat in self.flats:
            flat.take_in()
        return loss

    def _make_noise(self, step: int) -> None:
        if self.noisy:  # it follows from seed and step: nothing to save for a resume
            torch.manual_seed(generator(self.settings.seed, NOISE, step).initial_seed())

    def _rows(self, step: int) -> Rows:
        rows = self.batches(step).to(self.device)
        return flipped(rows, generator(self.settings.seed, FLIP, step)) if self.settings.flip else rows

    def _loss(self, x: Tensor, context: Tensor | None) -> Tensor:
        return -self.flow.log_prob(x, context).mean()

    def _look(self) -> None:
        """Read what the last steps came to: an accelerator waits for that, so not after each of them."""
        if not self.unread:
            return
        steps, tensors = zip(*self.unread, strict=True)
        self.unread.clear()
        for step, (loss, norm) in zip(steps, torch.stack(tensors).tolist(), strict=True):
            if not math.isfinite(loss + norm):
                raise NonFiniteError(self._what_went_bad(step, loss))
            self.state.add(loss, norm)
            self.last_loss = loss

    @torch.no_grad()
    def _validate(self, rate: float) -> None:
        """Record the NLL of the averaged weights on the held-out rows; keep the best."""
        self._look()
        raw = _clones(self.arrays)
        _copy(self.arrays, self.averages)
        self.flow.eval()
        try:
            self._judge(rate)
        finally:
            self.flow.train()
            _copy(self.arrays, raw)

    def _judge(self, rate: float) -> None:
        nll = self._held_out_nll()
        if self.state.step == 0:  # nothing was trained on yet: the first batch, as it is about to be seen
            rows = self._rows(0)
            self.state.add(-self.flow.log_prob(rows.x, rows.context).mean().item(), 0.0)
        if not math.isfinite(nll):
            where = first_bad_output(self.flow, self.held_out)
            raise NonFiniteError(
                f"step {self.state.step}: the validation loss is {nll} ({where}); kept: {self._kept()}"
            )
        train_nll, norm = self.state.take_means()
        history = self.state.history
        if not history.records or nll < history.best.val_nll:
            self._keep_as_best()
        history.records.append(Record(self.state.step, round(self._seconds(), 3), train_nll, nll, rate, norm))
        if self.watch is not None:
            self.watch(self.flow, history)

    def _held_out_nll(self) -> float:
        """What is noisy in evaluation, too, is judged on the same noise each time; nobody else's noise is moved."""
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else [], enabled=self.noisy):
            if self.noisy:
                torch.manual_seed(self.settings.seed)
            return -self.flow.log_prob(self.held_out.x, self.held_out.context).double().mean().item()

    def _keep_as_best(self) -> None:
        _copy(self.best, self.averages)
        _copy(self.best_buffers, self.buffers)  # running statistics belong to their weights

    def _out_of_patience(self) -> bool:
        settings, state = self.settings, self.state
        if settings.patience is None or not state.history.records:
            return False
        return state.step - state.history.best.step >= settings.patience * settings.validate_every

    def _save(self, raw: Sequence[Tensor], buffers: Sequence[Tensor]) -> None:
        if self.folder is None:
            return
        self.state.seconds = self._seconds()
        self.state.tensors = self._parts() | {"raw": self._apart(raw), "buffer": list(buffers)}
        save_state(self.folder, self.state)
        self.saved = time.monotonic()

    def _apart(self, arrays: Sequence[Tensor]) -> list[Tensor]:
        return [part for flat, array in zip(self.flats, arrays, strict=True) for part in flat.parts(array)]

    def _parts(self) -> dict[str, list[Tensor]]:
        """What the state holds, by name, and where it goes."""
        return {
            "raw": self._apart(self.arrays),
            "buffer": self.buffers,
            "average": self._apart(self.averages),
            "best": self._apart(self.best),
            "best_buffer": self.best_buffers,
            "step": self.optimizer.steps,
            **{name: self._apart(moments) for name, moments in self.optimizer.moments.items()},
        }

    def _restore(self, state: TrainingState) -> None:
        try:
            for name, into in self._parts().items():
                _copy(into, state.tensors[name])
        except (KeyError, IndexError, ValueError, RuntimeError) as error:
            raise CheckpointError(
                f"{self.folder}: the training state there is of another flow or optimizer ({error})"
            ) from error
        self.state = state

    def _what_went_bad(self, step: int, loss: float) -> str:
        again = math.nan
        if late := step < self.state.step:  # other steps came after it: once more, with the weights of now
            again = self._gradient(step).item()
        where = first_bad_gradient(self.flow)
        if not math.isfinite(loss):
            self._make_noise(step)
            where = first_bad_output(self.flow, self._rows(step))
        if late and (where == OVERFLOW if math.isfinite(loss) else math.isfinite(again)):
            where = f"seen {self.state.step - step} steps later, when it did not come again"
        what = "the gradient is not finite" if math.isfinite(loss) else f"the loss is {loss}"
        return f"step {step}: {what} ({where}); kept: {self._kept()}"

    def _kept(self) -> str:
        history = self.state.history
        return f"the best weights so far, of step {history.best.step}" if history.records else "the last good weights"


@contextmanager
def _dropout(flow: nn.Module, rate: float) -> Iterator[None]:
    """Every dropout layer at ``rate``; afterwards as it was."""
    layers = [(module, module.p) for module in flow.modules() if isinstance(module, nn.Dropout)]
    for module, _ in layers:
        module.p = rate
    try:
        yield
    finally:
        for module, before in layers:
            module.p = before


def _arithmetic(flow: Flow, settings: Settings) -> list[AbstractContextManager]:
    """What a step's forward and backward pass run in, made once, entered each time."""
    contexts: list[AbstractContextManager] = []
    if settings.precision == "bf16":
        contexts.append(bf16_conditioners(flow))
    if settings.memory == "recompute":
        contexts.append(checkpointed(flow))
    return contexts


def _by_decay(flow: Flow, settings: Settings) -> list[tuple[list[Tensor], float]]:
    """Parameters that can be a ``Flat``, and their weight decay: what ``scale_penalty`` keeps small, and the rest."""
    small, parameters = {id(parameter) for parameter in _scales(flow)}, trainable(flow)
    decays = {False: settings.weight_decay, True: settings.weight_decay or 2 * settings.scale_penalty}
    return [
        (group, decay)
        for of_scales, decay in decays.items()
        for group in alike(p for p in parameters if (id(p) in small) == of_scales)
    ]


def _scales(flow: nn.Module) -> Iterator[Tensor]:
    """What ``scale_penalty`` keeps small."""
    for module in flow.modules():
        if isinstance(module, Affine) and module.factor is not None:
            yield module.factor
        if hasattr(module, "parametrizations"):
            yield from (part for name, part in module.named_parameters() if name.endswith("original0"))


def _clones(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [tensor.detach().clone() for tensor in tensors]


@torch.no_grad()
def _copy(into: Sequence[Tensor], source: Sequence[Tensor]) -> None:
    for old, new in zip(into, source, strict=True):
        if old.shape != new.shape:  # copy_ would repeat what is smaller
            raise ValueError(f"{tuple(new.shape)} instead of {tuple(old.shape)}")
        old.copy_(new)


@contextmanager
def _interrupt_flag() -> Iterator[Callable[[], bool]]:
    """Ctrl-C sets a flag instead of breaking off in the middle of a step; a second Ctrl-C does break off."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    pressed = False

    def press(*_: object) -> None:
        nonlocal pressed
        pressed = True
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, press)
    try:
        yield lambda: pressed
    finally:
        signal.signal(signal.SIGINT, before)
