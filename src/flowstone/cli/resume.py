"""A training that goes on by the command (``--resume``): an unfinished one, or one that is given more steps or time."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from flowstone.cli.choice import AUTO
from flowstone.cli.job import Job
from flowstone.cli.start import check_epochs, with_epochs
from flowstone.data import DataRequest, Dataset
from flowstone.density import Density
from flowstone.errors import CheckpointError, OutputError, SettingError
from flowstone.files import remove_unfinished
from flowstone.runs import Run
from flowstone.runs.checkpoint import WEIGHTS, build_recorded, read_record, write_record
from flowstone.runs.folder import METRICS
from flowstone.train import Settings
from flowstone.train.processes import Processes
from flowstone.train.state import load_state

__all__ = ["continued"]

# Options that a training may be given anew when it goes on: its limits, patience, and how often it writes a line.
LIMITS = {"steps", "epochs", "minutes"}
EXTENDING = LIMITS | {"patience", "log_every"}


def continued(out: Path | None, request: Mapping[str, Any]) -> Job:
    """The training in ``out``, to be continued: an unfinished one, or a finished one that is given more steps or time.

    Other options that are given must be those it began with.
    """
    if out is None:
        raise SettingError("--resume needs --out RUN: the folder of the training to continue")
    processes, run = Processes(), Run(out)
    try:
        processes.from_first(lambda: _locked(run))
        job = processes.together(lambda: _read_again(run, request))
        processes.from_first(lambda: _keep_settings(job))
    except BaseException:
        run.lock.release()
        raise
    return job


def _locked(run: Run) -> None:
    read_record(run.folder)  # first, for its error where this is no run folder
    run.lock.acquire()
    remove_unfinished(run.folder)


def _read_again(run: Run, request: Mapping[str, Any]) -> Job:
    record, settings = run.record, run.settings()
    for name, before, now in _compared(record, settings, request):
        if now != before:
            raise SettingError(
                f"--resume continues with the settings of {run.folder}: {name} was {before!r}, not {now!r}"
            )
    dataset = run.dataset(data_dir=request["data"].get("data_dir"))
    torch.manual_seed(settings.seed)
    density = build_recorded(record)
    given = {name: value for name, value in request["training"].items() if name in EXTENDING}
    extended = _extended(settings, given, dataset, density)
    if run.finished:
        _require_more(run, extended, dataset, density)
    elif (run.folder / WEIGHTS).exists() and not any((run.folder / "resume").glob("*.safetensors")):
        raise CheckpointError(f"{run.folder}: it holds weights, and the state of their training is gone (resume/)")
    if extended != settings:
        record = {**record, "training": extended.as_record()}
        if before := record.get("request"):  # a run from the hub has none
            replaced = LIMITS if given.keys() & LIMITS else set()
            kept = {name: value for name, value in before["training"].items() if name not in replaced}
            record["request"] = {**before, "training": {**kept, **given}}
    return Job(run, dataset, density, extended, record)


def _keep_settings(job: Job) -> None:
    """Write the record of a training that goes on, if its settings have changed."""
    if job.record != job.run.record:
        (job.run.folder / METRICS).unlink(missing_ok=True)  # first: from here on the training has not ended
        write_record(job.run.folder, job.record)


def _extended(settings: Settings, given: Mapping[str, Any], dataset: Dataset, density: Density) -> Settings:
    """The settings of a training that goes on, with what is given anew; a new limit replaces both earlier limits."""
    check_epochs(given)
    limits = {name: given.get(name) for name in ("steps", "minutes")} if given.keys() & LIMITS else {}
    others = {name: given[name] for name in given.keys() - LIMITS}
    return with_epochs(settings.override(limits | others), given.get("epochs"), dataset, density)


def _require_more(run: Run, settings: Settings, dataset: Dataset, density: Density) -> None:
    """Refuse to continue a training that has ended and, with these settings, would end at once."""
    last, rows = run.history.records[-1], math.inf if callable(dataset.train) else len(dataset.train)
    resolved = settings.for_data(dataset.event_shape, rows, density.training_settings(rows))
    ended = f"{run.folder}: this training has ended, after {last.step} steps and {last.seconds:.0f} seconds"
    if resolved.progress(last.step, last.seconds) >= 1:
        raise OutputError(f"{ended}; to go on", remedy={"steps": 2 * last.step})
    if (
        resolved.patience is not None
        and last.step - run.history.best.step >= resolved.patience * resolved.validate_every
    ):
        more = 2 * resolved.patience
        raise OutputError(f"{ended}, as validation no longer improved; to go on", remedy={"patience": more})
    if load_state(run.folder / "resume") is None:
        raise CheckpointError(f"{ended}, and its state is gone (resume/): it cannot go on")


def _compared(record: Mapping[str, Any], settings: Settings, request: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """The name of each option that was given, its value in the record, its value now."""
    before = {"source": None, "set": {}, "training": {}, "data": {}} | (record.get("request") or {})
    sources = (before["source"], record["data"]["source"])
    compared: list[tuple[str, Any, Any]] = []
    if (source := request["source"]) is not None and not {source, str(Path(source).resolve())} & {*sources}:
        compared.append(("source", sources[0] or sources[1], source))
    if request["flow"] is not None:
        # A recipe is compared with the one that was trained, auto with what was asked for.
        flow_before = before.get("flow") if request["flow"] == AUTO else record["recipe"]
        compared.append(("flow", flow_before, request["flow"]))
    arguments = record["arguments"] | before["set"]
    compared += [(name, arguments.get(name), value) for name, value in request["set"].items()]
    then, now = (DataRequest.of("any", part) for part in (before["data"], request["data"]))
    elsewhere = ("seed", "data_dir")  # the seed is one of the settings, too; image sets may have moved
    compared += [(name, getattr(then, name), getattr(now, name)) for name in request["data"] if name not in elsewhere]
    training = request["training"].items()
    return compared + [(name, getattr(settings, name), value) for name, value in training if name not in EXTENDING]
