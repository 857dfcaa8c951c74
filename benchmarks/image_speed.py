"""Training steps of image flows: time beside masks at full resolution, and memory against depth.

    python benchmarks/image_speed.py

Writes benchmarks/IMAGES.md. Interleaved in one run: read the ratios.
"""

import statistics
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import torch

import flowstone
from flowstone.compute import bf16_conditioners
from plain import PlainImages
from results import machine
from speed import interleaved

BATCH, SHAPES = 32, ((1, 28, 28), (3, 32, 32), (3, 64, 64))
DEPTHS = (8, 16, 32, 64)
VARIANTS = {  # of the modern preset: transform, precision
    "splines, bf16 nets": ("spline", True),
    "splines": ("spline", False),
    "affine, bf16 nets": ("affine", True),
    "affine": ("affine", False),
}


def stepper(flow: torch.nn.Module, x: torch.Tensor, *, bf16: bool = False):
    """A function that takes one training step."""
    optimizer = torch.optim.Adam(flow.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        with ExitStack() as stack:
            if bf16:
                stack.enter_context(bf16_conditioners(flow))
            loss = -flow.log_prob(x).mean()  # pyright: ignore[reportCallIssue]
        loss.backward()
        optimizer.step()

    return step


def steps(shape: tuple[int, int, int]) -> list[str]:
    """Milliseconds of a step of each variant and of masks; medians and ratios of neighbours."""
    torch.manual_seed(0)
    x = torch.randint(256, (BATCH, *shape)).float()
    steppers = {"masks at full resolution": stepper(PlainImages(shape[0]), x)}
    for name, (transform, bf16) in VARIANTS.items():
        flow = flowstone.realnvp_image(shape, transform=transform)
        flow.initialize(x)
        steppers[name] = stepper(flow, x, bf16=bf16)
    times = interleaved(11, **steppers)
    masks = times["masks at full resolution"]
    size = "x".join(map(str, shape))
    lines = []
    for name, spent in times.items():
        ratio = statistics.median(a / b for a, b in zip(masks, spent, strict=True))
        rate = 1e3 * BATCH / statistics.median(spent)
        cells = [size, name, f"{statistics.median(spent):.0f} ({min(spent):.0f} – {max(spent):.0f})", f"{rate:.0f}"]
        lines.append("| " + " | ".join([*cells, f"{ratio:.2f}"]) + " |")
    return lines


MEASURE = """
import sys, torch, flowstone
from contextlib import nullcontext
from pathlib import Path
from flowstone.recompute import recomputed

def megabytes(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024

couplings, memory, shape = int(sys.argv[1]), sys.argv[2], tuple(map(int, sys.argv[3].split("x")))
torch.manual_seed(0)
x = torch.randint(256, (64, *shape), dtype=torch.uint8)
flow = flowstone.realnvp_image(shape, couplings=couplings // 2 - 2, channels=32)
flow.initialize(x[:8])
for parameter in flow.parameters():
    parameter.grad = torch.zeros_like(parameter)
Path("/proc/self/clear_refs").write_text("5")  # the peak so far was that of importing torch
before = megabytes("VmRSS")
with recomputed(flow) if memory == "recompute" else nullcontext():
    (-flow.log_prob(x).mean()).backward()
print(round(megabytes("VmHWM") - before), sum(p.numel() for p in flow.parameters()))
"""


def peak(couplings: int, memory: str, shape: tuple[int, int, int]) -> tuple[int, int]:
    """MiB by which one gradient's peak is above what the process had before; parameters. In a process of its own."""
    command = [sys.executable, "-c", MEASURE, str(couplings), memory, "x".join(map(str, shape))]
    growth, parameters = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return int(growth), int(parameters)


def memories() -> list[str]:
    """One line a depth: peak with everything kept, and recomputed, of each shape."""
    lines = []
    for couplings in DEPTHS:
        cells = [str(couplings)]
        for shape in SHAPES[:2]:
            (kept, parameters), (recomputed, _) = (peak(couplings, memory, shape) for memory in ("keep", "recompute"))
            cells += [f"{kept}", f"{recomputed}", f"{parameters * 4 / 2**20:.1f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


PAGE = """# Speed and memory of image flows

    python benchmarks/image_speed.py

One training step (forward, backward, Adam) of `realnvp_image`, modern preset: 2 scales, 3 + 3 and 4 couplings, 32
channels, 2 blocks, a batch of {batch}; beside the same couplings, channels and blocks with masks at full resolution in
float32 (`benchmarks/plain.py`). Medians (least – most) of interleaved runs in milliseconds, two threads; the ratio is
the median of ratios of neighbours. Machine: {machine}.

| image | design | ms | images/s | times as fast as masks |
|---|---|---|---|---|
{steps}

## Memory against depth

MiB by which the gradient of one batch of 64 raises the peak of the process above flow, gradients and batch (Linux),
with everything kept and with `memory="recompute"`; beside it what the parameters take.

| couplings | 1x28x28 kept | recomputed | parameters | 3x32x32 kept | recomputed | parameters |
|---|---|---|---|---|---|---|
{memories}
"""


def main() -> None:
    """Measure, then write the page; ``--memory`` measures that alone, and prints it."""
    if "--memory" in sys.argv:
        print("\n".join(memories()))
        return
    torch.set_num_threads(2)
    lines = [line for shape in SHAPES for line in steps(shape)]
    text = PAGE.format(batch=BATCH, machine=machine(), steps="\n".join(lines), memories="\n".join(memories()))
    (Path(__file__).parent / "IMAGES.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
