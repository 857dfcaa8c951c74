"""flowstone train."""

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from flowstone.cli.flags import select, with_flags
from flowstone.cli.values import Device, settings_of
from flowstone.data.request import DataRequest
from flowstone.errors import SettingError
from flowstone.train.settings import Settings

__all__ = ["train"]

Switch = Parameter(negative=())


@with_flags(Settings, group="Training")
@with_flags(DataRequest, group="Data")
def train(
    source: str | None = None,
    *,
    flow: str | None = None,
    recipe_arguments: Annotated[list[str] | None, Parameter(name="--set", consume_multiple=True, negative=())] = None,
    epochs: int | None = None,
    device: Device = "auto",
    devices: int | None = None,
    out: Path | None = None,
    resume: Annotated[bool, Switch] = False,
    plots: bool = True,
    live: Annotated[bool, Switch] = False,
    report: bool | None = None,
    tensorboard: Annotated[bool, Switch] = False,
    quiet: Annotated[bool, Switch] = False,
    **options: Any,
) -> None:
    """Learn the distribution of SOURCE and write a run folder.

    Ctrl-C, and SIGTERM as from a cluster, save the state and end with the best weights so far.

    Parameters
    ----------
    flow
        The recipe; without it, the default that `flowstone list` names. auto chooses for a table: the recipes whose
        likelihoods are comparable are each trained for a quarter of the steps or minutes, and the one under which the
        validation rows are likeliest is then trained.
    recipe_arguments
        Arguments of the recipe, as key=value: --set couplings=8 hidden=256,256
    epochs
        The training steps, given as a number of passes over the training rows.
    device
        cpu, cuda, cuda:1; auto takes a GPU where there is one.
    devices
        How many CUDA devices, or with --device cpu how many processes, share the rows of each step. Default: 1.
    out
        The run folder; without it, runs/SOURCE-FLOW. An existing one is never written over.
    resume
        Continue the training in --out, with its own settings and without a SOURCE. --steps, --epochs or --minutes, if
        given, replace its limits, also if the training has ended; --patience may change, too.
    plots
        Draw the pictures at the end; for images, also some samples at each validation.
    live
        Write a page, RUN/live.html, that shows samples and losses as they form; open it in a browser while the training
        runs. It takes less than 5% of the training's time.
    report
        Write RUN/report.html at the end: one page that shows what was learned, and how well. If not set: as --plots.
    tensorboard
        Write event files for TensorBoard into RUN/tensorboard.
    quiet
        Show no progress bar and no figures.
    """
    from flowstone.cli.processes import joined_processes, launched

    if source is None and not resume:
        raise SettingError("train needs a SOURCE: a toy, a table or images; or --resume --out RUN")
    training = select(Settings, options) | ({} if epochs is None else {"epochs": epochs})
    request = {
        "source": source,
        "flow": flow,
        "set": settings_of(recipe_arguments or []),
        "training": training,
        "data": select(DataRequest, options),
    }
    if tensorboard:
        from flowstone.cli.watch import summary_writer

        summary_writer()
    if launched(devices, device, out):
        return
    from flowstone.cli.job import Output
    from flowstone.cli.resume import continued
    from flowstone.cli.start import started
    from flowstone.train.processes import Processes

    with joined_processes(device, out) as place:  # before anything is written
        first = Processes().rank == 0  # of several processes the first one prints, draws and writes
        output = Output(
            quiet=quiet or not first,
            plots=plots and first,
            report=first and (plots if report is None else report),
            tensorboard=tensorboard and first,
            live=live and first,
        )
        job = continued(out, request) if resume else started(out, request, device=place, progress=not output.quiet)
        job.work(place, output)
