"""flowstone plot."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from flowstone.cli.values import Device, device_of
from flowstone.validation import require_seed

__all__ = ["plot"]

Kinds = Annotated[list[Literal["gif", "mp4"]] | None, Parameter(consume_multiple=True, negative=())]


def plot(run: Path, *, animate: Kinds = None, seed: int = 0, device: Device = "auto") -> None:
    """Draw the pictures of RUN again, into RUN/plots.

    Parameters
    ----------
    run
        A run folder.
    animate
        For a flow of two columns, write only an animation of points that move through its layers: RUN/plots/layers.gif,
        or layers.mp4, which needs ffmpeg. Without a value: gif.
    seed
        Seed of the samples shown.
    device
        Where to compute.
    """
    from flowstone.plot import animate_layers, arguments_of, save_plots
    from flowstone.runs import Run

    require_seed("seed", seed)
    folder = Run(run)
    density, dataset = folder.density(device_of(device)), folder.dataset()
    if animate is not None:
        shown = dataset.rows_to_show.x
        for kind in dict.fromkeys(animate or ["gif"]):
            path = folder.plots / f"layers.{kind}"
            print(animate_layers(density, shown, path, columns=dataset.columns, seed=seed, progress=True))
        return
    written = save_plots(density, history=folder.history, folder=folder.plots, seed=seed, **arguments_of(dataset))
    for path in written:
        print(path)
