"""Density: the interface by which training, evaluation, pictures and files use any model."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from flowstone.errors import SettingError, ShapeError
from flowstone.kernels import chunks, keep_freed_memory, one_thread_after_fork, rows_at_once
from flowstone.notebook import html_table
from flowstone.validation import as_integer, require_seed

__all__ = ["Density"]

T = TypeVar("T")
SHOWN_APART = ("features", "event_shape", "context_features")  # arguments of recipes that a description has once
LONGEST = 60  # characters of an argument in a description


class Density(nn.Module, ABC):
    r"""A probability distribution of x, or of x given a context c, with an exact likelihood.

    A subclass implements the abstract methods; shapes, chunks and seeds are handled here. ``density(x, context)`` is
    ``log_prob(x, context)``, so that DistributedDataParallel, ``torch.compile`` and export work. ``repr`` is one line,
    and a notebook shows a table; parts such as ``flow.bijection`` show their modules.

    Attributes:
        event_shape: shape of one x.
        context_features: width of the context, 0 for none.
        trained: whether it was trained; None where that is not known, as of older run folders.
        spec: recipe name and arguments, set by recipes: with the weights, enough to build the density again; else None.
    """

    trained: bool | None = False

    def __init__(self, event_shape: Sequence[int], context_features: int = 0) -> None:
        super().__init__()
        self.event_shape = torch.Size(event_shape)
        self.context_features = context_features
        self.spec: Mapping[str, Any] | None = None
        keep_freed_memory()
        one_thread_after_fork()

    def __repr__(self) -> str:
        recipe = [] if self.spec is None else [self.spec["recipe"]]
        of_rows = len(self.event_shape) == 1
        size = " x ".join(map(str, self.event_shape)) + of_rows * f" feature{'s' * (self.event_shape != (1,))}"
        context = [f"{self.context_features} of context"] if self.context_features else []
        figures = [f"{self._parameter_count():,} parameters", *self._state()]
        return f"{type(self).__name__}({', '.join([*recipe, size, *context, *figures])})"

    def _repr_html_(self) -> str:
        recipe, arguments = (None, {}) if self.spec is None else (self.spec["recipe"], self.spec["arguments"])
        rows: list[tuple[str, object]] = [] if recipe is None else [("recipe", recipe)]
        rows += [(name, _in_short(value)) for name, value in arguments.items() if name not in SHOWN_APART]
        rows += [("event shape", tuple(self.event_shape)), ("context features", self.context_features)]
        rows += [("parameters", f"{self._parameter_count():,}"), ("layers", " → ".join(_counted(self._layers())))]
        rows += [("precision", f"{self.dtype} on {self.device}".removeprefix("torch."))]
        return html_table([*rows, *(("state", state) for state in self._state())], caption=type(self).__name__)

    def _parameter_count(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())

    def _state(self) -> list[str]:
        return [] if self.trained is None else ["trained" if self.trained else "not trained"]

    def _layers(self) -> list[nn.Module]:
        """The parts that its description names, in order."""
        return list(self.children())

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where its parameters are."""

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """The precision of its arithmetic."""

    @property
    def stochastic(self) -> bool:
        """Whether it draws noise (dequantization, padding): its log_prob is then a lower bound, and differs by draw."""
        return False

    @property
    def stochastic_training(self) -> bool:
        """Whether ``forward`` draws random numbers in training mode."""
        return self.stochastic

    @property
    def reparameterized(self) -> bool:
        """Whether samples carry the gradient of every parameter: ``rsample_and_log_prob`` then works."""
        return False

    @property
    def accepts_any_dtype(self) -> bool:
        """Whether it reads x in any precision, integers too, with every digit; else x is rounded to its own."""
        return False

    @property
    def data_dtype(self) -> torch.dtype:
        """The dtype in which to hand rows over: float64 where the density reads any precision, else its own."""
        return torch.float64 if self.accepts_any_dtype else self.dtype

    @property
    def accepts_gaps(self) -> bool:
        """Whether x may hold NaN: a value of which nothing is known."""
        return False

    @property
    def rows_at_once(self) -> int:
        """How many rows ``log_prob`` computes at a time where no gradient is recorded. A table that is cut at multiples
        of this number has the likelihoods of the whole table, bit for bit.
        """
        return rows_at_once(self.event_shape, self.device)

    def require_possible(self, x: Tensor, what: str) -> None:
        """Raise DataError if a row is impossible whatever is learned, so that no training can use it.

        Args:
            what: names the rows in the message.
        """

    def training_settings(self, rows: float) -> Mapping[str, Any]:
        """Options of ``flowstone.train.Settings`` that suit this density and so many rows.

        ``fit`` takes from them what the user leaves open (None in the settings); ``steps`` only where no time is set.
        """
        return {}

    @abstractmethod
    def initialize(self, x: Tensor, context: Tensor | None = None) -> None:
        """Set what depends on data from one large batch."""

    @abstractmethod
    def _log_prob(self, x: Tensor, context: Tensor | None) -> Tensor:
        """The log-density of rows whose shapes were checked."""

    @abstractmethod
    def _sample(self, n: int, context: Tensor | None, generator: torch.Generator | None, temperature: float) -> Tensor:
        """``n`` samples, of which row i is given context row i."""

    @abstractmethod
    def _sample_and_log_prob(
        self, n: int, context: Tensor | None, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """Samples as from ``_sample``, at temperature 1, and the log-density of each of them."""

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """``log_prob``."""
        return self.log_prob(x, context)

    def log_prob(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Log-density of each row in nats, ``(batch, *event_shape)`` → ``(batch,)``.

        Where no gradient is being recorded it works in chunks, so that memory does not grow with the batch.

        Raises:
            ShapeError: x or the context has another shape than the density was built for, or is no tensor.
        """
        self._check(x, context, self.event_shape)
        if torch.is_grad_enabled() or torch.compiler.is_compiling() or torch.jit.is_tracing():
            return self._log_prob(x, context)
        parts = [
            self._log_prob(x[rows], None if context is None else context[rows])
            for rows in chunks(x.shape[0], self.event_shape, x.device)
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def sample(
        self, n: int, context: Tensor | None = None, *, temperature: float = 1.0, seed: int | None = None
    ) -> Tensor:
        """Draw ``n`` samples: ``(n, *event_shape)``; with context ``(batch, features)``, ``(n, batch, *event_shape)``.

        Args:
            temperature: factor on the latent; below 1 stays nearer to the mode, 1 samples the model itself.
            seed: the same seed gives the same samples; None draws from torch's global state.

        Memory beyond the result does not grow with n. Errors are those of ``stream``.
        """
        return self._gather(n, context, self.stream(n, context, temperature=temperature, seed=seed))

    def stream(
        self, n: int, context: Tensor | None = None, *, temperature: float = 1.0, seed: int | None = None
    ) -> Iterator[Tensor]:
        """The samples of ``sample`` in chunks ``(rows, *event_shape)``, for more samples than memory holds.

        With context, the first sample of every context row comes first, then the second of every row, and so on.

        Raises:
            SettingError: n, the temperature or the seed cannot be used.
            ShapeError: the density takes another context, or none.

        >>> import flowstone
        >>> sum(len(chunk) for chunk in flowstone.nice(2).stream(5000))
        5000
        """
        if not 0 < temperature < math.inf:
            raise SettingError(f"temperature={temperature} must be positive and finite")
        return self._draw(partial(self._sample, temperature=temperature), n, context, seed)

    def sample_and_log_prob(
        self, n: int, context: Tensor | None = None, *, seed: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """``sample``, and the log-density of each sample in nats, ``(n,)`` or ``(n, batch)``, in one pass.

        Where the density draws noise (``stochastic``) it is the bound that ``log_prob`` gives, by noise of its own.

        >>> import flowstone
        >>> x, log_prob = flowstone.nice(2).sample_and_log_prob(5, seed=0)
        >>> x.shape, log_prob.shape
        (torch.Size([5, 2]), torch.Size([5]))
        """
        drawn = list(self._draw(self._sample_and_log_prob, n, context, seed))
        return self._gather(n, context, (x for x, _ in drawn)), self._gather(n, context, (p for _, p in drawn))

    def rsample_and_log_prob(
        self, n: int, context: Tensor | None = None, *, seed: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """``sample_and_log_prob`` with gradients to parameters and context (the reparameterization trick).

        Raises:
            SettingError: samples do not carry every gradient: the prior has parameters of its own, or x is rounded;
                or n or the seed cannot be used.
        """
        if not self.reparameterized or self.stochastic:
            raise SettingError(
                "no samples with gradients: they do not carry that of every parameter (the prior has some, the density "
                "rounds, or it chooses among parts)"
            )
        self._check_sampling(n, context)
        rows = self._rows(n, context, slice(0, n * _batch(context)))
        x, log_prob = self._sample_and_log_prob(*rows, self._generator(seed))
        return self._unflatten(n, context, x), self._unflatten(n, context, log_prob)

    def context_rows(self, context: Tensor | None) -> Tensor | None:
        """A context ``(*batch, context_features)`` as rows.

        Raises:
            ShapeError: the density takes another one, or none.
        """
        rows = context[None].flatten(0, -2) if isinstance(context, Tensor) and context.ndim else context
        self._require_context(rows, None)
        return rows

    def _draw(self, sampler: Callable[..., T], n: int, context: Tensor | None, seed: int | None) -> Iterator[T]:
        self._check_sampling(n, context)
        return self._draw_chunks(sampler, n, context, self._generator(seed))

    @torch.no_grad()
    def _draw_chunks(
        self, sampler: Callable[..., T], n: int, context: Tensor | None, generator: torch.Generator | None
    ) -> Iterator[T]:
        for rows in chunks(n * _batch(context), self.event_shape, self.device):
            yield sampler(*self._rows(n, context, rows), generator)

    def _rows(self, n: int, context: Tensor | None, rows: slice) -> tuple[int, Tensor | None]:
        """The number of these rows, and the context of each: the rows of the context repeat in order."""
        count = rows.stop - rows.start
        if context is None:
            return count, None
        return count, context[torch.arange(rows.start, rows.stop, device=context.device) % len(context)]

    def _gather(self, n: int, context: Tensor | None, parts: Iterator[Tensor]) -> Tensor:
        """One array, filled chunk by chunk."""
        result, done = None, 0
        for chunk in parts:
            if result is None:
                result = chunk.new_empty(n * _batch(context), *chunk.shape[1:])
            result[done : (done := done + len(chunk))] = chunk
        assert result is not None
        return self._unflatten(n, context, result)

    @staticmethod
    def _unflatten(n: int, context: Tensor | None, rows: Tensor) -> Tensor:
        return rows if context is None else rows.unflatten(0, (n, len(context)))

    def _generator(self, seed: int | None) -> torch.Generator | None:
        if seed is None:
            return None
        require_seed("seed", as_integer(seed))
        return torch.Generator(self.device).manual_seed(int(seed))

    def _check_sampling(self, n: int, context: Tensor | None) -> None:
        if type(as_integer(n)) is not int or n < 0:
            raise SettingError(f"n={n!r}: the number of samples is a whole number, and not negative")
        self._require_context(context, None)

    def check_shapes(self, x: Tensor, context: Tensor | None = None) -> None:
        """Check rows and their context as ``log_prob`` does.

        Raises:
            ShapeError: x or the context has another shape than the density was built for, or is no tensor.
        """
        self._check(x, context, self.event_shape)

    def _check(self, x: Tensor, context: Tensor | None, event_shape: torch.Size) -> None:
        if not isinstance(x, Tensor):
            raise ShapeError(f"expected a torch.Tensor, got {type(x).__name__}")
        if x.ndim == 0 or x.shape[1:] != event_shape:
            wanted = ", ".join(map(str, event_shape))
            raise ShapeError(f"expected shape (batch, {wanted}), got {tuple(x.shape)}")
        if context is not None or self.context_features:
            self._require_context(context, x)

    def _require_context(self, context: Tensor | None, x: Tensor | None) -> None:
        """A context of the right width, with a row for each row of x where x is given."""
        width = self.context_features
        if context is None:
            if width:
                raise ShapeError(f"the density is conditional: it needs a context of shape (batch, {width}), got none")
            return
        if not isinstance(context, Tensor):
            raise ShapeError(f"expected the context as a torch.Tensor, got {type(context).__name__}")
        if width == 0:
            raise ShapeError(f"the density takes no context, got one of shape {tuple(context.shape)}")
        if context.ndim != 2 or context.shape[1] != width or (x is not None and context.shape[0] != x.shape[0]):
            batch = "batch" if x is None else x.shape[0]
            raise ShapeError(f"expected a context of shape ({batch}, {width}), got {tuple(context.shape)}")


def _batch(context: Tensor | None) -> int:
    return 1 if context is None else len(context)


def _counted(layers: Sequence[nn.Module]) -> list[str]:
    """The kinds of layers, those that are repeated with their number; a pattern that is repeated is written once.

    >>> _counted([nn.Tanh(), nn.ReLU(), nn.ReLU(), nn.Tanh(), nn.ReLU(), nn.Tanh(), nn.ReLU(), nn.Tanh()])
    ['Tanh', '2 ReLU', '2 (Tanh → ReLU)', 'Tanh']
    """
    names, found = [type(layer).__name__ for layer in layers], []
    while names:
        repeats = {size: _repeats(names, size) for size in (1, 2, 3)}
        size = max(repeats, key=lambda size: (repeats[size] > 1, size * repeats[size]))
        if repeats[size] == 1:
            size = 1
        pattern = " → ".join(names[:size])
        pattern = f"({pattern})" if size > 1 else pattern
        found.append(pattern if repeats[size] == 1 else f"{repeats[size]} {pattern}")
        names = names[size * repeats[size] :]
    return found


def _repeats(names: Sequence[str], size: int) -> int:
    """How often the first ``size`` names follow each other."""
    count = 1
    while names[count * size : (count + 1) * size] == names[:size]:
        count += 1
    return count


def _in_short(value: object) -> str:
    if isinstance(value, list | tuple) and value and all(isinstance(each, Mapping) for each in value):
        return f"{len(value)} descriptions"
    written = str(value)
    return written if len(written) <= LONGEST else f"{written[: LONGEST - 1]}…"
