"""fit_to_density: a flow for a density that is known up to a constant (variational inference, Boltzmann sampling)."""

import math
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from flowstone.density import Density
from flowstone.errors import DataError, NonFiniteError, SettingError, ShapeError
from flowstone.execution import threads_for
from flowstone.execution.flat import FlatParameters, group_by_dtype_and_device, trainable_parameters
from flowstone.train.batches import generator
from flowstone.train.history import History
from flowstone.train.optimizer import Optimizer
from flowstone.train.processes import require_one_process
from flowstone.train.progress import training_bar
from flowstone.train.settings import Settings
from flowstone.validation import require_integer, require_seed

__all__ = ["DensityFit", "Weighted", "fit_to_density", "importance_sample"]

LogDensity = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Weighted:
    r"""Samples of a flow q and their importance weights for a density $\tilde p$ known up to a constant.

    Attributes:
        x: samples of q, ``(n, *event_shape)``.
        log_weights: $\log \tilde p(x) - \log q(x)$, ``(n,)``.
    """

    x: Tensor
    log_weights: Tensor

    @property
    def weights(self) -> Tensor:
        """Weights that sum to 1; a mean under the density is ``(weights[:, None] * values).sum(0)``."""
        return self.log_weights.softmax(0)

    @property
    def effective_sample_size(self) -> float:
        r"""$(\sum w)^2 / (n \sum w^2)$, as a part of n: 1 where q is the density, near 0 where it misses most of it."""
        return math.exp(2 * self.log_weights.logsumexp(0).item() - (2 * self.log_weights).logsumexp(0).item()) / len(
            self.log_weights
        )

    @property
    def log_normalizer(self) -> float:
        r"""An estimate of $\log \int \tilde p$: the evidence, or minus a free energy."""
        return self.log_weights.logsumexp(0).item() - math.log(len(self.log_weights))

    def resample(self, n: int, *, seed: int = 0) -> Tensor:
        """``n`` samples of the density, ``(n, *event_shape)``: each is one of ``x``, drawn with its weight as
        probability (Rubin 1988, Using the SIR Algorithm to Simulate Posterior Distributions).

        Samples repeat unless ``effective_sample_size * len(x)`` is far above ``n``.

        Raises:
            DataError: no sample has a weight above 0, or a weight is not finite.
            SettingError: ``n`` or ``seed`` is no whole number, or n is below 1.

        >>> import torch, flowstone
        >>> half_normal = lambda x: torch.where(x[:, 0] > 0, -0.5 * x[:, 0] ** 2, -torch.inf)
        >>> weighted = flowstone.importance_sample(flowstone.spline(1), half_normal, 1000)
        >>> bool((weighted.resample(50) > 0).all())
        True
        """
        require_integer("n", n)
        require_seed("seed", seed)
        log_weights = self.log_weights.double().cpu()
        if (log_weights.isnan() | (log_weights == math.inf)).any():
            raise DataError("a weight is not finite")
        if (log_weights == -math.inf).all():
            raise DataError(f"none of the {len(self.x)} samples has a weight above 0")
        cumulative = log_weights.softmax(0).cumsum(0)
        places = cumulative[-1] * torch.rand(n, generator=generator(seed), dtype=torch.float64)
        return self.x[torch.searchsorted(cumulative, places, right=True).to(self.x.device)]


@dataclass(frozen=True)
class DensityFit:
    r"""The result of ``fit_to_density``.

    Attributes:
        losses: the estimate of $KL(q \| p)$ minus the log normalizer, at each step.
        sample: samples of the fitted flow with their importance weights.
    """

    losses: tuple[float, ...]
    sample: Weighted

    @property
    def effective_sample_size(self) -> float:
        """The effective sample size of ``sample``, as a part of its size."""
        return self.sample.effective_sample_size


