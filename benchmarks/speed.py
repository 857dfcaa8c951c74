"""Speed and memory beside the plain tutorial design (plain.py), interleaved in one run; a section of RESULTS.md.

    python benchmarks/speed.py

Read the ratios: absolute times depend on the machine and on what else runs on it.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

import flowstone
from flowstone.data import TOYS
from flowstone.execution import fast_few_inputs
from flowstone.train.settings import Settings
from libraries import AsInFit
from measure import SPEED, Spread, interleaved, machine, peak_growth, ratios, run_alone, timed, write_section
from plain import PlainRealNVP

BATCH, ROWS = 512, 100_000
CLIP = Settings().for_data((2,), ROWS).clip


def row(item: str, times: dict[str, list[float]]) -> str:
    ours, plain = times["ours"], times["plain"]
    ratio = ratios(ours, plain).median
    return f"| {item} | {Spread.of(ours):.1f} | {Spread.of(plain):.1f} | **{ratio:.2f}** |"


def training_steps() -> list[str]:
    """One step of the same RealNVP: D = 2, 6 couplings, width 128, batch 512."""
    x = TOYS["moons"](BATCH, torch.Generator().manual_seed(0))
    plain, ours = PlainRealNVP(), flowstone.realnvp(2, couplings=6, hidden=(128, 128))
    plain_adam = torch.optim.Adam(plain.parameters())
    adam = AsInFit(ours, 1e-3)
    array = adam.flat.array
    averages = array.detach().clone()

    faster = fast_few_inputs(ours)

    def step() -> None:
        adam.zero_grad()
        with faster:
            (-ours.log_prob(x).mean()).backward()
        adam.step()

    def fit_step() -> None:
        """The step of ``fit``: it also clips the gradient, averages the weights and reads the loss."""
        adam.zero_grad()
        with faster:
            loss = -ours.log_prob(x).mean()
            loss.backward()
        torch.nn.utils.clip_grad_norm_(array, CLIP).item()
        adam.step()
        averages.lerp_(array.detach(), 0.01)
        loss.item()

    def plain_step() -> None:
        plain_adam.zero_grad()
        (-plain.log_prob(x).mean()).backward()
        plain_adam.step()

    counts = [sum(p.numel() for p in flow.parameters()) for flow in (ours, plain)]
    label = f"train step, D=2, 6 couplings, width 128, batch {BATCH} ({counts[0]:,} / {counts[1]:,} parameters)"
    return [
        row(label, interleaved(200, ours=step, plain=plain_step)),
        row(
            "the same with clipping and averaged weights, as in `fit`",
            interleaved(200, ours=fit_step, plain=plain_step),
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
    """Default training on moons, less what the true density misses its entropy by on the same held-out points."""
    moons = TOYS["moons"]
    validation = moons(20_000, torch.Generator().manual_seed(1))
    chance = -moons.log_prob(validation).mean().item() - moons.entropy
    lines = []
    for seed in (0, 1, 2):
        torch.manual_seed(seed)
        flow = flowstone.recipes.build(flowstone.recipes.DEFAULT, {"features": 2})
        history = flowstone.fit(flow, moons, validation=validation, seed=seed, validate_every=20, progress=False)
        reached = next((r.seconds for r in history if r.val_nll - chance <= 1.16), float("nan"))
        last = history.records[-1]
        lines.append(f"| {seed} | {reached:.1f} | {last.seconds:.1f} | {history.best.val_nll - chance:.4f} |")
    return lines


def sampling_growth(n: int) -> None:
    """Print by how many MiB drawing ``n`` points raises the peak of the process, and how many MiB they take."""
    flow = flowstone.recipes.build(flowstone.recipes.DEFAULT, {"features": 2})
    flow.sample(5000, seed=0)
    print(json.dumps([peak_growth(lambda: flow.sample(n, seed=0)), n * 8 / 2**20]))


def memory() -> list[str]:
    lines = []
    for n in (10_000, 100_000, 1_000_000, 4_000_000):
        growth, result = run_alone(__file__, "memory", n)
        lines.append(f"| {n:,} | {result:.1f} | {growth:.1f} |")
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
    times = timed(lambda: subprocess.run(command, check=True, capture_output=True), 12)[1:]  # the first reads the disk
    return f"{Spread.of([milliseconds / 1e3 for milliseconds in times]):.2f}"


PAGE = """\
## Beside a plain design

Machine: {machine}; {threads} thread for the first table; medians (least – most) in milliseconds. *Plain* is RealNVP as
tutorials write it (`benchmarks/plain.py`): two full-width nets, binary masks, default Adam. *Ratio*: Flowstone's time
divided by that of the plain flow, the median over neighbouring runs; below 1 Flowstone is faster. Numbers of parameters
are those of Flowstone and of the plain flow.

| item | Flowstone | plain | ratio |
|---|---|---|---|
{steps}

The same on two threads:

| item | Flowstone | plain | ratio |
|---|---|---|---|
{two}

### Default training on moons

Seconds of training until the held-out NLL is 1.16 nats, and the best NLL of the whole default run. The entropy is
1.1312; the difference between the true density's NLL on the 20,000 held-out points and the entropy is subtracted from
both figures. Seconds include a validation every 20 steps.

| seed | seconds to 1.16 | seconds in all | best NLL |
|---|---|---|---|
{learning}

### Memory of sampling

*Growth*: by how much the peak memory of the process exceeds its memory before the sampling (Linux); *result*: the size
of the samples.

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
    if sys.argv[1:2] == ["memory"]:
        sampling_growth(int(sys.argv[2]))
        return
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
