"""Train image flows and evaluate them: docs/results.md.

    python benchmarks/images.py [NAME ...] [--data-dir FOLDER] [--runs FOLDER] [--piece MINUTES] [--device DEVICE]

Each run is one ``flowstone train`` with the settings below for so many minutes, then one evaluation on the test part.
A finished run is not repeated, and an interrupted one continues. ``--piece`` stops after so many minutes, for machines
that are available for a short time only: repeat the command until it says that all is done.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from measure import RESULTS, data_folder, machine, write_section

SPLINES = ("--set", "couplings=6", "--precision", "bf16")
FAITHFUL = ("--set", "preset=faithful", "alpha=none", "channels=16", "blocks=1", "--precision", "bf16", "--lr", "5e-4")
COLOUR = ("--set", "scales=3", "couplings=4", "channels=48", "--precision", "bf16", "--flip")


@dataclass(frozen=True)
class Job:
    """One training: the source, the recipe, its other arguments, minutes."""

    source: str
    recipe: str
    arguments: tuple[str, ...]
    minutes: int
    remark: str = ""


JOBS = {
    "mnist": Job("mnist", "realnvp_image", (*SPLINES, "--set", "alpha=1e-6"), 60),
    "fashion-mnist": Job("fashion-mnist", "realnvp_image", (*SPLINES, "--set", "alpha=1e-6"), 35),
    "cifar10": Job("cifar10", "realnvp_image", COLOUR, 90, "59,813 of its 60,000 images"),
    "faces32": Job("faces32", "realnvp_image", COLOUR, 15, "split by person"),
    "faithful-mnist": Job("mnist", "realnvp_image", FAITHFUL, 80),
    "faithful-fashion-mnist": Job("fashion-mnist", "realnvp_image", FAITHFUL, 80),
    "faithful-cifar10": Job("cifar10", "realnvp_image", (*FAITHFUL, "--flip"), 45, "59,813 of its 60,000 images"),
    "nice-mnist": Job("mnist", "nice_image", ("--batch-size", "200", "--lr", "1e-3"), 20),
}
# For a GPU: run only if it is named.
LARGER = "--set scales=3 couplings=6 channels=128 blocks=3 --precision bf16 --flip --batch-size 128 --lr 1e-3"
LARGE = {"cifar10-gpu": Job("cifar10", "realnvp_image", tuple(LARGER.split()), 30, "59,813 of its 60,000 images")}
ALL = JOBS | LARGE
BOUND_SAMPLES = 4


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "flowstone", *words]


def train(job: Job, folder: Path, data: Path, device: str, until: float) -> bool:
    """Start or continue a training until it ends, or until the time ``until``; returns whether it has ended."""
    if (folder / "metrics.json").exists():
        return True
    arguments = [
        "train",
        job.source,
        "--flow",
        job.recipe,
        *job.arguments,
        "--minutes",
        str(job.minutes),
        "--seed",
        "0",
    ]
    arguments += ["--data-dir", str(data), "--device", device, "--out", str(folder)]
    resume = ["--resume"] if (folder / "flow.json").exists() else []
    process = subprocess.Popen(command(*arguments, *resume))
    try:
        process.wait(max(1.0, until - time.monotonic()) if until else None)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)  # it stores its state
        process.wait()
    return (folder / "metrics.json").exists()


def evaluated(folder: Path, data: Path, device: str) -> dict[str, Any]:
    """The figures of metrics.json, and under ``tighter`` those by more draws of the noise, computed once."""
    kept = folder / "bound.json"
    if not kept.exists():
        words = ("evaluate", str(folder), "--bound-samples", str(BOUND_SAMPLES), "--json")
        words += ("--data-dir", str(data), "--device", device)
        kept.write_text(subprocess.run(command(*words), check=True, capture_output=True, text=True).stdout)
    return json.loads((folder / "metrics.json").read_text()) | {"tighter": json.loads(kept.read_text())}


def row(name: str, job: Job, figures: dict[str, Any]) -> str:
    tighter = figures["tighter"]
    settings = " ".join(job.arguments).replace("--set ", "").replace("--", "")
    cells = [
        name + (f" ({job.remark})" if job.remark else ""),
        f"`{job.recipe}` {settings}",
        f"{figures['parameters']:,}",
        f"{figures['seconds']:.0f}",
        f"{figures['steps']:,}",
        f"{figures['bits_per_dim']:.4f} ± {figures['bits_per_dim_stderr']:.4f}",
        f"{tighter['bits_per_dim']:.4f} ± {tighter['bits_per_dim_stderr']:.4f}",
        f"{figures['nll_nats']:.1f}",
        f"{figures['nll_nats'] / figures['bits_per_dim'] * 8 - figures['nll_nats']:.1f}",
    ]
    return "| " + " | ".join(cells) + " |"


def picture(name: str, folder: Path) -> str:
    """Copy the run's samples to the page's images; returns the lines of the page that show them."""
    file = RESULTS.parent / "images" / f"{name}-samples.png"
    drawn = folder / "plots" / "temperatures.png"
    if drawn.exists():
        shutil.copyfile(drawn, file)
    return f"Samples of {name} at three temperatures:\n\n![samples of {name}](images/{file.name})"


def written() -> dict[str, str]:
    """The rows that the page has already: those of runs whose folders are not on this machine stay."""
    lines = [line for line in RESULTS.read_text().splitlines() if "_image`" in line and line.startswith("| ")]
    return {name: line for line in lines if (name := line.split()[1]) in ALL}


HEAD = """## Images

    python benchmarks/images.py

