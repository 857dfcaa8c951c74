"""RealNVP on small images with one thing left out at a time: a table in docs/tutorials/image-flows.md.

    python benchmarks/ablations.py [--steps NUMBER] [--runs FOLDER] [--quick]

The images are 8 x 8 patches of the blue channel of scikit-learn's two sample photographs: training patches from the
left part of each, test patches from the rest. Every variant trains for the same number of steps with seeds 0, 1 and 2,
plainly: Adam, one rate, nothing clipped, no averaged weights, and the first number that is not finite ends it. What was
trained is kept in ``--runs``, so that an interrupted run goes on. ``--quick`` takes few steps and writes nothing to the
page: it shows that everything runs.
"""

import argparse
import json
import math
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_sample_image
from torch import Tensor

import flowstone
from flowstone.bijections import Affine, Bijection, Chain, Coupling, Interval, Univariate
from flowstone.errors import NonFiniteError
from flowstone.flow import Flow
from flowstone.nets import ResConvNet
from measure import machine, write_section

PAGE = Path(__file__).parents[1] / "docs" / "tutorials" / "image-flows.md"
SIDE, SEEDS, STEPS, BATCH, RATE = 8, (0, 1, 2), 1000, 32, 1e-3
TRAINING = {
    "lr": RATE, "batch_size": BATCH, "schedule": "constant", "warmup": 0.0, "ema": 0.0, "clip": 1e9, "recoveries": 0,
    "patience": None, "validate_every": 100, "progress": False,
}  # fmt: skip


def patches(count: int, *, test: bool, seed: int) -> Tensor:
    """Patches ``(count, 1, 8, 8)`` from the left three quarters of the photographs, or from the rest."""
    generator, photos = np.random.default_rng(seed), [load_sample_image(name) for name in ("china.jpg", "flower.jpg")]
    height, width, _ = photos[0].shape
    border = 3 * width // 4
    low, high = (border, width - SIDE) if test else (0, border - SIDE)
    cut = []
    for index in range(count):
        top, left = generator.integers(height - SIDE), generator.integers(low, high + 1)
        cut.append(photos[index % 2][top : top + SIDE, left : left + SIDE, 2])
    return torch.from_numpy(np.stack(cut))[:, None]


