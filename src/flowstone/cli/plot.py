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
    from flowstone.plot import arguments_of, save_plots
    from flowstone.runs import Run

    require_seed("seed", seed)
    folder = Run(run)
    density, about = folder.density(device_of(device)), arguments_of(folder.dataset())
    written = save_plots(density, history=folder.history, folder=folder.plots, seed=seed, **about)
    for path in written:
        print(path)
