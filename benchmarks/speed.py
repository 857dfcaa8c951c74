"""Speed and memory beside the plain tutorial design (plain.py), interleaved in one run; a section of RESULTS.md.

    python benchmarks/speed.py

Read the ratios: absolute times depend on the machine and on its neighbours.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

import flowstone
from flowstone.data import TOYS
from flowstone.train.settings import Settings
from libraries import AsInFit
from plain import PlainRealNVP
from results import SPEED, machine, write_section

BATCH, ROWS = 512, 100_000
CLIP = Settings().for_data((2,), ROWS).clip


def interleaved(runs: int, **things: Callable[[], object]) -> dict[str, list[float]]:
    """Milliseconds of each thing, in turn, ``runs`` times after a tenth of that as warm-up."""
    times: dict[str, list[float]] = {name: [] for name in things}
    for index in range(runs + max(1, runs // 10)):
        for name, thing in things.items():
            started = time.perf_counter()
            thing()
            if index >= max(1, runs // 10):
                times[name].append(1e3 * (time.perf_counter() - started))
    return times


def row(item: str, times: dict[str, list[float]]) -> str:
    ours, plain = times["ours"], times["plain"]
    ratio = statistics.median(a / b for a, b in zip(ours, plain, strict=True))
    cells = [f"{statistics.median(t):.1f} ({min(t):.1f} – {max(t):.1f})" for t in (ours, plain)]
    return f"| {item} | {cells[0]} | {cells[1]} | **{ratio:.2f}** |"


def training_steps() -> list[str]:
    """One step of the same RealNVP: D = 2, 6 couplings, width 128, batch 512."""
    x = TOYS["moons"](BATCH, torch.Generator().manual_seed(0))
    plain, ours = PlainRealNVP(), flowstone.realnvp(2, couplings=6, hidden=(128, 128))
    plain_adam = torch.optim.Adam(plain.parameters())
    adam = AsInFit(ours, 1e-3)
    array = adam.flat.array
    averages = array.detach().clone()

    def step(flow, optimizer) -> None:
        optimizer.zero_grad()
        (-flow.log_prob(x).mean()).backward()
        optimizer.step()

    def whole_step() -> None:
        """What ``fit`` does beyond that: clipping, the average of weights, a look at the loss."""
        adam.zero_grad()
        loss = -ours.log_prob(x).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(array, CLIP).item()
        adam.step()
        averages.lerp_(array.detach(), 0.01)
        loss.item()

    def plain_step() -> None:
        step(plain, plain_adam)

    counts = [sum(p.numel() for p in flow.parameters()) for flow in (ours, plain)]
    label = f"train step, D=2, 6 couplings, width 128, batch {BATCH} ({counts[0]:,} / {counts[1]:,} parameters)"
    return [
        row(label, interleaved(200, ours=lambda: step(ours, adam), plain=plain_step)),
        row(
            "the same with clipping and averaged weights, as in `fit`",
            interleaved(200, ours=whole_step, plain=plain_step),
        ),
    ]


@torch.no_grad()
def sampling_and_scoring() -> list[str]:
    plain, ours = PlainRealNVP(), flowstone.realnvp(2, couplings=6, hidden=(128, 128))
    x = torch.randn(ROWS, 2)
    return [
        row(
            f"sample {ROWS:,} points", interleaved(10, ours=lambda: ours.sample(ROWS), plain=lambda: plain.sample(ROWS))
        ),
        row(f"score {ROWS:,} points", interleaved(10, ours=lambda: ours.log_prob(x), plain=lambda: plain.log_prob(x))),
    ]


def on_two_threads() -> list[str]:
    torch.set_num_threads(2)
    try:
        return training_steps() + sampling_and_scoring()
    finally:
        torch.set_num_threads(1)


def time_to_learn() -> list[str]:
    """Default training on moons; the gap to the true density on the same points, so that their luck cancels."""
    moons = TOYS["moons"]
    validation = moons(20_000, torch.Generator().manual_seed(1))
    floor = -moons.log_prob(validation).mean().item()
    lines = []
    for seed in (0, 1, 2):
        torch.manual_seed(seed)
        flow = flowstone.recipes.build(flowstone.recipes.DEFAULT, {"features": 2})
        history = flowstone.fit(flow, moons, validation=validation, seed=seed, validate_every=20, progress=False)
        luck = moons.entropy - floor
        reached = next((r.seconds for r in history if r.val_nll + luck <= 1.16), float("nan"))
        last = history.records[-1]
        lines.append(f"| {seed} | {reached:.1f} | {last.seconds:.1f} | {history.best.val_nll + luck:.4f} |")
    return lines


MEMORY = """
import sys, flowstone
from pathlib import Path

