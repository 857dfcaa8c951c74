"""flowstone evaluate."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from flowstone.cli.values import Device, device_of, print_metrics, say_noise
from flowstone.files import to_json

__all__ = ["evaluate"]


def evaluate(
    run: Path,
    data: str | None = None,
    *,
    drop_missing: Annotated[bool, Parameter(negative=())] = False,
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
    drop_missing
        Leave out rows of DATA with a missing, NaN or infinite value.
    device
        Where to compute.
    as_json
        Print the figures as JSON.
    """
    from flowstone.metrics import evaluate as figures
    from flowstone.run import Run

    folder = Run(run)
    flow = folder.flow(device_of(device))
    if data is None:
        rows = folder.dataset().test
    else:
        rows, noise = folder.rows(data, drop_missing=drop_missing)
        say_noise(noise, "as in the training")
    metrics = figures(flow, rows.x, rows.context)
    if data is None:
        metrics |= {key: value for key, value in folder.metrics().items() if key not in metrics}
    if as_json:
        print(to_json(metrics))
    else:
        print_metrics(metrics, print)
