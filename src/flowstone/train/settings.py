"""Settings: the single list of training options, with their defaults, their help and their checks."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from flowstone.errors import SettingError
from flowstone.options import describe_options, option, require_options
from flowstone.validation import require_bool, require_choice, require_integer, require_number, require_seed

__all__ = ["OPTIMIZERS", "PRECISIONS", "SCHEDULES", "OptimizerFactory", "ResolvedSettings", "Schedule", "Settings"]

OptimizerFactory = Callable[[list[Any]], Any]  # parameters -> torch.optim.Optimizer; torch is not loaded for this file
Schedule = Callable[[float], float]

PRECISIONS = ("fp32", "bf16")
MEMORIES = ("keep", "recompute")
OPTIMIZERS = ("adam", "adamw", "adamax")


def _cosine(progress: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * progress))


def _constant(_progress: float) -> float:
    return 1.0


SCHEDULES: dict[str, Schedule] = {"cosine": _cosine, "constant": _constant}
# Values of the options that depend on the data. A step on images costs a hundred times what one on rows of a table
# does, and its gradient is a sum over many pixels.
OF_VECTORS: dict[str, Any] = {
    "batch_size": 512, "lr": 5e-3, "warmup": 0.02, "clip": 5.0, "ema": 0.99, "dropout": 0.0, "validate_every": 100,
}  # fmt: skip
OF_IMAGES: dict[str, Any] = {
    "batch_size": 64, "lr": 2e-3, "warmup": 0.05, "clip": 50.0, "ema": 0.999, "dropout": 0.0, "validate_every": 500,
}  # fmt: skip
STEPS = 3000  # where no clock ends the training
# Flows soon overfit a fixed set with fewer rows than these: it is validated more often, and trained with dropout.
SMALL_SET, SMALL_SET_VALIDATE_EVERY = 10_000, 20
TINY_SET, TINY_SET_DROPOUT = 2_000, 0.2


@dataclass(frozen=True)
class Settings:
    """The options of a training. The defaults measured best per second on tables.

    Options that are None because they depend on the data get their values from ``for_data``. ``patience=None`` never
    stops a training early.
    """

    steps: int | None = option(
        None,
        "Training steps at most. If minutes are set, too, the training ends with whichever comes first. If not set: no "
        "limit where minutes are set, else 3,000, or for mixed columns 3,000 to 5,000 (1,500 to 3,000 in a given "
        "order).",
    )
    minutes: float | None = option(
        None, "Training time at most. The schedule then follows the clock, and a run does not repeat bit for bit."
    )
    batch_size: int | None = option(
        None, "Rows in each step, over all processes where several train. If not set: 512, and 64 for images."
    )
    lr: float | None = option(
        None,
        "The highest learning rate, reached at the end of the warm-up. If not set: 5e-3, 2e-3 for images, and 2e-3 to "
        "3e-3 for mixed columns.",
    )
    warmup: float | None = option(
        None, "Fraction of the run in which the learning rate rises linearly to lr. If not set: 0.02, 0.05 for images."
    )
    clip: float | None = option(
        None, "The largest norm of the gradient; a longer one is shortened to it. If not set: 5, and 50 for images."
    )
    ema: float | None = option(
        None,
        "Decay per step of the exponential moving average of the weights, which is validated and kept; 0 for no "
        "averaging. If not set: 0.99, 0.999 for images, 0.995 for mixed columns, and 0 where layers such as BatchNorm "
        "keep running statistics.",
    )
    dropout: float | None = option(
        None,
        "Fraction of the units that nets with dropout layers leave out in training. If not set: 0, 0.2 for a fixed set "
        "of fewer than 2,000 rows, and 0.1 to 0.25 for mixed columns.",
    )
    patience: int | None = option(30, "Validations without improvement after which the training stops.")
    recoveries: int = option(
        6,
        "How many times a training may return to its best weights and go on with 0.3 times the learning rate. It does "
        "so where a loss, a gradient or a weight is not finite, or the validation loss is more than 10 nats a feature "
        "above its start. After so many times, the next value that is not finite ends the training with an error.",
    )
    validate_every: int | None = option(
        None,
        "Steps between two validations. If not set: 100, 500 for images, 20 for a fixed set of fewer than 10,000 rows "
        "that are not images, and 25 for mixed columns (50 in a given order).",
    )
    log_every: int | None = option(
        None,
        "Steps between two printed lines with the losses. If not set: no lines beside a progress bar; where there is "
        "no terminal, a line every half minute.",
    )
    seed: int = option(
        0,
        "Seed of the batches, of the noise and of the choice of held-out rows. On the CPU the same seed gives the same "
        "weights, bit for bit.",
    )
    precision: str = option(
        "fp32",
        "bf16 runs the conditioner nets in bfloat16; the flow's own arithmetic keeps its precision.",
        choices=PRECISIONS,
    )
    schedule: str | Schedule = option(
        "cosine",
        "The learning rate after the warm-up: cosine lowers it to 0, constant keeps it. In Python also a function from "
        "the fraction of the run that is over, from 0 to 1, to a factor of lr; during the warm-up, the lower of the "
        "two rates is used.",
        choices=SCHEDULES,
    )
    flip: bool = option(False, "Mirror half of the images of each batch left to right, chosen anew each time.")
    optimizer: str | OptimizerFactory = option(
        "adam",
        "adam or adamax (Kingma and Ba 2015), or adamw (Loshchilov and Hutter 2019), which has weight_decay. In Python "
        "also a function that makes a torch.optim.Optimizer of a list of parameters, such as "
        "functools.partial(torch.optim.SGD, momentum=0.9); its learning rate is set before each step.",
        choices=OPTIMIZERS,
    )
    weight_decay: float = option(0.0, "Decoupled weight decay of adamw.")
    scale_penalty: float = option(
        0.0,
        "Factor of an L2 penalty on the learned factors of log-scales and on the magnitudes of weight-normalized "
        "layers (5e-5 for RealNVP on images). It is not part of the reported NLL.",
    )
    memory: str = option(
        "keep",
        "recompute keeps only the values between couplings (for vectors: after every sixth coupling) and runs the "
        "layers a second time to compute the same gradient: deep flows take far less memory and about a third more "
        "time.",
        choices=MEMORIES,
    )
    compile: bool = option(
        False,
        "Compile the loss by torch.compile, which takes up to a minute when the training begins; on a CUDA device its "
        "kernels are launched as a CUDA graph. On a CPU it makes autoregressive flows faster, and narrow coupling "
        "flows, whose gradients are direct otherwise, slower. Without a C++ compiler the training warns and runs "
        "uncompiled. Noise and rounding differ from those of an uncompiled training.",
    )
    direct: bool = option(
        True,
        "Compute gradients on the CPU without autograd, if every layer of the flow is a coupling or another layer "
        "whose gradient has a formula here; the gradients are the same up to rounding. A resumed training computes "
        "them as it did before.",
    )

    def __post_init__(self) -> None:
        self._check_numbers()
        self._check_choices()
        self._check_together()

    def _check_numbers(self) -> None:
        for name in ("steps", "batch_size", "patience", "validate_every", "log_every"):
            if (value := getattr(self, name)) is not None:
                require_integer(name, value)
        for name in ("minutes", "lr", "clip"):
            if (value := getattr(self, name)) is not None:
                require_number(name, value, above=0)
        for name in ("warmup", "ema", "dropout"):
            if (value := getattr(self, name)) is not None:
                require_number(name, value, at_least=0, below=1)
        for name in ("weight_decay", "scale_penalty"):
            require_number(name, getattr(self, name), at_least=0)
        require_integer("recoveries", self.recoveries, at_least=0)
        require_seed("seed", self.seed)

    def _check_choices(self) -> None:
        for name in ("flip", "compile", "direct"):
            require_bool(name, getattr(self, name))
        require_choice("precision", self.precision, PRECISIONS)
        require_choice("memory", self.memory, MEMORIES)
        if not callable(self.schedule):
            require_choice("schedule", self.schedule, SCHEDULES)
        if not callable(self.optimizer):
            require_choice("optimizer", self.optimizer, OPTIMIZERS)

    def _check_together(self) -> None:
        if self.compile and self.memory == "recompute":
            raise SettingError("compile=True and memory='recompute' do not go together: choose one")
        if self.weight_decay and self.optimizer != "adamw":
            raise SettingError(
                f"weight_decay={self.weight_decay} is for optimizer='adamw', not {_written(self.optimizer)}"
            )
        if self.scale_penalty and self.optimizer == "adamw":
            raise SettingError("scale_penalty is a part of the loss, which adamw has none of: it has weight_decay")

    def override(self, overrides: Mapping[str, Any]) -> "Settings":
        """These settings with others for the given names.

        Raises:
            UnknownNameError: a name is that of no option; the message holds the nearest one.
        """
        require_options("training setting", type(self), overrides)
        return replace(self, **overrides)

    def for_data(
        self, event_shape: Sequence[int], rows: float, suggested: Mapping[str, Any] | None = None
    ) -> "ResolvedSettings":
        """These settings with a value in each option that depends on the data.

        Args:
            event_shape: shape of one x.
            rows: number of rows to train on; infinity where each step draws new ones.
            suggested: values that the density itself suggests (``Density.training_settings``).

        >>> Settings(lr=1e-3).for_data((2,), rows=500).validate_every
        20
        """
        values = OF_IMAGES if len(event_shape) == 3 else OF_VECTORS
        if rows < SMALL_SET and values is OF_VECTORS:
            values = values | {"validate_every": SMALL_SET_VALIDATE_EVERY}
        if rows < TINY_SET:
            values = values | {"dropout": TINY_SET_DROPOUT}
        if self.minutes is None:
            values = values | {"steps": STEPS}
        values = values | {name: value for name, value in (suggested or {}).items() if name in values}
        given: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        given |= {name: value for name, value in values.items() if given[name] is None}
        return ResolvedSettings(**given)

    def as_record(self) -> dict[str, Any]:
        """All options as a record that JSON can hold; ``Settings(**record)`` makes them again.

        Raises:
            SettingError: the optimizer or the schedule is a function, which a record cannot hold.
        """
        record = {field.name: getattr(self, field.name) for field in fields(self)}
        for name in ("optimizer", "schedule"):
            if not isinstance(record[name], str):
                raise SettingError(f"{name}={_written(record[name])} cannot be recorded: a record holds only names")
        return record

    def progress(self, step: int, seconds: float) -> float:
        """The fraction of the run that is over, by steps or by the clock, whichever is larger; 1 or more at the end."""
        by_steps = step / self.steps if self.steps else 0.0
        return by_steps if self.minutes is None else max(by_steps, seconds / (60 * self.minutes))


class ResolvedSettings(Settings):
    """Settings with a value in every option, as ``Settings.for_data`` returns them."""

    if TYPE_CHECKING:
        batch_size: int
        lr: float
        warmup: float
        clip: float
        ema: float
        dropout: float
        validate_every: int

    def learning_rate(self, progress: float) -> float:
        """The learning rate when this fraction of the run is over: a linear warm-up, then ``schedule`` times ``lr``."""
        schedule = self.schedule if callable(self.schedule) else SCHEDULES[self.schedule]
        factor = schedule(min(1.0, progress))
        require_number("the schedule's factor", factor, at_least=0)
        if progress < self.warmup:
            factor = min(factor, (progress + 1e-3) / (self.warmup + 1e-3))
        return self.lr * float(factor)


def _written(value: Any) -> str:
    """A name in quotes, or the name of a function; for a ``functools.partial`` that of its function."""
    if isinstance(value, str):
        return repr(value)
    inner = getattr(value, "func", value)
    return getattr(inner, "__qualname__", type(value).__name__)


Settings.__doc__ = f"{Settings.__doc__}\n{describe_options(Settings, indent='    ')}"
