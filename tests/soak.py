"""Do everything again and again in one process, and see whether anything grows or changes: make soak.

    PYTHONPATH=tests python -m soak --minutes 20 --seed 0 [--out FILE]

A turn trains a small flow with its state in a folder, continues that finished training in a new flow, saves it, loads
it, scores, samples and evaluates; then it learns a small table of mixed columns and does the same. After each turn the
resident memory, the open files and a digest of all numbers are noted. ``problems`` judges the series.
"""

# ruff: noqa: T201 (a script prints)

import argparse
import json
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import linear_regression
from typing import Any, NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pyarrow as pa
import torch
from torch import Tensor

import flowstone
from flowstone.bars import counting_bar
from flowstone.digest import digest_of

__all__ = ["Measured", "after_warm_up", "problems", "slope", "turn"]

MOST_GROWTH = 1.0  # MB of memory in a minute
FEWEST = 8  # turns that can be judged
ROWS, STEPS = 400, 40
TRAINING: Mapping[str, Any] = {"steps": STEPS, "batch_size": 64, "validate_every": 20, "progress": False}


class Measured(NamedTuple):
    """What is noted after a turn: its end in seconds from the start, memory in MB, open files, a digest of numbers."""

    seconds: float
    memory: float
    handles: int
    digest: str


def after_warm_up(series: Sequence[Measured]) -> Sequence[Measured]:
    """The turns that end after the first quarter of the time."""
    first, last = series[0].seconds, series[-1].seconds
    return [each for each in series if each.seconds > first + (last - first) / 4]


def slope(series: Sequence[Measured]) -> float:
    """The growth of the memory in MB in a minute: the slope of the line of least squares."""
    minutes = [each.seconds / 60 for each in series]
    return linear_regression(minutes, [each.memory for each in series]).slope


def problems(series: Sequence[Measured]) -> list[str]:
    """What is wrong with a series of turns, one line each.

    Memory may grow by ``MOST_GROWTH`` after the first quarter of the time, the turns after it may have no more open
    files than those in it, and each turn has the numbers of the first.
    """
    if len(series) < FEWEST:
        return [f"turns: {len(series)} are too few to judge; {FEWEST} are needed"]
    later, found = after_warm_up(series), []
    warm_up = series[: len(series) - len(later)]
    if (growth := slope(later)) > MOST_GROWTH:
        found.append(f"memory: it grows by {growth:.2f} MB in a minute; at most {MOST_GROWTH} is allowed")
    before, after = (max(each.handles for each in part) for part in (warm_up, later))
    if after > before:
        found.append(f"open files: {after} at most after the warm-up, {before} at most in it")
    other = [number for number, each in enumerate(series, start=1) if each.digest != series[0].digest]
    if other:
        found.append(f"numbers: those of {len(other)} turns are not those of the first, as of turn {other[0]}")
    return found


def turn(folder: Path, seed: int) -> str:
    """Train, save, load, score, sample and evaluate; the digest of all numbers."""
    return digest_of({}, {**flow_turn(folder / "flow", seed), **table_turn(folder / "table", seed)})


def flow_turn(folder: Path, seed: int) -> dict[str, Tensor]:
    """A flow of numbers: its numbers by name."""
    x = torch.randn(ROWS, 3, generator=torch.Generator().manual_seed(seed))
    x[:, 1] += x[:, 0].square()
    torch.manual_seed(seed)
    flows = [flowstone.realnvp(3, couplings=2, hidden=(16,)) for _ in range(2)]
    for flow in flows:  # the second continues the finished training of the first
        flowstone.fit(flow, x, seed=seed, resume=folder / "resume", **TRAINING)
    flowstone.save(flows[1], folder)
    loaded = flowstone.load(folder)
    torch.manual_seed(seed)
    figures = flowstone.evaluate(loaded, x)
    return {
        **{f"weights {name}": value for name, value in loaded.state_dict().items()},
        "flow scores": loaded.log_prob(x).detach(),
        "flow samples": loaded.sample(ROWS),
        "figures": torch.tensor([value for value in figures.values() if isinstance(value, float)], dtype=torch.float64),
    }


def table_turn(folder: Path, seed: int) -> dict[str, Tensor]:
    """A table of mixed columns with gaps: its numbers by name."""
    noise = torch.randn(ROWS, generator=torch.Generator().manual_seed(seed)).tolist()
    table = pa.table(
        {
            "height": [None if number % 17 == 0 else 170 + 10 * value for number, value in enumerate(noise)],
            "group": ["a" if value > 0 else "b" for value in noise],
            "count": [round(abs(3 * value)) for value in noise],
        }
    )
    model = flowstone.learn(table, seed=seed, **TRAINING)
    model.save(folder)
    loaded = flowstone.TableModel.load(folder)
    drawn = loaded.sample(ROWS, seed=seed)
    return {
        "table scores": torch.from_numpy(loaded.log_prob(table)),
        "table samples": loaded.encode(drawn),
        "filled gaps": loaded.encode(loaded.impute(table.slice(0, 40), seed=seed)),
    }


def memory() -> float:
    """The resident memory of this process in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / 1024


def handles() -> int:
    """How many files this process has open."""
    return len(os.listdir("/proc/self/fd"))


def soak(minutes: float, seed: int) -> list[Measured]:
    """Turns until the minutes are over."""
    series, started = [], time.monotonic()
    with counting_bar("seconds", round(minutes * 60)) as advance:
        shown = 0.0
        while shown < minutes * 60:
            with tempfile.TemporaryDirectory(prefix="flowstone-soak-") as folder:
                digest = turn(Path(folder), seed)
            seconds = time.monotonic() - started
            series.append(Measured(seconds, memory(), handles(), digest))
            advance(round(seconds) - round(shown))
            shown = seconds
    return series


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the series as JSON")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", UserWarning)  # so short a training says that it has not learned much
    series = soak(options.minutes, options.seed)
    found = problems(series)
    for problem in found:
        print(problem)
    if len(series) >= FEWEST:
        later = after_warm_up(series)
        print(
            f"{len(series)} turns in {series[-1].seconds:.0f} s, seed {options.seed}: "
            f"memory {later[0].memory:.0f} MB after the warm-up, {series[-1].memory:.0f} MB at the end, "
            f"slope {slope(later):+.3f} MB/min; open files {series[0].handles} after the first turn, "
            f"{max(each.handles for each in series)} at most; {len({each.digest for each in series})} digests"
        )
    if options.out is not None:
        figures = {"seed": options.seed, "torch": torch.__version__, "problems": found}
        options.out.write_text(json.dumps(figures | {"turns": [each._asdict() for each in series]}, indent=1))
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