def kilobytes(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1])

flow = flowstone.recipes.build(flowstone.recipes.DEFAULT, {"features": 2})
flow.sample(5000, seed=0)
Path("/proc/self/clear_refs").write_text("5")  # the peak so far was that of importing torch
before, n = kilobytes("VmRSS"), int(sys.argv[1])
flow.sample(n, seed=0)
print((kilobytes("VmHWM") - before) / 1024, n * 8 / 2**20)
"""


def memory() -> list[str]:
    lines = []
    for n in (10_000, 100_000, 1_000_000, 4_000_000):
        words = [sys.executable, "-c", MEMORY, str(n)]
        grown, result = map(float, subprocess.run(words, check=True, capture_output=True, text=True).stdout.split())
        lines.append(f"| {n:,} | {result:.1f} | {grown:.1f} |")
    return lines


def start_up() -> list[str]:
    """Seconds of whole processes: the help, the import, a sample from a run folder."""
    command_line = str(Path(sys.executable).parent / "flowstone")
    with tempfile.TemporaryDirectory() as folder:
        run, out = f"{folder}/run", f"{folder}/sample.csv"
        training = ["train", "moons", "--steps", "20", "--out", run, "--no-plots"]
        subprocess.run([command_line, *training], check=True, capture_output=True)
        commands = {
            "`flowstone --help`": [command_line, "--help"],
            '`python -c "import torch"`, for comparison': [sys.executable, "-c", "import torch"],
            '`python -c "import flowstone"`': [sys.executable, "-c", "import flowstone"],
            "`flowstone sample RUN -n 10 --out sample.csv`": [command_line, "sample", run, "-n", "10", "--out", out],
        }
        return [f"| {title} | {_seconds(command)} |" for title, command in commands.items()]


def _seconds(command: list[str]) -> str:
    times = []
    for _ in range(12):
        started = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        times.append(time.perf_counter() - started)
    times = times[1:]  # what was read from the disk once is in memory
    return f"{statistics.median(times):.2f} ({min(times):.2f} – {max(times):.2f})"


PAGE = """\
## Beside a plain design

{machine}; {threads} thread for the first table; medians (least – most) in
milliseconds. *Plain* is RealNVP as tutorials write it (`benchmarks/plain.py`): two full-width nets, binary masks,
default Adam. The ratio is the median of ratios of neighbouring runs; below 1 Flowstone is faster.

| item | Flowstone | plain | ratio |
|---|---|---|---|
{steps}

The same on two threads:

| item | Flowstone | plain | ratio |
|---|---|---|---|
{two}

### Default training on moons

Seconds of training until the held-out NLL is 1.16 nats, and the best NLL of the whole default run. The entropy is
1.1312; the luck of the 20,000 held-out points is taken out with the true density. Seconds include a validation
every 20 steps.

| seed | seconds to 1.16 | seconds in all | best NLL |
|---|---|---|---|
{learning}

### Memory of sampling

By how much the process's memory peaks above what it had before (Linux), against the size of the result.

| samples | result, MiB | growth, MiB |
|---|---|---|
{memory}

### Start-up

Seconds of a whole process, of 11 runs: median (least – most).

| command | seconds |
|---|---|
{start_up}
"""


def main() -> None:
    torch.set_num_threads(1)
    parts = {
        "machine": machine(),
        "threads": torch.get_num_threads(),
        "steps": "\n".join(training_steps() + sampling_and_scoring()),
        "two": "\n".join(on_two_threads()),
        "learning": "\n".join(time_to_learn()),
        "memory": "\n".join(memory()),
        "start_up": "\n".join(start_up()),
    }
    text = PAGE.format(**parts)
    write_section("plain", text, SPEED)
    print(text)


if __name__ == "__main__":
    main()
