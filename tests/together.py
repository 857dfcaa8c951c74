"""Trainings that tests run in one process and in several, to compare them, and how several are started."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import flowstone
from flowstone.data import TOYS
from flowstone.data.tables import read_table
from flowstone.files import read_tensors
from flowstone.recipes import build

__all__ = ["curves", "images", "moons", "resumed", "run_two"]

START = """
import sys
import warnings
from datetime import timedelta

import torch
import torch.distributed as dist

import flowstone
import flowstone.train
import together
from flowstone.train.processes import Processes

warnings.simplefilter("error", UserWarning)
torch.set_num_threads(1)
folder, rank = sys.argv[1], int(sys.argv[2])
dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
x = together.moons()
"""
END = """
from flowstone.files import tensors_to_bytes
open(f"{folder}/{rank}.safetensors", "wb").write(tensors_to_bytes(result))
dist.destroy_process_group()
"""


def run_two(folder: Path, body: str) -> list[dict[str, Tensor]]:
    """What ``body`` leaves in ``result`` in each of two processes."""
    code = START + textwrap.dedent(body) + END
    commands = [[sys.executable, "-c", code, str(folder), str(rank)] for rank in (0, 1)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) for command in commands]
    try:
        errors = [process.communicate(timeout=120)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(errors)
    return [read_tensors(folder / f"{rank}.safetensors")[0] for rank in (0, 1)]


def moons() -> Tensor:
    return TOYS["moons"](600, torch.Generator().manual_seed(0))


def images(n: int = 40) -> Tensor:
    return torch.randint(256, (n, 1, 4, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def mixed() -> tuple[flowstone.Density, Tensor]:
    """A density of columns of three kinds, one of them with gaps, and its rows."""
    draw = np.random.default_rng(0)
    gaps = [None if i % 7 == 0 else float(value) for i, value in enumerate(draw.normal(size=120))]
    table = read_table({"a": draw.normal(size=120), "b": draw.choice(list("xyz"), 120), "c": gaps})
    columns = flowstone.kinds_of(table)
    return build("mixed", {"features": 3, "columns": columns.heads()}).double(), columns.encode(table)


class WithUnused(flowstone.Flow):
    """A flow with a parameter that no likelihood depends on."""

    def __init__(self, flow: flowstone.Flow) -> None:
        super().__init__(flow.bijection, flow.prior)
        self.unused = nn.Parameter(torch.ones(3))


def fits() -> dict[str, tuple[flowstone.Density, Any, dict[str, Any]]]:
    """Densities, data and options of ``fit``. The sizes of batches are odd, so that parts are of different sizes."""
    x = moons()
    held_out = {"validation": x[:200].double()}
    spline = flowstone.spline(2, couplings=2, hidden=(8,))
    maf = flowstone.maf(2, layers=2, hidden=(8,), context_features=1, batch_norm=False)
    adamw = {"optimizer": "adamw", "weight_decay": 1e-3}
    context = {"context": x[:, :1].double(), "validation_context": x[:200, :1].double()}
    frozen = flowstone.spline(2, couplings=4, hidden=(8,)).double()
    for parameter in list(frozen.parameters())[:2]:
        parameter.requires_grad = False
    image_flow = flowstone.realnvp_image((1, 4, 4), channels=4, blocks=1, couplings=1)
    return {
        "float32": (spline, x, {"batch_size": 101}),
        "fresh": (flowstone.nice(2, couplings=2, hidden=(8,)).double(), lambda n, g: TOYS["moons"](n, g).double(), {}),
        "context": (maf.double(), x.double(), held_out | context | {"batch_size": 65} | adamw),
        "frozen": (frozen, x.double(), {"ema": 0.9, "memory": "recompute"}),
        "unused": (WithUnused(flowstone.nice(2, couplings=2, hidden=(8,))).double(), x.double(), {"batch_size": 64}),
        "sgd": (
            flowstone.nice(2, couplings=2, hidden=(8,)).double(), x.double(),
            {"optimizer": lambda parameters: torch.optim.SGD(parameters, momentum=0.9), "lr": 0.01},
        ),
        "mixed": (*mixed(), {"batch_size": 33, "dropout": 0.2}),
        "dequantized": (image_flow.double(), images(), {"batch_size": 11, "flip": True, "memory": "recompute"}),
    }  # fmt: skip


def curves() -> dict[str, Tensor]:
    """Of each of these trainings the losses, and the weights at the end."""
    torch.manual_seed(0)
    found = {}
    for name, (density, data, options) in fits().items():
        history = flowstone.fit(density, data, steps=15, validate_every=5, progress=False, **options)
        found[f"{name}/train"] = torch.tensor(history.column("train_nll"), dtype=torch.float64)
        found[f"{name}/val"] = torch.tensor(history.column("val_nll"), dtype=torch.float64)
        found |= {f"{name}/{key}": value for key, value in density.state_dict().items()}
    return found


def resumed(steps: int, folder: Path | str) -> dict[str, Tensor]:
    """The weights of a training up to ``steps``, whose state is in ``folder``."""
    torch.manual_seed(0)
    flow = flowstone.nice(2, couplings=2, hidden=(8,)).double()
    settings = flowstone.train.Settings(batch_size=64, schedule="constant", warmup=0.0, validate_every=10)
    flowstone.fit(flow, moons().double(), resume=folder, progress=False, settings=settings, steps=steps)
    return flow.state_dict()
