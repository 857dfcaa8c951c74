"""How to train: numbers and their defaults, and the learning-rate schedule."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from flowstone.errors import SettingError, UnknownNameError

__all__ = ["PRECISIONS", "Settings", "settings_for"]

PRECISIONS = ("fp32", "bf16")
SCHEDULES = ("cosine", "constant")
MEMORIES = ("keep", "recompute")
OPTIMIZERS = ("adam", "adamw", "adamax")
CHOICES = {"precision": PRECISIONS, "schedule": SCHEDULES, "optimizer": OPTIMIZERS, "memory": MEMORIES}
POSITIVE = ("steps", "minutes", "batch_size", "lr", "clip", "patience", "validate_every")
RANGES = (
    (POSITIVE, lambda value: value > 0, "must be positive"),
    (("seed", "scale_penalty", "weight_decay"), lambda value: value >= 0, "cannot be negative"),
    (("ema", "warmup", "dropout"), lambda value: 0 <= value < 1, "must be at least 0 and below 1"),
)
# Rows below which a fixed set is soon learned by heart, and what is done about it.
SMALL_SET, SMALL_EVERY = 10_000, 20
TINY_SET, TINY_DROPOUT = 2_000, 0.2
# A step on images costs a hundred times what one on rows of a table does, and gradients are sums over many pixels.
OF_IMAGES = {"batch_size": 64, "lr": 2e-3, "warmup": 0.05, "clip": 50.0, "ema": 0.999, "validate_every": 500}


@dataclass(frozen=True)
class Settings:
    """The arguments of ``fit`` (which explains them); the defaults are what measured best per second on tables."""

    steps: int | None = 3000
    minutes: float | None = None
    batch_size: int = 512
    lr: float = 5e-3
    warmup: float = 0.02
    clip: float = 5.0
    ema: float = 0.99
    dropout: float = 0.0
    patience: int | None = 30
    validate_every: int = 100
    seed: int = 0
    precision: str = "fp32"
    schedule: str = "cosine"
    flip: bool = False
    optimizer: str = "adam"
    weight_decay: float = 0.0
    scale_penalty: float = 0.0
    memory: str = "keep"
    compile: bool = False

    def __post_init__(self) -> None:
        for names, allowed, what in RANGES:
            for name in names:
                value = getattr(self, name)
                if value is not None and not allowed(value):
                    raise SettingError(f"{name}={value} {what}")
        for name, known in CHOICES.items():
            value = getattr(self, name)
            if not isinstance(value, str) or value not in known:
                raise UnknownNameError(name, str(value), known)
        if self.steps is None and self.minutes is None:
            raise SettingError("steps=None needs minutes: something must end the training")
        if self.compile and self.memory == "recompute":
            raise SettingError("compile=True and memory='recompute' do not go together: choose one")
        if self.weight_decay and self.optimizer != "adamw":
            raise SettingError(f"weight_decay={self.weight_decay} is for optimizer='adamw', not {self.optimizer!r}")
        if self.scale_penalty and self.optimizer == "adamw":
            raise SettingError("scale_penalty is part of the loss for adam and adamax; adamw has weight_decay")

    def progress(self, step: int, seconds: float) -> float:
        """How much of the run is over, 0 … 1, by steps or by the clock, whichever is further."""
        by_steps = step / self.steps if self.steps else 0.0
        return by_steps if self.minutes is None else max(by_steps, seconds / (60 * self.minutes))

    def learning_rate(self, progress: float) -> float:
        """Linear warm-up over the fraction ``warmup``, then a cosine down to 0 (or the same rate to the end)."""
        if progress < self.warmup:
            return self.lr * (progress + 1e-3) / (self.warmup + 1e-3)
        if self.schedule == "constant":
            return self.lr
        return self.lr * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def settings_for(event_shape: Sequence[int], rows: float, **given: Any) -> Settings:
    """What measured best per second on data of that shape and so many rows; what is ``given``, and not None, counts."""
    chosen: dict[str, Any] = {}
    if len(event_shape) == 3:
        chosen |= OF_IMAGES
    elif rows < SMALL_SET:
        chosen["validate_every"] = SMALL_EVERY
    if rows < TINY_SET:
        chosen["dropout"] = TINY_DROPOUT
    return Settings(**chosen | {name: value for name, value in given.items() if value is not None})
