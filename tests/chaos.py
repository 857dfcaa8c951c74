"""Kill trainings, and see whether anything was lost: make chaos.

    PYTHONPATH=tests python -m chaos --moments 100 --seed 0 [--out FILE]

The command ``flowstone train`` runs in a child that is killed by SIGKILL: once before each operation on a file of its
run folder (open to write, rename, delete, make a folder), and at moments drawn at random, one in four of them in a run
that draws its pictures. Then it is resumed, or begun
anew where the folder is not a run folder yet; every second of the moments kills it again on the way. The end must be
that of an uninterrupted training: the same bytes in ``flow.safetensors``, the same figures, pictures of the same
names, and no temporary file.
"""

# ruff: noqa: T201 (a script prints)

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot
import torch

import flowstone.cli.resume
import flowstone.cli.train
import flowstone.plot
from flowstone.cli import app
from flowstone.runs import Run
from flowstone.train import loop

__all__ = ["Chaos"]

TRAIN = (
    *("train", "../table.csv", "--out", "R", "--flow", "realnvp", "--set", "couplings=2", "hidden=8"),
    *("--batch-size", "64", "--steps", "30", "--validate-every", "10", "--quiet"),
)
RESUME = ("train", "--resume", "--out", "R", "--quiet")
NO_PLOTS = ("--no-plots",)
PRELOADED = (matplotlib.pyplot, flowstone.cli.train, flowstone.cli.resume, flowstone.plot)  # before a fork
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
VARYING = ("seconds", "round_trip_max")  # by the clock


class Chaos:
    """One run, killed in many ways.

    Args:
        base: a folder for the runs.
        plots: whether it draws its pictures.
    """

    def __init__(self, base: Path, *, plots: bool) -> None:
        more = () if plots else NO_PLOTS
        self.base, self.train, self.resume, self.count = base, TRAIN + more, RESUME + more, 0
        rows = (f"{random.Random(row).gauss(0, 1)},{random.Random(-row).gauss(0, 2)}" for row in range(200))
        (base / "table.csv").write_text("\n".join(("a,b", *rows)))
        folder = self._folder()
        started = time.monotonic()
        assert self._child(folder, self.train) == 0, (folder / "said").read_text()
        self.seconds = time.monotonic() - started
        self.whole = self._end(folder)

    def killed_at_operation(self, number: int) -> tuple[str, bool]:
        """What is wrong at the end of a run that is killed before this operation on its files, or an empty text; and
        whether it was killed at all.
        """
        folder = self._folder()
        status = self._child(folder, self.train, before=lambda: _kill_at(number))
        return self._goes_on(folder), status == -signal.SIGKILL

    def killed_at(self, moments: list[float]) -> str:
        """What is wrong at the end of a run that is killed after these seconds, and at its next starts again."""
        folder = self._folder()
        for words, moment in zip((self.train, *[None] * len(moments)), moments, strict=False):
            self._child(folder, words or self._next(folder), after=moment)
        return self._goes_on(folder)

    def _goes_on(self, folder: Path) -> str:
        status = self._child(folder, self._next(folder))
        said = (folder / "said").read_text().strip()
        if status != 0 and "has ended" not in said:
            return f"lost: status {status}: {said}"
        return "" if self._end(folder) == self.whole else "another end"

    def _next(self, folder: Path) -> tuple[str, ...]:
        return self.resume if (folder / "R" / "flow.json").exists() else self.train

    def _folder(self) -> Path:
        self.count += 1
        folder = self.base / str(self.count)
        folder.mkdir()
        return folder

    def _end(self, folder: Path) -> tuple[object, ...]:
        run = Run(folder / "R")
        metrics = {name: value for name, value in run.metrics().items() if name not in VARYING}
        figures = [run.history.column(name) for name in ("step", "train_nll", "val_nll", "grad_norm")]
        names = sorted(str(path.relative_to(folder)) for path in (folder / "R").rglob("*"))
        return (run.folder / "flow.safetensors").read_bytes(), metrics, figures, names

    def _child(
        self, folder: Path, words: tuple[str, ...], before: Callable[[], None] | None = None, after: float | None = None
    ) -> int:
        """Run the command in a child process; its exit status, or minus the signal that ended it."""
        pid = os.fork()
        if pid == 0:
            _become(folder, words, before)
        if after is not None:
            time.sleep(after)
            os.kill(pid, signal.SIGKILL)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _become(folder: Path, words: tuple[str, ...], before: Callable[[], None] | None) -> None:
    """In the child: run the command and end."""
    status = 1
    try:
        os.chdir(folder)
        said = os.open("said", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(said, 1)
        os.dup2(said, 2)
        loop.SAVE_EVERY = 0.0
        if before is not None:
            before()
        app(words, result_action="return_value")
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def _kill_at(number: int) -> None:
    """Let this process be killed before its operation of that number on a file of the run folder."""
    count, inside = 0, str(Path("R").resolve())

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal count
        if event == "open":
            concerned = isinstance(arguments[2], int) and arguments[2] & WRITES
        else:
            concerned = event in (
                "os.rename",
                "os.remove",
                "os.mkdir",
                "os.rmdir",
                "os.link",
                "os.chmod",
                "os.truncate",
            )
        if concerned and isinstance(arguments[0], str | os.PathLike) and _within(arguments[0], inside):
            count += 1
            if count == number:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def _within(path: str | os.PathLike[str], folder: str) -> bool:
    return os.path.abspath(path).startswith(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--moments", type=int, default=100, help="how many runs are killed at random moments")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the figures as JSON")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rng, problems, operations, kills = random.Random(options.seed), [], 0, 0
    with tempfile.TemporaryDirectory() as plain, tempfile.TemporaryDirectory() as drawn:
        chaos, with_pictures = Chaos(Path(plain), plots=False), Chaos(Path(drawn), plots=True)
        print(f"a run takes {chaos.seconds:.2f} s, with pictures {with_pictures.seconds:.2f} s", flush=True)
        killed = True
        while killed:
            problem, killed = chaos.killed_at_operation(operations + 1)
            operations, kills = operations + killed, kills + killed
            problems += [f"operation {operations}: {problem}"] if problem else []
        print(f"killed before each of {operations} operations on files", flush=True)
        for index in range(options.moments):
            each = with_pictures if index % 4 == 3 else chaos
            moments = [rng.uniform(0, each.seconds) for _ in range(1 + index % 2)]
            kills += len(moments)
            if problem := each.killed_at(moments):
                problems.append(f"after {moments} s: {problem}")
    for problem in problems:
        print(problem)
    print(f"{operations} operations, {options.moments} random moments, {kills} kills: {len(problems)} not as they were")
    if options.out is not None:
        figures = {"operations": operations, "moments": options.moments, "kills": kills, "seed": options.seed}
        options.out.write_text(json.dumps(figures | {"problems": problems, "torch": torch.__version__}))
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
