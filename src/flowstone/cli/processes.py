"""Several processes for one training: started by ``--devices`` or by torchrun, and joined by ``torch.distributed``."""

import logging
import os
import signal
import sys
import time
import uuid
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from flowstone.cli.flags import message_of
from flowstone.cli.values import Device, device_of
from flowstone.errors import FlowstoneError, ProcessLostError, SettingError
from flowstone.train.processes import started_processes
from flowstone.validation import require_integer

__all__ = ["LOST", "joined_processes", "launched", "status_of"]

# How long processes wait for each other: longer than one of them takes to read data, or to draw after a validation.
TIMEOUT = timedelta(minutes=10)
PATIENCE = 2  # seconds that processes wait after they lost another one, so that it can say why it failed
LOST = 3  # exit status of a process that another one has left alone
OURS = "flowstone-"  # how the name of a launch by --devices begins
HANDLED = [getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT") if hasattr(signal, name)]


def launched(devices: int | None, device: Device, out: Path | None) -> bool:
    """Run the present command in as many processes as ``--devices`` says, and wait for their end.

    Returns:
        False where this process itself is to train: it is the only one, or one of those that were started.

    Raises:
        SettingError: there are fewer CUDA devices, or a launcher has started another number of processes.
        ProcessLostError: a process was killed, or failed while others did not.
    """
    if devices is None:
        return False
    require_integer("devices", devices)
    if (started := started_processes()) > 1:
        if devices != started:
            raise SettingError(f"--devices {devices}: a launcher has started {started} processes already; leave it out")
        return False
    if _is_cuda(device) and devices > torch.cuda.device_count():
        raise SettingError(f"--devices {devices}: the number of CUDA devices here is {torch.cuda.device_count()}")
    if devices == 1:
        return False
    _require_kind(device)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, torch.get_num_threads() // devices)))
    _launch(devices, [*sys.argv[1:]], out)
    return True


@contextmanager
def joined_processes(device: Device, out: Path | None) -> Iterator[str]:
    """A context in which the processes that a launcher has started exchange what training needs, by gloo on CPUs and by
    NCCL on CUDA devices, each on the device of its local rank. Without a launcher there is one process.

    An expected error is raised in process 0 alone, for the others have the same one.

    Yields:
        The device of this process.
    """
    if started_processes() == 1:
        yield device_of(device)
        return
    place = _own_device(device)
    options: dict[str, Any] = {"timeout": TIMEOUT}
    if place != "cpu":
        torch.cuda.set_device(place)
        options["device_id"] = torch.device(place)
    dist.init_process_group("gloo" if place == "cpu" else "nccl", **options)
    ended_well = False
    try:
        with warnings.catch_warnings():
            if dist.get_rank():
                warnings.simplefilter("ignore")
            yield place
        ended_well = True
    except ProcessLostError as error:
        if not os.environ.get("TORCHELASTIC_RUN_ID", "").startswith(OURS):  # else the launcher says who it was
            print(f"flowstone: {message_of(_with_remedy(error.problem, out))}", file=sys.stderr)
        sys.stdout.flush()
        time.sleep(PATIENCE)
        os._exit(LOST)  # an ordinary end closes connections, and may wait for the process that is lost
    except (FlowstoneError, SystemExit):
        if dist.get_rank() == 0:
            raise
    finally:
        if ended_well or place == "cpu":  # NCCL may wait here for a process that does not come
            dist.destroy_process_group()


def _is_cuda(device: Device) -> bool:
    return device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())


def _require_kind(device: Device) -> None:
    if device not in ("auto", "cpu", "cuda"):
        raise SettingError(f"--device {device}: several processes take a device each; give cpu, cuda or auto")


def _own_device(device: Device) -> str:
    """The device of this process among those that a launcher has started."""
    _require_kind(device)
    if not _is_cuda(device):
        return device_of("cpu")
    local, here = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if local >= here:
        raise SettingError(f"process {local} of this machine has no CUDA device: their number is {here}")
    return device_of(f"cuda:{local}")


def _launch(devices: int, words: list[str], out: Path | None) -> None:
    """Start the processes by the launcher that torchrun uses, which ends all of them when one fails."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=devices, max_restarts=0, run_id=f"{OURS}{uuid.uuid4().hex}",
        rdzv_backend="c10d", rdzv_endpoint="localhost:0", local_addr="localhost",
    )  # fmt: skip
    handlers = {number: signal.getsignal(number) for number in HANDLED}
    logging.disable()  # the launcher's own report of a failure takes thirty lines
    try:
        elastic_launch(config, sys.executable)("-m", "flowstone", *words)
    except SignalException as stop:
        sys.exit(128 + stop.sigval)
    except ChildFailedError as error:
        sys.exit(status_of(error.failures, devices, out))
    finally:
        logging.disable(logging.NOTSET)
        for number, handler in handlers.items():
            signal.signal(number, handler)


def status_of(failures: Mapping[int, Any], size: int, out: Path | None) -> int:
    """The exit status of process 0 where it has said itself what was wrong; else ProcessLostError says who failed."""
    codes = {rank: failure.exitcode for rank, failure in failures.items()}
    first = {rank: code for rank, code in codes.items() if code not in (LOST, -signal.SIGTERM)} or codes
    rank, code = min(first.items(), key=lambda item: item[1])  # a signal is a negative number
    if rank == 0 and code > 0 and code != LOST:
        return code
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
    if code == LOST:
        how = f"waited {TIMEOUT} for the others"
    raise _with_remedy(f"process {rank} of {size} (pid {failures[rank].pid}) {how}, and the others were stopped", out)


def _with_remedy(problem: str, out: Path | None) -> ProcessLostError:
    if out is not None and not (out / "flow.json").exists():
        return ProcessLostError(f"{problem}; nothing was written")
    remedy = {"resume": True, "out": str(out or "RUN")}
    return ProcessLostError(f"{problem}; to continue from its last state, with any number of processes", remedy=remedy)
