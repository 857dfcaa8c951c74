"""How much memory and time a table larger than memory takes: make a Parquet file, train on its first rows, score it.

    python benchmarks/large.py --gigabytes 5

Row groups hold a million rows of columns of float64, random walks from left to right, drawn by the seed. The command
``flowstone score`` runs in a process of its own, whose peak of resident memory the system reports when it ends. The
rate in memory is that of ``Scorer`` for the first 500,000 rows, the median of five calls.
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from measure import machine

GROUP = 1_000_000  # rows
SAMPLE = 100_000  # rows that the density learns from
TIMED = 500_000  # rows that are scored in memory
ROOT = Path(__file__).parents[1]


def draw(rows: int, columns: int, rng: np.random.Generator) -> pa.Table:
    """Rows of random walks, which no encoding makes smaller."""
    values = rng.normal(size=(rows, columns)).cumsum(1)
    return pa.table({f"x{index + 1}": values[:, index] for index in range(columns)})


def make_table(path: Path, size: float, columns: int, seed: int) -> int:
    """Write a Parquet file of at least ``size`` bytes, a row group at a time; the number of its rows."""
    rng, rows = np.random.default_rng(seed), 0
    first = draw(GROUP, columns, rng)
    with pyarrow.parquet.ParquetWriter(path, first.schema, use_dictionary=False) as writer:
        table = first
        while path.stat().st_size < size:
            writer.write_table(table, row_group_size=GROUP)
            rows += GROUP
            table = draw(GROUP, columns, rng)
    return rows


def peak_and_seconds(*words: object) -> tuple[float, float]:
    """Run ``flowstone`` with these words: the peak of its resident memory in MiB, and the seconds it took."""
    command = [sys.executable, "-m", "flowstone", *map(str, words)]
    path = os.pathsep.join(filter(None, [str(ROOT / "src"), os.environ.get("PYTHONPATH")]))
    started = time.perf_counter()
    process = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": path})
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return _mebibytes(usage), time.perf_counter() - started


def rate_in_memory(run: Path, table: Path) -> float:
    """Rows a second at which ``Scorer`` scores rows that were read before."""
    from flowstone.streaming import Scorer

    with pyarrow.parquet.ParquetFile(table) as file:
        rows = file.read_row_group(0).slice(0, TIMED)
    scorer, seconds = Scorer(run), []
    for _ in range(6):
        started = time.perf_counter()
        scorer(rows)
        seconds.append(time.perf_counter() - started)
    return len(rows) / statistics.median(seconds[1:])  # the first call compiles


def _mebibytes(usage: resource.struct_rusage) -> float:
    return usage.ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=5.0, help="the size of the Parquet file")
    parser.add_argument("--columns", type=int, default=10)
    parser.add_argument("--flow", help="the recipe; without it, the command's default")
    parser.add_argument("--steps", type=int, default=300, help="of the training")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where to put the files; they are deleted at the end")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=chosen.folder) as name:
        folder, size = Path(name), int(chosen.gigabytes * 1e9)
        free = shutil.disk_usage(folder).free
        if free < 2.2 * size:
            sys.exit(
                f"{folder}: {free / 1e9:.0f} GB are free, {2.2 * chosen.gigabytes:.0f} are needed: table and output"
            )
        pyarrow.parquet.write_table(
            draw(SAMPLE, chosen.columns, np.random.default_rng(chosen.seed + 1)), folder / "s.parquet"
        )
        how = ["--flow", chosen.flow] if chosen.flow else []
        peak_and_seconds("train", folder / "s.parquet", "--out", folder / "R", "--steps", chosen.steps, "--seed",
                         chosen.seed, "--no-plots", "--quiet", *how)  # fmt: skip
        rows = make_table(folder / "large.parquet", size, chosen.columns, chosen.seed)
        peak, seconds = peak_and_seconds(
            "score", folder / "R", folder / "large.parquet", "--out", folder / "out.parquet"
        )
        scored = pyarrow.parquet.ParquetFile(folder / "out.parquet").metadata.num_rows
        assert scored == rows, f"{scored} rows were scored of {rows}"
        recipe = json.loads((folder / "R" / "flow.json").read_text())["recipe"]
        rate = rate_in_memory(folder / "R", folder / "large.parquet")
        given = (folder / "large.parquet").stat().st_size / 1e9
    print(
        f"{recipe}, {chosen.columns} columns: {given:.2f} GB, {rows:,} rows scored and written in {seconds:.0f} s "
        f"({rows / seconds:,.0f} rows/s; in memory {rate:,.0f} rows/s), peak of resident memory {peak:.0f} MiB; "
        f"seed {chosen.seed}, {machine()}"
    )


if __name__ == "__main__":
    main()
