"""What may notice a mutant: laws over cases, properties, examples in docstrings."""

import doctest
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import FrameType, ModuleType
from typing import Any

import torch

from cases import CASES
from flowstone.testing import LAWS, Case
from mutation.formulas import MORE_CASES, MORE_LAWS
from mutation.mutants import MODULES, Mutant
from mutation.properties import PROPERTIES

__all__ = ["Check", "all_checks"]

EVERY = CASES | MORE_CASES
SEED = 0

Law = Callable[[Case, int, float], None]

FIRST = ("round_trip", "log_dets_cancel", "log_det_of_jacobian", "triangular", "shapes", "rows_do_not_mix")
GRADIENTS, DEVICE = ("gradients_are_finite",), ("device_follows",)
LATER = ("gradients_are_finite", "precision_follows", "saved_is_loaded", "copies_are_apart")
IN_FLOAT32 = ("round_trip", "log_dets_cancel", "rows_do_not_mix", "gradients_are_finite")


@dataclass
class Check:
    """Something that may notice a mutant: a law over a case, a property, an example."""

    law: str
    run: Callable[[], object]
    reach: frozenset[tuple[str, int]] = field(default=frozenset(), repr=False)
    dtype: torch.dtype = torch.float64

    def fails(self) -> str | None:
        """The law that fails, or "an exception"; None if the check passes."""
        torch.manual_seed(SEED)
        torch.set_default_dtype(self.dtype)
        try:
            self.run()
        except AssertionError:
            return self.law
        except Exception:
            return "an exception"
        return None

    def touches(self, mutant: Mutant) -> bool:
        return any((mutant.file, line) in self.reach for line in mutant.lines)


FILES = {str(module.__file__) for module in MODULES}


def reached(run: Callable[[], object]) -> frozenset[tuple[str, int]]:
    """The lines of the mutated modules that ``run`` executes."""
    lines: set[tuple[str, int]] = set()

    def trace(frame: FrameType, event: str, _: object):
        if frame.f_code.co_filename not in FILES:
            return None
        if event == "line":
            lines.add((frame.f_code.co_filename, frame.f_lineno))
        return trace

    sys.settrace(trace)
    try:
        run()
    finally:
        sys.settrace(None)
    return frozenset(lines)


def by_size() -> list[str]:
    """The cases, the simplest first: a mutant of theirs is noticed there soonest."""
    return sorted(EVERY, key=lambda name: sum(1 for _ in EVERY[name].bijection().modules()))


def named(names: Iterable[str]) -> dict[str, Law]:
    return {name: LAWS[name] for name in names}


def over_cases(
    laws: Mapping[str, Law], spreads: Iterable[float], reach: dict[str, frozenset], **more
) -> Iterator[Check]:
    for name in by_size():
        for spread in spreads:
            for name_of_law, law in laws.items():
                yield Check(name_of_law, partial(law, EVERY[name], SEED, spread), reach[name], **more)


def example(thing: Any, module: ModuleType) -> Check:
    tests = doctest.DocTestFinder(recurse=False).find(thing, thing.__name__, globs={})

    def run() -> None:
        for test in tests:
            test.globs = dict(vars(module))
            runner = doctest.DocTestRunner(verbose=False)
            assert not runner.run(test, out=lambda _: None, clear_globs=False).failed

    return Check("documented example", run, reached(run), torch.float32)


def examples() -> Iterator[Check]:
    for module in MODULES:
        for name in getattr(module, "__all__", ()):
            if ">>>" in (getattr(module, name).__doc__ or ""):
                yield example(getattr(module, name), module)


def all_checks() -> list[Check]:
    """In the order in which they are tried: what is quick and notices most comes first."""
    torch.set_default_dtype(torch.float64)
    reach = {name: reached(partial(run_laws, name)) for name in EVERY}
    return [
        *over_cases(named(FIRST), (1.0,), reach),
        *over_cases({law.__name__: law for law in MORE_LAWS}, (1.0,), reach),
        *(Check("property", run, reached(run)) for run in PROPERTIES.values()),
        *over_cases(named(GRADIENTS), (1.0,), reach),
        *over_cases(named(FIRST), (0.1, 30.0), reach),
        *examples(),
        *over_cases(named(LATER), (3.0,), reach),
        *over_cases(named(IN_FLOAT32), (1.0,), reach, dtype=torch.float32),
        *over_cases(named(DEVICE), (1.0,), reach),
    ]


def run_laws(name: str) -> None:
    """Run everything that a law may call."""
    for law in ("shapes", "round_trip", *LATER, *DEVICE):
        LAWS[law](EVERY[name], SEED, 3.0)
