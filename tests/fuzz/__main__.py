"""Run the cases and tally how they end: see the package's docstring."""

# ruff: noqa: T201 (a script prints)

import argparse
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from flowstone.bars import counting_bar
from fuzz.base import make_base
from fuzz.worker import MEMORY, work

SECONDS = 60  # for one case
KINDS = ("traceback", "crash", "hang", "half-written", "memory", "lines", "status")


class Worker:
    """A process that runs cases; it is started anew after one that it did not survive."""

    def __init__(self, seed: int, base: Path, folder: Path, keep: bool) -> None:
        self.arguments = (seed, base, folder, keep)
        self.process: Any = None

    def start(self) -> Any:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=work, args=(theirs, *self.arguments), daemon=True)
        self.process.start()
        theirs.close()
        return self.process

    def run(self, number: int) -> dict[str, Any]:
        process = self.process or self.start()
        self.connection.send(number)
        try:
            if self.connection.poll(SECONDS):
                return self.connection.recv()
            problem = f"hang: no end after {SECONDS} s"
        except EOFError:
            process.join()
            problem = f"crash: the process ended with {process.exitcode}"
        process.kill()
        process.join()
        self.process = None
        return {"number": number, "words": [], "status": None, "said": "", "problems": [problem], "grown": 0}

    def end(self) -> None:
        if self.process is not None:
            self.connection.send(None)
            self.process.join()


def results(numbers: list[int], workers: int, seed: int, place: Path, keep: bool) -> Iterator[dict[str, Any]]:
    numbered, waiting = count(), iter(numbers)

    def one(number: int) -> dict[str, Any]:
        worker = free.pop()
        try:
            return worker.run(number)
        finally:
            free.append(worker)

    free = [Worker(seed, place / "base", place / f"worker-{next(numbered)}", keep) for _ in range(workers)]
    made = list(free)
    with ThreadPoolExecutor(workers) as pool:
        yield from pool.map(one, waiting)
    for worker in made:
        worker.end()


def show(found: list[dict[str, Any]], seconds: float) -> None:
    kinds = Counter(problem.partition(":")[0] for each in found for problem in each["problems"])
    statuses = Counter(each["status"] for each in found)
    ends = ", ".join(f"{statuses[status]} with {status}" for status in sorted(statuses, key=str))
    print(f"{len(found)} cases in {seconds:.0f} s: {ends}")
    print(", ".join(f"{kind} {kinds[kind]}" for kind in KINDS))
    print(f"most memory of a case: {max(each['grown'] for each in found) >> 20} MB of {MEMORY >> 20}")
    commands = Counter(each["words"][0] if each["words"] else "nothing" for each in found)
    print("commands: " + ", ".join(f"{name[:20]!r} {number}" for name, number in commands.most_common(9)))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m fuzz")
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", type=int, nargs="+", help="cases to run again, whose files are kept")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    numbers = options.only or list(range(options.first, options.first + options.cases))
    place, begin, found = Path(tempfile.mkdtemp(prefix="flowstone-fuzz-")), time.perf_counter(), []
    make_base(place / "base")
    with counting_bar("cases", len(numbers), enabled=True) as advance:
        for each in results(numbers, options.workers, options.seed, place, bool(options.only)):
            found.append(each)
            advance(1)
            for problem in each["problems"]:
                print(f"case {each['number']}: {' '.join(each['words'])[:300]!r}\n    {problem}", flush=True)
            if options.only:
                print(f"case {each['number']}: {each['words']}\n    {each['status']} {each['said']}")
    show(found, time.perf_counter() - begin)
    if options.out:
        options.out.write_text(json.dumps({"seed": options.seed, "cases": found}, indent=1))
    if options.only:
        print(f"the files are in {place}")
    else:
        shutil.rmtree(place, ignore_errors=True)
    sys.exit(any(each["problems"] for each in found))


if __name__ == "__main__":
    main()
