"""flowstone evaluate."""

import json
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from flowstone.cli.values import Device, device_of, print_metrics

__all__ = ["evaluate"]


def evaluate(
    run: Path,
    data: str | None = None,
    *,
    device: Device = "auto",
    as_json: Annotated[bool, Parameter(name="--json", negative=())] = False,
) -> None:
    """Likelihood of held-out rows under the flow of RUN.

    Parameters
    ----------
    run
        A run folder.
    data
        A table, all of whose rows are used; without it, the run's own test split.
    device
        Where to compute.
    as_json
        Print the figures as JSON.
    """
    from flowstone.metrics import evaluate as figures
    from flowstone.run import Run

    folder = Run(run)
    flow = folder.flow(device_of(device))
    rows = folder.dataset().test if data is None else folder.rows(data)
    metrics = figures(flow, rows.x, rows.context)
    if data is None:
        metrics |= {key: value for key, value in folder.metrics().items() if key not in metrics}
    if as_json:
        print(json.dumps(metrics, indent=2))
    else:
        print_metrics(metrics, print)