class Unbounded(Univariate):
    """z = x exp(s) + t with the log-scale s as the net gives it: no tanh, no learned factor."""

    parameters_per_feature = 2

    def forward(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        log_scale, shift = parameters.unbind(-1)
        return x * log_scale.exp() + shift, log_scale

    def inverse(self, z: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        log_scale, shift = parameters.unbind(-1)
        return (z - shift) * (-log_scale).exp(), -log_scale


class OneSidedLogit(Bijection):
    """z = logit(α + (1 − α) x / 256), as the paper prints it: infinite where x, rounded, is 256."""

    def __init__(self, alpha: float = 0.05) -> None:
        super().__init__()
        self.alpha = alpha

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        y = self.alpha + (1 - self.alpha) * x.float() / 256
        log_slope = math.log((1 - self.alpha) / 256) - y.log() - (1 - y).log()
        return y.logit(), log_slope.flatten(1).sum(-1)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        y = z.sigmoid()
        log_slope = y.log() + (1 - y).log() - math.log((1 - self.alpha) / 256)
        return 256 * (y - self.alpha) / (1 - self.alpha), log_slope.flatten(1).sum(-1)


def realnvp(**settings: Any) -> Flow:
    """The flow with nothing left out, but for the settings."""
    whole = {"preset": "faithful", "channels": 16, "blocks": 1, "couplings": 2}
    return flowstone.realnvp_image((1, SIDE, SIDE), **whole | settings)


def without_tanh() -> Flow:
    flow = realnvp()
    for layer in flow.modules():
        if isinstance(layer, Coupling) and isinstance(layer.transform, Affine):
            layer.transform = Unbounded()
    return flow


def without_zero_start() -> Flow:
    """The last layer of every net begins with the weights that torch drew."""
    flow = realnvp()
    for net in flow.modules():
        if isinstance(net, ResConvNet):
            magnitude = net.output.get_parameter("parametrizations.weight.original0")
            direction = net.output.get_parameter("parametrizations.weight.original1")
            magnitude.data.copy_(direction.data.flatten(1).norm(dim=1).reshape(magnitude.shape))
    return flow


def with_one_sided_logit() -> Flow:
    flow = realnvp()
    links = [OneSidedLogit() if isinstance(link, Interval) else link for link in flow.bijection.sublayers()]
    return Flow(Chain(*links), flow.prior)


VARIANTS: dict[str, Callable[[], Flow]] = {
    "everything": realnvp,
    "no normalization in the nets": lambda: realnvp(norm="none", weight_norm=False),
    "no batch normalization in the flow": lambda: realnvp(flow_norm="none"),
    "no normalization at all": lambda: realnvp(norm="none", weight_norm=False, flow_norm="none"),
    "momentum 0.1 in place of 0.005": lambda: realnvp(momentum=0.1),
    "nets that do not begin at zero": without_zero_start,
    "no tanh and no learned factor": without_tanh,
    "α + (1 − α)x in place of α + (1 − 2α)x": with_one_sided_logit,
    "no logit": lambda: realnvp(alpha="none"),
}


def train(make: Callable[[], Flow], seed: int, steps: int) -> dict[str, Any]:
    """Bits/dim of the test patches by the weights of the last step; or why there are none."""
    torch.manual_seed(seed)
    flow, last = make(), {}
    x, test = patches(5000, test=False, seed=seed), patches(1000, test=True, seed=100)

    def keep(density: flowstone.Density, _: flowstone.History) -> None:
        last.update({name: tensor.clone() for name, tensor in density.state_dict().items()})

    try:
        history = flowstone.fit(flow, x[:4800], validation=x[4800:], steps=steps, seed=seed, watch=keep, **TRAINING)
    except NonFiniteError as error:
        return {"failed": str(error).split(":")[0]}
    if history.stopped in ("interrupted", "terminated"):
        raise SystemExit("stopped; the next run goes on with this variant")
    flow.load_state_dict(last)
    return {"bits_per_dim": flowstone.evaluate(flow.eval(), test)["bits_per_dim"]}


def line(name: str, results: list[dict[str, Any]], whole: list[dict[str, Any]]) -> str:
    """A line of the table: the mean over seeds, its error, and the difference from the same seeds with everything."""
    failed = [result["failed"] for result in results if "failed" in result]
    if failed:
        return f"| {name} | not finite with {len(failed)} of {len(results)} seeds ({', '.join(failed)}) | |"
    bits = np.array([result["bits_per_dim"] for result in results])
    more = bits - np.array([result["bits_per_dim"] for result in whole])
    error = math.sqrt(len(bits))
    difference = "" if results is whole else f"{more.mean():+.3f} ± {more.std(ddof=1) / error:.3f}"
    return f"| {name} | {bits.mean():.3f} ± {bits.std(ddof=1) / error:.3f} | {difference} |"


TABLE = """\
Measured with `python benchmarks/ablations.py --steps {steps}`: bits/dim of 1000 test patches after {steps} steps of
{batch} patches at learning rate {rate:g}, as the mean over {seeds} seeds ± its standard error, and the difference from
the first line with the same seeds. The weights are those of the last step, with Adam, without clipping and averaged
weights. The flow has two scales of two couplings, and residual nets of one block of 16 channels. Machine: {machine}.

| left out or changed | bits/dim | more than with everything |
|---|---|---|
{lines}"""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--runs", type=Path, default=Path("runs/ablations"))
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    steps = 4 if options.quick else options.steps
    runs = Path(tempfile.mkdtemp()) if options.quick else options.runs / f"{steps}"
    runs.mkdir(parents=True, exist_ok=True)
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in VARIANTS}
    for seed in SEEDS:
        for number, (name, make) in enumerate(VARIANTS.items()):
            kept, started = runs / f"{number}-{seed}.json", time.monotonic()
            if not kept.exists():
                kept.write_text(json.dumps(train(make, seed, steps)))
            results[name].append(json.loads(kept.read_text()))
            print(f"{name}, seed {seed}: {results[name][-1]} ({time.monotonic() - started:.0f} s)", flush=True)
    lines = "\n".join(line(name, found, results["everything"]) for name, found in results.items())
    settings = {"steps": steps, "batch": BATCH, "rate": RATE, "seeds": len(SEEDS), "machine": machine()}
    table = TABLE.format(lines=lines, **settings)
    print(table)
    if not options.quick:
        write_section("ablations", table, PAGE)


if __name__ == "__main__":
    main()
