"""flowstone playground."""

from pathlib import Path

from flowstone.cli.values import Out
from flowstone.validation import require_seed

__all__ = ["playground"]


def playground(run: Path, *, out: Out, runtime: Path | None = None, seed: int = 0) -> None:
    """Write a folder of static files in which the flow of RUN runs in the browser: no server, no outside request.

    Parameters
    ----------
    run
        A run folder of a flow of columns.
    out
        The folder to be made; an existing one is never written over. Open its index.html.
    runtime
        The folder of the npm package onnxruntime-web. Default: node_modules/onnxruntime-web, where npm install puts it.
    seed
        Seed of the rows and samples shown.
    """
    from flowstone.playground import write_playground
    from flowstone.runs import Run
    from flowstone.runs.frames import read_frames

    require_seed("seed", seed)
    folder = Run(run)
    density, dataset = folder.density(), folder.dataset()
    written = write_playground(
        density, dataset.rows_to_show.x, out, columns=dataset.columns, frames=read_frames(run),
        title=f"Playground: {run.resolve().name}", runtime=runtime, seed=seed, progress=True,
    )  # fmt: skip
    print(written)
