"""How to train: numbers and their defaults, and the learning-rate schedule."""

import math
from dataclasses import dataclass

from flowstone.errors import SettingError, UnknownNameError

__all__ = ["PRECISIONS", "Settings"]

PRECISIONS = ("fp32", "bf16")
SCHEDULES = ("cosine", "constant")


@dataclass(frozen=True)
class Settings:
    """The arguments of ``fit`` (which explains them); the defaults are what measured best per second."""

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
    scale_penalty: float = 0.0

    def __post_init__(self) -> None:
        for name in ("steps", "minutes", "batch_size", "lr", "clip", "patience", "validate_every"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise SettingError(f"{name}={value} must be positive")
        if self.steps is None and self.minutes is None:
            raise SettingError("steps=None needs minutes: something must end the training")
        if self.seed < 0:
            raise SettingError(f"seed={self.seed} cannot be negative")
        for name in ("ema", "warmup", "dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise SettingError(f"{name}={getattr(self, name)} must be at least 0 and below 1")
        if not self.scale_penalty >= 0:
            raise SettingError(f"scale_penalty={self.scale_penalty} cannot be negative")
        if self.precision not in PRECISIONS:
            raise UnknownNameError("precision", self.precision, PRECISIONS)
        if self.schedule not in SCHEDULES:
            raise UnknownNameError("schedule", self.schedule, SCHEDULES)

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
