"""Training in several processes: each test starts two that are joined by gloo."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

import flowstone
from flowstone.data import TOYS
from flowstone.files import read_tensors
from flowstone.train.processes import Processes

START = """
import sys
import warnings

import torch
import torch.distributed as dist

import flowstone
import flowstone.train

warnings.simplefilter("error", UserWarning)
torch.set_num_threads(1)
folder, rank = sys.argv[1], int(sys.argv[2])
dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
x = flowstone.data.TOYS["moons"](600, torch.Generator().manual_seed(0))
"""
END = """
from flowstone.files import tensors_to_bytes
open(f"{folder}/{rank}.safetensors", "wb").write(tensors_to_bytes(result))
dist.destroy_process_group()
"""
SETTINGS = {"steps": 40, "batch_size": 64, "validate_every": 10, "progress": False}


def run_two(folder: Path, body: str) -> list[dict[str, torch.Tensor]]:
    """What ``body`` leaves in ``result`` in each of two processes."""
    code = START + textwrap.dedent(body) + END
    commands = [[sys.executable, "-c", code, str(folder), str(rank)] for rank in (0, 1)]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for command in commands]
    try:
        errors = [process.communicate(timeout=120)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(errors)
    return [read_tensors(folder / f"{rank}.safetensors")[0] for rank in (0, 1)]


def assert_identical(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


@pytest.mark.parametrize("fixed", [True, False])
def test_two_processes_train_one_flow_as_a_single_one_does(tmp_path, fixed):
    data = "x.double()" if fixed else "lambda n, g: flowstone.data.TOYS['moons'](n, g).double()"
    first, second = run_two(
        tmp_path,
        f"""
        torch.manual_seed(rank)  # each process builds a flow with other weights
        flow = flowstone.spline(2, couplings=2, hidden=(16,)).double()
        seen = []
        watch = lambda *_: seen.append(1)
        history = flowstone.fit(flow, {data}, validation=x[:200].double(), watch=watch, **{SETTINGS})
        assert len(seen) == (5 if rank == 0 else 0)
        result = flow.state_dict() | {{"val_nll": torch.tensor(history.column("val_nll"))}}
        """,
    )
    assert_identical(first, second)
    torch.manual_seed(0)
    x = TOYS["moons"](600, torch.Generator().manual_seed(0)).double()
    flow = flowstone.spline(2, couplings=2, hidden=(16,)).double()
    rows = x if fixed else lambda n, g: TOYS["moons"](n, g).double()
    flowstone.fit(flow, rows, validation=x[:200], **SETTINGS)
    for name, tensor in flow.state_dict().items():
        torch.testing.assert_close(first[name], tensor, atol=1e-6, rtol=1e-6)


def test_noise_and_running_statistics_leave_the_processes_equal(tmp_path):
    first, second = run_two(
        tmp_path,
        """
        images = torch.randint(256, (40, 1, 4, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
        flow = flowstone.realnvp_image((1, 4, 4), channels=4, blocks=1, couplings=1)
        history = flowstone.fit(flow, images, steps=6, batch_size=10, flip=True, validate_every=3, progress=False)
        result = flow.state_dict()
        table = flowstone.maf(2, layers=2, hidden=(8,), batch_norm=True)
        flowstone.fit(table, x, minutes=0.02, dropout=0.2, resume=f"{folder}/resume", steps=80, progress=False)
        result |= {f"table.{name}": tensor for name, tensor in table.state_dict().items()}
        """,
    )
    assert_identical(first, second)


def test_a_training_of_two_processes_is_resumed(tmp_path):
    body = """
    def fit(steps, folder=None):
        torch.manual_seed(0)
        flow = flowstone.nice(2, couplings=2, hidden=(8,))
        settings = flowstone.train.Settings(batch_size=64, schedule="constant", warmup=0.0)
        flowstone.fit(flow, x, resume=folder, progress=False, settings=settings, steps=steps)
        return flow.state_dict()

    uninterrupted = fit(80)
    fit(40, f"{folder}/resume")
    resumed = fit(80, f"{folder}/resume")
    result = {f"{name}.{i}": t for i, state in enumerate((uninterrupted, resumed)) for name, t in state.items()}
    """
    first, second = run_two(tmp_path, body)
    assert_identical(first, second)
    for name, tensor in first.items():
        assert torch.equal(tensor, first[f"{name[:-1]}1"])


def test_processes_with_other_rows_are_refused(tmp_path):
    run_two(
        tmp_path,
        """
        try:
            flowstone.fit(flowstone.nice(2), x[: 500 + rank], steps=5, progress=False)
        except flowstone.errors.SettingError as error:
            said = str(error)
        assert said.startswith("the processes cannot train together: their rows and settings differ: [(450, 50"), said
        try:
            flowstone.fit(flowstone.nice(2), x, batch_size=1, steps=5, progress=False)
        except flowstone.errors.SettingError as error:
            said = str(error)
        assert said == "a batch of 1 row(s) cannot be shared by 2 processes", said
        result = {}
        """,
    )


def test_a_loop_by_hand_with_distributed_data_parallel_trains_right(tmp_path):
    first, second = run_two(
        tmp_path,
        """
        from torch.nn.parallel import DistributedDataParallel

        torch.manual_seed(rank)
        flow = flowstone.spline(2, couplings=2, hidden=(8,)).double()
        flow.initialize(x.double())
        start = {name: tensor.clone() for name, tensor in flow.state_dict().items()}
        wrapped = DistributedDataParallel(flow)
        start = start if rank else {name: tensor.clone() for name, tensor in flow.state_dict().items()}
        optimizer = torch.optim.SGD(wrapped.parameters(), lr=0.05)
        for _ in range(10):
            optimizer.zero_grad()
            (-wrapped(x[rank::2].double()).mean()).backward()
            optimizer.step()
        result = flow.state_dict() | {f"start.{name}": tensor for name, tensor in start.items()}
        """,
    )
    learned = {name: tensor for name, tensor in first.items() if not name.startswith("start.")}
    assert_identical(learned, {name: second[name] for name in learned})
    flow = flowstone.spline(2, couplings=2, hidden=(8,)).double()
    flow.load_state_dict({name.removeprefix("start."): first[name] for name in first if name.startswith("start.")})
    x = TOYS["moons"](600, torch.Generator().manual_seed(0)).double()
    optimizer = torch.optim.SGD(flow.parameters(), lr=0.05)
    for _ in range(10):
        optimizer.zero_grad()
        (-flow(x).mean()).backward()
        optimizer.step()
    for name, tensor in flow.state_dict().items():
        torch.testing.assert_close(learned[name], tensor, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(("n", "size"), [(10, 3), (4, 4), (64, 2), (7, 1)])
def test_the_parts_of_a_batch_are_all_of_it(n, size):
    rows = []
    for rank in range(size):
        processes = Processes()
        processes.rank, processes.size = rank, size
        part = list(range(n))[processes.part(n)]
        assert part
        rows += part
    assert rows == list(range(n))
