"""flowstone plot."""

from pathlib import Path

from flowstone.cli.values import Device, device_of
from flowstone.validation import require_seed

__all__ = ["plot"]


def plot(run: Path, *, seed: int = 0, device: Device = "auto") -> None:
    """Draw the pictures of RUN again, into RUN/plots.

    Parameters
    ----------
    run
        A run folder.
    seed
        Seed of the samples shown.
    device
        Where to compute.
    """
    from flowstone.plot import save_plots
    from flowstone.runs import Run

    require_seed("seed", seed)
    folder = Run(run)
    density, dataset = folder.density(device_of(device)), folder.dataset()
    shown = dataset.rows_to_show
    written = save_plots(
        density, shown.x, dataset.columns, folder.history, folder.plots,
        context=shown.context, test=dataset.test.x, test_context=dataset.test.context,
        entropy=dataset.entropy, levels=dataset.levels, seed=seed,
    )  # fmt: skip
    for path in written:
        print(path)