def fit_to_density(
    density: Density,
    log_density: LogDensity,
    *,
    context: Tensor | None = None,
    steps: int = 2000,
    batch_size: int = 512,
    lr: float = 3e-3,
    warmup: float = 0.02,
    clip: float = 5.0,
    n_samples: int = 10_000,
    seed: int = 0,
    progress: bool = True,
) -> DensityFit:
    r"""Fit ``density`` to another one that is known up to a constant, by reverse Kullback-Leibler divergence, in place.

    $$ \min_\theta\; \mathbb E_{z} \left[ \log q_\theta(x) - \log \tilde p(x) \right], \qquad x = f_\theta^{-1}(z) $$

    with the path gradient: the score term, whose mean is zero, is left out ("sticking the landing", Roeder et al. 2017;
    for flows Vaitl et al. 2022), so the gradient's variance vanishes as q reaches the density.

    Args:
        density: its prior must have no parameters of its own. There are no data from which a recipe could learn to
            standardise x: let x have size 1 under ``log_density``, or put a ``Scaling`` or an ``ActNorm`` first.
        log_density: ``(batch, *event_shape) -> (batch,)``, differentiable, in nats, up to a constant.
        context: one row ``(1, context_features)`` or ``(context_features,)`` for a conditional flow.
        steps, batch_size, lr, warmup, clip: settings of Adam with warm-up and cosine.
        n_samples: samples drawn at the end, with importance weights.
        seed: seed of the samples; on the CPU the same seed gives the same weights, bit for bit.
        progress: whether to show a progress bar on stderr.

    Reverse KL may cover only one of several modes. The effective sample size is low where samples are unlike the
    density, but it does not show a mode that the flow never reaches.

    Raises:
        NonFiniteError: the loss or gradient is not finite; ShapeError: log_density has another shape; SettingError: the
            prior has parameters, or there are several processes.

    >>> import math, torch, flowstone
    >>> flow = flowstone.realnvp(2, couplings=2, hidden=(16,))
    >>> fit = flowstone.fit_to_density(flow, lambda x: -(x - 1).square().sum(-1), steps=300, progress=False)
    >>> fit.effective_sample_size > 0.9, abs(fit.sample.log_normalizer - math.log(torch.pi)) < 0.1
    (True, True)
    """
    require_one_process("fit_to_density")
    if not density.reparameterized:
        raise SettingError("reverse KL needs samples with gradients: the prior may have no parameters of its own")
    if n_samples < 1:
        raise DataError(f"n_samples={n_samples}: at least one sample is needed")
    settings = Settings(steps=steps, batch_size=batch_size, lr=lr, warmup=warmup, clip=clip, seed=seed)
    settings = settings.for_data(density.event_shape, math.inf)
    losses: list[float] = []
    history, started = History(), time.monotonic()
    density.eval()  # running statistics must not move between a sample and its density
    with ExitStack() as stack:
        stack.enter_context(threads_for(density, batch_size))
        update = stack.enter_context(training_bar(settings, enabled=progress))
        groups = group_by_dtype_and_device(trainable_parameters(density))
        flats = [stack.enter_context(FlatParameters(group)) for group in groups]
        arrays = [flat.array for flat in flats]
        optimizer = Optimizer("adam", arrays)
        for step in range(steps):
            for flat in flats:
                flat.zero_grad()
            loss = _path_loss(density, log_density, context, batch_size, generator(seed, step).initial_seed())
            loss.backward()
            for flat in flats:
                flat.sync_gradients()
            norm = nn.utils.get_total_norm([flat.gradient for flat in flats])
            if not math.isfinite(loss.item()) or not math.isfinite(norm.item()):
                raise NonFiniteError(f"step {step}: the loss is {loss.item()}, the norm of its gradient {norm.item()}")
            nn.utils.clip_grads_with_norm_(arrays, clip, norm)
            optimizer.step(settings.learning_rate(step / steps))
            losses.append(loss.item())
            update(step + 1, time.monotonic() - started, losses[-1], history)
    density.trained = True
    return DensityFit(tuple(losses), importance_sample(density, log_density, n_samples, context=context, seed=seed + 1))


@torch.no_grad()
def importance_sample(
    density: Density, log_density: LogDensity, n: int, *, context: Tensor | None = None, seed: int = 0
) -> Weighted:
    """``n`` samples of ``density`` with importance weights for ``log_density`` (as for ``fit_to_density``).

    >>> import torch, flowstone
    >>> flow = flowstone.spline(2)
    >>> round(flowstone.importance_sample(flow, lambda x: -0.5 * x.square().sum(-1), 1000).effective_sample_size, 6)
    1.0
    """
    if n < 1:
        raise DataError(f"n={n}: at least one sample is needed")
    x, log_q = density.sample_and_log_prob(n, None if context is None else context.reshape(1, -1), seed=seed)
    x, log_q = x.reshape(n, *density.event_shape), log_q.reshape(n)
    return Weighted(x, (_values(log_density, x) - log_q).double())


def _path_loss(density: Density, log_density: LogDensity, context: Tensor | None, n: int, seed: int) -> Tensor:
    """Mean of log q(x) - log p(x) whose gradient runs through x alone: q's own parameters are held constant."""
    x, _ = density.rsample_and_log_prob(n, None if context is None else context.reshape(1, -1), seed=seed)
    x = x.reshape(n, *density.event_shape)
    constant = {name: tensor.detach() for name, tensor in density.named_parameters()}
    given = None if context is None else context.reshape(1, -1).expand(n, -1)
    return (functional_call(density, constant, (x, given)) - _values(log_density, x)).mean()


def _values(log_density: LogDensity, x: Tensor) -> Tensor:
    values = log_density(x)
    if values.shape != x.shape[:1]:
        raise ShapeError(f"log_density gave shape {tuple(values.shape)} for {len(x)} rows; wanted ({len(x)},)")
    return values
