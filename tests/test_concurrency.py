"""Scores and samples from several threads, and from processes that are forked, spawned or kept by joblib."""

import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor

import flowstone
from commands import make_run, make_table
from flowstone.bijections import Standardize
from flowstone.evaluation.metrics import evaluate, log_prob
from flowstone.execution import bf16_conditioners
from flowstone.streaming import Scorer
from together import images, mixed

THREADS, CALLS = 8, 24


def ready(density: Any, x: Tensor) -> tuple[Any, Tensor]:
    density.initialize(x)
    return density.eval(), x


def numbers(n: int = 300) -> Tensor:
    return torch.randn(n, 3, generator=torch.Generator().manual_seed(0))


def in_bf16(density: Any, x: Tensor) -> Tensor:
    with bf16_conditioners(density):
        return log_prob(density, x)


DENSITIES: dict[str, Callable[[], tuple[Any, Tensor]]] = {
    "spline": lambda: ready(flowstone.spline(3, couplings=2, hidden=(16,)), numbers()),
    "maf": lambda: ready(flowstone.maf(3, layers=2, hidden=(16,)), numbers()),
    "mixed": lambda: ready(*mixed()),
    "dequantized": lambda: ready(flowstone.realnvp_image((1, 4, 4), channels=4, blocks=1, couplings=1), images()),
    "padded": lambda: ready(
        flowstone.realnvp_image((1, 3, 3), channels=4, blocks=1, couplings=1, scales=1), images()[:, :, :3, :3]
    ),
    "torch's prior": lambda: ready(
        flowstone.Flow(Standardize(3), torch.distributions.Laplace(torch.zeros(3), torch.ones(3))), numbers()
    ),
}
CALLED: dict[str, Callable[[Any, Tensor], Any]] = {
    "log_prob": log_prob,
    "evaluate": evaluate,
    "sample": lambda density, x: density.sample(50, seed=3),
    "bf16": in_bf16,
}


def in_threads(function: Callable[[], Any]) -> list[Any]:
    with ThreadPoolExecutor(THREADS) as pool:
        return [future.result() for future in [pool.submit(function) for _ in range(CALLS)]]


def assert_equal(one: Any, other: Any) -> None:
    if isinstance(one, Tensor):
        assert torch.equal(one, other)
    else:
        assert one == other


@pytest.mark.parametrize("call", CALLED)
@pytest.mark.parametrize("name", DENSITIES)
def test_threads_have_the_numbers_of_one_bit_for_bit(name, call):
    density, x = DENSITIES[name]()
    alone, state = CALLED[call](density, x), torch.get_rng_state()
    for found in in_threads(lambda: CALLED[call](density, x)):
        assert_equal(found, alone)
    assert torch.equal(torch.get_rng_state(), state)  # a thread that trains is not disturbed
    assert not [module for module in density.modules() if "forward" in vars(module)]


def test_threads_score_tables_as_one(tmp_path):
    make_run(tmp_path / "run", make_table(tmp_path / "t.csv"))
    scorer = Scorer(tmp_path / "run")
    alone = scorer(tmp_path / "t.csv")
    assert all(found.equals(alone) for found in in_threads(lambda: scorer(tmp_path / "t.csv")))


def test_contexts_of_two_densities_do_not_wait_for_each_other():
    (one, x), (other, _) = DENSITIES["spline"](), DENSITIES["spline"]()
    with bf16_conditioners(one), ThreadPoolExecutor(1) as pool:
        assert torch.equal(pool.submit(in_bf16, other, x).result(timeout=60), in_bf16(one, x))


SCRIPT = """
import multiprocessing
import os

import torch
from torch.utils.data import DataLoader, Dataset

import flowstone
from flowstone.evaluation.metrics import log_prob


def score(density, x):
    return log_prob(density, x).numpy()


class Scored(Dataset):
    def __init__(self, density, x):
        self.density, self.x = density, x

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return log_prob(self.density, self.x[index][None])[0]


def main():
    torch.set_num_threads(2)
    torch.manual_seed(0)
    table, picture = torch.randn(9000, 4), torch.randint(256, (50, 1, 4, 4), dtype=torch.uint8)
    flow = flowstone.spline(4, couplings=2)  # its layers are large enough for two threads
    image_flow = flowstone.realnvp_image((1, 4, 4), channels=4, blocks=1, couplings=1)
    for density, x in ((flow, table), (image_flow, picture)):
        density.initialize(x)
        density.eval()
    alone = [log_prob(flow, table), log_prob(image_flow, picture)]  # and the threads of this process have run
    for method in ("fork", "spawn"):
        with multiprocessing.get_context(method).Pool(1) as pool:
            found = pool.starmap_async(score, [(flow, table), (image_flow, picture)]).get(timeout=60)
        assert all(torch.equal(torch.from_numpy(f), a) for f, a in zip(found, alone)), method
        print(method)
    workers = DataLoader(Scored(flow, table[:20]), batch_size=5, num_workers=2, timeout=60)
    one_by_one = torch.stack([log_prob(flow, row[None])[0] for row in table[:20]])
    assert torch.equal(torch.cat(list(workers)), one_by_one)
    print("workers")


if __name__ == "__main__":
    main()
"""


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="this system cannot fork")
def test_forked_and_spawned_processes_have_the_numbers_of_this_one(tmp_path):
    """In a fresh process, whose threads have run before it is forked."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=150, check=False)
    assert done.stdout.split() == ["fork", "spawn", "workers"], done.stderr


def test_joblib_has_the_numbers_of_this_process():
    joblib = pytest.importorskip("joblib")
    (flow, x), (image_flow, pixels) = DENSITIES["spline"](), DENSITIES["dequantized"]()
    work = [(flow, x), (image_flow, pixels)]
    found = joblib.Parallel(n_jobs=2, backend="loky")(joblib.delayed(log_prob)(*each) for each in work)
    assert all(torch.equal(one, log_prob(*each)) for one, each in zip(found, work, strict=True))
    threads = joblib.Parallel(n_jobs=2, backend="threading")(joblib.delayed(log_prob)(*each) for each in 4 * work)
    assert all(torch.equal(one, log_prob(*each)) for one, each in zip(threads, 4 * work, strict=True))
