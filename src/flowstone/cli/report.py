"""flowstone report."""

from pathlib import Path
from typing import Any

from flowstone.cli.flags import select, with_flags
from flowstone.cli.values import Device, device_of
from flowstone.data.request import DataRequest
from flowstone.validation import require_seed

__all__ = ["report"]


@with_flags(DataRequest, "data_dir")
def report(run: Path, *, seed: int = 0, device: Device = "auto", **options: Any) -> None:
    """Write RUN/report.html: one page that shows what was learned and how well, and opens from disk without a network.

    Parameters
    ----------
    run
        A run folder.
    seed
        Seed of the samples shown.
    device
        Where to compute.
    """
    from flowstone.cli.again import commands_again
    from flowstone.report import Subject, write_report
    from flowstone.runs import Run

    require_seed("seed", seed)
    folder = Run(run)
    commands = commands_again(folder.record, folder.folder)
    data_dir = select(DataRequest, options).get("data_dir")
    subject = Subject.of(
        folder, device=device_of(device), progress=True, data_dir=data_dir, commands=commands, seed=seed
    )
    print(write_report(subject, progress=True))