Bits/dim are those of the test part, which is used once, after the training. They are of the integers 0 … 255,
dequantized by uniform noise, per dimension of the data's own size (padding does not count): the mean over the images ±
its standard error, as a bound from one draw of the noise, and as the tighter bound from {draws} draws. *Nats*: the NLL
of a whole image of integers, by one draw. *Log-likelihood*: that of a whole image with pixels in [0, 1], the convention
of NICE's paper, which adds D ln 256. Seconds are those of the training with its validations; other work ran on the same
two cores, and a quiet machine takes more steps. The flows `faithful-…` are small ones of the published design, without
the logit, and were trained on one thread (`OMP_NUM_THREADS=1`). Machine: {machine}.

Published: RealNVP 1.06 (MNIST) and 3.49 bits/dim (CIFAR-10), Glow 1.05 and 3.35, NICE a log-likelihood of 1980.50 nats
(MNIST, 1500 epochs), all on GPUs.

| set | flow | parameters | seconds | steps | bits/dim, 1 draw | bits/dim, {draws} draws | nats | log-likelihood |
|---|---|---|---|---|---|---|---|---|
"""


def main() -> None:
    """Run what is missing, then write the section."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(ALL)}; without one, those for two cores")
    parser.add_argument("--data-dir", type=Path, default=None)
    parser.add_argument("--runs", type=Path, default=Path("runs/results"))
    parser.add_argument("--piece", type=float, default=None, metavar="MINUTES")
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.names if name not in ALL]
    if unknown:
        raise SystemExit(f"no job {unknown[0]!r}; there are {', '.join(ALL)}")
    data = data_folder(arguments.data_dir)
    until = time.monotonic() + 60 * arguments.piece if arguments.piece else 0.0
    arguments.runs.mkdir(parents=True, exist_ok=True)
    for name in arguments.names or JOBS:
        if not train(ALL[name], arguments.runs / name, data, arguments.device, until):
            print(f"{name}: interrupted; repeat the command to continue")
            return
        done = {name: arguments.runs / name for name in ALL if (arguments.runs / name / "metrics.json").exists()}
        mine = {name: row(name, ALL[name], evaluated(folder, data, arguments.device)) for name, folder in done.items()}
        rows = written() | mine
        names = [name for name in ALL if name in rows]
        table = "\n".join(rows[name] for name in names)
        pictures = "\n\n".join(picture(name, arguments.runs / name) for name in names)
        text = HEAD.format(draws=BOUND_SAMPLES, machine=machine()) + table + "\n\n" + pictures
        write_section("images", text)
    print("all done")


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", str(os.cpu_count()))
    main()
