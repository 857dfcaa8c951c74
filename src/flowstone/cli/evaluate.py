"""flowstone evaluate."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from flowstone.cli.values import Device, device_of, precision_of, print_metrics, say_noise
from flowstone.files import to_json

__all__ = ["evaluate"]


def evaluate(
    run: Path,
    data: str | None = None,
    *,
    drop_missing: Annotated[bool, Parameter(negative=())] = False,
    skip_bad: Annotated[bool, Parameter(negative=())] = False,
    data_dir: Path | None = None,
    bound_samples: int = 1,
    device: Device = "auto",
    precision: str = "fp32",
    as_json: Annotated[bool, Parameter(name="--json", negative=())] = False,
) -> None:
    """Likelihood of held-out rows under the flow of RUN.

    Parameters
    ----------
    run
        A run folder.
    data
        A table, all of whose rows are used; or images: a folder, an array, or the test part of a set by name. Without
        it, the run's own test split.
    drop_missing
        Leave out rows of DATA with a missing, NaN or infinite value.
    skip_bad
        Leave out images of DATA that cannot be read.
    data_dir
        The folder that holds the image sets, if it is no longer where it was.
    bound_samples
        Images: draws of the noise that the bound on each likelihood is made of; more make it tighter.
    device
        Where to compute.
    precision
        fp32, or bf16 for the nets: quicker where the processor has it; `flowstone check` says what it costs.
    as_json
        Print the figures as JSON.
    """
    from flowstone.evaluation.metrics import evaluate as figures
    from flowstone.runs import Run

    folder = Run(run)
    flow = folder.flow(device_of(device))
    if data is None:
        rows = folder.dataset(data_dir=data_dir, progress=not as_json).test
    elif folder.of_images:
        rows = folder.images(data, data_dir=data_dir, skip_bad=skip_bad).rows
    else:
        rows, noise = folder.rows(data, drop_missing=drop_missing)
        say_noise(noise, "as in the training")
    with precision_of(precision, flow):
        metrics = figures(flow, rows.x, rows.context, bound_samples=bound_samples)
    if data is None:
        metrics |= {key: value for key, value in folder.metrics().items() if key not in metrics}
    if as_json:
        print(to_json(metrics))
    else:
        print_metrics(metrics, print)
