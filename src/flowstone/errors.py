"""The errors of Flowstone. A message is one line that repeats what is wrong: name, shape, value, valid choice."""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

__all__ = [
    "CheckpointError",
    "DataError",
    "DataWarning",
    "FlowstoneError",
    "NonFiniteError",
    "OutputError",
    "ProcessLostError",
    "SettingError",
    "ShapeError",
    "UnknownNameError",
]


class FlowstoneError(Exception):
    """The base class of all errors that Flowstone raises for a user's mistake. The command prints it and exits with 1.

    Attributes:
        remedy: options by name, with values that remove the error. They end the message as keyword arguments; the
            command line shows them as its flags instead.

    >>> print(FlowstoneError("row 2 is missing; to leave it out", remedy={"drop_missing": True}))
    row 2 is missing; to leave it out: drop_missing=True
    """

    def __init__(self, *args: object, remedy: Mapping[str, Any] | None = None) -> None:
        super().__init__(*args)
        self.remedy = dict(remedy or {})

    @property
    def problem(self) -> str:
        """The message without the remedy."""
        return super().__str__()

    def __str__(self) -> str:
        return _with_keywords(self.problem, self.remedy)


class UnknownNameError(FlowstoneError, LookupError):
    """A name that is not registered; the message holds the nearest known one."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        name, known = str(name), sorted(map(str, known))
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
        super().__init__(f"unknown {kind} {name!r}: {hint}")
        self.arguments = (kind, name, known)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self.arguments  # as it was made: another process raises it again


class SettingError(FlowstoneError, ValueError):
    """An argument whose value cannot be used."""


class ShapeError(FlowstoneError, ValueError):
    """A tensor whose shape is not the one that was asked for."""


class DataError(FlowstoneError, ValueError):
    """Data that cannot be learned from or scored: missing file, empty table, text in a column, NaN, too few rows."""


class DataWarning(UserWarning):
    """A doubt about data that were read: how they were understood, and which option would read them differently.

    Attributes:
        remedy: as that of a ``FlowstoneError``.
    """

    def __init__(self, problem: str, *, remedy: Mapping[str, Any] | None = None) -> None:
        super().__init__(problem)
        self.problem, self.remedy = problem, dict(remedy or {})

    def __str__(self) -> str:
        return _with_keywords(self.problem, self.remedy)


class CheckpointError(FlowstoneError, ValueError):
    """A run folder that is missing, damaged, foreign or of a newer format."""


class OutputError(FlowstoneError, OSError):
    """A path that cannot be written, or that exists and would be overwritten."""


class NonFiniteError(FlowstoneError, ArithmeticError):
    """A loss or gradient that is NaN or infinite; the message names the step and the first layer that is not finite.

    Attributes:
        history: the History up to there; the flow that was trained holds the best weights so far.
        step: the step of a training in which it was met; None elsewhere.
        rows: the rows with which it was met; None where there are none.
    """

    history: Any = None
    step: int | None = None
    rows: Any = None


class ProcessLostError(FlowstoneError, RuntimeError):
    """Another process of the same training has ended, or does not answer."""


def _with_keywords(problem: str, remedy: Mapping[str, Any]) -> str:
    return problem + ": " * bool(remedy) + ", ".join(f"{name}={value!r}" for name, value in remedy.items())
