"""How the benchmarks measure, and how they write what they found: times, memory, the machine, sections of pages.

Whatever is compared runs in turn, block by block, so that a machine which is slower for a while is slower for all. The
ratios of neighbouring blocks are then steadier than the times themselves.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

RESULTS = Path(__file__).parents[1] / "docs" / "results.md"
SPEED = Path(__file__).parent / "RESULTS.md"

K = TypeVar("K")
T = TypeVar("T")
Timer = Callable[[int], Sequence[float]]  # makes so many calls of something, and returns the milliseconds of each


# --- time -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Spread:
    """The median, least and largest of several numbers; ``f"{spread:.1f}"`` is ``"2.0 (1.0 – 3.0)"``."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, numbers: Sequence[float]) -> "Spread":
        return cls(statistics.median(numbers), min(numbers), max(numbers))

    def __format__(self, spec: str) -> str:
        return f"{self.median:{spec}} ({self.least:{spec}} – {self.most:{spec}})"


def ratios(times: Sequence[float], others: Sequence[float]) -> Spread:
    """Each time divided by the one of ``others`` that was measured beside it."""
    return Spread.of([a / b for a, b in zip(times, others, strict=True)])


def timed(function: Callable[[], object], calls: int) -> list[float]:
    """The milliseconds of each of so many calls, one after the other."""
    times = []
    for _ in range(calls):
        started = time.perf_counter()
        function()
        times.append(1e3 * (time.perf_counter() - started))
    return times


def interleaved(rounds: int, **functions: Callable[[], object]) -> dict[str, list[float]]:
    """The milliseconds of one call of each function, in turn, ``rounds`` times; a tenth as many warm it up."""
    timers = {name: lambda calls, function=function: timed(function, calls) for name, function in functions.items()}
    for timer in timers.values():
        timer(max(1, rounds // 10))
    return _in_rounds(rounds, timers, dict.fromkeys(timers, 1), pause=0.0)


def interleaved_blocks(
    rounds: int, timers: Mapping[str, Timer], *, seconds: float = 0.3, pause: float = 0.03, most: int = 200
) -> dict[str, list[float]]:
    """The median milliseconds of a block of calls of each timer, in turn, ``rounds`` times.

    A block takes about ``seconds``, but makes at least one call and at most ``most``. The ``pause`` before it is for
    the threads of the block before, which wait actively for a while.
    """
    calls = {}
    for name, timer in timers.items():
        timer(2)  # what compiles does so now
        calls[name] = max(1, min(most, round(1e3 * seconds / statistics.median(timer(3)))))
    return _in_rounds(rounds, timers, calls, pause)


def _in_rounds(
    rounds: int, timers: Mapping[str, Timer], calls: Mapping[str, int], pause: float
) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in timers}
    for _ in range(rounds):
        for name, timer in timers.items():
            time.sleep(pause)
            times[name].append(statistics.median(timer(calls[name])))
    return times


# --- processes --------------------------------------------------------------------------------------------------------


class Worker:
    """A script's process that makes calls when it is told to: a ``Timer``, whose own side is ``answer``.

    Attributes:
        greeting: the first line that it printed, read as JSON; None where it failed before that.
    """

    def __init__(self, script: str, *words: object, environment: Mapping[str, str]) -> None:
        command = [sys.executable, script, *map(str, words)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.greeting = self._read()

    def __call__(self, calls: int) -> list[float]:
        """The milliseconds of so many calls; none where the process has failed."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(f"{calls}\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            return []
        return self._read() or []

    def close(self) -> None:
        """End the process and wait for it."""
        self.process.communicate()

    def _read(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        return json.loads(line) if line else None


def answer(greeting: object, call: Callable[[], object] | None) -> None:
    """The side of ``Worker`` in the process: print the greeting, then, for each number read, times of so many calls."""
    print(json.dumps(greeting), flush=True)
    if call is not None:
        for line in sys.stdin:
            print(json.dumps(timed(call, int(line))), flush=True)


def run_alone(script: str, *words: object, environment: Mapping[str, str] | None = None, check: bool = True) -> Any:
    """The last line that a script prints in a process of its own, read as JSON.

    Where it prints nothing: an error with ``check``, None without.
    """
    command = [sys.executable, script, *map(str, words)]
    done = subprocess.run(command, check=check, stdout=subprocess.PIPE, text=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1]) if done.stdout else None


# --- memory -----------------------------------------------------------------------------------------------------------


def peak_growth(function: Callable[[], object]) -> float:
    """MiB by which the memory of this process peaks during the call above what it was before (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far, which was that of importing torch
    before = _status("VmRSS")
    kept = function()  # the kernel counts what is freed at once too late
    peak = _status("VmHWM")
    del kept
    return peak - before


def _status(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


# --- pages ------------------------------------------------------------------------------------------------------------


def machine() -> str:
    """The kind of processor and the version of torch; nothing that tells one machine from another of its kind."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    model = next((line.split(":")[1].strip() for line in lines if "model name" in line), platform.processor())
    return f"{os.cpu_count()} cores of {model}, CPU, torch {version('torch').split('+')[0]}"


def measured(path: Path, outcome: type[T], wanted: Mapping[K, Callable[[], T]], key: Callable[[T], K]) -> list[T]:
    """The outcomes that are wanted, in order: those that a file holds, one JSON object a line, and the others, each of
    which is measured and added to the file, so that an interrupted run continues where it stopped.

    Args:
        outcome: the dataclass of an outcome.
        wanted: how to measure each, by its key.
        key: the key of an outcome.
    """
    lines = path.read_text().splitlines() if path.exists() else []
    done = {key(kept): kept for kept in (outcome(**json.loads(line)) for line in lines)}
    for name, measure in wanted.items():
        if name not in done:
            done[name] = measure()
            line = json.dumps(asdict(done[name]))  # pyright: ignore[reportArgumentType]
            with path.open("a") as file:
                file.write(line + "\n")
            print(line, flush=True)
    return [done[name] for name in wanted]


def write_section(name: str, text: str, page: Path = RESULTS) -> None:
    """Replace the section ``name`` of a page, between its two marks, and leave the rest as it is."""
    begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->\n"
    before, _, rest = page.read_text().partition(begin)
    _, end_mark, after = rest.partition(end)
    if not end_mark:
        raise SystemExit(f"{page} has no section {name!r}")
    page.write_text(f"{before}{begin}\n{text.strip()}\n\n{end}{after}")


def data_folder(given: Path | None) -> Path:
    """The folder ``given``, else the one that FLOWSTONE_DATA names, else the one beside the project."""
    return given or Path(os.environ.get("FLOWSTONE_DATA", RESULTS.parents[2] / "shared" / "data"))
